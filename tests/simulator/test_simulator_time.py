"""The time rules: which times are kept, which are rewritten, with which warning (fact sheet §4,
§5).
"""

import time

import pytest

from app.simulator.config import Texts
from app.simulator.execution import DAY, EffectiveTime, effective_time

from .client import Talk, event, message

NOW = 1_800_000_000.0


def moment(
    sent: float | None, request_time: float = NOW, *, past_rule: bool = True
) -> EffectiveTime:
    return effective_time(
        sent, request_time=request_time, now=NOW, past_rule=past_rule, texts=Texts()
    )


@pytest.mark.parametrize("sent", [NOW, NOW - 365 * DAY, NOW + 3 * DAY])
def test_times_up_to_a_year_back_and_future_ones_are_kept(sent: float) -> None:
    assert moment(sent) == (sent, None)


def test_without_a_time_it_is_now() -> None:
    assert moment(None) == (NOW, None)


def test_ten_minutes_over_a_year_is_rewritten_to_now() -> None:
    assert moment(NOW - 365 * DAY - 600) == (
        NOW,
        "Past event detected (365 days ago). Rewriting timestamp.",
    )


def test_only_actions_with_the_past_rule_are_rewritten() -> None:
    assert moment(NOW - 731 * DAY, past_rule=False) == (NOW - 731 * DAY, None)


def test_a_clock_less_than_a_day_behind_is_corrected_without_a_warning() -> None:
    request = NOW - 18.6 * 3600
    assert moment(request, request) == (NOW, None)


@pytest.mark.parametrize(("hours", "days"), [(27.8, 1), (5 * 24, 5)])
def test_a_clock_a_day_or_more_behind_is_corrected_with_one(hours: float, days: int) -> None:
    request = NOW - hours * 3600
    warning = f"Device clock skew detected ({days} days behind). Rewriting timestamp."
    assert moment(request, request) == (NOW, warning)


def test_the_age_of_an_event_counts_from_the_time_of_the_request() -> None:
    request = NOW - 2 * DAY
    assert moment(request - 364 * DAY, request).warning == (
        "Device clock skew detected (2 days behind). Rewriting timestamp."
    )


def test_an_old_event_in_a_multi_is_applied_now_with_the_verbatim_warning(leanplum: Talk) -> None:
    before = time.time()
    (entry,) = leanplum.entries(event("ann", time=before - 731 * DAY - 60))
    assert entry["success"] is True
    assert message(entry, "warning") == "Past event detected (731 days ago). Rewriting timestamp."
    assert leanplum.user("ann")["events"]["Open"]["firstTime"] >= before


def test_a_multi_whose_own_time_is_days_behind_warns_of_clock_skew(leanplum: Talk) -> None:
    request = time.time() - 5 * DAY - 60
    answer = leanplum.multi(event("ann", time=request), time=request)
    text = message(answer.json()["response"][0], "warning")
    assert text == "Device clock skew detected (5 days behind). Rewriting timestamp."


def test_the_time_of_a_lone_event_is_the_events_own(leanplum: Talk) -> None:
    sent = time.time() - 5 * DAY
    assert "warning" not in leanplum.entry("track", userId="ann", event="Open", time=sent)
    assert leanplum.user("ann")["events"]["Open"]["firstTime"] == sent
