"""Finding the item at fault where a call is refused as a whole. Pure: it says what to send next,
and is told what came of it.

A refused call is sent again in halves, by users as long as there are several, then by one user's
items in their order, until the parts pass or one item is left. Where Leanplum itself refuses what
an item says (`SplitNeeded`), a lone item's own refusal ends it. Where nothing tells an item's fault
from one of all that we send (`Doubtful`: a firewall's answer, a refusal in words that nobody
knows), only other users' calls do:

- An item is at fault where a call with it was doubtful, then a call of another user passed, and then its own call was
  doubtful, twice.
- Where the calls of two users by themselves are doubtful and none passed since, or nobody else's items are there to
  compare with, the app is held: nothing is split until a call passes.
"""

from collections.abc import Collection, Generator, Sequence

from app.leanplum.replies import Doubtful, Reply, SplitNeeded
from app.model import ConfigRefused, Item, ItemRefused, Outcome, Trouble

Part = Sequence[Item]
Steps = Generator[Part, Reply, None]

# So many users whose own calls are doubtful, and none passed since: it is nobody's item
USERS_IN_DOUBT = 2
MOST_SUSPECTS = 500


class Doubts:
    """The evidence of the doubtful answers to one app's calls, and of those between them. Users are
    named by lanes.

    `held`: it was decided that no item is at fault; so it stays until a call passes. `reason`: of
    the last doubtful answer, until a call passes.
    """

    def __init__(self) -> None:
        self.held = False
        self.reason: str | None = None
        self._alone = set[int]()  # users whose own calls were doubtful, since a call passed last
        # Users in doubtful calls: whether another's call passed since
        self._suspects = dict[int, bool]()
        self._singled_out = set[int]()  # of the suspects: those whose own calls were doubtful

    @property
    def users(self) -> int:
        """How many users' own calls were doubtful since a call passed last."""
        return len(self._alone)

    def cleared(self, lane: int) -> bool:
        """Whether another user's call passed since one of this user's was doubtful."""
        return self._suspects.get(lane, False)

    def passed(self, lanes: Collection[int]) -> None:
        """A call was answered about the items of these users."""
        self.held, self.reason = False, None
        self._alone.clear()
        for lane in self._suspects:
            if any(other != lane for other in lanes):
                self._suspects[lane] = True
        for lane in lanes:
            self._forget(lane)

    def doubted(self, lanes: Collection[int], reason: str) -> bool:
        """A call with these users' items was doubtful; return whether it is one user's, who is at
        fault.

        What passed before is evidence against one user: for the others this answer may be the first
        of a block. Only those whose own calls were doubtful before it passed keep theirs where
        another is found at fault.
        """
        self.reason = reason
        alone = next(iter(lanes)) if len(lanes) == 1 else None
        if alone is not None and self.cleared(alone):
            self._suspects |= dict.fromkeys(self._suspects.keys() - self._singled_out, False)
            self._suspects[alone] = False
            return True
        self._suspects |= dict.fromkeys(self._suspects.keys() - set(lanes), False)
        for lane in lanes:
            self._suspects.setdefault(lane, False)
        if alone is not None:
            self._alone.add(alone)
            self._singled_out.add(alone)
        for lane in list(self._suspects)[: max(0, len(self._suspects) - MOST_SUSPECTS)]:
            self._forget(lane)
        return False

    def _forget(self, lane: int) -> None:
        self._suspects.pop(lane, None)
        self._singled_out.discard(lane)

    def reread(self, reply: Reply) -> Reply:
        """Return the reply, in doubt where it refuses one item in the very words in which whole
        calls are refused.
        """
        match reply:
            case [ItemRefused(reason)] if reason == self.reason:
                return Doubtful(reason)
        return reply


