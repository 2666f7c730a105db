"""Execution of a call that has relayed entries, step by step as planned.

The response is sent before an SDK gives up, whatever happens. What was relayed goes on when the
client has gone, and a client that sends the same entry again gets its answer.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from app import ids
from app.compat.leanplum_sdk import call_plan, response
from app.compat.leanplum_sdk.call_plan import (
    BatchKeys,
    EntryClaims,
    EntryKind,
    PlannedStep,
    StepEntry,
    compute_key,
)
from app.compat.leanplum_sdk.classify import RelayedEntry
from app.compat.leanplum_sdk.relayed_entries import EntryRelay, RelayedGroup, answer_erased
from app.compat.leanplum_sdk.request import SdkCall, to_text
from app.errors import Erased
from app.model import App, NewItem, Taken
from app.outbox import erasure
from app.outbox.logins import named
from app.relay.answers import EntryAnswer, PendingAnswer
from app.relay.service import EXPORT_USER, PATIENCE_SECONDS

GROUP_ENTRIES, GROUP_USERS = 500, 50  # in one call to Leanplum
MAX_AWAITED = 500  # other users of one device whose items are waited for
MAX_CALLS_IN_FLIGHT = 4  # to Leanplum for one batch, about different users
RETRY_SECONDS = 5.0
# Each item that comes before a relayed entry lengthens the wait for it: 500 items are one call.
SECONDS_PER_ITEM = 1 / 500
RELAY_SECONDS = 1.5  # that the wait for items leaves for the call itself
TOO_LATE = "Leanplum did not answer in time."
NOT_RELAYED = "Not sent, because an earlier call to Leanplum failed."

AcceptedOrRelayed = NewItem | RelayedEntry


class PlacedEntry(NamedTuple):
    """A relayed entry and its place in the call."""

    place: int
    entry: RelayedEntry


SharedCall = list[PlacedEntry]  # entries that share a call to Leanplum
RunningCalls = dict[asyncio.Task[list[EntryAnswer]], SharedCall]


class Acceptor(Protocol):
    """The part of a call's execution that accepts items durably."""

    async def accept(self, items: list[NewItem]) -> tuple[Sequence[Taken], Sequence[Erased]]:
        """Accept items; return the outcome of each, and the errors for those of erased users."""
        ...

    def confirm(self, actions: Iterable[str]) -> object:
        """Raise Unauthorized or Forbidden when the key no longer permits these actions."""
        ...


@dataclass(frozen=True, slots=True)
class CallExecution:
    """A call that is executed: its entries by place without those refused, and its reply.

    `deadline` is when the reply must be complete, by the clock of the event loop.
    """

    app: App
    key_id: str
    call: SdkCall
    entries: Mapping[int, AcceptedOrRelayed]
    reply: response.Reply
    deadline: float


