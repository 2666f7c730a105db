"""What must be so after a history: the promises of `docs/reliability.md`, checked from outside."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import combinations

from app.outbox.user_lock_rows import OUTLIVES_MS

from .histories import History, Thing
from .leanplum import Call

SLACK = 0.001
NOTICE_SECONDS = 5.0  # that deliverers may take to notice a replay, on a slow database
ASKED_FOR = 5  # receipts that are asked for as callers do; the others are read from the tables


async def broken(history: History) -> list[str]:
    """All promises that this history has broken, each with what shows it."""
    checks = _Checks(history)
    found = [*history.world.faults, *checks.of_leanplum(), *checks.of_failures()]
    found += [text async for text in checks.of_receipts()]
    return found + await checks.of_retention()


def _applied(call: Call) -> float:
    assert call.applied is not None
    return call.applied


def _first(calls: Iterable[Call]) -> Call | None:
    """The call that Leanplum was first done with."""
    return min((call for call in calls if call.applied is not None), key=_applied, default=None)


def _earlier(then: Call, first: Call) -> bool:
    """Whether the later item's call came first, other than by passing one that its sender had given
    up.
    """
    given_up = first.abandoned is not None and first.abandoned <= then.began
    waited = then.began - first.began >= OUTLIVES_MS / 1000 - 2 * SLACK
    return _applied(then) < _applied(first) and not (given_up and waited)


class _Checks:
    def __init__(self, history: History) -> None:
        self.history, self.world = history, history.world
        self.calls = history.world.leanplum.calls
        self.sent: dict[str, list[Call]] = {}
        self.done: dict[str, list[Call]] = {}
        for call in self.calls:
            for entry in call.entries:
                self.sent.setdefault(entry.marker, []).append(call)
                if call.applied is not None and entry.marker not in call.refused:
                    self.done.setdefault(entry.marker, []).append(call)

    # --- at Leanplum -----------------------------------------------------------------------------------------------

    def of_leanplum(self) -> Iterator[str]:
        """One call per user at a time, order, nothing twice, nobody created again."""
        yield from self._overlaps()
        yield from self._order()
        yield from self._twice()
        yield from self._created_again()
        yield from self._passed()
        yield from self._discarded()

    def _overlaps(self) -> Iterator[str]:
        for one, other in combinations(sorted(self.calls, key=lambda call: call.began), 2):
            users = one.users & other.users
            if users and other.began < one.ended and not self._may_overlap(one, other):
                yield f"overlap of {sorted(users)}: {one} and {other} at {other.began - 1_000:.3f}"

    def _may_overlap(self, one: Call, other: Call) -> bool:
        """Whether the first was given up by its sender, and the second waited as long as it
        should.
        """
        given_up = one.abandoned is not None and one.abandoned <= other.began
        waited = other.began - one.began >= OUTLIVES_MS / 1000 - 2 * SLACK
        return given_up and (waited or self.world.stepped)

    def _order(self) -> Iterator[str]:
        things = [one for one in self.history.things.values() if one.seq is not None]
        for one, other in combinations(sorted(things, key=lambda thing: thing.seq or 0), 2):
            if other.user not in (one.user, one.joins, one.device) or one.asks or other.asks:
                continue
            first = _first(self.sent.get(one.marker, ()))  # refused is judged as well
            then = _first(self.done.get(other.marker, ()))
            if first is not None and then is not None and _earlier(then, first):
                yield f"order: {other.marker} of {one.user} came before {one.marker}"

    def _twice(self) -> Iterator[str]:
        for marker, calls in self.done.items():
            thing = self.history.things[marker]
            for call in sorted(calls, key=lambda call: call.began)[:-1]:
                if (
                    call.heard
                    and not self._cut_off(thing, call)
                    and not self._replayed(thing, call)
                ):
                    yield f"twice: {marker} was done by {call} at {call.began - 1_000:.3f}, and again"

    def _cut_off(self, thing: Thing, call: Call) -> bool:
        """Whether the sender was killed before it had written down what it heard."""
        return any(
            kill.process == call.process
            and kill.at >= call.began
            and thing.seq in kill.open | {None}
            for kill in self.world.kills
        )

    @staticmethod
    def _replayed(thing: Thing, call: Call) -> bool:
        return any(at >= call.began for at in thing.asks)

    def _created_again(self) -> Iterator[str]:
        for user, at in self.history.erased.items():
            if self.world.leanplum.exists.get(user):
                yield f"erased: {user} was erased at {at - 1_000:.3f} and is at Leanplum again"

    def _passed(self) -> Iterator[str]:
        """What was replayed goes before whatever of its user was not sent yet, once that is
        noticed.
        """
        if self.world.faulty or self.world.stepped:
            return
        things = self.history.things
        for thing in things.values():
            for asked, went in thing.replays:
                sent = [call.began for call in self.sent[thing.marker] if call.began >= asked]
                for call in self.calls:
                    later = [
                        one.marker
                        for one in call.entries
                        if one.user == thing.user
                        and (things[one.marker].seq or 0) > (thing.seq or 0)
                    ]
                    if went + NOTICE_SECONDS < call.began < min(sent, default=call.ended) and later:
                        yield f"replay: {thing.marker} of {thing.user} was passed by {later[0]}"

    def _discarded(self) -> Iterator[str]:
        for thing in self.history.things.values():
            if (at := thing.discarded) is not None:
                for call in self.sent.get(thing.marker, ()):
                    if call.began > at:
                        yield f"discarded: {thing.marker} of {thing.user} was sent again"

    # --- what callers were told ------------------------------------------------------------------------------------

    def of_failures(self) -> Iterator[str]:
        """'Nothing was taken' and 'cannot be reached' are true, and nothing of erased users is
        taken.
        """
        for thing in self.history.things.values():
            sent = self.sent.get(thing.marker)
            if thing.nothing_taken and not thing.doubtful and sent:
                yield f"told that nothing was taken, and {thing.marker} was sent"
            if thing.relayed and "cannot be reached" in thing.said and thing.marker in self.done:
                yield f"told that Leanplum cannot be reached, and it did {thing.marker}"
            if (
                thing.relayed
                and thing.said.startswith("failed: Leanplum's answer is missing")
                and not sent
            ):
                yield f"told that {thing.marker} may have been done, and it was never sent"
            erased = self.history.erased.get(thing.user)
            if erased is None or thing.at < erased or thing.action in {"deleteUser", "getVars"}:
                continue
            if thing.acknowledged or sent:
                yield f"erased: {thing.marker} of {thing.user} was taken after the erasure"

    # --- receipts --------------------------------------------------------------------------------------------------

    async def of_receipts(self) -> AsyncIterator[str]:
        """Everything acknowledged is settled, and its receipt tells what happened."""
        for seq, subject, status in self.world.waiting():
            yield f"stuck: item {seq} of {subject} is {status}{self._named(seq)}"
        stored = dict(self.world.database.sql("SELECT seq, status FROM items"))
        taken = [thing for thing in self.history.things.values() if thing.acknowledged]
        for thing in taken:
            for text in self._judged(thing, stored.get(thing.seq)):
                yield f"{text} ({thing.marker} of {thing.user})"
        for thing in taken[-ASKED_FOR:]:
            assert thing.item_id is not None
            status = await self.world.processes[0].status(thing.item_id)
            if status != stored.get(thing.seq):
                yield f"receipt: {status}, and the item is {stored.get(thing.seq)}"

    def _named(self, seq: int) -> str:
        found = [one.marker for one in self.history.things.values() if one.seq == seq]
        return f" ({found[0]})" if found else ""

    def _judged(self, thing: Thing, status: str | None) -> Iterator[str]:
        sent, done = self.sent.get(thing.marker, []), self.done.get(thing.marker, [])
        since = thing.replays[-1][0] if thing.replays else 0.0
        was_sent = any(call.began >= since for call in sent)
        if status is None and thing.user not in self.history.deleted and not was_sent:
            yield "lost: nothing is left of it, and it was not sent since it was taken or replayed"
        if status == "delivered" and not done:
            yield "receipt: delivered, and Leanplum never did it"
        if status == "rejected" and not any(thing.marker in call.refused for call in sent):
            yield "receipt: rejected, and Leanplum never refused it"
        if status == "unknown" and not any(self._doubtful(thing, call) for call in sent):
            killed = any(thing.seq in kill.open for kill in self.world.kills)
            if not killed:
                heard = "its answer came" if sent else "it was never sent"
                yield f"receipt: unknown, and {heard}"

    def _doubtful(self, thing: Thing, call: Call) -> bool:
        return not call.heard or self._cut_off(thing, call)

    # --- retention -------------------------------------------------------------------------------------------------

    async def of_retention(self) -> list[str]:
        """What is past its time goes, and nothing else."""
        world, sizes = self.world, self.world.sizes
        await self.history.end()
        process = world.processes[0]
        process.delivers = False
        await process.start()
        await asyncio.sleep(max(sizes.receipts_ms, sizes.dead_letters_ms) / 1000 + 5)
        before = self._settled()
        now = process.wall()
        for _ in range(3):
            await process.sweep()
        left = {seq for seq, *_ in self._settled()}
        later = process.wall()
        found = []
        for seq, settled_at, dead, accepted_at in before:
            kept_ms = sizes.dead_letters_ms if dead else sizes.receipts_ms
            if settled_at > later - kept_ms and seq not in left:
                found.append(f"retention: item {seq} was removed too early")
            if (
                settled_at <= now - kept_ms
                and accepted_at <= now - sizes.receipts_ms
                and seq in left
            ):
                found.append(f"retention: item {seq} is still there{self._named(seq)}")
        return found

    def _settled(self) -> list[tuple[int, int, int, int]]:
        rows = self.world.database.sql(
            "SELECT i.seq, i.settled_at, CASE WHEN i.body IS NULL THEN 0 ELSE 1 END, a.accepted_at "
            "FROM items i JOIN acceptances a ON a.first_seq = i.acceptance "
            "WHERE i.settled_at IS NOT NULL"
        )
        return [
            (int(seq), int(settled), int(dead), int(taken)) for seq, settled, dead, taken in rows
        ]