class Bisection:
    """The sending of one batch. `part` is what to send next, None at the end; `heard` takes the
    reply to it. Each user has one call at a time and their items in order: after an item that has
    to wait, none of theirs is sent.
    """

    def __init__(self, items: Part, doubts: Doubts) -> None:
        self._items, self._doubts = items, doubts
        self._outcomes = dict[int, Outcome]()  # by sequence number
        self._blocked = set[int]()  # users of whom nothing more may be sent now
        # Users found at fault: whether another item may be refused on that evidence
        self._guilty = dict[int, bool]()
        # Users whose own call was doubtful, with nothing to compare it with
        self._unclear: list[int] = []
        self._reason: str | None = None  # of the last doubtful answer
        self._left = 0  # calls that may be made yet, once an answer was doubtful
        self._stopped = False
        self.held = False
        self._steps = self._run()
        self.part: Part | None = next(self._steps)

    def heard(self, reply: Reply) -> None:
        """Take the reply to `part`, and decide what is to be sent now."""
        try:
            self.part = self._steps.send(reply)
        except StopIteration:
            self.part = None

    def outcomes(self) -> list[tuple[Item, Outcome]]:
        """Return each item's outcome. Items without one were not sent, or are to be sent again at
        once.
        """
        outcomes = dict(self._outcomes)
        if self._reason is not None and self._doubts.held:
            for item in self._items:
                outcomes.setdefault(item.seq, ConfigRefused(self._reason))
        return [(item, outcomes[item.seq]) for item in self._items if item.seq in outcomes]

    # --- the way through the halves ------------------------------------------------------------------------------

    def _run(self) -> Steps:
        yield from self._send(self._items)
        unclear, self._unclear = self._unclear, []
        for lane in unclear:
            if self._doubts.cleared(lane):
                self._blocked.discard(lane)
                yield from self._send([item for item in self._items if item.lane == lane])
            else:
                self._unclear.append(lane)
        if self._unclear and self._doubts.users and not self._stopped:
            self._hold()

    def _send(self, part: Part) -> Steps:
        reply = yield from self._ask(part)
        if reply is not None:
            yield from self._finish(part, reply)

    def _ask(self, part: Part) -> Generator[Part, Reply, Reply | None]:
        """Send what may be sent of a part and take note of the reply; None where nothing was
        sent.
        """
        left = self._sendable(part)
        in_doubt = self._reason is not None
        if not left or self._stopped or (in_doubt and (self._doubts.held or not self._left)):
            return None
        if in_doubt:
            self._left -= 1
        reply = yield left
        match reply:
            case Doubtful(reason):
                self._doubted(left, reason)
            case SplitNeeded():
                pass
            case outcomes:
                self._note(left, outcomes)
        return reply

    def _sendable(self, part: Part) -> list[Item]:
        return [
            item
            for item in part
            if item.seq not in self._outcomes and item.lane not in self._blocked
        ]

    def _note(self, part: Part, outcomes: Sequence[Outcome]) -> None:
        """Keep the outcomes of a part, and what they tell of the way to Leanplum."""
        passed = set[int]()
        for item, outcome in zip(part, outcomes, strict=True):
            self._outcomes[item.seq] = outcome
            if isinstance(outcome, ConfigRefused):
                self._stopped = True
            if isinstance(outcome, ConfigRefused | Trouble):
                self._blocked.add(item.lane)
            else:
                passed.add(item.lane)
        if passed:
            self._doubts.passed(passed)
        self._guilty |= dict.fromkeys(self._guilty.keys() & passed, True)

    def _doubted(self, part: Part, reason: str) -> None:
        if self._reason is None:
            self._left = most_calls(self._items)
        self._reason = reason
        lanes = {item.lane for item in part}
        if lanes <= self._guilty.keys():
            return  # found already: what its items' calls show is no news of anybody
        if self._doubts.doubted(lanes, reason):
            self._guilty |= dict.fromkeys(lanes, True)

    def _finish(self, part: Part, reply: Reply) -> Steps:
        """Send again, in smaller parts, what a reply has not settled."""
        match reply:
            case SplitNeeded():
                yield from self._halve(self._sendable(part))
            case Doubtful():
                yield from self._narrow_down(self._sendable(part))

    def _narrow_down(self, part: Part) -> Steps:
        """Find what makes a part doubtful."""
        if self._doubts.users >= USERS_IN_DOUBT:
            self._hold()
        if not part or self._stopped:
            return
        if len({item.lane for item in part}) > 1:
            yield from self._halve(part)
            return
        lane = part[0].lane
        if not self._guilty.get(lane):
            self._blocked.add(lane)
            if lane not in self._guilty:
                self._unclear.append(lane)
        elif len(part) > 1:
            yield from self._halve(part)
        else:
            yield from self._refuse(part)

    def _halve(self, part: Part) -> Steps:
        """Send a part in two halves. Those of different users are both sent before either is halved
        again: most users need not wait then until the item at fault is found.
        """
        first, second = halves(part)
        if first[0].lane == second[0].lane:
            yield from self._send(first)
            yield from self._send(second)
            return
        replies = [(yield from self._ask(first)), (yield from self._ask(second))]
        if all(isinstance(reply, Doubtful) for reply in replies):
            yield from self._sound_out(first, second)
        for half, reply in zip((first, second), replies, strict=True):
            if reply is not None:
                yield from self._finish(half, reply)

    def _sound_out(self, first: Part, second: Part) -> Steps:
        """Both halves are doubtful: several items are at fault, or none. One user of each, by
        themselves, tells.
        """
        for half in first, second:
            user = [item for item in half if item.lane == half[0].lane]
            if len(user) < len(half):
                yield from self._send(user)

    def _refuse(self, part: Part) -> Steps:
        """Refuse the item that is at fault, once its own call is doubtful again."""
        reply = yield from self._ask(part)
        if isinstance(reply, Doubtful):
            (item,) = part
            self._outcomes[item.seq] = ItemRefused(
                f"{reply.reason}; calls of other users pass, this item's does not"
            )
            self._guilty[item.lane] = False
        elif reply is not None:
            yield from self._finish(part, reply)

    def _hold(self) -> None:
        self._stopped = self.held = self._doubts.held = True


def halves(part: Part) -> tuple[Part, Part]:
    """Split a part of several items by its users, or where it is all of one by its items; order is
    kept.
    """
    lanes = list(dict.fromkeys(item.lane for item in part))
    if len(lanes) == 1:
        return part[: len(part) // 2], part[len(part) // 2 :]
    first = set(lanes[: len(lanes) // 2])
    return [item for item in part if item.lane in first], [
        item for item in part if item.lane not in first
    ]


def most_calls(items: Part) -> int:
    """How many calls may be spent on a batch after a doubtful one: twice what it takes to find one
    item.
    """
    counts = dict[int, int]()
    for item in items:
        counts[item.lane] = counts.get(item.lane, 0) + 1
    levels = (len(counts) - 1).bit_length() + (max(counts.values()) - 1).bit_length()
    return 2 * (2 * levels + 2)


def sent_again(parts: Sequence[Part], settled: Collection[int]) -> list[bool]:
    """For each part, in the order in which they were sent, return whether it is not what settled
    all of its items: one was sent again later, or is still to be sent.
    """
    again, later = list[bool](), set[int]()
    for part in reversed(parts):
        seqs = {item.seq for item in part}
        again.append(not seqs.isdisjoint(later) or not seqs.issubset(settled))
        later |= seqs
    return again[::-1]