class StepExecutor:
    """Execute the entries of one call in steps, and write their answers into the reply."""

    def __init__(
        self, entry_relay: EntryRelay, acceptor: Acceptor, execution: CallExecution
    ) -> None:
        self._relay, self._acceptor = entry_relay, acceptor
        self._app, self._call, self._reply = execution.app, execution.call, execution.reply
        self._entries, self._deadline = execution.entries, execution.deadline
        names = [call_plan.find_names(self._call.entries[place]) for place in self._entries]
        self._groups = dict(zip(self._entries, call_plan.number_groups(names), strict=True))
        self._claims = EntryClaims(entry_relay.relay.repeats)
        self._sender = f"{self._app.name}\0{execution.key_id}\0{self._call.batch}".encode()
        # Subjects of accepted items, by group
        self._accepted = defaultdict[int | None, set[str]](set)
        # Groups with an entry that was not sent, since items of its users wait
        self._blocked = set[int | None]()
        self._leanplum_failed = False  # nothing more is sent then
        self._new_items = Counter[str]()  # by subject

    async def run(self) -> None:
        """Execute all steps."""
        places = list(self._entries)
        planned = [
            StepEntry(_kind_of(self._entries[place]), self._groups[place]) for place in places
        ]
        steps = call_plan.plan_steps(planned)
        try:
            self._claim_entries()
            for step in steps:
                await self._execute(step, [places[index] for index in step.places])
        finally:
            self._claims.release()

    async def _execute(self, step: PlannedStep, places: Sequence[int]) -> None:
        unanswered = await self._use_answers_of_others(places)
        if step.relays:
            await self._relay_entries(unanswered)
        elif unanswered:
            await self._accept_items(unanswered)

    def _seconds_left(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()

    # --- repeats ---------------------------------------------------------------------------------

    def _claim_entries(self) -> None:
        """Look up all possible repeats at once, so that no two requests wait for each other."""
        for place, key in self._compute_keys():
            relayed = isinstance(self._entries[place], RelayedEntry)
            self._claims.look_up(place, key, claim=relayed or not self._has_unique_id(place))

    def _compute_keys(self) -> Iterable[tuple[int, bytes | None]]:
        """Yield the key of each entry that may be a repeat.

        An item with a unique id is skipped, since the database recognises it; but not the start of
        a session, which may have been relayed when it was the last of its device.
        """
        actions = [to_text(self._call.entries[place].get("action")) for place in self._entries]
        several_with_start = "start" in actions and self._call.batch and len(self._entries) > 1
        batch_keys: BatchKeys | None = None
        for place, entry in self._entries.items():
            debugging = read_only = False
            if isinstance(entry, RelayedEntry):
                debugging, read_only = entry.debugging, entry.read_only
            elif self._has_unique_id(place) and entry.action != "start":
                continue
            sender = self._sender + b"%d" % debugging
            key = compute_key(sender, self._call.entries[place], read_only=read_only)
            if key is None and several_with_start:
                batch_keys = batch_keys or BatchKeys(self._sender, self._call.entries)
                key = batch_keys.compute_key(place)
            yield place, key

    def _has_unique_id(self, place: int) -> bool:
        """Return whether the database recognises an item when it is accepted again."""
        entry = self._call.entries[place]
        return ids.names_one_action(to_text(entry.get("reqId")), to_text(entry.get("uuid")))

    async def _use_answers_of_others(self, places: Sequence[int]) -> list[int]:
        """Answer entries that other requests execute; return the places of the other entries."""
        await self._wait_for_others(places)
        others = {
            place: self._claims.others[place] for place in places if place in self._claims.others
        }
        if not others:
            return list(places)
        erased = await self._find_erased(others)
        for place, other in others.items():
            answer = _answer_by_now(other)
            if place in erased:
                sent = self._call.entries[place]
                self._answer(place, answer_erased(self._call, sent, erased[place]))
            elif answer is None:
                self._fail([place], TOO_LATE)
            elif isinstance(self._entries[place], RelayedEntry):
                self._answer(place, answer)
            elif answer.succeeded:
                self._answer_success(place)
        return [place for place in places if self._reply.entries[place] is None]

    async def _wait_for_others(self, places: Sequence[int]) -> None:
        """Wait until no other request executes these entries, or the deadline has passed."""
        while True:
            pending = [
                other
                for place in places
                if isinstance(other := self._claims.others.get(place), asyncio.Future)
            ]
            if pending:
                await asyncio.wait(pending, timeout=max(0.0, self._seconds_left()))
            if not self._claims.retry_abandoned():
                return

    async def _find_erased(self, places: Iterable[int]) -> dict[int, Erased]:
        """Return the error for each place whose user was erased, and earlier answers as well.

        An export only reads a user, and is answered for erased users, too.
        """
        subjects_of = {
            place: _find_subjects(self._entries[place])
            for place in places
            if to_text(self._call.entries[place].get("action")) != EXPORT_USER
        }
        ends = await self._relay.find_erased(self._app, set[str]().union(*subjects_of.values()))
        return {
            place: erasure.refusal(map(ends.get, subjects))
            for place, subjects in subjects_of.items()
            if not subjects.isdisjoint(ends)
        }

    # --- accepting -------------------------------------------------------------------------------

    async def _accept_items(self, places: Sequence[int]) -> None:
        entries = [self._entries[place] for place in places]
        items = [entry for entry in entries if isinstance(entry, NewItem)]
        taken, erased = await self._acceptor.accept(items)
        refusals = iter(erased)
        for place, item, (_, outcome) in zip(places, items, taken, strict=True):
            if outcome == "erased":
                sent = self._call.entries[place]
                self._answer(place, answer_erased(self._call, sent, next(refusals)))
                continue
            self._answer_success(place)
            self._new_items[item.subject] += outcome == "accepted"
            self._accepted[self._groups[place]].add(item.subject)
            self._claims.settle([(place, EntryAnswer({"success": True}))])

    # --- relaying --------------------------------------------------------------------------------

    async def _relay_entries(self, places: Sequence[int]) -> None:
        """Relay entries in as few calls as possible; calls about different users run at once."""
        relayed = [
            PlacedEntry(place, entry)
            for place in places
            if isinstance(entry := self._entries[place], RelayedEntry)
        ]
        waiting, running = deque(split_into_calls(relayed, self._groups)), RunningCalls()
        while waiting or running:
            self._start_calls(waiting, running)
            if not running:
                continue
            done, _ = await asyncio.wait(
                running, timeout=max(0.0, self._seconds_left()), return_when="FIRST_COMPLETED"
            )
            for task in done or list(running):
                self._use_answers(running.pop(task), task)

    def _start_calls(self, waiting: deque[SharedCall], running: RunningCalls) -> None:
        """Start the next calls, as long as they share no user with a call in flight."""
        while waiting and len(running) < MAX_CALLS_IN_FLIGHT:
            if running and not self._is_apart(waiting[0], running.values()):
                return
            shared = self._drop_blocked(waiting.popleft())
            if not shared:
                continue
            if self._leanplum_failed:
                self._fail([place for place, _ in shared], NOT_RELAYED)
            elif self._seconds_left() <= 0:
                self._fail([place for place, _ in shared], TOO_LATE)
            else:
                self._acceptor.confirm({to_text(entry.entry.get("action")) for _, entry in shared})
                running[self._begin(shared)] = shared

    def _is_apart(self, shared: SharedCall, others: Collection[SharedCall]) -> bool:
        """Return whether a call shares no user with the others."""
        groups = self._groups_of(shared)
        return all(groups.isdisjoint(self._groups_of(other)) for other in others)

    def _groups_of(self, shared: SharedCall) -> set[int | None]:
        return {self._groups[place] for place, _ in shared}

    def _drop_blocked(self, shared: SharedCall) -> SharedCall:
        """Fail the entries whose users have an earlier entry that was not sent; return the rest."""
        blocked = [place for place, _ in shared if self._groups[place] in self._blocked]
        self._fail(blocked, NOT_RELAYED)
        return [placed for placed in shared if self._groups[placed.place] not in self._blocked]

    def _begin(self, shared: SharedCall) -> asyncio.Task[list[EntryAnswer]]:
        awaited = self._find_awaited(shared)
        coming = sum(self._new_items[subject] for subject in set[str]().union(*awaited))
        # A call that writes never goes before its users' items, so it always waits for a while.
        in_order = any(entry.writes for _, entry in shared)
        least = PATIENCE_SECONDS if in_order else 0.0
        longest = max(least, self._seconds_left() - RELAY_SECONDS)
        group = RelayedGroup(
            app=self._app,
            call=self._call,
            entries=[entry for _, entry in shared],
            end_user=self._reply.end_user,
            awaited=awaited,
            patience=min(PATIENCE_SECONDS + coming * SECONDS_PER_ITEM, longest),
        )
        self._claims.keep_until_settled(place for place, _ in shared)
        return self._relay.relay.begin(self._exchange(shared, group))

    def _find_awaited(self, shared: SharedCall) -> list[Set[str]]:
        """Return for each entry the users whose items come first.

        These are all users of its group, since each of them may have to come after the others.
        """
        awaited = defaultdict[int | None, set[str]](set)
        for place, entry in shared:
            awaited[self._groups[place]] |= entry.subjects
        for group, subjects in awaited.items():
            others = self._accepted[group] - subjects
            if len(others) <= MAX_AWAITED:
                subjects |= others
        return [awaited[self._groups[place]] for place, _ in shared]

    async def _exchange(self, shared: SharedCall, group: RelayedGroup) -> list[EntryAnswer]:
        """Relay entries, and answer the requests that wait for them, even without a client."""
        places = [place for place, _ in shared]
        settled: Sequence[EntryAnswer | None] = [None] * len(shared)
        try:
            settled = answers = await self._relay.exchange(group)
            return answers
        finally:
            remember = {
                place
                for place, entry in shared
                if call_plan.is_unique(self._call.entries[place]) and not entry.debugging
            }
            self._claims.settle(zip(places, settled, strict=True), remember)

    def _use_answers(self, shared: SharedCall, task: asyncio.Task[list[EntryAnswer]]) -> None:
        if not task.done():
            self._fail([place for place, _ in shared], TOO_LATE)
            return
        for (place, _), answer in zip(shared, task.result(), strict=True):
            self._answer(place, answer)

    # --- answers ---------------------------------------------------------------------------------

    def _answer(self, place: int, answer: EntryAnswer) -> None:
        self._reply.entries[place] = answer.entry
        self._reply.extra_fields |= answer.extra_fields
        if answer.status != 200:
            self._reply.status, self._reply.retry_after = answer.status, answer.retry_after
            self._leanplum_failed |= answer.status in {429, 503, 504} and not answer.waits
        if answer.waits:
            self._blocked.add(self._groups[place])

    def _answer_success(self, place: int) -> None:
        self._reply.entries[place] = response.render_success(self._call.entries[place])

    def _fail(self, places: Sequence[int], reason: str) -> None:
        """Answer that nothing is known of these entries, so that the SDK sends them again."""
        for place in places:
            failure = response.render_failure(reason, self._call.entries[place])
            self._reply.entries[place] = failure
        if places and self._reply.status == 200:
            self._reply.status, self._reply.retry_after = 503, RETRY_SECONDS


def _answer_by_now(other: PendingAnswer | EntryAnswer) -> EntryAnswer | None:
    if not isinstance(other, asyncio.Future):
        return other
    return other.result() if other.done() else None


def _find_subjects(entry: AcceptedOrRelayed) -> set[str]:
    if isinstance(entry, NewItem):
        return {entry.subject, *named(entry.body)}
    return entry.subjects


def _kind_of(entry: AcceptedOrRelayed) -> EntryKind:
    if isinstance(entry, NewItem):
        return EntryKind.ACCEPT
    return EntryKind.READ if entry.read_only and not entry.debugging else EntryKind.RELAY


def split_into_calls(relayed: SharedCall, groups: Mapping[int, int | None]) -> list[SharedCall]:
    """Return the entries that share a call to Leanplum, in an order that keeps that of each group.

    `groups` are by place; None concerns every group. Entries that write have calls of their own,
    which wait for earlier items.
    """
    calls, users = list[SharedCall](), list[set[str | None]]()
    last_of_kind = dict[object, int]()
    # The number of the call that a group's last entry is in, and the least for every group
    last_of_group, floor = dict[int | None, int](), 0
    for placed in relayed:
        entry, group = placed.entry, groups[placed.place]
        kind = (entry.key, entry.debugging, entry.writes)
        if group is None:
            least = max(0, len(calls) - 1)
        else:
            least = max(last_of_group.get(group, 0), floor)
        number = last_of_kind.get(kind, -1)
        if entry.alone or number < least or not _fits(entry, calls[number], users[number]):
            number = len(calls)
            calls.append([])
            users.append(set())
        if not entry.alone:
            last_of_kind[kind] = number
        calls[number].append(placed)
        users[number].add(entry.subject)
        last_of_group[group] = number
        if group is None:
            floor = number
    return calls


def _fits(entry: RelayedEntry, shared: SharedCall, users: Collection[str | None]) -> bool:
    return len(shared) < GROUP_ENTRIES and (entry.subject in users or len(users) < GROUP_USERS)
