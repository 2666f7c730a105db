"""A running gateway while somebody sets the machine's clock."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.gateway import EVENT, Talk
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

HOUR, DAY = 3_600, 86_400
KEPT = {"gateway_dedup_seconds": DAY, "gateway_dead_letter_seconds": 30 * DAY}
OLD = (
    "UPDATE items SET settled_at = 1 WHERE id = 'old'",
    "UPDATE acceptances SET accepted_at = 1 "
    "WHERE first_seq = (SELECT acceptance FROM items WHERE id = 'old')",
)


class WallClock:
    """The machine's wall clock, which a test may set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._ahead, self._real = 0, time.time_ns
        patch.setattr(time, "time_ns", lambda: self._real() + self._ahead)

    def set(self, seconds: int) -> None:
        self._ahead += seconds * 10**9


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    return WallClock(monkeypatch)


@pytest.fixture
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture
def talk(
    leanplum: Leanplum, settings: Callable[..., Settings], path: Path, frequent_housekeeping: None
) -> Iterator[Talk]:
    with delivering_to(leanplum, settings, path, gateway_retry_window=HOUR, **KEPT) as found:
        yield found


def sent(talk: Talk, item_id: str, user: str = "ann") -> str:
    """Send an event; the status that its receipt has then."""
    answer = talk.event({**EVENT, "userId": user, "id": item_id})
    assert answer.status_code in (200, 202)
    return str(answer.json()["status"])


def status(talk: Talk, item_id: str) -> str:
    return str(talk.get(f"/v1/receipts/{item_id}").json()["status"])


@pytest.mark.parametrize("step", [-HOUR, -DAY, DAY, 366 * DAY])
def test_a_step_of_the_clock_neither_strands_nor_expires_what_waits_for_a_retry(
    talk: Talk, leanplum: Leanplum, wall: WallClock, step: int
) -> None:
    leanplum.fault(mode="503", times=2)
    sent(talk, "before")
    until(lambda: status(talk, "before") == "retrying")
    wall.set(step)
    sent(talk, "after")
    until(lambda: status(talk, "after") == "delivered", 15)
    assert status(talk, "before") == "delivered"
    assert talk.event({**EVENT, "userId": "ann", "id": "before"}).json()["duplicate"] is True


def test_a_step_forward_removes_and_forgets_nothing_that_is_young(
    talk: Talk, leanplum: Leanplum, wall: WallClock
) -> None:
    leanplum.fault(mode="400", userId="bad", times=None)
    sent(talk, "good")
    sent(talk, "dead", "bad")
    until(lambda: (status(talk, "good"), status(talk, "dead")) == ("delivered", "rejected"))
    assert talk.call("DELETE", "/v1/users/gone?fullErasure=true").status_code == 202
    sent(talk, "old")
    until(lambda: status(talk, "old") == "delivered")
    wall.set(366 * DAY)
    for statement in OLD:
        talk.execute(statement)
    until(lambda: talk.get("/v1/receipts/old").status_code == 404)  # the housekeeper was here
    assert status(talk, "good") == "delivered"
    assert status(talk, "dead") == "rejected"
    assert talk.event({**EVENT, "userId": "ann", "id": "good"}).json()["duplicate"] is True
    assert talk.event({**EVENT, "userId": "gone"}).status_code == 403
    reported = talk.event({**EVENT, "id": "new"}).json()["acceptedAt"]
    assert int(reported[:4]) == time.gmtime(time.time_ns() // 10**9).tm_year


def test_a_step_is_logged_once_with_its_seconds(
    talk: Talk, wall: WallClock, capsys: pytest.CaptureFixture[str]
) -> None:
    wall.set(-HOUR)
    printed = ""

    def told() -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return "clock.stepped" in printed

    until(told)
    assert printed.count("clock.stepped") == 1
    assert "-3600" in printed
