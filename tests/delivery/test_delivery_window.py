"""The window, driven through random histories beside a plain model of the queue.

The model is a list of items that stands for the database; it knows which wait, in which order, and what is in flight.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.delivery.window import MAX_ACTIONS, MAX_BYTES, MAX_USERS, Subject, Window
from app.model import Item

BODIES = st.sampled_from([2, 2, 2, 400_000, 1_200_000]).map({size: "x" * size for size in (2, 400_000, 1_200_000)}.get)
FEW_USERS = st.integers(0, 3)
LANDING = st.none() | st.sampled_from([0, 300])
MEMORY = 4_000_000


class Histories(RuleBasedStateMachine):
    """Items are accepted, read in pages, sent, postponed, sent again."""

    @initialize(
        capacity=st.sampled_from([3, 20, 10_000]),
        per_subject=st.sampled_from([2, 5, 500]),
        page=st.sampled_from([2, 3, 2_000]),
    )
    def begin(self, capacity: int, per_subject: int, page: int) -> None:
        self.capacity, self.per_subject, self.page = capacity, per_subject, page
        self.window = Window(capacity, per_subject, MEMORY)
        self.now, self.seq = 1_000, 0
        self.stored: list[Item] = []
        self.flying: list[list[Item]] = []

    @rule(users=st.lists(FEW_USERS, min_size=1, max_size=12) | st.just(list(range(60))), body=BODIES)
    def accept(self, users: list[int], body: str) -> None:
        for user in users:
            self.seq += 1
            self.stored.append(Item(self.seq, str(self.seq), "default", f"u{user}", "track", body, self.now, 0, 0))

    @rule(later=st.sampled_from([0, 0, 1, 400, 10_000]), calls=st.integers(0, 3), data=st.data(), landing=LANDING)
    def step(self, later: int, calls: int, data: Any, landing: int | None) -> None:
        """As the deliverer does it: let go on whose time has come, read a page, begin calls. A call may land while
        the page is being read."""
        self.now += later
        self.window.unpark(self.now)
        if (limit := min(self.page, self.window.room)) > 0:
            after = self.window.start_read()
            page = [item for item in self.stored if item.seq > after][:limit]
            if landing is not None and self.flying:
                self.land(data, landing)
            self.window.take_in(page, self.now, whole=len(page) < limit)
        assert self.window.count <= self.capacity
        for _ in range(calls):
            self.send()

    def send(self) -> None:
        batch = self.window.next_batch()
        if batch:
            self._check(batch)
            self.flying.append(batch)
        else:
            assert not self.window.sendable

    def _check(self, batch: list[Item]) -> None:
        subjects = {(item.app, item.subject) for item in batch}
        assert len(subjects) <= MAX_USERS and len(batch) <= MAX_ACTIONS
        assert len(batch) == 1 or sum(len(item.body) for item in batch) <= MAX_BYTES
        in_flight = {(item.app, item.subject) for other in self.flying for item in other}
        assert not subjects & in_flight, "a subject is in flight twice"
        waiting: dict[Subject, list[Item]] = {subject: [] for subject in subjects}
        for item in self.stored:
            waiting.get((item.app, item.subject), []).append(item)
        for subject in subjects:
            sent = [item.seq for item in batch if (item.app, item.subject) == subject]
            theirs = waiting[subject][: len(sent)]
            assert sent == [item.seq for item in theirs], f"{subject}: {sent} was sent before {theirs[0].seq}"
            assert all(item.next_attempt_at <= self.now for item in theirs), "sent before its time"

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), wait=st.sampled_from([0, 1, 500, 5_000]))
    def land(self, data: Any, wait: int) -> None:
        batch = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        subjects = sorted({(item.app, item.subject) for item in batch})
        some = st.lists(st.sampled_from(subjects), unique=True, max_size=len(subjects))
        self._land(batch, dict.fromkeys(data.draw(some), self.now + wait))

    def _land(self, batch: list[Item], postponed: dict[Subject, int]) -> None:
        """A postponed subject's items go back to the queue, all of them, as after a call without an answer."""
        settled = {item.seq for item in batch if (item.app, item.subject) not in postponed}
        back = {item.seq: postponed.get((item.app, item.subject), 0) for item in batch}
        self.stored = [
            item._replace(next_attempt_at=back[item.seq]) if item.seq in back else item
            for item in self.stored
            if item.seq not in settled
        ]
        self.window.landed(batch, postponed)

    @precondition(lambda self: self.seq > 20)
    @rule()
    def restart(self) -> None:
        """A crash: what was in memory is gone, what is stored is not."""
        self.window, self.flying = Window(self.capacity, self.per_subject, MEMORY), []

    @invariant()
    def counts_agree_with_contents(self) -> None:
        if hasattr(self, "window"):
            held = [item for queue in self.window._waiting.values() for item in queue]
            assert self.window.count == len(held)
            assert self.window.bytes == sum(len(item.body) for item in held)

    def teardown(self) -> None:
        """When nothing is postponed any more, everything is delivered, in few enough steps."""
        if not hasattr(self, "window"):
            return
        for _ in range(20 + 4 * len(self.stored)):
            if not self.stored and not self.flying:
                return
            self.step(10_000, 3, None, None)
            while self.flying:
                self._land(self.flying.pop(0), {})
        pytest.fail(f"{len(self.stored)} items were never sent: {[item.seq for item in self.stored][:5]} …")


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),  # a long history takes minutes to shrink; the tests below are the short ones
    suppress_health_check=list(HealthCheck),
)


