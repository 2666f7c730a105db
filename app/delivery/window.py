"""What a deliverer knows of the queue: the next items of each lane, which may be sent, and what it
should read next.

Pure but for being told what happens. It is bounded: the rest of the queue stays on disk and is read
as room comes. A lane's items are held in the order of acceptance, and a lane that is in flight or
parked gives none out, so its order and its one call at a time hold whatever happens to others.

The queue is read from its tail, so that what was accepted just now is seen at once. A caller that
has more waiting than its share of the room has a *backlog*, read by a cursor of its own as its
share is sent: however long it is, other callers' items pass it. A lane is *behind* where items of
it were passed over; it takes no others before those, which are read by the lane itself. Items up to
the tail are therefore always in one of four places: here, in flight, in a backlog, or in a lane
that is behind or parked.

An item that an operator sends again keeps its number, and so lies before what was read. Its lane
falls behind: what is here of it is dropped, and the lane is read anew. Lanes that were read by
themselves have room and turns of their own, so that a million items sent again don't keep new ones
waiting.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from app import ids
from app.leanplum.actions import sent_alone
from app.model import Item, ItemPage, ReadRequest, ReadResult

MAX_USERS = 50  # of one multi (fact sheet, Limits)
MAX_ACTIONS = 500
MAX_BYTES = 1_000_000  # no limit is published; clients in the field stop here
PAGE = 5_000
LANES = 2_000  # lanes that are read by themselves at once
# A stored time further ahead is by a clock that was set, or another host's
LONGEST_WAIT_MS = 3_600_000


def _alone(item: Item) -> bool:
    return item.encrypted or sent_alone(item.action, item.body)


class Turn(NamedTuple):
    """The group in which a ready lane is sent. Groups of one app and size share calls, and take
    turns in them.
    """

    app: str
    caller: int
    users: int  # that a call with these lanes may have
    refilled: bool  # whether the lanes were read by themselves


class _Passed(NamedTuple):
    """The first and the last item of a lane that were passed over."""

    app: str
    first: int
    last: int


class Window:
    """The part of the queue that is in memory."""

    def __init__(
        self, capacity: int = 40_000, per_lane: int = MAX_ACTIONS, max_bytes: int = 64_000_000
    ) -> None:
        self._capacity, self._per_lane, self._max_bytes = capacity, per_lane, max_bytes
        self._refill_limit = max(1, min(PAGE, capacity // 8))
        self.shards: frozenset[int] = frozenset()
        self._waiting: dict[int, deque[Item]] = {}  # by lane
        self._flying: set[int] = set()  # lanes
        # Items that are here, in flight, or landed since the last read began: a read may bring them
        # a second time.
        self._known: set[int] = set()
        self._landed: list[int] = []  # since the last read began
        self._failures: dict[int, int] = {}  # calls that failed, one after the other, by lane
        self._now = self._wall = 0
        self._forget()

    def _forget(self) -> None:
        """Forget the queue, but not what is in flight."""
        for queue in self._waiting.values():
            self._known.difference_update([item.seq for item in queue])
        self._waiting = {}
        # Lanes that may be sent, the longest ready first
        self._ready: dict[Turn, dict[int, None]] = {}
        self._parked: dict[int, int] = {}  # until when (ms), by lane
        self._behind: dict[int, _Passed] = {}  # by lane
        # By app: the lanes behind that nothing stops from being read.
        self._idle = defaultdict[str, dict[int, None]](dict)
        self._tail: int | None = None  # None: the queue is to be read anew
        self._tail_whole = False
        self._replays = 0  # how many of an operator's replays were seen
        # By caller: the sequence number up to which it was read
        self._backlogs: dict[int, int] = {}
        # Items waiting here, by caller, but for those of refilled lanes
        self._counts = defaultdict[int, int](int)
        self._bytes = defaultdict[int, int](int)
        self._refilled: set[int] = set()  # lanes whose items here were read by the lane itself
        self._refilled_counts = Counter[str]()  # items of theirs that wait here, by app
        self._refilled_bytes = Counter[str]()

    @property
    def count(self) -> int:
        """How many items are here, waiting to be sent."""
        return sum(self._counts.values()) + self._refilled_counts.total()

    @property
    def _full(self) -> bool:
        return sum(self._counts.values()) >= self._capacity

    def assign(self, shards: frozenset[int]) -> None:
        """From now on these shards are ours: new ones are read from their start, and the lanes of
        lost ones dropped.
        """
        if shards - self.shards:
            self._forget()
        self.shards = shards
        for lane in [lane for lane in self._waiting if ids.shard(lane) not in shards]:
            self._drop(lane)
        self._parked = {
            lane: until for lane, until in self._parked.items() if ids.shard(lane) in shards
        }
        for idle in self._idle.values():
            for lane in [lane for lane in idle if ids.shard(lane) not in shards]:
                del idle[lane]
        self._failures = {
            lane: count for lane, count in self._failures.items() if ids.shard(lane) in shards
        }
        self._behind = {
            lane: passed for lane, passed in self._behind.items() if ids.shard(lane) in shards
        }

    def in_flight(self, shards: frozenset[int]) -> bool:
        """Whether a call is in flight for a lane of these shards."""
        return any(ids.shard(lane) in shards for lane in self._flying)

    # --- reading -------------------------------------------------------------------------------------------------

    def wants(self, *, changed: bool) -> ReadRequest | None:
        """What should be read now; `changed`: something may have been accepted since the last time.
        None where there is nothing to read, or no room for it. What is read is to be told to
        `take_in`, and nothing asked before.
        """
        self._known.difference_update(self._landed)
        self._landed.clear()
        return self._wanted(changed)

    def _wanted(self, changed: bool) -> ReadRequest | None:
        if not self.shards:
            return None
        shards = self.shards if len(self.shards) < ids.SHARDS else None
        if self._tail is None:
            return ReadRequest(shards, fresh=True)
        lanes = frozenset(self._to_refill())
        backlogs = tuple(self._readable())
        tail = self._tail if (changed or not self._tail_whole) and not self._full else None
        if not lanes and not backlogs and tail is None:
            return None
        passed = [self._behind[lane] for lane in lanes]
        return ReadRequest(
            shards,
            replays=self._replays,
            lanes=lanes,
            lanes_from=min((one.first for one in passed), default=0),
            lanes_upto=max((one.last for one in passed), default=0),
            tail=tail,
            leave_out=frozenset(self._backlogs),
            backlogs=backlogs,
            limit=PAGE,
            unread_after=min(self._backlogs.values(), default=None),
            contended=len(self._backlogs) > 1,
        )

    def _to_refill(self) -> list[int]:
        """The lanes behind that are to be read now. Each app has room of its own, since one that is
        held sends nothing and gives no room back.
        """
        apps = [app for app, idle in self._idle.items() if idle and not self._refills(app, 1)]
        return [
            lane for app in apps for lane in islice(self._idle[app], max(1, LANES // len(apps)))
        ]

    def _readable(self) -> Iterable[tuple[int, int, int]]:
        """The backlogs for which there is enough room that reading is worth it."""
        share = self._share(())
        for caller, after in self._backlogs.items():
            room = min(PAGE, self._room(caller, share))
            if room >= min(PAGE, share // 4 or 1):
                yield caller, after, room

    def _share(self, coming: Iterable[int]) -> int:
        """How many items of one caller may be here: there is always room for one caller more."""
        callers = len(self._counts.keys() | self._backlogs.keys() | set(coming))
        return max(1, self._capacity // (callers + 1))

    def _room(self, caller: int, share: int) -> int:
        """How many more items of a caller may be here."""
        full = self._bytes.get(caller, 0) >= self._max_bytes * share // self._capacity
        return 0 if full else max(0, share - self._counts.get(caller, 0))

    @property
    def backlogged(self) -> bool:
        """Whether a caller has more waiting than its share of the room."""
        return bool(self._backlogs)

    @property
    def unread(self) -> bool:
        """Whether reading may find more, without anything new having been accepted."""
        return self._wanted(False) is not None

    def take_in(self, found: ReadResult, now: int, wall: int | None = None) -> None:
        """Add what was read for the last `wants`. `now` is by a clock that nobody sets; `wall`: the
        time by which what is stored with items has come, where that is another one."""
        self._now, self._wall = now, now if wall is None else wall
        self._replays = found.replays
        if self._tail is None:
            self._tail = found.last
            self._backlogs = dict.fromkeys(found.callers, 0)
            return
        if found.lanes is not None:
            self._take_lanes(found.request, found.lanes)
        for lane, passed in found.replayed.items():
            self._read_again(lane, *passed)
        if found.tail is not None:
            self._take_tail(found, found.tail)
        for caller, page in found.backlogs:
            self._take_backlog(found, caller, page)

    def _take_lanes(self, wanted: ReadRequest, page: ItemPage) -> None:
        """What was read of lanes that were behind: where it is all, they no longer are."""
        told = {item.lane for item in page.items}
        behind = {lane: self._behind[lane] for lane in (wanted.lanes if page.whole else told)}
        for lane, passed in behind.items():
            del self._idle[passed.app][lane], self._behind[lane]
        self._refilled |= told
        for item in page.items:
            self._add(item)
        self._refilled.intersection_update(self._waiting)
        if not page.whole:
            read = page.items[-1].seq
            for lane, passed in behind.items():
                if passed.last > read:
                    self._pass_over(lane, passed.app, read + 1, passed.last)

    def _read_again(self, lane: int, app: str, first: int, last: int) -> None:
        """Let a lane fall behind that has items before those that were read. Unread backlogs may
        have earlier ones.
        """
        self._let_go(lane, app, min([first, *self._backlogs.values()]), last)

    def _let_go(self, lane: int, app: str, first: int, last: int) -> None:
        """Pass over these items of the lane and what is here of it."""
        if queue := self._waiting.get(lane):
            first, last = min(first, queue[0].seq), max(last, queue[-1].seq)
        self._drop(lane)
        self._pass_over(lane, app, first, last)

    def _take_tail(self, found: ReadResult, page: ItemPage) -> None:
        callers = {item.caller for item in page.items}
        share, others = self._share(callers), len(callers | self._backlogs.keys()) > 1
        left = {caller: self._room(caller, share) for caller in callers}
        # Callers whose backlog begins in this page: `earlier` doesn't know of it yet
        late = set[int]()
        for item in page.items:
            caller = item.caller
            left[caller] -= 1
            if left[caller] >= 0:
                self._take(found, item)
                continue
            if caller not in late:
                late.add(caller)
                self._backlogs[caller] = item.seq - 1
            if others:
                self._pass_over(
                    item.lane, item.app, found.earlier.get(item.lane, item.seq), item.seq
                )
        self._tail_whole = page.whole
        self._tail = found.last if page.whole else page.items[-1].seq

    def _take_backlog(self, found: ReadResult, caller: int, page: ItemPage) -> None:
        assert self._tail is not None
        read = [item for item in page.items if item.seq <= self._tail]
        for item in read:
            self._take(found, item)
            self._backlogs[caller] = item.seq
        if page.whole or len(read) < len(page.items):
            del self._backlogs[caller]  # from the tail on, its items come with everybody's

    def _take(self, found: ReadResult, item: Item) -> None:
        """Add an item, unless it is here already, or an earlier one of its lane may be unread."""
        earlier = found.earlier.get(item.lane, item.seq) if found.earlier else item.seq
        if earlier < item.seq and item.seq not in self._known:
            # The earlier one may be in another caller's backlog.
            self._pass_over(item.lane, item.app, earlier, item.seq)
        else:
            self._add(item)

    def _add(self, item: Item) -> None:
        """Add an item whose lane's earlier ones are all known."""
        if item.seq in self._known:
            return
        lane = item.lane
        queue = self._waiting.get(lane)
        if (
            lane in self._behind
            or lane in self._parked
            or (queue is not None and self._has_enough(lane, queue))
        ):
            self._pass_over(lane, item.app, item.seq, item.seq)
            return
        if queue is None:
            if (wait := min(item.next_attempt_at - self._wall, LONGEST_WAIT_MS)) > 0:
                self._parked[lane] = self._now + wait
                self._pass_over(lane, item.app, item.seq, item.seq)
                return
            queue = self._waiting[lane] = deque()
        elif item.seq < queue[-1].seq:
            # sent again by an operator, and read before the replay was seen
            self._read_again(lane, item.app, item.seq, item.seq)
            return
        queue.append(item)
        self._known.add(item.seq)
        if len(queue) == 1 and lane not in self._flying:
            self._make_ready(lane)
        if lane in self._refilled:
            self._refilled_counts[item.app] += 1
            self._refilled_bytes[item.app] += len(item.body)
        else:
            self._counts[item.caller] += 1
            self._bytes[item.caller] += len(item.body)

    def _has_enough(self, lane: int, queue: deque[Item]) -> bool:
        if len(queue) >= self._per_lane:
            return True
        return lane in self._refilled and self._refills(queue[0].app, 2)

    def _refills(self, app: str, times: int) -> bool:
        """Whether what is here of an app's refilled lanes has reached `times` the room for it."""
        count, size = self._refilled_counts[app], self._refilled_bytes[app]
        return count >= times * self._refill_limit or size >= times * self._max_bytes // 8

    def _pass_over(self, lane: int, app: str, first: int, last: int) -> None:
        """Items of the lane were passed over; they are read again once what is here of it is
        sent.
        """
        if lane in self._behind:
            app, passed_first, passed_last = self._behind[lane]
            first, last = min(first, passed_first), max(last, passed_last)
        self._behind[lane] = _Passed(app, first, last)
        self._stir(lane)

    def _stir(self, lane: int) -> None:
        """A lane that is behind may be read now, unless something stops it."""
        if lane not in self._waiting and lane not in self._flying and lane not in self._parked:
            self._idle[self._behind[lane].app][lane] = None

    # --- sending -------------------------------------------------------------------------------------------------

    @property
    def sendable(self) -> bool:
        """Whether something may be sent now."""
        return bool(self._ready)

    @property
    def apps(self) -> list[str]:
        """The apps of which something may be sent now, the one whose turn it is first."""
        return list(dict.fromkeys(turn.app for turn in self._ready))

    def _make_ready(self, lane: int) -> None:
        self._ready.setdefault(self._turn(lane), {})[lane] = None

    def _turn(self, lane: int) -> Turn:
        """What a waiting lane is sent with. After a call that failed its users go on in calls of
        half as many, so that one whose items make calls fail is soon alone, and nobody else waits
        for it.
        """
        first = self._waiting[lane][0]
        users = max(1, MAX_USERS >> min(self._failures.get(lane, 0), 10))
        return Turn(first.app, first.caller, users, lane in self._refilled)

    def next_batch(self, users: int = MAX_USERS, app: str | None = None) -> list[Item]:
        """The items of the next call, for one app (None: whose turn it is): at most `users` lanes,
        500 items, 1 MB, of all callers in turn. Their lanes are in flight from now on. Empty where
        nothing may be sent.
        """
        batch: list[Item] = []
        size, taken = 0, set[tuple[str, str]]()
        first = next((turn for turn in self._ready if app in (None, turn.app)), None)
        if first is None:
            return batch
        users = min(users, first.users)
        turns = deque(
            turn for turn in self._ready if (turn.app, turn.users) == (first.app, first.users)
        )
        while turns and len(taken) < users:
            turn = turns.popleft()
            lane = next(iter(self._ready[turn]))
            before = len(batch)
            size = self._fill(batch, size, lane, taken, users)
            if len(batch) == before:
                break  # this one doesn't fit; it begins the next call
            lanes = self._ready.pop(turn)
            del lanes[lane]
            if lanes:
                # As the last one, so that the next call begins with another
                self._ready[turn] = lanes
                turns.append(turn)
            if _alone(batch[0]):
                break
        return batch

    def _fill(
        self, batch: list[Item], size: int, lane: int, taken: set[tuple[str, str]], users: int
    ) -> int:
        """Move what fits of a lane's items into the batch, whose bodies have `size` bytes and are
        of the users `taken`; their size afterwards.
        """
        queue = self._waiting[lane]
        if batch and _alone(batch[0]):
            return size
        while (
            queue
            and len(batch) < MAX_ACTIONS
            and (not batch or size + len(queue[0].body) <= MAX_BYTES)
        ):
            who = queue[0].app, queue[0].subject
            if (who not in taken and len(taken) == users) or (
                batch and (_alone(queue[0]) or who[0] != batch[0].app)
            ):
                break
            taken.add(who)
            item = queue.popleft()
            batch.append(item)
            size += len(item.body)
            self._flying.add(lane)
            self._uncount(item)
            if len(batch) == 1 and _alone(item):
                break
        if not queue:
            del self._waiting[lane]
            self._refilled.discard(lane)
        return size

    def _uncount(self, item: Item) -> None:
        if item.lane in self._refilled:
            self._refilled_counts[item.app] -= 1
            self._refilled_bytes[item.app] -= len(item.body)
            return
        self._counts[item.caller] -= 1
        self._bytes[item.caller] -= len(item.body)
        if not self._counts[item.caller]:
            del self._counts[item.caller], self._bytes[item.caller]

    def landed(
        self, batch: Iterable[Item], postponed: Mapping[int, int], locked: Collection[int] = ()
    ) -> None:
        """A call's verdicts are on disk. `postponed` lanes wait until the time given: what of
        theirs is in memory is let go of, and read again then, since the head of their order has
        gone back to the queue. Of the `locked` ones nothing was sent, so the call says nothing
        about them.
        """
        first: dict[int, Item] = {}
        last: dict[int, int] = {}
        for item in batch:
            first.setdefault(item.lane, item)
            last[item.lane] = item.seq
            self._landed.append(item.seq)
        for lane, item in first.items():
            self._flying.remove(lane)
            if ids.shard(lane) not in self.shards:
                self._drop(lane)
                self._failures.pop(lane, None)
            elif lane in postponed:
                self._parked[lane] = postponed[lane]
                self._let_go(lane, item.app, item.seq, last[lane])
                if lane not in locked:
                    self._failures[lane] = self._failures.get(lane, 0) + 1
            else:
                self._failures.pop(lane, None)
                if lane in self._waiting:
                    self._make_ready(lane)
                elif lane in self._behind:
                    self._stir(lane)

    def _unready(self, lane: int) -> None:
        turn = self._turn(lane)
        lanes = self._ready.get(turn, {})
        if lane in lanes:
            del lanes[lane]
            if not lanes:
                del self._ready[turn]

    def _drop(self, lane: int) -> None:
        if lane not in self._waiting:
            return
        self._unready(lane)
        for item in self._waiting.pop(lane):
            self._known.discard(item.seq)
            self._uncount(item)
        self._refilled.discard(lane)

    def unpark(self, now: int) -> None:
        """Let the lanes go on whose time has come."""
        self._now = now
        for lane in [lane for lane, until in self._parked.items() if until <= now]:
            del self._parked[lane]
            self._stir(lane)
