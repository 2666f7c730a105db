"""The window, driven through random histories beside a plain model of the queue.

The model is a list of items that stands for the database; it knows which wait, in which order, and
what is in flight.
"""

import os
from collections import Counter
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app import ids
from app.delivery import window as module
from app.delivery.window import MAX_ACTIONS, MAX_BYTES, MAX_USERS, Window
from app.model import Backlog, Item, ItemPage, ReadRequest, ReadResult, ReplayedLane

BODIES = st.sampled_from([2, 2, 2, 400_000, 1_200_000]).map(
    {size: "x" * size for size in (2, 400_000, 1_200_000)}.get
)
FEW_USERS = st.integers(0, 3)
APPS = {1: "default", 2: "default", 3: "default", 4: "other"}  # by caller
CALLERS = st.sampled_from(list(APPS))
LANDING = st.none() | st.sampled_from([0, 300])
MEMORY = 4_000_000
ALL = frozenset(range(ids.SHARDS))


def look(
    stored: list[Item],
    last: int,
    replays: int,
    wanted: ReadRequest,
    page: int,
    replayed: dict[int, int] | None = None,
    part: int = 250_000,
) -> ReadResult:
    """What the outbox would find; pages are short, so that one is seldom all there is. `replayed`:
    by sequence number, which replay has sent an item again. `part`: how many items are searched for
    those of some lanes.
    """
    if wanted.fresh:
        callers = {item.caller: Backlog(item.app, item.seq - 1) for item in reversed(stored)}
        return ReadResult(wanted, last, replays, dict(sorted(callers.items())))
    ours = [
        item for item in stored if wanted.shards is None or ids.shard(item.lane) in wanted.shards
    ]

    def cut(found: list[Item], limit: int) -> ItemPage:
        return ItemPage(found[:limit], len(found) < limit)

    def first_part(span: range) -> tuple[list[Item], int | None]:
        between = [item for item in stored if item.seq in span]
        end = between[part - 1].seq if len(span) >= part and len(between) >= part else None
        return between[: None if end is None else part], end

    def in_range(found: list[Item], limit: int, upto: int) -> ItemPage:
        some = cut([item for item in found if item.seq <= upto], limit)
        return ItemPage(some.items, False, upto) if some.whole and upto < last else some

    lanes = None
    if wanted.lanes:
        between, end = first_part(range(wanted.lanes_from, wanted.lanes_upto + 1))
        lanes = cut([item for item in between if item.lane in wanted.lanes], page)
        if lanes.whole and end is not None:
            lanes = ItemPage(lanes.items, False, end)
    again: dict[int, ReplayedLane] = {}
    for item in ours:
        if wanted.replays < (replayed or {}).get(item.seq, 0) <= replays:
            first = again[item.lane].first if item.lane in again else item.seq
            again[item.lane] = ReplayedLane(item.app, first, item.seq)
    tail = None
    if (after := wanted.tail) is not None:
        tail = cut(
            [item for item in ours if item.seq > after and item.caller not in wanted.leave_out],
            page,
        )
    backlogs = [
        (
            caller,
            in_range(
                [item for item in ours if item.caller == caller and item.seq > begin],
                min(limit, page),
                begin + part,
            ),
        )
        for caller, begin, limit in wanted.backlogs
    ]
    doubtful = [
        *(tail.items if tail else ()),
        *(i for _, one in backlogs for i in one.items if i.app in wanted.contended),
    ]
    earlier = dict[int, int]()
    for app, after in wanted.unread_after.items():
        some = [item for item in doubtful if item.app == app]
        between, end = first_part(range(after + 1, max((item.seq for item in some), default=0)))
        for lane in {
            item.lane
            for item in some
            if item.lane in wanted.lanes or item.lane not in wanted.skipped
        }:
            if found := [item.seq for item in between if item.lane == lane]:
                earlier[lane] = found[0]
            elif end is not None:
                earlier[lane] = end + 1
    return ReadResult(wanted, last, replays, {}, lanes, again, tail, backlogs, earlier)


