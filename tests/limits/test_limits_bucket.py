"""The bucket's arithmetic, with a clock that the test moves."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.limits.bucket import Buckets


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def bucket(rate: float = 10, burst: int = 20) -> tuple[Buckets, Clock]:
    clock = Clock()
    return Buckets(rate, burst, clock), clock


def test_a_new_caller_may_take_the_whole_burst_at_once_and_no_more() -> None:
    buckets, _ = bucket()
    assert buckets.take("a", 20).allowed
    assert not buckets.take("a", 1).allowed


def test_items_taken_singly_count_as_much_as_taken_together() -> None:
    buckets, _ = bucket()
    assert [buckets.take("a", 1).allowed for _ in range(21)] == [True] * 20 + [False]


def test_the_bucket_refills_at_its_rate() -> None:
    buckets, clock = bucket()
    buckets.take("a", 20)
    clock.now += 0.5
    assert [buckets.take("a", 1).allowed for _ in range(6)] == [True] * 5 + [False]


def test_the_bucket_never_holds_more_than_the_burst() -> None:
    buckets, clock = bucket()
    buckets.take("a", 20)
    clock.now += 86_400
    assert not buckets.take("a", 21).allowed
    assert buckets.take("a", 20).allowed


def test_what_does_not_fit_whole_takes_nothing() -> None:
    buckets, _ = bucket()
    buckets.take("a", 15)
    refused = buckets.take("a", 6)
    assert (refused.allowed, refused.remaining) == (False, 5)
    assert buckets.take("a", 5).allowed


def test_names_have_buckets_of_their_own() -> None:
    buckets, _ = bucket()
    buckets.take("a", 20)
    assert buckets.take("b", 20).allowed


def test_remaining_counts_down_and_full_in_says_when_it_is_whole_again() -> None:
    buckets, _ = bucket()
    decision = buckets.take("a", 5)
    assert decision.remaining == 15
    assert decision.full_in == pytest.approx(0.5)
    assert buckets.take("a", 15).remaining == 0


def test_retry_after_is_just_long_enough() -> None:
    buckets, clock = bucket()
    buckets.take("a", 20)
    wait = buckets.take("a", 7).retry_after
    assert wait == pytest.approx(0.7)
    clock.now += wait - 0.01
    assert not buckets.take("a", 7).allowed
    clock.now += 0.01 + 1e-6
    assert buckets.take("a", 7).allowed


def test_taking_nothing_only_looks() -> None:
    buckets, _ = bucket()
    assert buckets.take("a", 0).remaining == 20
    buckets.take("a", 20)
    look = buckets.take("a", 0)
    assert (look.allowed, look.remaining) == (True, 0)


def test_full_buckets_are_forgotten_so_that_memory_is_bounded() -> None:
    """A hundred thousand callers that came once and long ago leave nothing behind."""
    buckets, clock = bucket()
    for number in range(100_000):
        clock.now += 0.2
        buckets.take(f"caller-{number}", 1)
    assert len(buckets._full_at) <= 10_001


steps = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 30)), max_size=40)


@given(steps, st.integers(1, 50), st.integers(1, 40))
def test_never_more_than_burst_plus_rate_times_time_passes(
    wanted: list[tuple[float, int]], rate: int, burst: int
) -> None:
    buckets, clock = bucket(rate, burst)
    began, passed = clock.now, 0
    for pause, count in wanted:
        clock.now += pause
        if buckets.take("a", count).allowed:
            passed += count
        assert passed <= burst + rate * (clock.now - began) + 1e-3


@given(steps, st.integers(1, 50), st.integers(1, 40))
def test_remaining_is_what_may_be_taken_next(wanted: list[tuple[float, int]], rate: int, burst: int) -> None:
    buckets, clock = bucket(rate, burst)
    for pause, count in wanted:
        clock.now += pause
        left = buckets.take("a", count).remaining
        assert 0 <= left <= burst
        assert buckets.take("a", left + 1).allowed is False
        if left:
            assert buckets.take("a", left).allowed


def test_wait_says_how_long_until_one_may_pass() -> None:
    buckets, clock = bucket()
    assert buckets.wait("a") == pytest.approx(0, abs=1e-6)
    buckets.take("a", 19)
    assert buckets.wait("a") == pytest.approx(0, abs=1e-6)
    buckets.take("a", 1)
    assert buckets.wait("a") == pytest.approx(0.1)
    clock.now += 0.1 + 1e-6
    assert buckets.wait("a") == pytest.approx(0, abs=1e-6)
    assert buckets.take("a", 1).allowed
