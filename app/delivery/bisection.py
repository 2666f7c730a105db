"""The search for the item at fault where a call is refused as a whole.

Pure: `Bisection` says what to send next, and gets the reply to it.

A refused call is sent again in halves, by users as long as there are several, then by one user's
items in their order, until the parts pass or one item is left. Where Leanplum itself refuses what
an item says (`SplitNeeded`), the refusal of a call with that item alone ends the search. Where an
item's fault cannot be told from one of all that we send (`Doubtful`: a firewall's answer, a refusal
in unknown words), only other users' calls tell:

- An item is at fault where a call with it was doubtful, then a call of another user passed, and
  then its own call was doubtful, twice.
- Where two users' own calls are doubtful and none passed since, or there is nobody else's item to
  compare with, the app is held: nothing is split until a call passes.
"""

from collections import Counter
from collections.abc import Collection, Generator, Sequence

from app.leanplum.replies import Doubtful, Reply, SplitNeeded
from app.model import DONE, ConfigRefused, Item, ItemRefused, Outcome, Trouble

Part = Sequence[Item]
Steps = Generator[Part, Reply, None]

# Where the own calls of so many users are doubtful and none passed since, no item is at fault
USERS_IN_DOUBT = 2
MAX_SUSPECTS = 500


class Doubts:
    """The evidence from doubtful answers to one app's calls, and from the answers between them.

    Users are identified by their lanes. `held`: it was decided that no item is at fault, until a
    call passes. `reason`: that of the last doubtful answer, until a call passes.
    """

    def __init__(self) -> None:
        self.held = False
        self.reason: str | None = None
        self._alone = set[int]()  # users whose own calls were doubtful since a call passed last
        # Users in doubtful calls, with whether another user's call passed since
        self._suspects = dict[int, bool]()
        self._singled_out = set[int]()  # suspects whose own calls were doubtful

    @property
    def users(self) -> int:
        """The number of users whose own calls were doubtful since a call passed last."""
        return len(self._alone)

    def cleared(self, lane: int) -> bool:
        """Return whether another user's call passed since one of this user's was doubtful."""
        return self._suspects.get(lane, False)

    def note_passed(self, lanes: Collection[int]) -> None:
        """Note a call that was answered about the items of these users."""
        self.held, self.reason = False, None
        self._alone.clear()
        for lane in self._suspects:
            if any(other != lane for other in lanes):
                self._suspects[lane] = True
        for lane in lanes:
            self._forget(lane)

    def note_doubtful(self, lanes: Collection[int], reason: str) -> bool:
        """Note a doubtful call with these users' items. Return whether one user is at fault.

        A user is at fault if a call with its items alone is doubtful although another user's call
        passed since an earlier doubtful one. For other users that passed call then proves no more:
        this response may be the first of many, if a proxy has begun to block all calls. Only users
        whose own calls were doubtful before keep it as evidence.
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
        for lane in list(self._suspects)[: max(0, len(self._suspects) - MAX_SUSPECTS)]:
            self._forget(lane)
        return False

    def _forget(self, lane: int) -> None:
        self._suspects.pop(lane, None)
        self._singled_out.discard(lane)

    def reinterpret(self, reply: Reply) -> Reply:
        """Return the reply; doubtful where it refuses one item in the words of a doubtful call."""
        match reply:
            case [ItemRefused(reason)] if reason == self.reason:
                return Doubtful(reason)
        return reply


class Bisection:
    """The search within one batch: `part` is what to send next, None at the end.

    `advance` takes the reply to it. Each user has one call at a time and their items in order:
    after an item that has to wait, none of theirs is sent.
    """

    def __init__(self, items: Part, doubts: Doubts) -> None:
        self._items, self._doubts = items, doubts
        self._outcomes = dict[int, Outcome]()  # by sequence number
        self._blocked = set[int]()  # users of whom nothing more may be sent now
        # Users found at fault, with whether another item may be refused on that evidence
        self._guilty = dict[int, bool]()
        # Users whose own call was doubtful, without another call to compare it with
        self._unclear: list[int] = []
        self._reason: str | None = None  # of the last doubtful answer
        self._calls_left = 0  # calls that may still be made once an answer was doubtful
        self._stopped = False
        self.held = False
        self._steps = self._run()
        self.part: Part | None = next(self._steps)

    def advance(self, reply: Reply) -> None:
        """Take the reply to `part`, and decide on the next part."""
        try:
            self.part = self._steps.send(reply)
        except StopIteration:
            self.part = None

    def outcomes(self) -> list[tuple[Item, Outcome]]:
        """Return the items' outcomes.

        Items without an outcome were not sent, or are to be sent again at once.
        """
        outcomes = self._outcomes
        if self._reason is not None and self._doubts.held:
            outcomes = dict(outcomes)
            for item in self._items:
                outcomes.setdefault(item.seq, ConfigRefused(self._reason))
        return [(item, outcomes[item.seq]) for item in self._items if item.seq in outcomes]

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
        reply = yield from self._send_part(part)
        if reply is not None:
            yield from self._finish(part, reply)

    def _send_part(self, part: Part) -> Generator[Part, Reply, Reply | None]:
        """Send the sendable items of a part, and note the reply. None where there are none."""
        items = self._sendable(part)
        if not items or self._stopped:
            return None
        if self._reason is not None:  # in doubt
            if self._doubts.held or not self._calls_left:
                return None
            self._calls_left -= 1
        reply = yield items
        match reply:
            case Doubtful(reason):
                self._note_doubtful(items, reason)
            case SplitNeeded():
                pass
            case outcomes:
                self._note_outcomes(items, outcomes)
        return reply

    def _sendable(self, part: Part) -> Part:
        if not self._outcomes and not self._blocked:
            return part
        return [
            item
            for item in part
            if item.seq not in self._outcomes and item.lane not in self._blocked
        ]

    def _note_outcomes(self, part: Part, outcomes: Sequence[Outcome]) -> None:
        """Keep the outcomes of a part, and the evidence in them."""
        passed = set[int]()
        self._outcomes |= zip([item.seq for item in part], outcomes, strict=True)
        for item, outcome in zip(part, outcomes, strict=True):
            if outcome is DONE:  # nearly always, so it is asked first
                passed.add(item.lane)
                continue
            if isinstance(outcome, ConfigRefused):
                self._stopped = True
            if isinstance(outcome, ConfigRefused | Trouble):
                self._blocked.add(item.lane)
            else:
                passed.add(item.lane)
        if passed:
            self._doubts.note_passed(passed)
        for lane in passed & self._guilty.keys():
            self._guilty[lane] = True

    def _note_doubtful(self, part: Part, reason: str) -> None:
        if self._reason is None:
            self._calls_left = max_calls(self._items)
        self._reason = reason
        lanes = {item.lane for item in part}
        if lanes <= self._guilty.keys():
            return  # found at fault already, so the call tells nothing new
        if self._doubts.note_doubtful(lanes, reason):
            self._guilty |= dict.fromkeys(lanes, True)

    def _finish(self, part: Part, reply: Reply) -> Steps:
        """Send again, in smaller parts, the items that a reply did not settle."""
        match reply:
            case SplitNeeded():
                yield from self._halve(self._sendable(part))
            case Doubtful():
                yield from self._narrow_down(self._sendable(part))

    def _narrow_down(self, part: Part) -> Steps:
        """Find the item that makes a part doubtful."""
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
        """Send a part in two halves.

        Halves of different users are both sent before either is halved again, so that most users
        need not wait until the item at fault is found.
        """
        first, second = halves(part)
        if first[0].lane == second[0].lane:
            yield from self._send(first)
            yield from self._send(second)
            return
        replies = [(yield from self._send_part(first)), (yield from self._send_part(second))]
        if all(isinstance(reply, Doubtful) for reply in replies):
            yield from self._send_one_user_of_each(first, second)
        for half, reply in zip((first, second), replies, strict=True):
            if reply is not None:
                yield from self._finish(half, reply)

    def _send_one_user_of_each(self, first: Part, second: Part) -> Steps:
        """Send the items of one user of each half, which are both doubtful.

        Their replies tell whether several items are at fault, or none.
        """
        for half in first, second:
            users_items = [item for item in half if item.lane == half[0].lane]
            if len(users_items) < len(half):
                yield from self._send(users_items)

    def _refuse(self, part: Part) -> Steps:
        """Refuse the item at fault, once its own call is doubtful again."""
        reply = yield from self._send_part(part)
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
    """Split a part of several items by its users, or one user's part by its items, in order."""
    lanes = list(dict.fromkeys(item.lane for item in part))
    if len(lanes) == 1:
        return part[: len(part) // 2], part[len(part) // 2 :]
    first_lanes = set(lanes[: len(lanes) // 2])
    first = [item for item in part if item.lane in first_lanes]
    second = [item for item in part if item.lane not in first_lanes]
    return first, second


def max_calls(items: Part) -> int:
    """Return how many calls may be spent on a batch after a doubtful one.

    That is twice as many as it takes to find one item.
    """
    counts = Counter(item.lane for item in items)
    levels = (len(counts) - 1).bit_length() + (max(counts.values()) - 1).bit_length()
    return 2 * (2 * levels + 2)


def sent_again(parts: Sequence[Part], settled: Collection[int]) -> list[bool]:
    """Return for each part, in the order of sending, whether an item of it is sent again.

    That is one which was sent again later, or which is still to be sent.
    """
    results, sent_later = list[bool](), set[int]()
    for part in reversed(parts):
        seqs = {item.seq for item in part}
        results.append(not seqs.isdisjoint(sent_later) or not seqs.issubset(settled))
        sent_later |= seqs
    return results[::-1]
