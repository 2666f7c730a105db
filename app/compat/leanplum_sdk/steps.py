"""Do a call with entries that are asked: step by step as planned, each entry answered in its place.

Whatever happens the answer is there before an SDK gives up. What was asked goes on without whoever
asked, and its answer is there for whoever sends the same entry again.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set

from app import ids
from app.compat.leanplum_sdk import call_plan, relayed_entries, response
from app.compat.leanplum_sdk.call_plan import Kind, Part, Step
from app.compat.leanplum_sdk.classify import Now
from app.compat.leanplum_sdk.request import Call, text
from app.compat.leanplum_sdk.resent_entries import Batch, Claims, key_of, lasts
from app.compat.leanplum_sdk.response import Reply
from app.model import App, NewItem, Taken
from app.outbox.logins import named
from app.outbox.outbox import Outbox
from app.relay.answers import EntryAnswer, PendingAnswer
from app.relay.service import EXPORT_USER, PATIENCE_SECONDS, Relay

RUN_ACTIONS, RUN_USERS = 500, 50  # of one call to Leanplum
MOST_BEFORE = 500  # other users of one device whose items are waited for
AT_ONCE = 4  # calls to Leanplum for one batch, about different users
RETRY_SECONDS = 5.0
# An item that comes before what is asked adds to the time that is waited for it: 500 are a call.
SECONDS_PER_ITEM = 1 / 500
ASKING_SECONDS = 1.5  # that waiting for items leaves for the call itself
TOO_LATE = "Leanplum did not answer in time."
NOT_ASKED = "Not sent, because an earlier call to Leanplum failed."

Accept = Callable[[list[NewItem]], Awaitable[Sequence[Taken]]]
Doing = NewItem | Now
Run = list[tuple[int, Now]]  # what shares a call to Leanplum, with the places in the batch


class Steps:
    """The entries of one call (by their places, those refused left out) and what is done with
    them.
    """

    def __init__(
        self,
        relay: Relay,
        outbox: Outbox,
        app: App,
        caller: str,
        call: Call,
        doing: Mapping[int, Doing],
        reply: Reply,
        accept: Accept,
        until: float,
        still: Callable[[Iterable[str]], object],
    ) -> None:
        """`caller`: whose key it is; `until`: when the answer must be there, by the loop's clock;
        `still`: raises where the key may not do actions any more."""
        self._relay, self._outbox, self._app = relay, outbox, app
        self._call, self._doing = call, doing
        self._reply, self._accept, self._until, self._still = reply, accept, until, still
        concerned = [call_plan.about(call.entries[place]) for place in doing]
        self._groups = dict(zip(doing, call_plan.groups(concerned), strict=True))
        self._claims = Claims(relay.repeats)
        self._whose = f"{app.name}\0{caller}\0{call.batch}".encode()
        # Subjects of what was accepted, by group
        self._before = defaultdict[int | None, set[str]](set)
        # Groups that have an entry which was not asked, since items wait
        self._stuck = set[int | None]()
        self._failed = False  # Leanplum, so that nothing more is asked
        self._new = Counter[str]()  # how many items were new, by subject

    async def run(self) -> None:
        """Do everything."""
        places = list(self._doing)
        plan = call_plan.plan(
            [Part(_kind(self._doing[place]), self._groups[place]) for place in places]
        )
        try:
            self._claim()
            for step in plan:
                await self._do(step, [places[index] for index in step.at])
        finally:
            self._claims.release()

    async def _do(self, step: Step, places: Sequence[int]) -> None:
        left = await self._left_by_others(places)
        if step.asks:
            await self._ask(left)
        elif left:
            await self._take(left)

    def _left(self) -> float:
        return self._until - asyncio.get_running_loop().time()

    # --- repeats -------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        """Look up at once whatever may be a repeat, so that no two requests wait for each other."""
        for place, key in self._keys():
            one = self._doing[place]
            self._claims.look(place, key, claim=isinstance(one, Now) or not self._recognised(place))

    def _keys(self) -> Iterable[tuple[int, bytes | None]]:
        """Return the key of each entry that the database doesn't recognise by itself, or that may
        have been asked before as the last of its device's sessions.
        """
        begins = any(
            text(self._call.entries[place].get("action")) == "start" for place in self._doing
        )
        batch: Batch | None = None
        for place, one in self._doing.items():
            if isinstance(one, NewItem) and self._recognised(place) and one.action != "start":
                continue
            debugging, looks = (
                (one.debugging, one.looks) if isinstance(one, Now) else (False, False)
            )
            key = key_of(self._whose + b"%d" % debugging, self._call.entries[place], looks=looks)
            if key is None and begins and self._call.batch and len(self._doing) > 1:
                batch = batch or Batch(self._whose, self._call.entries)
                key = batch.key_of(place)
            yield place, key

    def _recognised(self, place: int) -> bool:
        """Return whether the database recognises an item when it is accepted again."""
        entry = self._call.entries[place]
        return ids.names_one_action(text(entry.get("reqId")), text(entry.get("uuid")))

    async def _left_by_others(self, places: Sequence[int]) -> list[int]:
        """Wait for what other requests do for these entries; the places of what is still to be
        done.
        """
        await self._wait_for_others(places)
        others = {
            place: self._claims.others[place] for place in places if place in self._claims.others
        }
        erased = await self._erased(others)
        for place, one in others.items():
            told = _told(one)
            if place in erased:
                self._tell(place, relayed_entries.erasure(self._call, self._call.entries[place]))
            elif told is None:
                self._fail([place], TOO_LATE)
            else:
                self._tell_of_other(place, told)
        return [place for place in places if self._reply.entries[place] is None]

    async def _wait_for_others(self, places: Sequence[int]) -> None:
        """Wait until nobody else is at work on these entries, or it is too late."""
        while True:
            others = [
                self._claims.others[place] for place in places if place in self._claims.others
            ]
            going = [one for one in others if isinstance(one, asyncio.Future)]
            if going:
                await asyncio.wait(going, timeout=max(0.0, self._left()))
            if not self._claims.look_again():
                return

    async def _erased(self, places: Iterable[int]) -> set[int]:
        """Return at which of the places a user was erased: whatever was answered before is gone
        with them.
        """
        whose = {
            place: _subjects(self._doing[place]) for place in places if not self._exports(place)
        }
        subjects = set[str]().union(*whose.values())
        erased = (
            set(await self._outbox.erased(self._app.name, subjects)) if subjects else set[str]()
        )
        return {place for place, subjects in whose.items() if not subjects.isdisjoint(erased)}

    def _exports(self, place: int) -> bool:
        """Return whether an entry only looks at a user, which is done for erased ones, too."""
        return text(self._call.entries[place].get("action")) == EXPORT_USER

    def _tell_of_other(self, place: int, told: EntryAnswer) -> None:
        if isinstance(self._doing[place], Now):
            self._tell(place, told)
        elif told.succeeded:
            self._reply.tell([place], [response.done(self._call.entries[place])])

    # --- accepting -----------------------------------------------------------------------------------------------

    async def _take(self, places: Sequence[int]) -> None:
        items = [one for place in places if isinstance(one := self._doing[place], NewItem)]
        taken = await self._accept(items)
        for place, item, (_, kind) in zip(places, items, taken, strict=True):
            if kind == "erased":
                self._tell(place, relayed_entries.erasure(self._call, self._call.entries[place]))
                continue
            self._reply.tell([place], [response.done(self._call.entries[place])])
            self._new[item.subject] += kind == "accepted"
            self._before[self._groups[place]].add(item.subject)
            self._claims.settle([(place, EntryAnswer({"success": True}))])

    # --- asking --------------------------------------------------------------------------------------------------

    async def _ask(self, places: Sequence[int]) -> None:
        """Ask in as few calls as can be; some of them at once, where they are about different
        users.
        """
        asked = [(place, one) for place in places if isinstance(one := self._doing[place], Now)]
        waiting, going = (
            deque(runs(asked, self._groups)),
            dict[asyncio.Task[list[EntryAnswer]], Run](),
        )
        while waiting or going:
            while waiting and len(going) < AT_ONCE and self._apart(waiting[0], going.values()):
                run = self._not_stuck(waiting.popleft())
                if not run:
                    continue
                if (reason := self._why_not()) is not None:
                    self._fail([place for place, _ in run], reason)
                else:
                    self._still({text(one.entry.get("action")) for _, one in run})
                    going[self._begin(run)] = run
            if going:
                done, _ = await asyncio.wait(
                    going, timeout=max(0.0, self._left()), return_when="FIRST_COMPLETED"
                )
                for task in done or list(going):
                    self._take_answers(going.pop(task), task)

    def _apart(self, run: Run, others: Collection[Run]) -> bool:
        """Return whether a call shares no user with another that is in flight."""
        groups = self._groups_of(run)
        return not others or all(groups.isdisjoint(self._groups_of(one)) for one in others)

    def _groups_of(self, run: Run) -> set[int | None]:
        return {self._groups[place] for place, _ in run}

    def _not_stuck(self, run: Run) -> Run:
        """Fail the entries before which one of the same users was not asked; the others."""
        self._fail([place for place, _ in run if self._groups[place] in self._stuck], NOT_ASKED)
        return [(place, one) for place, one in run if self._groups[place] not in self._stuck]

    def _why_not(self) -> str | None:
        """Why nothing more is asked: asking on would take longer than the SDK waits."""
        if self._failed:
            return NOT_ASKED
        return TOO_LATE if self._left() <= 0 else None

    def _begin(self, run: Run) -> asyncio.Task[list[EntryAnswer]]:
        waited_for = self._waited_for(run)
        coming = sum(self._new[subject] for subject in set[str]().union(*waited_for))
        # Such a call never goes first, so that time is left for it
        in_order = any(one.writes for _, one in run)
        longest = max(PATIENCE_SECONDS if in_order else 0.0, self._left() - ASKING_SECONDS)
        patience = min(PATIENCE_SECONDS + coming * SECONDS_PER_ITEM, longest)
        self._claims.ask([place for place, _ in run])
        return self._relay.begin(self._asked(run, waited_for, patience))

    def _waited_for(self, run: Run) -> list[set[str]]:
        """Return for each entry the users whose items come first: all of its group, since each of
        them may have to come after the others.
        """
        found = defaultdict[int | None, set[str]](set)
        for place, one in run:
            found[self._groups[place]] |= one.subjects
        for group, subjects in found.items():
            before = self._before[group] - subjects
            if len(before) <= MOST_BEFORE:
                subjects |= before
        return [found[self._groups[place]] for place, _ in run]

    async def _asked(
        self, run: Run, waited_for: Sequence[Set[str]], patience: float
    ) -> list[EntryAnswer]:
        """Ask, and tell whoever else waits for it. It goes on when its caller has gone."""
        told: Sequence[EntryAnswer | None] = [None] * len(run)
        try:
            entries = [one for _, one in run]
            told = found = await relayed_entries.ask(
                self._relay, self._outbox, self._app, self._call, entries,
                end_user=self._reply.end_user, waited_for=waited_for, patience=patience,
            )  # fmt: skip
            return found
        finally:
            keep = {
                place
                for place, one in run
                if lasts(self._call.entries[place]) and not one.debugging
            }
            self._claims.settle(zip([place for place, _ in run], told, strict=True), keep)

    def _take_answers(self, run: Run, task: asyncio.Task[list[EntryAnswer]]) -> None:
        if not task.done():
            self._fail([place for place, _ in run], TOO_LATE)
            return
        for (place, _), told in zip(run, task.result(), strict=True):
            self._tell(place, told)

    # --- answers -------------------------------------------------------------------------------------------------

    def _tell(self, place: int, told: EntryAnswer) -> None:
        self._reply.tell([place], [told.entry])
        self._reply.beside |= told.extra_fields
        if told.status != 200:
            self._reply.status, self._reply.retry_after = told.status, told.retry_after
            self._failed |= told.status in {429, 503, 504} and not told.waits
        if told.waits:
            self._stuck.add(self._groups[place])

    def _fail(self, places: Sequence[int], reason: str) -> None:
        """Nothing is known of these entries: the SDK is to send them again."""
        if not places:
            return
        failed = [response.failed(reason, self._call.entries[place]) for place in places]
        self._reply.tell(places, failed)
        if self._reply.status == 200:
            self._reply.status, self._reply.retry_after = 503, RETRY_SECONDS


def _told(one: PendingAnswer | EntryAnswer) -> EntryAnswer | None:
    """Return what was told by now."""
    if not isinstance(one, asyncio.Future):
        return one
    return one.result() if one.done() else None


def _subjects(one: Doing) -> set[str]:
    return {one.subject, *named(one.body)} if isinstance(one, NewItem) else one.subjects


def _kind(one: Doing) -> Kind:
    if isinstance(one, NewItem):
        return Kind.ACCEPT
    return Kind.LOOK if one.looks and not one.debugging else Kind.ASK


def runs(asked: Run, groups: Mapping[int, int | None]) -> list[Run]:
    """Return the entries that share a call to Leanplum, in an order that keeps that of each group.

    `groups`: of each place (None: it concerns everybody). What must never go first has calls of its
    own.
    """
    found, users = list[Run](), list[set[str | None]]()
    open_runs = dict[object, int]()  # the last call of each kind
    # The call that a group's last entry has, and the least for everybody
    reached, floor = dict[int | None, int](), 0
    for place, one in asked:
        kind = (one.key, one.debugging, one.writes)
        group = groups[place]
        least = max(0, len(found) - 1) if group is None else max(reached.get(group, 0), floor)
        number = open_runs.get(kind, -1)
        if one.alone or number < least or not _fits(one, found[number], users[number]):
            number = len(found)
            found.append([])
            users.append(set())
        if not one.alone:
            open_runs[kind] = number
        found[number].append((place, one))
        users[number].add(one.subject)
        reached[group] = number
        floor = number if group is None else floor
    return found


def _fits(one: Now, run: Run, users: Collection[str | None]) -> bool:
    return len(run) < RUN_ACTIONS and (one.subject in users or len(users) < RUN_USERS)