class Histories(RuleBasedStateMachine):
    """Items are accepted, read in pages, sent, postponed, refused, sent again by operators; shards
    come and go.
    """

    @initialize(
        capacity=st.sampled_from([4, 20, 10_000]),
        per_lane=st.sampled_from([2, 5, 500]),
        page=st.sampled_from([2, 3, 2_000]),
        part=st.sampled_from([1, 2, 5, 250_000]),
    )
    def begin(self, capacity: int, per_lane: int, page: int, part: int) -> None:
        self.capacity, self.per_lane, self.page, self.part = capacity, per_lane, page, part
        self.now, self.seq, self.replays = 1_000, 0, 0
        self.stored: list[Item] = []
        self.flying: list[list[Item]] = []
        self.dead: list[Item] = []
        self.replayed: dict[int, int] = {}  # by sequence number
        self.fresh()

    def fresh(self) -> None:
        self.window = Window(self.capacity, self.per_lane, MEMORY)
        self.window.assign(ALL)
        self.seen = 0  # replays that the window knows of

    @rule(
        users=st.lists(FEW_USERS, min_size=1, max_size=12) | st.just(list(range(60))),
        body=BODIES,
        caller=CALLERS,
    )
    def accept(self, users: list[int], body: str, caller: int) -> None:
        app = APPS[caller]
        for user in users:
            self.seq += 1
            lane = ids.lane(app, f"u{user}")
            self.stored.append(
                Item(
                    self.seq,
                    str(self.seq),
                    app,
                    f"u{user}",
                    "track",
                    body,
                    self.now,
                    0,
                    0,
                    lane,
                    caller,
                )
            )

    @rule(
        later=st.sampled_from([0, 0, 1, 400, 10_000]),
        calls=st.integers(0, 3),
        data=st.data(),
        landing=LANDING,
    )
    def step(self, later: int, calls: int, data: Any, landing: int | None) -> None:
        """As the deliverer does it: let go on whose time has come, read, begin calls. While it
        reads, calls may land and begin, and items may be sent again.
        """
        self.now += later
        self.window.resume_deferred(self.now)
        if (wanted := self.window.next_request(changed=True)) is not None:
            found = look(
                self.stored, self.seq, self.replays, wanted, self.page, self.replayed, self.part
            )
            if landing is not None and self.flying:
                self.land(data, landing, refused=data.draw(st.booleans()))
                self.replay(data)
                self.send()
                if self.flying and data.draw(st.booleans()):
                    self.land(data, landing, refused=data.draw(st.booleans()))
            self.window.take_result(found, self.now)
            self.seen = found.replays
        for _ in range(calls):
            self.send()

    def send(self) -> None:
        batch = self.window.next_batch()
        if not batch:
            assert not self.window.sendable
            return
        lanes = {item.lane for item in batch}
        assert len(lanes) <= MAX_USERS
        assert len(batch) <= MAX_ACTIONS
        assert len(batch) == 1 or sum(len(item.body) for item in batch) <= MAX_BYTES
        assert not lanes & {item.lane for other in self.flying for item in other}, (
            "two calls of one lane at once"
        )
        for lane in lanes:
            waiting = [
                item
                for item in self.stored
                if item.lane == lane and self.replayed.get(item.seq, 0) <= self.seen
            ]
            sent = [item.seq for item in batch if item.lane == lane]
            assert sent == [item.seq for item in waiting][: len(sent)], "out of order"
            assert waiting[0].next_attempt_at <= self.now, "before its time"
            assert ids.shard(lane) in self.window.shards, "another deliverer's"
        self.flying.append(batch)

    @precondition(lambda self: bool(getattr(self, "flying", None)))
    @rule(data=st.data(), wait=st.sampled_from([0, 0, 300, 5_000]), refused=st.booleans())
    def land(self, data: Any, wait: int, refused: bool) -> None:
        """`refused`: what was not postponed is a dead letter."""
        batch = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        lanes = sorted({item.lane for item in batch})
        late = data.draw(st.sets(st.sampled_from(lanes))) if wait else set()
        if refused:
            self.dead += [item for item in batch if item.lane not in late]
        locked = data.draw(st.sets(st.sampled_from(sorted(late)))) if late else set()
        self._land(batch, dict.fromkeys(late, self.now + wait), locked)

    @rule(data=st.data())
    def replay(self, data: Any) -> None:
        """An operator sends dead letters again, in one step."""
        if not self.dead:
            return
        self.replays += 1
        for item in data.draw(st.lists(st.sampled_from(self.dead), min_size=1, unique=True)):
            self.dead.remove(item)
            self.replayed[item.seq] = self.replays
            self.stored.append(item._replace(next_attempt_at=0))
        self.stored.sort(key=lambda item: item.seq)

    def _land(
        self, batch: list[Item], postponed: dict[int, int], locked: Collection[int] = ()
    ) -> None:
        """A postponed lane's items go back to the queue, all of them, as after a call without an
        answer. Those of lanes that are locked never left it.
        """
        settled = {item.seq for item in batch if item.lane not in postponed}
        back = {item.seq: postponed.get(item.lane, 0) for item in batch if item.lane not in locked}
        self.stored = [
            item._replace(next_attempt_at=back[item.seq]) if item.seq in back else item
            for item in self.stored
            if item.seq not in settled
        ]
        self.window.complete(batch, postponed, locked)

    @precondition(lambda self: self.seq > 20)
    @rule()
    def restart(self) -> None:
        """A crash: what was in memory is gone, what is stored is not."""
        self.flying = []
        self.fresh()

    @rule(half=st.sampled_from([range(32), range(16, 64), range(64)]))
    def share(self, half: range) -> None:
        """Another deliverer comes, or goes."""
        self.window.assign(frozenset(half))

    @invariant()
    def counts_agree_with_contents(self) -> None:
        if hasattr(self, "window"):
            blocked = self.window._blocked
            assert blocked.keys() <= self.window._truncated.keys()
            assert +self.window._blocked_counts == Counter(blocked.values())
            held = [item for queue in self.window._waiting.values() for item in queue]
            assert self.window.count == len(held)
            counted = sum(self.window._bytes.values()) + self.window._refilled_bytes.total()
            assert counted == sum(len(item.body) for item in held)
            in_flight = [item for batch in self.flying for item in batch]
            assert self.window._known - set(self.window._completed) == {
                item.seq for item in [*held, *in_flight]
            }

    def teardown(self) -> None:
        """When nothing is postponed any more, everything is delivered, in few enough steps."""
        if not hasattr(self, "window"):
            return
        self.window.assign(ALL)
        for _ in range(40 + 6 * len(self.stored)):
            if not self.stored and not self.flying:
                return
            self.step(10_000, 3, None, None)
            while self.flying:
                self._land(self.flying.pop(0), {})
        pytest.fail(
            f"{len(self.stored)} items were never sent: {[item.seq for item in self.stored][:5]} …"
        )


