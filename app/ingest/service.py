"""Accept items durably: the one use case behind /v1, the SDK protocol and the Segment protocol.

Each protocol parses its requests and turns them into items with `app/ingest/validate.py`, which
gets the steps around validation from `Ingest.item_steps`. `Ingest.accept` commits the items.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from app import ids
from app.errors import Erased
from app.ingest.time_slices import in_slices
from app.ingest.validate import NO_STEPS, ItemSteps
from app.model import ERASES, NOBODY_ERASED, Acceptance, App, Caller, Erasure, NewItem, Taken
from app.telemetry import Metrics


class CallFacts(Protocol):
    """The facts that the audit records of the call that brings the items.

    `recorded` is set once the audit record is committed with the items. `accepted` counts the items
    that were accepted. `traceparent` is that of the call's span, if it is sampled.
    """

    accepted: int
    request_id: str
    operation: str
    address: str
    traceparent: str | None
    recorded: bool
    refused_actions: Mapping[str, int]
    refused_subjects: Collection[str]


Name = Any  # of an event, a state, a parameter or an attribute; only `CallSteps` reads it


class CallSteps(ItemSteps, Protocol):
    """The steps around validation for the items of one call, and the new names that they found."""

    @property
    def has_new_names(self) -> bool:
        """True when an item that was checked has a new name that the app has room for."""
        ...

    def new_names(self, items: Sequence[NewItem]) -> Iterator[list[Name]]:
        """Yield the new names of each item that is about to be accepted."""
        ...

    def claim(self, names: Iterable[Name]) -> None:
        """Count names as the app's from now on."""
        ...

    def restart(self) -> ItemSteps:
        """Forget what was checked, since a body is read again from its start."""
        ...

    async def learn(self, kept: Sequence[Name], claimed: Sequence[Name]) -> None:
        """Write down which of the claimed names were accepted; give up the others."""
        ...

    def count_findings(self, key_id: str) -> None:
        """Count what broke the plan, once the call is answered."""
        ...


class ItemQueue(Protocol):
    """The durable queue of items; `outbox.Outbox` is one."""

    async def accept(self, acceptance: Acceptance, seconds: float | None = None) -> list[Taken]:
        """Commit the items of one call; return what became of each, in order."""
        ...

    async def erase(self, acceptance: Acceptance) -> tuple[list[Taken], dict[str, Erasure]]:
        """Commit items of which some delete users; return also the erasures, by subject."""
        ...

    async def refusals(self, app: str, items: Sequence[NewItem]) -> list[Erased]:
        """Return the error for each item that was refused because a user was erased."""
        ...


class EnricherSource(Protocol):
    """The source of enrichers as they are configured now."""

    def enricher(self, app: str, key_id: str, now: int, address: str | None = None) -> ItemSteps:
        """Return what the items of one call go through at `now` (epoch milliseconds)."""
        ...


class CheckerSource(Protocol):
    """The source of the checks, with the tracking plans and the names of all apps."""

    def add_checks(self, app_name: str, enricher: ItemSteps) -> CallSteps:
        """Return the steps of one call: those of `enricher`, then the checks of the app."""
        ...


