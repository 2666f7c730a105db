"""What becomes of an item after an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.delivery.verdicts import RetryPolicy, judge
from app.model import (
    ConfigRefused,
    Done,
    Ignored,
    ItemRefused,
    Outcome,
    Postponed,
    Settled,
    Status,
    Trouble,
    Verdict,
)

POLICY = RetryPolicy(window=100.0)
CHANCE = st.floats(0, 1, exclude_max=True)


def verdict(
    outcome: Outcome, *, age: float = 0.0, attempt: int = 0, chance: float = 0.5
) -> Verdict:
    return judge(outcome, action="track", age=age, attempt=attempt, policy=POLICY, chance=chance)


@pytest.mark.parametrize("age", [0.0, 1e9])
@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Done(), Settled(Status.DELIVERED)),
        (Done("changed"), Settled(Status.DELIVERED, {"success": True, "warning": "changed"})),
        (Ignored("why"), Settled(Status.SKIPPED, {"success": True, "warning": "why"})),
        (Ignored("why", is_error=True), Settled(Status.SKIPPED, {"success": True, "error": "why"})),
        (ItemRefused("bad"), Settled(Status.REJECTED, {"success": False, "error": "bad"})),
    ],
)
def test_what_is_final_settles_whatever_the_age(
    outcome: Outcome, expected: Verdict, age: float
) -> None:
    assert verdict(outcome, age=age) == expected


@pytest.mark.parametrize("age", [0.0, 1e9])
def test_our_own_fault_holds_the_item_for_any_time_and_is_no_attempt(age: float) -> None:
    found = verdict(ConfigRefused("key"), age=age)
    assert found == Postponed(
        Status.HELD, POLICY.held, {"success": False, "error": "key"}, counts=False
    )


def test_trouble_is_retried_and_counts_as_an_attempt() -> None:
    found = verdict(Trouble("HTTP 500"))
    assert isinstance(found, Postponed)
    assert (found.status, found.leanplum, found.counts) == (
        Status.RETRYING,
        {"success": False, "error": "HTTP 500"},
        True,
    )


def test_being_throttled_is_retried_and_is_no_attempt() -> None:
    found = verdict(Trouble("HTTP 429", throttled=True))
    assert isinstance(found, Postponed) and not found.counts


@pytest.mark.parametrize(
    ("age", "status"),
    [
        (0.0, Status.RETRYING),
        (100.0, Status.RETRYING),
        (100.1, Status.EXPIRED),
        (1e6, Status.EXPIRED),
    ],
)
@pytest.mark.parametrize("attempt", [0, 1000])
def test_an_item_is_given_up_by_its_age_not_by_its_attempts(
    age: float, status: Status, attempt: int
) -> None:
    assert verdict(Trouble("HTTP 500"), age=age, attempt=attempt).status is status


def test_what_is_given_up_keeps_the_last_reason() -> None:
    assert verdict(Trouble("HTTP 500"), age=1e6) == Settled(
        Status.EXPIRED, {"success": False, "error": "HTTP 500"}
    )


@given(attempt=st.integers(0, 10_000), chance=CHANCE)
def test_the_wait_is_between_one_second_and_the_doubled_bound_and_never_over_15_minutes(
    attempt: int, chance: float
) -> None:
    wait = RetryPolicy().wait(attempt, chance)
    assert 1.0 <= wait <= min(900.0, 2.0 * 2.0 ** min(attempt, 30))


@given(attempt=st.integers(0, 40))
def test_jitter_is_full_its_extremes_are_the_bounds(attempt: int) -> None:
    policy = RetryPolicy()
    assert policy.wait(attempt, 0.0) == 1.0
    assert policy.wait(attempt, 1 - 2**-53) == pytest.approx(min(900.0, 2.0 * 2.0**attempt))


@given(attempt=st.integers(0, 40), chance=CHANCE, longest=st.floats(0.01, 10_000))
def test_no_pause_is_longer_than_the_setting_says(
    attempt: int, chance: float, longest: float
) -> None:
    policy, usual = RetryPolicy(window=7.0).bounded(longest), RetryPolicy(window=7.0)
    assert policy.wait(attempt, chance) <= longest
    assert policy.held == min(usual.held, longest)
    assert policy.probe == min(usual.probe, longest)
    assert usual.bounded(900) == usual


@given(attempt=st.integers(0, 40), chance=CHANCE, after=st.floats(0, 3600))
def test_leanplums_wish_of_when_to_come_back_is_honoured(
    attempt: int, chance: float, after: float
) -> None:
    found = verdict(Trouble("HTTP 503", after), attempt=attempt, chance=chance)
    assert isinstance(found, Postponed) and found.wait >= after