TestHistories = pytest.mark.slow(Histories.TestCase)
TestHistories.settings = settings(
    max_examples=3 * int(os.environ.get("GATEWAY_TESTS_MODELS", "20")),
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    # A long history takes minutes to shrink; the tests below are the short ones
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


class Reading:
    """A window, and the items that it reads."""

    def __init__(
        self, capacity: int = 20_000, page: int = module.PAGE, part: int = 250_000
    ) -> None:
        self.window, self.stored, self.page = Window(capacity), list[Item](), page
        self.part = part
        self.replays, self.replayed = 0, dict[int, int]()
        self.last = 0
        self.window.assign(ALL)

    def add(
        self, *users: str, caller: int = 1, next_attempt_at: int = 0, app: str = "default"
    ) -> None:
        """One item of each."""
        for user in users:
            self.last += 1
            lane = ids.lane(app, user)
            item = Item(
                self.last,
                str(self.last),
                app,
                user,
                "track",
                "{}",
                0,
                0,
                next_attempt_at,
                lane,
                caller,
            )
            self.stored.append(item)

    def read(self, now: int = 0, *, times: int = 2, settled: int = 0) -> None:
        """`settled`: what is no longer stored, up to this number."""
        for _ in range(times):
            if (wanted := self.window.next_request(changed=True)) is not None:
                found = look(
                    self.stored[settled:],
                    self.last,
                    self.replays,
                    wanted,
                    self.page,
                    self.replayed,
                    self.part,
                )
                self.window.take_result(found, now)

    def batch(self) -> list[int]:
        return [item.seq for item in self.window.next_batch()]


def test_a_user_whose_items_keep_coming_is_read_behind_a_long_backlog_of_another_caller() -> None:
    """Each of them may be behind the backlog, of which only a part is searched at once."""
    at = Reading(capacity=40, page=100, part=20)
    at.add(*(f"u{n}" for n in range(200)))
    at.read(times=3)
    for _ in range(60):
        at.add("hot", caller=2)
        at.read(times=1)
    assert ids.lane("default", "hot") in at.window._waiting


def test_lanes_that_may_be_behind_another_callers_backlog_use_the_room_of_their_caller() -> None:
    at = Reading(capacity=40, page=100, part=20)
    at.add(*(f"a{n}" for n in range(100)), caller=1)
    at.add(*(f"b{n}" for n in range(100)), caller=2)
    at.read(times=10)
    assert len(at.window._truncated) <= 40


def test_what_is_held_for_one_app_delays_nothing_of_another() -> None:
    at = Reading(capacity=40, page=100, part=20)
    at.add(*(f"u{n}" for n in range(200)), app="held")
    at.read(times=3)
    at.add("u1", caller=2, app="other")
    at.read(times=1)
    assert [item.subject for item in at.window.next_batch(app="other")] == ["u1"]


@pytest.mark.parametrize("apps", [["old", "new"], ["new", "old"]])
@pytest.mark.parametrize("first", [["old", "new"], ["new", "old"]])
def test_an_app_whose_lanes_lie_elsewhere_is_read_though_another_has_some_each_time(
    apps: list[str], first: list[str]
) -> None:
    at = Reading(part=5)
    numbers = range(20)
    for app in apps:
        at.add(*(f"{app}{n}" for n in numbers), app=app)
    at.read()

    def fail(app: str) -> None:
        batch = at.window.next_batch(app=app)
        at.window.complete(batch, {item.lane: 0 for item in batch})
        at.window.resume_deferred(0)

    for app in first:
        fail(app)
    sent = list[str]()
    for _ in range(80):
        at.read(times=1)
        fail("new")
        sent += [item.subject for item in at.window.next_batch(app="old")]
    assert sorted(sent) == sorted(f"old{n}" for n in numbers)


def test_what_comes_later_of_a_postponed_lane_does_not_overtake() -> None:
    at = Reading()
    at.add("ann")
    at.read()
    first = at.window.next_batch()
    at.window.complete(first, {first[0].lane: 100})
    at.add("bob", "ann")
    at.read(50)
    at.window.resume_deferred(200)
    at.read(200, times=1)
    assert (at.batch(), at.batch()) == ([2], [1, 3]), "who failed goes on in a call of its own"


def test_the_calls_go_to_those_who_have_been_ready_the_longest() -> None:
    at = Reading()
    at.add(*(f"user{number}" for number in range(1, 121)))
    at.read()
    assert [at.batch() for _ in range(3)] == [
        list(range(1, 51)),
        list(range(51, 101)),
        list(range(101, 121)),
    ]


def test_one_user_with_a_long_queue_does_not_keep_others_out() -> None:
    at = Reading(capacity=4_000)
    at.add(*["ann"] * 999, "bob")
    at.read()
    first, second = at.window.next_batch(), at.window.next_batch()
    assert {item.subject for item in first} == {"ann"}
    assert {item.subject for item in second} == {"bob"}


def test_a_callers_long_backlog_does_not_keep_anothers_items_waiting() -> None:
    at = Reading(capacity=400)
    at.add(*(f"user{number}" for number in range(10_000)))
    at.read(times=3)
    at.add(*(f"late{number}" for number in range(10)), caller=2)
    at.read(times=1)
    assert set(range(10_001, 10_011)) <= set(at.batch()), "the ten are in the very next call"


def test_a_callers_item_waits_for_an_earlier_one_of_its_user_in_anothers_backlog() -> None:
    at = Reading(capacity=40, page=100)
    at.add(*(f"user{number}" for number in range(200)), "ann")
    at.read(times=3)
    at.add("ann", caller=2)
    at.read(times=1)
    sent = at.batch()
    at.read(times=1)
    sent += at.batch()
    assert 201 in sent, "read by its lane, before its caller's backlog comes to it"
    assert sent.index(201) < sent.index(202)


def test_an_item_beyond_its_callers_share_waits_for_an_earlier_one_in_anothers_backlog() -> None:
    at = Reading(capacity=20, page=100)
    at.add(*(f"user{number}" for number in range(100)), "ann")
    at.read(times=2)
    at.add(*(f"new{number}" for number in range(30)), "ann", caller=2)
    at.add("bob", caller=3)
    sent = list[int]()
    while len(sent) < 133:
        at.read(times=1)
        batch = at.window.next_batch()
        sent += [item.seq for item in batch]
        at.stored = [item for item in at.stored if item.seq not in sent]
        at.window.complete(batch, {})
    assert sent.index(101) < sent.index(132)


def test_callers_take_turns_within_a_call() -> None:
    at = Reading()
    at.add(*(f"user{number}" for number in range(100)), caller=1)
    at.add(*(f"user{number}" for number in range(100, 200)), caller=2)
    at.read(times=4)
    callers = [item.caller for item in at.window.next_batch()]
    assert callers == [1, 2] * 25


def test_after_a_restart_an_item_that_waits_for_its_time_keeps_later_ones_of_its_user_back() -> (
    None
):
    at = Reading()
    at.add("ann", next_attempt_at=500)
    at.add("ann", "bob")
    at.read(100)
    assert at.batch() == [3]
    at.window.resume_deferred(500)
    assert at.window.unread


def test_what_an_operator_sends_again_is_found_behind_the_cursor() -> None:
    at = Reading()
    at.add("ann", "bob")
    again = at.stored.pop(0)
    at.read()
    at.window.complete(at.window.next_batch(), {})
    assert again.seq < at.stored[0].seq
    for _ in range(2):
        wanted = at.window.next_request(changed=True)
        assert wanted is not None
        at.window.take_result(look([again], 2, 1, wanted, 10, {1: 1}), 0)
    assert at.batch() == [1]


def test_what_an_operator_sends_again_is_sent_though_a_later_item_of_its_user_is_in_flight() -> (
    None
):
    at = Reading()
    at.add("ann", "ann", "ann")
    again = at.stored.pop(0)
    at.read()
    flying = at.window.next_batch()[:2]
    at.stored.insert(0, again)
    at.replayed[1] = at.replays = 1
    at.read(times=3)
    at.stored = [again]
    at.window.complete(flying, {})
    at.read()
    assert at.batch() == [1]


def test_an_item_behind_the_one_in_flight_is_found_when_a_shard_is_gained() -> None:
    at = Reading()
    at.window.assign(ALL - {ids.shard(ids.lane("default", "bob"))})
    at.add("ann", "ann")
    again = at.stored.pop(0)
    at.read()
    flying = at.window.next_batch()
    at.stored.insert(0, again)
    at.window.assign(ALL)
    at.read()
    at.stored = [again]
    at.window.complete(flying, {})
    at.read()
    assert at.batch() == [1]


def test_a_replay_of_many_forgets_nothing_that_was_read_of_others() -> None:
    at = Reading()
    at.add(*(f"user{number}" for number in range(100)))
    again, at.stored = at.stored[:50], at.stored[50:]
    at.read()
    here = at.window.count
    at.stored = again + at.stored
    at.replayed, at.replays = dict.fromkeys((item.seq for item in again), 1), 1
    at.read(times=1)
    assert at.window.count == here == 50
    assert at.batch() == [item.seq for item in at.stored[50:]]


def test_new_items_do_not_wait_for_many_that_were_sent_again() -> None:
    at = Reading()
    at.add(*(f"dead{number}" for number in range(30_000)))
    again, at.stored = at.stored, []
    at.read()
    at.stored = again
    at.replayed, at.replays = dict.fromkeys((item.seq for item in again), 1), 1
    at.read(times=5)
    at.add(*(f"new{number}" for number in range(25)))
    at.read(times=1)
    assert at.window.count < 2 * module.PAGE + 100, "bounded, whatever waits"
    assert set(range(30_001, 30_026)) <= set(at.batch()), "they are in the very next call"


def test_an_app_that_is_held_does_not_keep_anothers_replays_from_being_read() -> None:
    at = Reading()
    at.add(*(f"dead{number}" for number in range(30_000)), app="held")
    at.add(*(f"dead{number}" for number in range(10)))
    again, at.stored = at.stored, []
    at.read()
    at.stored = again
    at.replayed, at.replays = dict.fromkeys((item.seq for item in again), 1), 1
    at.read(times=5)
    assert "default" in at.window.apps


def test_who_was_locked_has_not_failed_and_goes_on_beside_others() -> None:
    at = Reading()
    at.add("ann", "bob")
    at.read()
    first = at.window.next_batch()
    at.window.complete(first, {first[0].lane: 50}, excluded={first[0].lane})
    at.stored.pop()
    at.add("cid")
    at.window.resume_deferred(50)
    at.read(50)
    assert sorted(at.batch()) == [1, 3]
