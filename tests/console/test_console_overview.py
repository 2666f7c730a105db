"""The overview: what it shows of each app, and what needs attention first."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.console.attention import (
    ProcessState,
    attention_of_app,
    attention_of_gateway,
    attention_of_names,
)
from app.console.gateway_state import AppDelivery, GatewayState, merge
from app.console.overview import app_view
from app.model import Scope
from app.outbox.delivery_states import DeliveryState
from app.outbox.minute_counts import MinuteCount
from app.outbox.queue_state import AppQueue, QueueState
from app.settings import Settings
from tests.console.visitor import signed_in, text_of
from tests.support.gateway import Talk
from tests.support.simulator import delivering_to, simulated
from tests.support.wait import until

NOW = 1_800_000_000_000
MINUTE = 60_000


def state_of(
    *apps: AppQueue, deliverers: int = 1, more: bool = False, **given: Any
) -> GatewayState:
    queue = QueueState(apps, deliverers, more_waiting=more, more_dead=more)
    return GatewayState(read_at=NOW, queue=queue, queue_at=NOW, **given)


def titles(state: GatewayState, *, configured: bool = True, **given: Any) -> list[str]:
    process = ProcessState(max_queued=100, **given)
    return [
        *(found.title for found in attention_of_gateway(state, process)),
        *(found.title for found in attention_of_app("shop", state, configured=configured)),
    ]


def test_a_quiet_gateway_needs_nobody() -> None:
    assert titles(state_of()) == []
    assert titles(state_of(AppQueue("shop", waiting=5, oldest=NOW - MINUTE))) == []


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"audit_tampered": True}, "The audit log was changed"),
        ({"audit_waiting": True}, "Audit records are not sealed"),
        ({"apps_refused": True}, "The apps file is invalid"),
        ({"limits": "Valkey is away"}, "Rate limits are not shared"),
        ({"queued": 80}, "The queue is nearly full"),
    ],
)
def test_what_the_process_knows_is_shown(given: dict[str, Any], title: str) -> None:
    assert titles(state_of(), **given) == [title]


@pytest.mark.parametrize(
    ("queue", "delivery", "title"),
    [
        (AppQueue("shop", waiting=1, held=1), AppDelivery(), "shop: items are held"),
        (AppQueue("shop"), AppDelivery("held"), "shop: items are held"),
        (AppQueue("shop"), AppDelivery("open"), "shop: the circuit is open"),
        (AppQueue("shop", dead_letters=3), AppDelivery(), "shop: dead letters"),
        (AppQueue("shop", waiting=1, oldest=NOW - 16 * MINUTE), AppDelivery(), "shop: items have waited for long"),
    ],
)  # fmt: skip
def test_an_app_in_trouble_is_shown(queue: AppQueue, delivery: AppDelivery, title: str) -> None:
    assert titles(state_of(queue, delivery={"shop": delivery})) == [title]


def test_items_of_an_app_that_is_not_configured_any_more_are_shown() -> None:
    assert titles(state_of(AppQueue("shop", waiting=1)), configured=False) == [
        "shop: items are held"
    ]


def test_items_that_nobody_delivers_and_a_failed_reading_are_shown() -> None:
    state = state_of(AppQueue("shop", waiting=1), deliverers=0)
    assert titles(state) == ["No process delivers"]
    assert titles(replace(state, failed="Away.")) == ["The database is unavailable"]


def test_an_app_whose_calls_all_fail_lately_is_shown() -> None:
    minutes = [
        MinuteCount(NOW - 10 * MINUTE, "shop", "calls", 5),
        MinuteCount(NOW - 1 * MINUTE, "shop", "calls", 3),
        MinuteCount(NOW - 1 * MINUTE, "shop", "failed-calls", 3),
    ]
    assert titles(state_of(minutes=minutes)) == ["shop: the circuit is open"]
    minutes.append(MinuteCount(NOW, "shop", "calls", 1))
    assert titles(state_of(minutes=minutes)) == []


def test_names_near_leanplum_s_limits_are_shown_only_for_the_apps_of_the_key() -> None:
    process = ProcessState(
        names={("shop", "events"): 0.95, ("game", "events"): 1.0}, names_warn_from=0.9
    )
    (found,) = attention_of_names(process, ["shop"])
    assert (found.title, found.text[:3]) == ("shop: many events", "95%")


def test_an_app_s_counts_and_charts_are_of_the_last_hour() -> None:
    last = NOW // MINUTE * MINUTE
    minutes = [
        MinuteCount(last - 59 * MINUTE, "shop", "accepted", 7),
        MinuteCount(last - MINUTE, "shop", "calls", 120),
        MinuteCount(last, "shop", "delivered", 3),
        MinuteCount(last, "shop", "rejected", 2),
        MinuteCount(last, "game", "accepted", 9),
    ]
    view = app_view("shop", state_of(minutes=minutes))
    assert (view.accepted, view.delivered, view.errors, view.calls) == (7, 3, 2, 120)
    assert view.calls_per_second == 2.0
    accepted, delivered, errors = (chart.values for chart in view.charts)
    assert (accepted[0], sum(accepted), delivered[-1], errors[-1]) == (7, 7, 3, 2)
    assert {len(accepted), len(delivered), len(errors)} == {60}


def test_counts_that_may_be_higher_say_so() -> None:
    state = state_of(AppQueue("shop", waiting=20_000, dead_letters=5), more=True)
    view = app_view("shop", state)
    assert (view.waiting, view.dead) == ("20,000+", "5+")


def test_the_page_shows_what_waits(start: Callable[..., Talk]) -> None:
    talk, waiting = start(), "Waiting 3 Oldest waits for 1 h 0 min"
    visitor = signed_in(talk)
    assert "Nothing needs your attention" in visitor.get().text
    talk.batch([{"action": "track", "userId": f"u{n}", "event": "Bought"} for n in range(3)])
    talk.execute("UPDATE acceptances SET accepted_at = ?", int(time.time() * 1000) - 3_600_000)
    until(lambda: waiting in text_of(visitor.get()))  # what is shown is two seconds old at most
    words = text_of(visitor.get())
    assert "No process delivers" in words
    assert words.index("No process delivers") < words.index("Waiting 3")


def test_a_key_for_some_apps_sees_only_these(gateway: Talk) -> None:
    _, key = gateway.create_key(Scope.CONSOLE_READ, apps=["another"])
    gateway.event()
    page = signed_in(gateway, key).get()
    assert "No app that this key may use is configured" in page.text
    assert "default" not in text_of(page)


def test_the_delivery_of_an_app_is_that_of_all_processes() -> None:
    states = {"shop": [DeliveryState("closed", 0, 100.0), DeliveryState("open", 0, 5.0)]}
    assert merge(states, "shop", "") == AppDelivery("open", 105.0)


def test_an_app_is_held_with_leanplum_s_words(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with simulated() as leanplum:
        leanplum.fault(mode="403-key", times=None)
        with delivering_to(leanplum, settings, tmp_path / "g.db") as talk:
            talk.event()
            visitor = signed_in(talk)
            held = "default: items are held Leanplum says: "
            # The state of delivery is stored shortly after the outcome
            until(lambda: held in text_of(visitor.get()), pause=0.2)
            words = text_of(visitor.get())
    assert held in words
    assert "default held Accepted" in words