class Ingest:
    """Make the steps around validation for a call, and commit its items."""

    def __init__(
        self,
        outbox: ItemQueue,
        enrichment: EnricherSource,
        tracking: CheckerSource,
        pseudonyms: Callable[[str, Collection[str]], Sequence[str]],
        metrics: Metrics,
    ) -> None:
        """`pseudonyms` returns the keyed hashes of users and devices of an app, for the audit."""
        self._outbox, self._enrichment, self._tracking = outbox, enrichment, tracking
        self._pseudonyms, self._metrics = pseudonyms, metrics

    def item_steps(
        self, app: App, caller: Caller, now: int, address: str | None = None
    ) -> CallSteps:
        """Return the steps around validation for the items of one call: enrichment and checks.

        `address` is the end user's.
        """
        enricher = self._enrichment.enricher(app.name, caller.key_id, now, address)
        return self._tracking.add_checks(app.name, enricher)

    def checks(self, app: App) -> CallSteps:
        """Return the checks of one call whose items are not enriched by these steps."""
        return self._tracking.add_checks(app.name, NO_STEPS)

    async def accept(
        self,
        call: CallFacts,
        app: App,
        caller: Caller,
        items: list[NewItem],
        *,
        now: int,
        item_steps: CallSteps,
        refused: int = 0,
        batch: bool = False,
        seconds: float | None = None,
    ) -> Sequence[Taken]:
        """Commit the items of one call with its audit record; return what became of each.

        `refused` other items of the call are only recorded. `seconds` is how long to wait for the
        commit, when that is less than usual. Raises QueueFull, StorageUnavailable, CommitUnknown.
        """
        acceptance = self._acceptance(call, app, caller, items, now, refused, batch)
        if not item_steps.has_new_names:
            taken: Sequence[Taken] = await self._outbox.accept(acceptance, seconds)
        else:
            claimed, names = await _claim(item_steps, items)
            try:
                taken = await self._outbox.accept(acceptance, seconds)
            except BaseException:
                await item_steps.learn((), names)
                raise
            await item_steps.learn(_accepted_names(claimed, taken), names)
        call.recorded = True
        self._count_accepted(call, app.name, items, taken)
        return taken

    async def erase(
        self, call: CallFacts, app: App, caller: Caller, item: NewItem, *, now: int
    ) -> tuple[Taken, Erasure | None]:
        """Commit an item that deletes a user; return what became of it, and the erasure.

        Raises what `accept` raises.
        """
        acceptance = self._acceptance(call, app, caller, [item], now, 0, False)
        (taken,), erasures = await self._outbox.erase(acceptance)
        call.recorded = True
        self._count_accepted(call, app.name, [item], [taken])
        return taken, erasures.get(item.subject)

    async def refusals(
        self, app: App, items: Sequence[NewItem], taken: Sequence[Taken]
    ) -> list[Erased]:
        """Return the errors for those items that were refused because a user was erased."""
        kinds = [kind for _, kind in taken]
        if "erased" not in kinds:
            return []
        decided = zip(items, kinds, strict=True)
        erased = [item for item, kind in decided if kind == "erased"]
        return await self._outbox.refusals(app.name, erased)

    def _count_accepted(
        self, call: CallFacts, app: str, items: Sequence[NewItem], taken: Sequence[Taken]
    ) -> None:
        kinds = [kind for _, kind in taken]
        actions = [item.action for item in items]
        if kinds.count("accepted") != len(actions):
            accepted = zip(actions, kinds, strict=True)
            actions = [action for action, kind in accepted if kind == "accepted"]
        call.accepted += len(actions)
        self._metrics.count_accepted(app, actions)

    async def learn_relayed(self, item_steps: CallSteps, items: Sequence[NewItem]) -> None:
        """Keep the new names of items that Leanplum took while their caller waited."""
        if item_steps.has_new_names:
            _, names = await _claim(item_steps, items)
            await item_steps.learn(names, names)

    def _acceptance(
        self,
        call: CallFacts,
        app: App,
        caller: Caller,
        items: list[NewItem],
        now: int,
        refused: int,
        batch: bool,
    ) -> Acceptance:
        subjects = {item.subject for item in items}
        subjects.update(call.refused_subjects)
        return Acceptance(
            app=app.name,
            key_id=caller.key_id,
            request_id=call.request_id,
            operation=call.operation,
            address=call.address,
            accepted_at=now,
            prefix=ids.new_prefix(now),
            items=items,
            refused=refused,
            batch=batch,
            users=self._pseudonyms(app.name, subjects),
            refused_actions=call.refused_actions,
            erased_users=self._erased_users(app, items),
            traceparent=call.traceparent,
        )

    def _erased_users(self, app: App, items: Sequence[NewItem]) -> Mapping[str, str]:
        """Return the keyed hashes of the users and devices that items delete, by subject."""
        if ERASES not in [item.action for item in items]:
            return NOBODY_ERASED
        erased = sorted({item.subject for item in items if item.action == ERASES})
        return dict(zip(erased, self._pseudonyms(app.name, erased), strict=True))


async def _claim(
    item_steps: CallSteps, items: Sequence[NewItem]
) -> tuple[list[list[Name]], list[Name]]:
    """Count the new names of items from now on; return those of each item, and each name once."""
    names: dict[Name, None] = {}

    def new_names() -> Iterator[list[Name]]:
        for names_of_item in item_steps.new_names(items):
            names.update(dict.fromkeys(names_of_item))
            yield names_of_item

    claimed = await in_slices(new_names())
    item_steps.claim(names)
    return claimed, list(names)


def _accepted_names(claimed: Sequence[list[Name]], taken: Sequence[Taken]) -> list[Name]:
    accepted: dict[Name, None] = {}
    for names, (_, kind) in zip(claimed, taken, strict=True):
        if kind == "accepted":
            accepted.update(dict.fromkeys(names))
    return list(accepted)
