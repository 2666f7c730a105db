"""The tracking plan: its entries, what breaks it, and the names of an app against their limits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, NamedTuple

from fastapi import Depends, Query, Request, Response

from app.console.routes import ConsoleDependency, console_router
from app.database.driver import in_time
from app.model import Scope
from app.tracking.name_store import StoredName
from app.tracking.names import NAME_KINDS, NameKind
from app.tracking.plan.file_format import KINDS, Kind
from app.tracking.plan.validate import Plan
from app.tracking.service import Tracking
from app.tracking.violations import ViolationCount, ViolationKey

PLAN = "/console/tracking-plan"
MAX_TEXT = 500
MOST_NAMES = 1_000  # names of a kind that the page lists
MOST_VIOLATIONS = 200
router = console_router()


class NameUse(NamedTuple):
    """How many names of a kind an app has, against the number that Leanplum keeps."""

    kind: NameKind
    total: int
    limit: int
    tone: str
    names: Sequence[StoredName]


class EntryRow(NamedTuple):
    """An entry of the plan: when it was first seen (ms), and how often items broke it."""

    kind: Kind
    name: str
    mode: str
    owner: str
    description: str
    first_seen: int | None
    violations: int | None


class PlanPage(NamedTuple):
    """The content of the page for one app. `violations` is None for keys that may not read them."""

    plan: Plan | None
    faults: Sequence[str]
    policy: str
    uses: Sequence[NameUse]
    entries: Sequence[EntryRow]
    unplanned: Mapping[Kind, Sequence[StoredName]]
    violations: Sequence[tuple[ViolationKey, ViolationCount]] | None


class PlanReader:
    """The reader of what the page shows."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    async def read(self, app: str, *, violations: bool) -> PlanPage:
        """Return the page of an app; `violations`: with what broke the plan."""
        tracking = self._tracking
        stored = await in_time(partial(tracking.names.names, app))
        counted: Sequence[tuple[ViolationKey, ViolationCount]] | None = None
        if violations:
            await tracking.violations.flush()
            counted = await in_time(partial(tracking.violations.stored, app))
        plan = tracking.plans.current.of(app)
        return PlanPage(
            plan,
            tracking.plans.faults,
            tracking.names.policy,
            [self._use(kind, stored) for kind in NAME_KINDS],
            _entries(plan, stored, counted),
            {kind: _unplanned(plan, kind, stored) for kind in KINDS},
            counted,
        )

    def _use(self, kind: NameKind, stored: Sequence[StoredName]) -> NameUse:
        names = [each for each in stored if each.name.kind == kind]
        limits = self._tracking.names.limits
        limit = limits.by_kind[kind]
        tone = "warn" if len(names) >= limits.warn_from * limit else "good"
        if len(names) >= limit:
            tone = "bad"
        return NameUse(kind, len(names), limit, tone, names)


def _entries(
    plan: Plan | None,
    stored: Sequence[StoredName],
    counted: Sequence[tuple[ViolationKey, ViolationCount]] | None,
) -> list[EntryRow]:
    if plan is None:
        return []
    seen = {(each.name.kind, each.name.name): each.first_seen for each in stored}
    broken = Counter[tuple[str, str]]()
    for key, tally in counted or ():
        broken[key.kind, key.name] += tally.count
    return [
        EntryRow(
            kind,
            entry.name,
            entry.mode,
            entry.owner or "–",
            entry.description or "–",
            seen.get((kind, entry.name)),
            None if counted is None else broken[kind, entry.name],
        )
        for kind in KINDS
        for entry in plan.entries[kind].values()
    ]


def _unplanned(plan: Plan | None, kind: Kind, stored: Sequence[StoredName]) -> list[StoredName]:
    """Return names in use that the plan does not have; none if there is no plan."""
    if plan is None:
        return []
    planned = plan.entries[kind]
    return [each for each in stored if each.name.kind == kind and each.name.name not in planned]


async def _reader(request: Request) -> PlanReader:
    reader: PlanReader = request.state.plan_reader
    return reader


Reader = Annotated[PlanReader, Depends(_reader)]


@router.get(PLAN)
async def show_plan(
    request: Request,
    console: ConsoleDependency,
    reader: Reader,
    app: Annotated[str, Query(max_length=MAX_TEXT)] = "",
) -> Response:
    """Return the page of an app, by default of the first."""
    visitor = await console.access.enter(request, f"GET {PLAN}", Scope.CONTENT_READ)
    chosen = app or next(iter(visitor.apps), "")
    page = None
    if chosen:
        console.access.use_app(visitor, chosen)
        page = await reader.read(chosen, violations=visitor.may(Scope.AUDIT_READ))
    return console.pages.render(
        "tracking_plan.html",
        visitor,
        app=chosen,
        page=page,
        most_names=MOST_NAMES,
        most_violations=MOST_VIOLATIONS,
    )
