"""How much time has really passed, however the wall clock was set."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from app.clock import Clock, Watermarks

START = 1_800_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR


@dataclass
class Time:
    """Both clocks of a machine; `set` sets its wall clock."""

    wall: int = START
    ticks: float = 5_000.0
    told: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = Clock(lambda: self.wall, lambda: self.ticks, self.told.append)

    def go(self, ms: int) -> int:
        """Let time pass; returns what the wall clock shows then."""
        self.wall += ms
        self.ticks += ms / 1000
        return self.wall

    def set(self, by: int) -> None:
        self.clock.look()
        self.wall += by


@pytest.mark.parametrize("step", [DAY, -HOUR, -DAY, 366 * DAY, 2_000, -2_000])
def test_ages_of_what_was_stored_before_and_after_a_step_are_those_by_the_monotonic_clock(
    step: int,
) -> None:
    time = Time()
    before = time.go(10 * HOUR)
    time.go(HOUR)
    time.set(step)
    after = time.go(60_000)
    time.go(60_000)
    assert time.clock.age(after) == pytest.approx(60, abs=0.01)
    assert time.clock.age(before) <= 3_720.01, "never older than it is"
    if step > 0:
        assert time.clock.age(before) == pytest.approx(3_720, abs=0.01)
    assert time.told == [step / 1000]


@pytest.mark.parametrize("step", [DAY, -HOUR, -DAY])
def test_nothing_is_older_than_a_span_before_that_has_passed_and_all_is_once_it_has(
    step: int,
) -> None:
    """`since` and the monotonic clock agree on everything stored, each minute for three days."""
    time, stored, span = Time(), list[tuple[float, int]](), DAY
    for minute in range(3 * 24 * 60):
        stored.append((time.ticks, time.go(60_000)))
        if minute == 24 * 60:
            time.set(step)
        if minute % 97 == 0:
            since = time.clock.since(span)
            young = [stamp for ticks, stamp in stored if time.ticks - ticks < span / 1000 - 60]
            assert min(young) >= since, "what is young is kept"
    long_ago = [stamp for ticks, stamp in stored if time.ticks - ticks > span / 1000 + 60]
    assert max(long_ago) < time.clock.since(span) + max(0, -step)


def test_a_small_difference_is_followed_and_not_told() -> None:
    time = Time()
    for _ in range(100):
        time.go(60_000)
        time.set(200)  # as NTP corrects a clock that is slow
    assert time.told == []
    assert time.clock.since(0) == time.wall


def test_what_waits_until_a_time_from_before_the_clock_was_set_back_has_waited() -> None:
    time = Time()
    due = time.wall + 5_000
    time.set(-HOUR)
    time.go(4_000)
    assert time.clock.latest(HOUR) < due
    time.go(1_000)
    assert time.clock.latest(HOUR) >= due
    time.go(2 * HOUR)
    assert time.clock.latest(HOUR) == time.wall, "nothing waits that long"


def test_a_clock_that_was_set_back_while_nothing_ran_is_told_by_what_was_stored() -> None:
    time = Time()
    newest = time.wall + HOUR
    time.clock.follow(newest)
    assert time.told == [-3_600.0]
    time.go(10_000)
    assert time.clock.latest(HOUR) == newest + 10_000
    assert time.clock.age(newest) == pytest.approx(10)
    assert time.clock.age(time.wall - 5_000) == pytest.approx(5)


@pytest.mark.parametrize("newest", [0, START - DAY, START])
def test_what_was_stored_by_a_clock_that_was_right_changes_nothing(newest: int) -> None:
    time = Time()
    time.clock.follow(newest)
    assert time.told == []
    assert time.clock.latest(HOUR) == START


def test_a_clock_that_is_set_again_and_again_is_remembered_within_bounds() -> None:
    time = Time()
    for number in range(1_000):
        time.go(60_000)
        time.set(HOUR if number % 2 else -HOUR)
    time.clock.look()
    assert len(time.clock._periods) <= 64
    assert 0 <= time.clock.age(time.wall) < 61


@pytest.mark.parametrize("look", [Clock.look, lambda clock: clock.since(DAY)])
def test_a_step_is_told_once(look: Callable[[Clock], object]) -> None:
    time = Time()
    time.set(DAY)
    for _ in range(3):
        look(time.clock)
    assert time.told == [DAY / 1000]


def test_watermarks_bound_how_long_an_item_can_have_waited() -> None:
    marks = Watermarks(100.0)
    for second in range(300):
        marks.note(second * 10, float(second))
    assert marks.at_most(2_985, 300.0) == 2.0, "it came after number 2,980 was the newest"
    assert marks.at_most(2_500, 300.0) == 51.0
    assert marks.at_most(5, 300.0) == float("inf"), "longer ago than is remembered"
    assert len(marks._seen) < 110
