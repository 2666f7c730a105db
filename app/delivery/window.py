"""What a deliverer knows of the queue: the next items of each lane, which may be sent, and what it should read next.

Pure but for being told what happens. It is bounded: the rest of the queue stays on disk and is read as room comes. A
lane's items are held in the order of acceptance, and a lane that is in flight or parked gives none out, so its order
and its one call at a time hold whatever happens to others.

The queue is read from its tail, so that what was accepted just now is seen at once. A caller that has more waiting than
its share of the room has a *backlog*, read by a cursor of its own as its share is sent: however long it is, other
callers' items pass it. A lane is *behind* where items of it were passed over; it takes no others before those, which
are read by the lane itself. Items up to the tail are therefore always in one of four places: here, in flight, in a
backlog, or in a lane that is behind or parked.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping

from app import ids
from app.leanplum.actions import sent_alone
from app.model import Found, Item, Page, Wanted

MAX_USERS = 50  # of one multi (fact sheet, Limits)
MAX_ACTIONS = 500
MAX_BYTES = 1_000_000  # no limit is published; clients in the field stop here
PAGE = 5_000
LANES = 2_000  # lanes that are read by themselves at once


def _alone(item: Item) -> bool:
    return item.sealed or sent_alone(item.action, item.body)


Turn = tuple[str, int, int]  # whose turn it is: an app, a caller, and how many users a call with its lanes may have


class Window:
    """The part of the queue that is in memory."""

    def __init__(self, capacity: int = 40_000, per_lane: int = MAX_ACTIONS, max_bytes: int = 64_000_000) -> None:
        self._capacity, self._per_lane, self._max_bytes = capacity, per_lane, max_bytes
        self.shards: frozenset[int] = frozenset()
        self._flying: dict[int, int] = {}  # the last sequence number that is in flight, by lane
        self._landed: dict[int, int] = {}  # since the read began: the last sequence number that was in flight
        self._failures: dict[int, int] = {}  # calls that failed, one after the other, by lane
        self._now = 0
        self._forget()

    def _forget(self) -> None:
        self._waiting: dict[int, deque[Item]] = {}  # by lane
        self._ready: dict[Turn, dict[int, None]] = {}  # lanes that may be sent, the longest ready first
        self._parked: dict[int, int] = {}  # until when (ms), by lane
        self._behind: dict[int, tuple[int, int]] = {}  # by lane: the first and last item that were passed over
        self._idle: dict[int, None] = {}  # those of the lanes behind that nothing stops from being read
        self._tail: int | None = None  # None: the queue is to be read anew
        self._tail_whole = False
        self._replays: int | None = None
        self._backlogs: dict[int, int] = {}  # by caller: the sequence number up to which it was read
        self._counts = defaultdict[int, int](int)  # items waiting here, by caller
        self._bytes = defaultdict[int, int](int)

    @property
    def count(self) -> int:
        """How many items are here, waiting to be sent."""
        return sum(self._counts.values())

    def assign(self, shards: frozenset[int]) -> None:
        """From now on these shards are ours: new ones are read from their start, and the lanes of lost ones dropped."""
        if shards - self.shards:
            self._forget()
        self.shards = shards
        for lane in [lane for lane in self._waiting if ids.shard(lane) not in shards]:
            self._drop(lane)
        for lanes in (self._parked, self._idle):
            for lane in [lane for lane in lanes if ids.shard(lane) not in shards]:
                del lanes[lane]
        self._failures = {lane: count for lane, count in self._failures.items() if ids.shard(lane) in shards}
        self._behind = {lane: passed for lane, passed in self._behind.items() if ids.shard(lane) in shards}

    def in_flight(self, shards: frozenset[int]) -> bool:
        """Whether a call is in flight for a lane of these shards."""
        return any(ids.shard(lane) in shards for lane in self._flying)

    # --- reading -------------------------------------------------------------------------------------------------

    def wants(self, *, changed: bool) -> Wanted | None:
        """What should be read now; `changed`: something may have been accepted since the last time. None where there
        is nothing to read, or no room for it. What is read is to be told to `take_in`, and nothing asked before."""
        self._landed.clear()
        return self._wanted(changed)

    def _wanted(self, changed: bool) -> Wanted | None:
        if not self.shards:
            return None
        shards = self.shards if len(self.shards) < ids.SHARDS else None
        if self._tail is None:
            return Wanted(shards, fresh=True)
        room = self.count < self._capacity
        lanes = frozenset(list(self._idle)[:LANES]) if room else frozenset[int]()
        backlogs = tuple(self._readable())
        tail = self._tail if (changed or not self._tail_whole) and room else None
        if not lanes and not backlogs and tail is None:
            return None
        passed = [self._behind[lane] for lane in lanes]
        return Wanted(
            shards,
            lanes=lanes,
            lanes_from=min((first for first, _ in passed), default=0),
            lanes_upto=max((last for _, last in passed), default=0),
            tail=tail,
            leave_out=frozenset(self._backlogs),
            backlogs=backlogs,
            limit=PAGE,
            unread_after=min(self._backlogs.values(), default=None),
            contended=len(self._backlogs) > 1,
        )

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

    def take_in(self, found: Found, now: int) -> None:
        """Add what was read for the last `wants`."""
        self._now = now
        if self._replays not in {None, found.replays}:
            return self._forget()  # an operator has put items back that lie behind the cursors
        self._replays = found.replays
        if self._tail is None:
            self._tail = found.last
            self._backlogs = dict.fromkeys(found.callers, 0)
            return None
        if found.lanes is not None:
            self._take_lanes(found.wanted, found.lanes)
        if found.tail is not None:
            self._take_tail(found, found.tail)
        for caller, page in found.backlogs:
            self._take_backlog(found, caller, page)
        return None

    def _take_lanes(self, wanted: Wanted, page: Page) -> None:
        """What was read of lanes that were behind: where it is all, they no longer are."""
        told = {item.lane for item in page.items}
        upto = {lane: self._behind[lane][1] for lane in told & self._idle.keys()}
        for lane in self._idle.keys() & (wanted.lanes if page.whole else told):
            del self._idle[lane], self._behind[lane]
        for item in page.items:
            self._add(item)
        if not page.whole:
            for lane, last in upto.items():
                if last > (read := page.items[-1].seq):
                    self._pass_over(lane, read + 1, last)

    def _take_tail(self, found: Found, page: Page) -> None:
        callers = {item.caller for item in page.items}
        share, others = self._share(callers), len(callers | self._backlogs.keys()) > 1
        left = {caller: self._room(caller, share) for caller in callers}
        late = set[int]()  # callers whose backlog begins in this page: `earlier` doesn't know of it yet
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
                self._pass_over(item.lane, item.seq, item.seq)
        self._tail_whole = page.whole
        self._tail = found.last if page.whole else page.items[-1].seq

    def _take_backlog(self, found: Found, caller: int, page: Page) -> None:
        assert self._tail is not None
        read = [item for item in page.items if item.seq <= self._tail]
        for item in read:
            self._take(found, item)
            self._backlogs[caller] = item.seq
        if page.whole or len(read) < len(page.items):
            del self._backlogs[caller]  # from the tail on, its items come with everybody's

    def _take(self, found: Found, item: Item) -> None:
        """Add an item, unless it is here already, or an earlier one of its lane may be unread."""
        earlier = found.earlier.get(item.lane, item.seq) if found.earlier else item.seq
        if earlier < item.seq and item.seq > self._last_known(item.lane):
            self._pass_over(item.lane, earlier, item.seq)  # the earlier one may be in another caller's backlog
        else:
            self._add(item)

    def _last_known(self, lane: int) -> int:
        if queue := self._waiting.get(lane):
            return queue[-1].seq
        return max(self._flying.get(lane, 0), self._landed.get(lane, 0))

    def _add(self, item: Item) -> None:
        """Add an item whose lane's earlier ones are all known."""
        lane = item.lane
        if item.seq <= self._last_known(lane):
            return
        queue = self._waiting.get(lane)
        if lane in self._behind or lane in self._parked or (queue is not None and len(queue) >= self._per_lane):
            self._pass_over(lane, item.seq, item.seq)
            return
        if queue is None:
            if item.next_attempt_at > self._now:
                self._parked[lane] = item.next_attempt_at
                self._pass_over(lane, item.seq, item.seq)
                return
            queue = self._waiting[lane] = deque()
        queue.append(item)
        if len(queue) == 1 and lane not in self._flying:
            self._make_ready(lane)
        self._counts[item.caller] += 1
        self._bytes[item.caller] += len(item.body)

    def _pass_over(self, lane: int, first: int, last: int) -> None:
        """Items of the lane were passed over; they are read again once what is here of it is sent."""
        if lane in self._behind:
            first, last = min(first, self._behind[lane][0]), max(last, self._behind[lane][1])
        self._behind[lane] = first, last
        self._stir(lane)

    def _stir(self, lane: int) -> None:
        """A lane that is behind may be read now, unless something stops it."""
        if lane not in self._waiting and lane not in self._flying and lane not in self._parked:
            self._idle[lane] = None

    # --- sending -------------------------------------------------------------------------------------------------

    @property
    def sendable(self) -> bool:
        """Whether something may be sent now."""
        return bool(self._ready)

    @property
    def apps(self) -> list[str]:
        """The apps of which something may be sent now, the one whose turn it is first."""
        return list(dict.fromkeys(app for app, _, _ in self._ready))

    def _make_ready(self, lane: int) -> None:
        self._ready.setdefault(self._turn(lane), {})[lane] = None

    def _turn(self, lane: int) -> Turn:
        """What a waiting lane is sent with. After a call that failed its users go on in calls of half as many, so that
        one whose items make calls fail is soon alone, and nobody else waits for it."""
        first = self._waiting[lane][0]
        return first.app, first.caller, max(1, MAX_USERS >> min(self._failures.get(lane, 0), 10))

    def next_batch(self, users: int = MAX_USERS, app: str | None = None) -> list[Item]:
        """The items of the next call, for one app (None: whose turn it is): at most `users` lanes, 500 items, 1 MB, of
        all callers in turn. Their lanes are in flight from now on. Empty where nothing may be sent."""
        batch: list[Item] = []
        size, taken = 0, set[tuple[str, str]]()
        of, _, most = next((turn for turn in self._ready if app in (None, turn[0])), ("", 0, 0))
        users, turns = min(users, most), deque(turn for turn in self._ready if turn[0] == of and turn[2] == most)
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
                self._ready[turn] = lanes  # as the last one, so that the next call begins with another
                turns.append(turn)
            if _alone(batch[0]):
                break
        return batch

    def _fill(self, batch: list[Item], size: int, lane: int, taken: set[tuple[str, str]], users: int) -> int:
        """Move what fits of a lane's items into the batch, whose bodies have `size` bytes and are of the users `taken`;
        their size afterwards."""
        queue = self._waiting[lane]
        if batch and _alone(batch[0]):
            return size
        while queue and len(batch) < MAX_ACTIONS and (not batch or size + len(queue[0].body) <= MAX_BYTES):
            who = queue[0].app, queue[0].subject
            if (who not in taken and len(taken) == users) or (batch and (_alone(queue[0]) or who[0] != batch[0].app)):
                break
            taken.add(who)
            item = queue.popleft()
            batch.append(item)
            size += len(item.body)
            self._flying[lane] = item.seq
            self._uncount(item)
            if len(batch) == 1 and _alone(item):
                break
        if not queue:
            del self._waiting[lane]
        return size

    def _uncount(self, item: Item) -> None:
        self._counts[item.caller] -= 1
        self._bytes[item.caller] -= len(item.body)
        if not self._counts[item.caller]:
            del self._counts[item.caller], self._bytes[item.caller]

    def landed(self, batch: Iterable[Item], postponed: Mapping[int, int]) -> None:
        """A call's verdicts are on disk. `postponed` lanes wait until the time given: what of theirs is in memory is
        let go of, and read again then, since the head of their order has gone back to the queue."""
        first: dict[int, int] = {}
        for item in batch:
            first.setdefault(item.lane, item.seq)
        for lane in first:
            self._landed[lane] = last = self._flying.pop(lane)
            if ids.shard(lane) not in self.shards:
                self._drop(lane)
                self._failures.pop(lane, None)
            elif lane in postponed:
                queue = self._waiting.get(lane)
                self._parked[lane] = postponed[lane]
                self._pass_over(lane, first[lane], queue[-1].seq if queue else last)
                self._drop(lane)
                self._failures[lane] = self._failures.get(lane, 0) + 1
            else:
                self._failures.pop(lane, None)
                if lane in self._waiting:
                    self._make_ready(lane)
                elif lane in self._behind:
                    self._stir(lane)

    # --- for those who call while a caller waits ------------------------------------------------------------------

    def free_of(self, lanes: Collection[int]) -> bool:
        """Whether no call is in flight for any of these lanes."""
        return self._flying.keys().isdisjoint(lanes)

    def reserve(self, lane: int) -> bool:
        """Keep a lane from being sent until it is free again; False where a call is in flight for it."""
        if lane in self._flying:
            return False
        if lane in self._waiting:
            self._unready(lane)
        self._flying[lane] = self._landed.get(lane, 0)
        return True

    def free(self, lane: int) -> None:
        """Let a reserved lane be sent again."""
        self._landed[lane] = max(self._flying.pop(lane), self._landed.get(lane, 0))
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
            self._uncount(item)

    def unpark(self, now: int) -> None:
        """Let the lanes go on whose time has come."""
        self._now = now
        for lane in [lane for lane, until in self._parked.items() if until <= now]:
            del self._parked[lane]
            self._stir(lane)
