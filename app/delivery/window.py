"""The part of the queue that a deliverer holds in memory.

It has the next items of each lane, knows which lanes may be sent, and says what to read next. It is
pure: the deliverer reports events by calling its methods. Its size is bounded; the rest of the
queue stays on disk until there is room. A lane's items are held in the order of acceptance. While a
lane is in flight or deferred, none of its items is packed, which preserves its order and limits it
to one call at a time, independently of other lanes.

The queue is read from its tail, so that new items are seen at once. A caller with more items than
its share of the room has a *backlog*. It is read by a cursor of its own, as the caller's share is
sent, so other callers' items do not wait for it. An item must not overtake earlier items of its
lane in such a backlog. Only the first part of the backlog is searched for these. If the lane is not
found there, it may have some further on, so the item is skipped. A lane is *truncated* if items of
it were skipped; these are read by lane before any later item of it. So each item up to the tail is
in one of four places: here, in flight, in a backlog, or in a lane that is truncated or deferred.

An item that an operator replays keeps its number, and so lies before the items that were read. Its
lane becomes truncated: its items here are discarded, and the lane is read anew. Lanes that were
read by lane have room and groups of their own, so that a million replayed items don't delay new
ones.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from app import ids
from app.leanplum.actions import sent_alone
from app.model import Backlog, Item, ItemPage, ReadRequest, ReadResult

T = TypeVar("T")

MAX_USERS = 50  # in one multi (fact sheet, Limits)
MAX_ACTIONS = 500
MAX_BYTES = 1_000_000  # no limit is published; other clients stop here
PAGE = 5_000
LOWEST_EACH = 4  # of so many reads of lanes, one begins at the lowest number
MAX_LANES = 10_000  # lanes that one request reads by lane
# A stored time further ahead comes from a clock that was set, or another host's
LONGEST_WAIT_MS = 3_600_000


def _is_sent_alone(item: Item) -> bool:
    return sent_alone(item.action, item.body) or item.undecryptable


class LaneGroup(NamedTuple):
    """The group in which a ready lane is sent.

    Groups of one app and `users` share calls, in which they alternate.
    """

    app: str
    caller: int
    users: int  # how many users a call with these lanes may have
    refilled: bool  # whether the lanes were read by lane


class _SkippedRange(NamedTuple):
    """The numbers of the first and the last skipped item of a truncated lane."""

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
        self._in_flight: set[int] = set()  # lanes
        # Items that are here, in flight, or completed since the last read began: a read may bring
        # them a second time.
        self._known: set[int] = set()
        self._completed: list[int] = []  # items, since the last read began
        self._failures: dict[int, int] = {}  # failed calls in a row, by lane
        self._now = self._wall = 0
        self._reset()

    def _reset(self) -> None:
        """Forget the queue, but not what is in flight."""
        for queue in self._waiting.values():
            self._known.difference_update([item.seq for item in queue])
        self._waiting = {}
        # Lanes that may be sent; those ready for longest come first
        self._ready: dict[LaneGroup, dict[int, None]] = {}
        self._deferred: dict[int, int] = {}  # until when (ms), by lane
        self._truncated: dict[int, _SkippedRange] = {}  # by lane
        # By truncated lane of which an earlier item may be unread, in another caller's backlog: the
        # caller whose item was skipped for that
        self._blocked: dict[int, int] = {}
        self._blocked_counts = Counter[int]()  # lanes, by caller
        self._lane_reads = 0
        # By app: the truncated lanes that may be read now
        self._readable_lanes = defaultdict[str, dict[int, None]](dict)
        self._tail: int | None = None  # None: nothing was read yet
        self._tail_complete = False
        self._replays = 0  # how many replays by operators were seen
        self._backlogs: dict[int, Backlog] = {}  # by caller
        # Items waiting here, by caller, without those of refilled lanes
        self._counts = defaultdict[int, int](int)
        self._bytes = defaultdict[int, int](int)
        self._refilled: set[int] = set()  # lanes whose items here were read by lane
        self._refilled_counts = Counter[str]()  # their items here, by app
        self._refilled_bytes = Counter[str]()

    @property
    def count(self) -> int:
        """The number of items that are here and wait to be sent."""
        return sum(self._counts.values()) + self._refilled_counts.total()

    @property
    def _full(self) -> bool:
        return sum(self._counts.values()) >= self._capacity

    def assign(self, shards: frozenset[int]) -> None:
        """Take these shards from now on.

        New ones are read from their start, and the lanes of lost ones discarded.
        """
        if shards - self.shards:
            self._reset()
        self.shards = shards
        for lane in [lane for lane in self._waiting if ids.shard(lane) not in shards]:
            self._discard(lane)
        self._deferred = _in_shards(self._deferred, shards)
        self._failures = _in_shards(self._failures, shards)
        self._truncated = _in_shards(self._truncated, shards)
        self._blocked = _in_shards(self._blocked, shards)
        self._blocked_counts = Counter(self._blocked.values())
        for app, lanes in self._readable_lanes.items():
            self._readable_lanes[app] = _in_shards(lanes, shards)

    def has_in_flight(self, shards: frozenset[int]) -> bool:
        """Return whether a call is in flight for a lane of these shards."""
        return any(ids.shard(lane) in shards for lane in self._in_flight)

    def next_request(self, *, changed: bool) -> ReadRequest | None:
        """Return what to read now; None where there is nothing to read, or no room for it.

        `changed`: something may have been accepted since the last time. Pass the result to
        `take_result` before the next call.
        """
        self._known.difference_update(self._completed)
        self._completed.clear()
        return self._request(changed)

    def _request(self, changed: bool) -> ReadRequest | None:
        if not self.shards:
            return None
        shards = self.shards if len(self.shards) < ids.SHARDS else None
        if self._tail is None:
            return ReadRequest(shards, fresh=True)
        lanes = frozenset(self._to_refill())
        backlogs = tuple(self._readable())
        tail = self._tail if (changed or not self._tail_complete) and not self._full else None
        if not lanes and not backlogs and tail is None:
            return None
        skipped = [self._truncated[lane] for lane in lanes]
        unread_after = dict[str, int]()
        for app, after in self._backlogs.values():
            unread_after[app] = min(after, unread_after.get(app, after))
        callers = Counter(app for app, _ in self._backlogs.values())
        return ReadRequest(
            shards,
            replays=self._replays,
            lanes=lanes,
            lanes_from=min((items.first for items in skipped), default=0),
            lanes_upto=max((items.last for items in skipped), default=0),
            tail=tail,
            leave_out=frozenset(self._backlogs),
            backlogs=backlogs,
            limit=PAGE,
            unread_after=unread_after,
            contended=frozenset(app for app, count in callers.items() if count > 1),
            skipped=self._truncated,
        )

    def _to_refill(self) -> list[int]:
        """Return the truncated lanes to read now.

        Each app has room of its own, since a held one sends nothing and gives no room back. A read
        covers only a part of their range. It begins at the first lane, since lanes that are added
        could keep it from ever getting on; and at times at the lowest number, since other lanes may
        lie before the first.
        """
        readable = [
            lanes
            for app, lanes in self._readable_lanes.items()
            if lanes and not self._refill_reaches(app, 1)
        ]
        if not readable:
            return []
        share = max(1, MAX_LANES // len(readable))
        lanes = [lane for some in readable for lane in islice(some, share)]
        if self._begins_lowest:
            return lanes
        start = self._truncated[lanes[0]].first
        return [lane for lane in lanes if self._truncated[lane].first >= start]

    @property
    def _begins_lowest(self) -> bool:
        """Return whether the next read of truncated lanes begins at their lowest number."""
        return self._lane_reads % LOWEST_EACH == LOWEST_EACH - 1

    def _readable(self) -> Iterable[tuple[int, int, int]]:
        """Yield (caller, after, limit) of the backlogs with enough room to be worth reading."""
        share = self._share(())
        for caller, (_, after) in self._backlogs.items():
            room = min(PAGE, self._room(caller, share))
            if room >= min(PAGE, share // 4 or 1):
                yield caller, after, room

    def _share(self, new_callers: Iterable[int]) -> int:
        """Return how many items of one caller may be here, with room for one caller more."""
        callers = len(self._counts.keys() | self._backlogs.keys() | set(new_callers))
        return max(1, self._capacity // (callers + 1))

    def _room(self, caller: int, share: int) -> int:
        """Return how many more items of a caller may be here."""
        full = self._bytes.get(caller, 0) >= self._max_bytes * share // self._capacity
        used = self._counts.get(caller, 0) + self._blocked_counts[caller]
        return 0 if full else max(0, share - used)

    @property
    def backlogged(self) -> bool:
        """Return whether a caller has more items waiting than its share of the room."""
        return bool(self._backlogs)

    @property
    def unread(self) -> bool:
        """Return whether reading may find items although nothing new was accepted."""
        return self._request(False) is not None

    def take_result(self, result: ReadResult, now: int, wall: int | None = None) -> None:
        """Add what was read for the last request.

        `now` (ms) is monotonic. `wall` (ms) is the time by which the times stored with items are
        judged; without it `now` is.
        """
        self._now, self._wall = now, now if wall is None else wall
        self._replays = result.replays
        if self._tail is None:
            self._tail = result.last
            self._backlogs = dict(result.callers)
            return
        if result.lanes is not None:
            self._take_lanes(result.request, result.lanes)
        for lane, passed in result.replayed.items():
            self._reread(lane, *passed)
        if result.tail is not None:
            self._take_tail(result, result.tail)
        for caller, page in result.backlogs:
            self._take_backlog(result, caller, page)

    def _take_lanes(self, request: ReadRequest, page: ItemPage) -> None:
        """Add the items read of truncated lanes. Lanes that were read to their end are whole again.

        A lane of which nothing was found yet keeps its place in line.
        """
        if not self._begins_lowest:
            apps = {self._truncated[lane].app for lane in request.lanes}
            app = next(app for app in self._readable_lanes if app in apps)
            self._readable_lanes[app] = self._readable_lanes.pop(app)  # the next app's turn
        self._lane_reads += 1
        lanes_read = {item.lane for item in page.items}
        upto = request.lanes_upto if page.whole else page.read_upto
        unread = dict[int, _SkippedRange]()
        for lane in request.lanes:
            app, first, last = self._truncated[lane]
            if last > upto:
                rest = _SkippedRange(app, max(first, upto + 1), last)
                if lane not in lanes_read:
                    self._truncated[lane] = rest
                    continue
                unread[lane] = rest
            del self._truncated[lane], self._readable_lanes[app][lane]
            self._unblock(lane)
        self._refilled |= lanes_read
        for item in page.items:
            self._add(item)
        self._refilled.intersection_update(self._waiting)
        for lane, rest in unread.items():
            self._skip(lane, *rest)

    def _reread(self, lane: int, app: str, first: int, last: int) -> None:
        """Truncate a lane that has items before those that were read.

        Unread backlogs may have earlier ones.
        """
        self._truncate(
            lane, app, min([first, *(each.after for each in self._backlogs.values())]), last
        )

    def _truncate(self, lane: int, app: str, first: int, last: int) -> None:
        """Skip these items of the lane, and its items here."""
        if queue := self._waiting.get(lane):
            first, last = min(first, queue[0].seq), max(last, queue[-1].seq)
        self._discard(lane)
        self._skip(lane, app, first, last)

    def _take_tail(self, result: ReadResult, page: ItemPage) -> None:
        """Add new items of each caller up to its share; the rest begins or extends its backlog."""
        callers = {item.caller for item in page.items}
        share = self._share(callers)
        several_callers = len(callers | self._backlogs.keys()) > 1
        room = {caller: self._room(caller, share) for caller in callers}
        # Callers whose backlog begins in this page: `earlier` doesn't know of it yet
        new_backlogs = set[int]()
        for item in page.items:
            caller = item.caller
            room[caller] -= 1
            if room[caller] >= 0:
                self._take(result, item)
                continue
            if caller not in new_backlogs:
                new_backlogs.add(caller)
                self._backlogs[caller] = Backlog(item.app, item.seq - 1)
            if several_callers:
                self._skip(item.lane, item.app, self._first_unread(result, item), item.seq)
        self._tail_complete = page.whole
        self._tail = result.last if page.whole else page.items[-1].seq

    def _take_backlog(self, result: ReadResult, caller: int, page: ItemPage) -> None:
        assert self._tail is not None
        before_tail = page.items
        if before_tail and before_tail[-1].seq > self._tail:
            before_tail = [item for item in page.items if item.seq <= self._tail]
        for item in before_tail:
            self._take(result, item)
        upto = self._tail if page.whole else page.read_upto
        if upto >= self._tail:
            del self._backlogs[caller]  # from the tail on, its items come with all others
        else:
            self._backlogs[caller] = self._backlogs[caller]._replace(after=upto)

    def _take(self, result: ReadResult, item: Item) -> None:
        """Add an item, or skip it where an earlier item of its lane may be unread."""
        if result.earlier:
            earlier = result.earlier.get(item.lane, item.seq)
            if earlier < item.seq and item.seq not in self._known:
                # The earlier one may be unread, in another caller's backlog
                self._skip(item.lane, item.app, self._first_unread(result, item), item.seq)
                if item.lane not in self._deferred:
                    self._block(item.lane, item.caller)
                return
        self._add(item)

    def _first_unread(self, result: ReadResult, item: Item) -> int:
        """Return from which number on items of an item's lane may be unread.

        None of a truncated lane lies before its first skipped one.
        """
        lane = item.lane
        return item.seq if lane in self._truncated else result.earlier.get(lane, item.seq)

    def _block(self, lane: int, caller: int) -> None:
        """Count a lane against the room of the caller whose item was skipped."""
        if lane not in self._blocked:
            self._blocked[lane] = caller
            self._blocked_counts[caller] += 1

    def _unblock(self, lane: int) -> None:
        if lane in self._blocked:
            self._blocked_counts[self._blocked.pop(lane)] -= 1

    def _add(self, item: Item) -> None:
        """Add an item whose lane's earlier items are all known."""
        seq, lane = item.seq, item.lane
        if seq in self._known:
            return
        queue = self._waiting.get(lane)
        full = queue is not None and self._has_enough(lane, queue)
        if full or lane in self._truncated or lane in self._deferred:
            self._skip(lane, item.app, seq, seq)
            return
        if queue is None:
            wait = min(item.next_attempt_at - self._wall, LONGEST_WAIT_MS)
            if wait > 0:
                self._deferred[lane] = self._now + wait
                self._skip(lane, item.app, seq, seq)
                return
            queue = self._waiting[lane] = deque()
        elif seq < queue[-1].seq:
            # Replayed by an operator, and read before the replay was seen
            self._reread(lane, item.app, seq, seq)
            return
        queue.append(item)
        self._known.add(seq)
        if len(queue) == 1 and lane not in self._in_flight:
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
        return lane in self._refilled and self._refill_reaches(queue[0].app, 2)

    def _refill_reaches(self, app: str, times: int) -> bool:
        """Return whether an app's refilled lanes have reached `times` their room."""
        count, size = self._refilled_counts[app], self._refilled_bytes[app]
        return count >= times * self._refill_limit or size >= times * self._max_bytes // 8

    def _skip(self, lane: int, app: str, first: int, last: int) -> None:
        """Mark items of the lane as skipped; they are read once its items here are sent."""
        if lane in self._truncated:
            app, skipped_first, skipped_last = self._truncated[lane]
            first, last = min(first, skipped_first), max(last, skipped_last)
        self._truncated[lane] = _SkippedRange(app, first, last)
        self._mark_readable(lane)

    def _mark_readable(self, lane: int) -> None:
        """Mark a truncated lane as readable, unless it has items here or must wait."""
        if lane in self._waiting or lane in self._in_flight or lane in self._deferred:
            return
        self._readable_lanes[self._truncated[lane].app][lane] = None

    @property
    def sendable(self) -> bool:
        """Return whether an item may be sent now."""
        return bool(self._ready)

    @property
    def apps(self) -> list[str]:
        """The apps of which an item may be sent now, the next one first."""
        return list(dict.fromkeys([group.app for group in self._ready]))

    def _make_ready(self, lane: int) -> None:
        self._ready.setdefault(self._group(lane), {})[lane] = None

    def _group(self, lane: int) -> LaneGroup:
        """Return the group that a waiting lane is sent with.

        After a failed call its users go on in calls of half as many, so that a user whose items
        make calls fail is soon alone, and nobody else waits for them.
        """
        first = self._waiting[lane][0]
        users = max(1, MAX_USERS >> min(self._failures.get(lane, 0), 10))
        return LaneGroup(first.app, first.caller, users, lane in self._refilled)

    def next_batch(self, users: int = MAX_USERS, app: str | None = None) -> list[Item]:
        """Return the items of the next call for one app, or an empty list.

        They are of at most `users` lanes, 500 items and 1 MB, from all callers in turn. `app`: None
        takes the next app. Their lanes are in flight from now on.
        """
        batch: list[Item] = []
        first = next((group for group in self._ready if app in (None, group.app)), None)
        if first is None:
            return batch
        users = min(users, first.users)
        groups = deque(
            [
                group
                for group in self._ready
                if group.app == first.app and group.users == first.users
            ]
        )
        size, subjects = 0, set[tuple[str, str]]()
        while groups and len(subjects) < users:
            group = groups.popleft()
            lane = next(iter(self._ready[group]))
            count = len(batch)
            size = self._fill(batch, size, lane, subjects, users)
            if len(batch) == count:
                break  # this lane's next item doesn't fit; it begins the next call
            lanes = self._ready.pop(group)
            del lanes[lane]
            if lanes:
                # Put last, so that the next call begins with another group
                self._ready[group] = lanes
                groups.append(group)
            if _is_sent_alone(batch[0]):
                break
        return batch

    def _fill(
        self, batch: list[Item], size: int, lane: int, subjects: set[tuple[str, str]], users: int
    ) -> int:
        """Move the items of a lane that fit into the batch, and return its size afterwards.

        `size`: the bytes of the bodies in the batch. `subjects`: those of its items, at most
        `users`.
        """
        queue = self._waiting[lane]
        if batch and _is_sent_alone(batch[0]):
            return size
        moved: list[Item] = []
        app = batch[0].app if batch else queue[0].app
        room = MAX_ACTIONS - len(batch)
        while queue and len(moved) < room:
            item = queue[0]
            subject = app, item.subject
            if subject not in subjects and len(subjects) == users:
                break
            alone = _is_sent_alone(item)
            fits = size + len(item.body) <= MAX_BYTES and item.app == app and not alone
            if (batch or moved) and not fits:
                break
            moved.append(queue.popleft())
            subjects.add(subject)
            size += len(item.body)
            if alone:
                break
        if moved:
            self._in_flight.add(lane)
            self._uncount(lane, moved)
            batch += moved
        if not queue:
            del self._waiting[lane]
            self._refilled.discard(lane)
        return size

    def _uncount(self, lane: int, items: Iterable[Item]) -> None:
        """Count these items of a lane as no longer waiting here."""
        if lane in self._refilled:
            for item in items:
                self._refilled_counts[item.app] -= 1
                self._refilled_bytes[item.app] -= len(item.body)
            return
        counts, sizes = self._counts, self._bytes
        for item in items:
            caller = item.caller
            counts[caller] -= 1
            sizes[caller] -= len(item.body)
            if not counts[caller]:
                del counts[caller], sizes[caller]

    def complete(
        self, batch: Sequence[Item], deferred: Mapping[int, int], excluded: Collection[int] = ()
    ) -> None:
        """Take a batch out of flight, once its verdicts are on disk.

        `deferred` lanes wait until the time given (ms): since the head of their order went back to
        the queue, their items here are discarded, and read again then. Of the `excluded` lanes
        nothing was sent, so the call says nothing about them.
        """
        first: dict[int, Item] = {}
        last: dict[int, int] = {}
        for item in batch:
            lane = item.lane
            if lane not in first:
                first[lane] = item
            last[lane] = item.seq
        self._completed += [item.seq for item in batch]
        for lane, item in first.items():
            self._in_flight.remove(lane)
            if ids.shard(lane) not in self.shards:
                self._discard(lane)
                self._failures.pop(lane, None)
            elif lane in deferred:
                self._deferred[lane] = deferred[lane]
                self._unblock(lane)
                self._truncate(lane, item.app, item.seq, last[lane])
                if lane not in excluded:
                    self._failures[lane] = self._failures.get(lane, 0) + 1
            else:
                self._failures.pop(lane, None)
                if lane in self._waiting:
                    self._make_ready(lane)
                elif lane in self._truncated:
                    self._mark_readable(lane)

    def _unready(self, lane: int) -> None:
        group = self._group(lane)
        lanes = self._ready.get(group, {})
        if lane in lanes:
            del lanes[lane]
            if not lanes:
                del self._ready[group]

    def _discard(self, lane: int) -> None:
        if lane not in self._waiting:
            return
        self._unready(lane)
        discarded = self._waiting.pop(lane)
        self._known.difference_update([item.seq for item in discarded])
        self._uncount(lane, discarded)
        self._refilled.discard(lane)

    def resume_deferred(self, now: int) -> None:
        """Resume the deferred lanes whose time (ms, monotonic) has come."""
        self._now = now
        for lane in [lane for lane, until in self._deferred.items() if until <= now]:
            self.resume(lane)

    def resume(self, lane: int) -> None:
        """Resume a lane before its time, if it is deferred."""
        if self._deferred.pop(lane, None) is not None:
            self._mark_readable(lane)


def _in_shards(lanes: dict[int, T], shards: frozenset[int]) -> dict[int, T]:
    """Return the entries of lanes in these shards."""
    return {lane: value for lane, value in lanes.items() if ids.shard(lane) in shards}
