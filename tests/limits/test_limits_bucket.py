"""The buckets' arithmetic, with a clock that the test moves: against a model that counts item by
item.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.limits.buckets import Buckets, Decision, Limit
from tests.support.clock import Clock

from .limiters import limit


class Bucket:
    """Buckets of which the test takes from one."""

    def __init__(self, rate: float = 10, burst: int = 20) -> None:
        self.clock, self.limit = Clock(), limit(rate=rate, burst=burst)
        self.all = Buckets(self.clock)

    def take(self, count: int) -> Decision:
        return self.all.take((self.limit,), count)

    def allows(self, count: int) -> bool:
        return self.take(count).allowed

    def remaining(self) -> int:
        return self.limit.remaining(self.take(0).deficits[0])


def test_a_new_caller_may_take_the_whole_burst_at_once_and_no_more() -> None:
    bucket = Bucket()
    assert bucket.allows(20)
    assert not bucket.allows(1)


def test_items_taken_singly_count_as_much_as_taken_together() -> None:
    bucket = Bucket()
    assert [bucket.allows(1) for _ in range(21)] == [True] * 20 + [False]


def test_the_bucket_refills_at_its_rate() -> None:
    bucket = Bucket()
    bucket.take(20)
    bucket.clock.now += 0.5
    assert [bucket.allows(1) for _ in range(6)] == [True] * 5 + [False]


def test_the_bucket_never_holds_more_than_the_burst() -> None:
    bucket = Bucket()
    bucket.take(20)
    bucket.clock.now += 86_400
    assert not bucket.allows(21)
    assert bucket.allows(20)


def test_what_does_not_fit_whole_takes_nothing() -> None:
    bucket = Bucket()
    bucket.take(15)
    assert (bucket.allows(6), bucket.remaining()) == (False, 5)
    assert bucket.allows(5)


def test_names_have_buckets_of_their_own() -> None:
    buckets = Buckets(Clock())
    assert buckets.take((limit("a"),), 20).allowed
    assert buckets.take((limit("b"),), 20).allowed


def test_remaining_counts_down_and_full_in_says_when_it_is_whole_again() -> None:
    bucket = Bucket()
    decision = bucket.take(5)
    assert bucket.remaining() == 15
    assert bucket.limit.full_in(decision.deficits[0]) == pytest.approx(0.5)
    bucket.take(15)
    assert bucket.remaining() == 0


def test_the_wait_is_just_long_enough() -> None:
    bucket = Bucket()
    bucket.take(20)
    wait = bucket.take(7).wait(7)
    assert wait == pytest.approx(0.7)
    bucket.clock.now += wait - 0.01
    assert not bucket.allows(7)
    bucket.clock.now += 0.01 + 1e-6
    assert bucket.allows(7)


def test_what_is_larger_than_the_burst_waits_for_ever() -> None:
    assert Bucket().take(21).wait(21) == math.inf


def test_taking_nothing_only_looks() -> None:
    bucket = Bucket()
    assert bucket.remaining() == 20
    bucket.take(20)
    assert (bucket.allows(0), bucket.remaining()) == (True, 0)


def test_two_limits_are_taken_from_both_or_from_neither() -> None:
    buckets, mine, ours = Buckets(Clock()), limit("mine", burst=5), limit("ours", burst=8)
    assert buckets.take((mine, ours), 4).deficits == [4, 4]
    refused = buckets.take((mine, ours), 2)
    assert (refused.allowed, refused.deficits) == (False, [4, 4])
    assert buckets.take((limit("other", burst=5), ours), 5).allowed is False
    assert buckets.take((limit("other", burst=5), ours), 4).deficits == [4, 8]
    assert buckets.take((mine, ours), 1).allowed is False, (
        "the app's is spent, though the caller's is not"
    )


def test_a_larger_rate_or_burst_is_in_force_from_the_next_call_on() -> None:
    buckets, clock = Buckets(Clock()), None
    buckets.take((limit(rate=1, burst=10),), 10)
    assert not buckets.take((limit(rate=1, burst=10),), 5).allowed
    assert buckets.take((limit(rate=1, burst=15),), 5).allowed
    assert buckets.take((limit(rate=100, burst=15),), 1).wait(1) == pytest.approx(0.01), clock


def test_a_caller_that_is_slowed_down_gets_no_new_burst() -> None:
    bucket = Bucket(rate=1000, burst=5000)
    bucket.take(5000)
    slower = limit(rate=1, burst=5000)
    assert bucket.all.take((slower,), 1).allowed is False
    smaller = bucket.all.take((limit(rate=1, burst=10),), 1)
    assert (smaller.allowed, smaller.wait(1)) == (False, 1), (
        "nor does it pay for more than a bucket"
    )


def test_a_full_share_lets_a_call_of_the_whole_burst_pass_and_makes_up_for_it() -> None:
    buckets, clock = Buckets(clock := Clock()), clock
    share = Limit("a", 2.5, 5, 20)
    assert buckets.take((share,), 20).allowed
    refused = buckets.take((share,), 20)
    assert (refused.allowed, refused.wait(20), share.remaining(refused.deficits[0])) == (
        False,
        8,
        0,
    )
    clock.now += 8
    assert not buckets.take((share,), 21).allowed
    assert buckets.take((share,), 20).allowed


def test_full_buckets_are_forgotten_so_that_memory_is_bounded() -> None:
    """A hundred thousand callers that came once and long ago leave nothing behind."""
    clock = Clock()
    buckets = Buckets(clock)
    for number in range(100_000):
        clock.now += 0.2
        buckets.take((limit(f"caller-{number}"),), 1)
    assert len(buckets) <= 10_001


steps = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 30)), max_size=40)
rates, bursts = st.integers(1, 50), st.integers(1, 40)


@given(steps, rates, bursts)
def test_never_more_than_burst_plus_rate_times_time_passes(
    wanted: list[tuple[float, int]], rate: int, burst: int
) -> None:
    bucket = Bucket(rate, burst)
    began, passed = bucket.clock.now, 0
    for pause, count in wanted:
        bucket.clock.now += pause
        passed += count if bucket.allows(count) else 0
        assert passed <= burst + rate * (bucket.clock.now - began) + 1e-3


@given(steps, rates, bursts)
def test_remaining_is_what_may_be_taken_next(
    wanted: list[tuple[float, int]], rate: int, burst: int
) -> None:
    bucket = Bucket(rate, burst)
    for pause, count in wanted:
        bucket.clock.now += pause
        bucket.take(count)
        left = bucket.remaining()
        assert 0 <= left <= burst
        assert bucket.allows(left + 1) is False
        if left:
            assert bucket.allows(left)


calls = st.lists(
    st.tuples(
        st.integers(0, 4_000), st.sampled_from(["a", "b", "c"]), st.booleans(), st.integers(1, 12)
    ),
    max_size=60,
)


@given(calls, bursts, bursts)
def test_callers_of_an_app_pass_as_a_model_says_that_counts_tokens(
    history: list[tuple[int, str, bool, int]], of_caller: int, of_app: int
) -> None:
    """The model: a bucket has a whole number of thousandths of tokens, one is added for each
    millisecond.
    """
    clock = Clock(0.0)
    buckets, held, at = Buckets(clock), dict[str, int](), 0
    sizes = {"a": of_caller, "b": of_caller, "c": of_caller, "app": of_app}
    for milliseconds, name, with_app, count in history:
        at, clock.now = at + milliseconds, (at + milliseconds) / 1000
        held = {
            one: min(size * 1000, held.get(one, size * 1000) + milliseconds)
            for one, size in sizes.items()
        }
        names = [name, "app"] if with_app else [name]
        expected = all(held[one] >= count * 1000 for one in names)
        assert buckets.take([limit(one, 1, sizes[one]) for one in names], count).allowed is expected
        for one in names if expected else ():
            held[one] -= count * 1000
