"""Dead letters: groups by reason, and replay or discard of those that are chosen."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import Depends, Query, Request, Response

from app import ids
from app.audit import records
from app.audit.recorder import AuditRecorder
from app.clock import instant, now_ms
from app.console.access import ConsoleAccess, SignedOut, Visitor
from app.console.fields import Problems, time_of
from app.console.find import words_of
from app.console.forms import Form
from app.console.pages import redirect
from app.console.routes import Console, ConsoleDependency, console_router
from app.errors import Forbidden, NotFound
from app.http import TransactionRecord
from app.ingest.validate import subject_of
from app.leanplum.actions import ACTIONS
from app.model import DEAD, Receipt, Scope, Status
from app.outbox.dead_letter_groups import DeadLetterGroup
from app.outbox.dead_letter_runs import RUNNING, DeadLetterRun, DeadLetterRuns, RunKind
from app.outbox.dead_letters import DeadLetterFilter, DeadLetterService

LIST = "/console/dead-letters"
SELECTION, RUN = f"{LIST}/selection", f"{LIST}/runs/{{run_id}}"
REPLAY, DISCARD = f"{LIST}/replay", f"{LIST}/discard"
SHOWN = 50  # dead letters of a selection that its page shows
PATIENCE_SECONDS = 1.0  # that an operation waits for its end before it shows its progress
REFRESH_SECONDS = 2  # between two looks at the progress
MAX_TEXT = 500
STATUSES = tuple(sorted(status.value for status in DEAD))
Text = Annotated[str, Query(max_length=MAX_TEXT)]
router = console_router()


@dataclass(frozen=True, slots=True)
class DeadLetterChoice:
    """The fields that choose dead letters; "" takes all.

    `until` ends the choice at a time, so that an operation changes no more than what was shown.
    """

    app: Text = ""
    action: Text = ""
    status: Annotated[str, Query(pattern=f"^({'|'.join(STATUSES)})?$")] = ""
    reason: Text = ""
    event: Text = ""
    user: Text = ""
    device: Text = ""
    id: Text = ""
    since: Text = ""
    until: Text = ""

    def filter(self) -> DeadLetterFilter:
        """Return the filter. Raises Invalid."""
        problems = Problems()
        if self.user and self.device:
            problems.add("device", "name a user or a device, not both")
        if self.status and self.status not in STATUSES:
            problems.add("status", f"must be one of {', '.join(STATUSES)}")
        since = time_of(self.since, "since", problems)
        until = time_of(self.until, "until", problems)
        problems.check()
        return DeadLetterFilter(
            subject=self._subject,
            event=self.event or None,
            action=self.action or None,
            status=Status(self.status) if self.status else None,
            since=since,
            until=until,
            item_ids=(self.id,) if self.id else None,
            reason=self.reason or None,
        )

    @property
    def _subject(self) -> str | None:
        if self.user:
            return subject_of({"userId": ids.plain(self.user)})
        return subject_of({"deviceId": ids.plain(self.device)}) if self.device else None

    @property
    def chosen(self) -> dict[str, str]:
        """The fields that choose something, without the app."""
        return {name: value for name, value in asdict(self).items() if value and name != "app"}

    def link(self) -> str:
        """Return the query of a page with this choice."""
        return urlencode({"app": self.app, **self.chosen})


class GroupRow(NamedTuple):
    """A group of dead letters, with the query of the page on which they are replayed."""

    group: DeadLetterGroup
    link: str


class RunObserver:
    """The key and the request of a run in the background: its audit records, and whether it may."""

    def __init__(
        self, visitor: Visitor, app: str, done: str, access: ConsoleAccess, recorder: AuditRecorder
    ) -> None:
        self._visitor, self._app, self._done = visitor, app, done
        self._access, self._recorder = access, recorder

    def record(self, count: int) -> tuple[int, str]:
        """Return the audit record of a step over so many items: its time (ms), its text."""
        return TransactionRecord(self._visitor.context).make({self._done: count})

    def confirm(self) -> None:
        """Raise if the key does not work any more, or lost the scope or the app."""
        try:
            caller = self._access.confirm(self._visitor, Scope.DEAD_LETTERS_MANAGE)
        except SignedOut:
            raise Forbidden("Forbidden: the key that began it does not work any more") from None
        if not caller.may_use(self._app):
            raise Forbidden("Forbidden: this key is not valid for this app any more")

    def on_failure(self, error: Exception) -> None:
        """Record that the run has failed."""
        status = 403 if isinstance(error, Forbidden) else 503
        self._recorder.soon(*TransactionRecord(self._visitor.context).make({}, status=status))


class DeadLetterPages:
    """The services behind the pages about dead letters."""

    def __init__(
        self, service: DeadLetterService, runs: DeadLetterRuns, recorder: AuditRecorder
    ) -> None:
        self.service, self.runs, self._recorder = service, runs, recorder

    async def groups(self, apps: Sequence[str]) -> tuple[list[GroupRow], int, bool]:
        """Return the groups of these apps, how many dead letters were seen, and if more exist."""
        found = await self.service.groups(apps)
        rows = [GroupRow(group, _choice_of(group).link()) for group in found.groups]
        return rows, found.seen, found.truncated

    async def begin(
        self, access: ConsoleAccess, visitor: Visitor, kind: RunKind, form: Form
    ) -> str:
        """Begin a replay or discard of what a form chooses; return the id of the run."""
        names = [field.name for field in fields(DeadLetterChoice)]
        # As sent, but for the line ends, which browsers change: what the page chose, and no other
        chosen = {name: form.raw(name).replace("\r\n", "\n")[:MAX_TEXT] for name in names}
        choice = DeadLetterChoice(**chosen)
        app = access.use_app(visitor, choice.app).name
        which = choice.filter()
        context = visitor.context
        if which.item_ids is not None:
            context.resources, context.details = records.named_items(which.item_ids)
        done = "replayed" if kind == "replay" else "discarded"
        observer = RunObserver(visitor, app, done, access, self._recorder)
        return await self.runs.begin(
            app,
            kind,
            which,
            observer,
            key_id=visitor.caller.key_id,
            choice=choice.chosen,
            dry_run=bool(form.text("dry_run")),
            patience=PATIENCE_SECONDS,
        )


async def _dead_letter_pages(request: Request) -> DeadLetterPages:
    pages: DeadLetterPages = request.state.dead_letter_pages
    return pages


DeadLetterDependency = Annotated[DeadLetterPages, Depends(_dead_letter_pages)]
Choice = Annotated[DeadLetterChoice, Depends()]


@router.get(LIST)
async def list_groups(
    request: Request, console: ConsoleDependency, dead_letters: DeadLetterDependency
) -> Response:
    """Return the groups of dead letters, and what was replayed and discarded lately."""
    visitor = await console.access.enter(request, f"GET {LIST}", Scope.DEAD_LETTERS_MANAGE)
    rows, seen, truncated = await dead_letters.groups(visitor.apps)
    return console.pages.render(
        "dead_letters.html",
        visitor,
        rows=rows,
        seen=seen,
        truncated=truncated,
        runs=await dead_letters.runs.recent(visitor.apps),
        choice=DeadLetterChoice(),
        statuses=STATUSES,
        actions=sorted(name for name, action in ACTIONS.items() if action.later),
    )


@router.get(SELECTION)
async def show_selection(
    request: Request,
    console: ConsoleDependency,
    dead_letters: DeadLetterDependency,
    choice: Choice,
) -> Response:
    """Return some dead letters that are chosen, with what can be done about all of them."""
    visitor = await console.access.enter(request, f"GET {SELECTION}", Scope.DEAD_LETTERS_MANAGE)
    if not choice.app and len(visitor.apps) == 1:
        choice = DeadLetterChoice(**{**asdict(choice), "app": visitor.apps[0]})
    problems = Problems()
    if not choice.app:
        problems.add("app", "choose one app")
    problems.check()
    app = console.access.use_app(visitor, choice.app).name
    which = choice.filter()
    if which.subject is not None:
        visitor.context.subjects = (which.subject,)
    newest = await dead_letters.service.find_newest(app, which, SHOWN)
    return console.pages.render(
        "dead_letter_selection.html",
        visitor,
        choice=choice,
        until=choice.until or instant(now_ms() + 1),
        found=[(receipt, words_of(receipt), _link(app, receipt)) for receipt in newest.receipts],
        newest=newest,
    )


@router.post(REPLAY)
async def replay(
    request: Request, console: ConsoleDependency, dead_letters: DeadLetterDependency
) -> Response:
    """Begin to replay, and go to the page with the progress."""
    return await _operate(request, console, dead_letters, "replay", f"POST {REPLAY}")


@router.post(DISCARD)
async def discard(
    request: Request, console: ConsoleDependency, dead_letters: DeadLetterDependency
) -> Response:
    """Begin to discard, and go to the page with the progress."""
    return await _operate(request, console, dead_letters, "discard", f"POST {DISCARD}")


@router.get(RUN)
async def show_run(
    request: Request, console: ConsoleDependency, dead_letters: DeadLetterDependency, run_id: str
) -> Response:
    """Return the progress of a replay or discard, which any process may do."""
    visitor = await console.access.enter(request, f"GET {RUN}", Scope.DEAD_LETTERS_MANAGE)
    run = await dead_letters.runs.find(run_id)
    if run is None or not visitor.caller.may_use(run.app):
        raise NotFound("No replay or discard of the last two days has this id.")
    return console.pages.render(
        "dead_letter_run.html",
        visitor,
        run=run,
        running=run.state == RUNNING,
        seconds=REFRESH_SECONDS,
        link=_selection_of(run),
    )


async def _operate(
    request: Request,
    console: Console,
    dead_letters: DeadLetterPages,
    kind: RunKind,
    operation: str,
) -> Response:
    visitor, form = await console.access.operate(request, operation, Scope.DEAD_LETTERS_MANAGE)
    run_id = await dead_letters.begin(console.access, visitor, kind, form)
    return redirect(visitor.context.prefix, f"/dead-letters/runs/{run_id}")


def _choice_of(group: DeadLetterGroup) -> DeadLetterChoice:
    return DeadLetterChoice(group.app, group.action, group.status, group.reason)


def _selection_of(run: DeadLetterRun) -> str:
    """Return the query of the page that chose what a run is about, without its end."""
    chosen: dict[str, Any] = {"app": run.app, **run.choice}
    chosen.pop("until", None)
    return urlencode(chosen)


def _link(app: str, receipt: Receipt) -> str:
    return urlencode({"app": app, "id": receipt.id})