def items(*numbers_and_users: tuple[int, str], next_attempt_at: int = 0) -> list[Item]:
    return [
        Item(number, str(number), "default", "u" + user, "track", "{}", 0, 0, next_attempt_at)
        for number, user in numbers_and_users
    ]


def test_what_comes_later_of_a_postponed_subject_does_not_overtake_while_the_queue_is_read_on() -> None:
    """The subject's time comes between two pages of one pass through the queue: its first item is behind the cursor."""
    window = Window()
    window.start_read()
    window.take_in(items((1, "ann")), 0, whole=True)
    window.landed(window.next_batch(), {("default", "uann"): 100})
    window.start_read()
    window.take_in(items((2, "bob")), 50, whole=False)
    window.unpark(200)
    window.start_read()
    window.take_in(items((3, "ann")), 200, whole=True)
    assert [item.seq for item in window.next_batch()] == [2]


def test_the_calls_go_to_those_who_have_been_ready_the_longest() -> None:
    window = Window()
    window.start_read()
    window.take_in(items(*((number, f"user{number}") for number in range(1, 121))), 0, whole=True)
    batches = [[item.seq for item in window.next_batch()] for _ in range(3)]
    assert batches == [list(range(1, 51)), list(range(51, 101)), list(range(101, 121))]


def test_one_user_with_a_long_queue_does_not_keep_others_out() -> None:
    window = Window(capacity=2_000)
    window.start_read()
    window.take_in(items(*((number, "ann") for number in range(1, 1_000)), (1_000, "bob")), 0, whole=True)
    first, second = window.next_batch(), window.next_batch()
    assert {item.subject for item in first} == {"uann"}
    assert {item.subject for item in second} == {"ubob"}


def test_calls_of_two_apps_are_never_mixed() -> None:
    window = Window()
    window.start_read()
    mixed = [
        item._replace(app="one" if item.seq % 2 else "two") for item in items(*((n, f"u{n}") for n in range(1, 9)))
    ]
    window.take_in(mixed, 0, whole=True)
    assert [{item.app for item in window.next_batch()} for _ in range(2)] == [{"one"}, {"two"}]


def test_after_a_restart_an_item_that_waits_for_its_time_keeps_later_ones_of_its_user_back() -> None:
    window = Window()
    window.start_read()
    page = items((1, "ann"), next_attempt_at=500) + items((2, "ann"), (3, "bob"))
    window.take_in(page, 100, whole=True)
    assert [item.seq for item in window.next_batch()] == [3]
    window.unpark(500)
    assert window.may_find_more


def test_who_is_due_is_found_again_though_a_backlog_has_no_end() -> None:
    window = Window(capacity=4)
    window.unpark(0)
    window.start_read()
    window.take_in(items((1, "ann"), (2, "bob")), 0, whole=False)
    batch = window.next_batch()
    window.landed(batch, {("default", "uann"): 500})
    window.unpark(2_000)
    assert window.start_read() == 0
    window.take_in(items((1, "ann"), (3, "cid")), 2_000, whole=False)
    assert [item.seq for item in window.next_batch()] == [1, 3]
