"""Log lines have the fields of the Elastic Common Schema, and failures that repeat are counted."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from app.settings import Settings
from app.telemetry.log_lines import LogLine
from app.telemetry.logs import LineWriter
from app.telemetry.repeats import Repeats
from tests.support.gateway import EVENT, Talk, running

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
ALWAYS = {"@timestamp", "log.level", "message", "event.action", "event.dataset", "ecs.version"}


@contextmanager
def captured() -> Iterator[list[dict[str, Any]]]:
    """What is logged, also by loggers that were used before."""
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[capture], cache_logger_on_first_use=False)
    try:
        yield capture.entries  # type: ignore[misc]
    finally:
        structlog.configure(**before)


def rendered(entry: dict[str, Any]) -> dict[str, Any]:
    fields = {key: value for key, value in entry.items() if key not in {"event", "log_level"}}
    line: dict[str, Any] = json.loads(LogLine("info", 0, entry["event"], fields).render())
    return line


@pytest.fixture
def logged(
    settings: Callable[..., Settings], tmp_path: Path
) -> Callable[..., list[dict[str, Any]]]:
    """Return what the access log has of two requests: an event, and a call without a key."""

    def log(**given: Any) -> list[dict[str, Any]]:
        with (
            captured() as entries,
            running(settings(**given), tmp_path / "g.db") as talk,
        ):
            two_requests(talk)
        return [rendered(entry) for entry in entries if entry["event"] == "request.answered"]

    return log


def two_requests(talk: Talk) -> None:
    assert talk.event(EVENT, headers={"traceparent": PARENT}).status_code == 202
    assert talk.get("/v1/receipts/some-id", key=None).status_code == 401


def test_a_request_has_the_fields_of_ecs_and_its_items(
    logged: Callable[..., list[dict[str, Any]]],
) -> None:
    accepted, refused = logged()
    assert accepted.keys() >= ALWAYS
    assert accepted["message"] == "POST /v1/events 202"
    assert accepted["event.dataset"] == "gateway.access"
    assert accepted["service.name"] == "leanplum-gateway"
    assert (accepted["http.request.method"], accepted["url.path"]) == ("POST", "/v1/events")
    assert accepted["http.response.status_code"] == 202
    assert 0 < accepted["event.duration"] < 60e9
    assert (accepted["gateway.items"], accepted["gateway.items_refused"]) == (1, 0)
    assert accepted["gateway.app"] == "default"
    assert accepted["gateway.key_id"]
    assert accepted["client.ip"] == "127.0.0.1"
    assert accepted["trace.id"] == TRACE
    assert refused["url.path"] == "/v1/receipts/{id}"
    assert refused["gateway.items"] == 0
    assert not {"trace.id", "gateway.key_id", "gateway.app"} & refused.keys()


@pytest.mark.parametrize(("access_log", "statuses"), [("slow", [401]), ("off", [])])
def test_the_access_log_can_be_limited_to_failures_or_turned_off(
    logged: Callable[..., list[dict[str, Any]]], access_log: str, statuses: list[int]
) -> None:
    lines = logged(gateway_access_log=access_log)
    assert [line["http.response.status_code"] for line in lines] == statuses


def test_a_line_of_another_event_has_names_of_ecs_or_of_the_gateways_own() -> None:
    fields = {"reason": "disk full", "kind": "OperationalError", "writes": 3, "app": None}
    line = json.loads(LogLine("error", 1_796_025_645_123, "write.failed", fields).render())
    assert line.keys() >= ALWAYS
    assert line["@timestamp"] == "2026-11-30T08:00:45.123Z"
    assert line["message"] == "A write to the database failed: disk full"
    assert (line["error.message"], line["error.type"]) == ("disk full", "OperationalError")
    assert line["gateway.writes"] == 3
    assert "gateway.app" not in line, "a field without a value is left out"
    assert line["event.dataset"] == "gateway.log"


class Ticks:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def failure(**more: Any) -> LogLine:
    return LogLine("error", 0, "write.failed", {"reason": "away", **more})


def test_a_failure_that_repeats_is_logged_at_growing_intervals_with_a_count() -> None:
    ticks = Ticks()
    repeats = Repeats(ticks)
    shown = list[tuple[float, int]]()
    for tick in range(8 * 600):  # eight times a second, for ten minutes
        ticks.now = tick / 8
        line = repeats.admit(failure(writes=tick))
        if line is not None:
            shown.append((ticks.now, line.fields.get("repeated", 0)))
    times = [at for at, _ in shown]
    assert times == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511]
    assert sum(count for _, count in shown) + len(shown) == 8 * 511 + 1, "each is in a count"


def test_a_failure_that_ended_is_reported_and_logged_at_once_when_it_comes_again() -> None:
    ticks = Ticks()
    repeats = Repeats(ticks)
    assert repeats.admit(failure()) is not None
    assert repeats.admit(failure()) is None
    assert repeats.due() == [], "its interval is not over"
    ticks.now = 1.5
    assert [line.fields["repeated"] for line in repeats.due()] == [1]
    assert repeats.due() == []
    ticks.now = 10
    again = repeats.admit(failure())
    assert again is not None
    assert "repeated" not in again.fields


def test_failures_that_differ_are_logged_each() -> None:
    repeats = Repeats(Ticks())
    assert repeats.admit(failure()) is not None
    assert repeats.admit(failure(reason="full")) is not None
    assert repeats.admit(failure(app="shop")) is not None
    assert repeats.admit(failure(request_id="r2")) is None, "the same failure of another request"


def test_the_end_reports_what_was_left_out() -> None:
    file = io.BytesIO()
    writer = LineWriter(file)
    for _ in range(5):
        writer.write_now(failure())
    writer.close()
    first, last = map(json.loads, file.getvalue().splitlines())
    assert "gateway.repeated" not in first
    assert last["gateway.repeated"] == 4
