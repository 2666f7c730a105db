"""The API and the delivery as processes of their own, on one database: SQLite and PostgreSQL."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import (
    APP_ID,
    PRODUCTION_KEY,
    Process,
    delivering,
    ended,
    serving,
    stats,
    values,
)
from tests.support.wait import until

USERS, EVENTS = 40, 6


@pytest.fixture
def leanplum() -> Iterator[str]:
    config = SimulatorConfig(
        app_id=APP_ID, production_key=PRODUCTION_KEY, latency_seconds=0.02, deduplicate=False
    )
    with BackgroundServer(config) as server:
        yield server.url


def post(gateway: Process, first: int, count: int) -> None:
    """Numbered events of many users, by turns, in batches."""
    for value in range(first, first + count):
        items = [
            {
                "action": "track",
                "userId": f"u{user}",
                "event": "E",
                "value": value,
                "id": f"u{user}-{value}",
            }
            for user in range(USERS)
        ]
        assert gateway.call("POST", "/v1/batch", json={"items": items}).status_code == 202


def arrived(leanplum: str, upto: int) -> bool:
    return all(values(leanplum, f"u{user}") == list(range(upto)) for user in range(USERS))


def test_several_deliverers_beside_an_api_share_the_work_and_keep_each_users_order(
    tmp_path: Path, leanplum: str, database: str
) -> None:
    with serving(tmp_path, leanplum, "--no-delivery", GATEWAY_DATABASE_URL=database) as gateway:
        post(gateway, 0, 1)
        assert stats(leanplum)["calls"] == 0, "an API without delivery delivers nothing"
        with delivering(gateway, "one") as one, delivering(gateway, "two") as two:
            until(lambda: one.logged(b'shards":32') and two.logged(b'shards":32'))
            post(gateway, 1, EVENTS)
            until(lambda: arrived(leanplum, EVENTS + 1), 60)
            # Each has sent something; it says so after Leanplum has seen it
            until(lambda: one.logged(b"call.settled") and two.logged(b"call.settled"))
            assert two.terminate() == 0
            post(gateway, EVENTS + 1, 2)
            until(lambda: arrived(leanplum, EVENTS + 3), 60)
            assert one.process.poll() is None
        assert stats(leanplum)["overlaps"] == 0


def test_what_a_killed_deliverer_held_is_delivered_by_another_soon(
    tmp_path: Path, leanplum: str, database: str
) -> None:
    """No lease, of 45 s, has to run out first."""
    soon = 10 if database.startswith("sqlite") else 20
    with serving(tmp_path, leanplum, "--no-delivery", GATEWAY_DATABASE_URL=database) as gateway:
        with delivering(gateway, "one") as one:
            post(gateway, 0, 1)
            until(lambda: arrived(leanplum, 1))
            one.kill()
        post(gateway, 1, 1)
        with delivering(gateway, "two"):
            began = time.monotonic()
            until(lambda: arrived(leanplum, 2))
            assert time.monotonic() - began < soon
        assert stats(leanplum)["overlaps"] == 0


def test_a_deliverer_stops_on_sigterm_with_everything_in_flight_settled(
    tmp_path: Path, leanplum: str
) -> None:
    with serving(tmp_path, leanplum, "--no-delivery") as gateway:
        post(gateway, 0, EVENTS)
        with delivering(gateway, "one") as one:
            until(lambda: stats(leanplum)["calls"] > 0)
            assert one.terminate() == 0
        statuses = {
            gateway.status(f"u{user}-{value}") for user in range(USERS) for value in range(EVENTS)
        }
        assert statuses <= {"accepted", "delivered"}
        with delivering(gateway, "two"):
            until(lambda: arrived(leanplum, EVENTS))
        assert stats(leanplum)["duplicates"] == 0


def test_waiting_for_an_item_sees_what_another_process_settles(
    tmp_path: Path, leanplum: str
) -> None:
    with serving(tmp_path, leanplum, "--no-delivery") as gateway, delivering(gateway, "one"):
        answer = gateway.event("ann", 0, Prefer="wait=10")
        assert (answer.status_code, answer.json()["status"]) == (200, "delivered")


def test_the_count_of_what_waits_follows_what_other_processes_deliver(
    tmp_path: Path, leanplum: str
) -> None:
    with serving(tmp_path, leanplum, "--no-delivery") as gateway, delivering(gateway, "one"):
        post(gateway, 0, 1)
        gateway.until_nothing_waits()


def test_dead_letters_are_listed_sent_again_and_discarded_by_command(
    tmp_path: Path, leanplum: str
) -> None:
    refuse = {"mode": "success-false", "message": "Bad.", "times": 3}
    httpx.post(
        f"{leanplum}/_simulator/faults", json={"faults": [refuse]}, trust_env=False
    ).raise_for_status()
    with serving(tmp_path, leanplum) as gateway:
        for value in range(3):
            assert gateway.event("ann", value, Prefer="wait=10").json()["status"] == "rejected"

        def run(*words: str) -> str:
            done = ended(tmp_path, "dead-letters", *words, **gateway.settings)
            assert done.returncode == 0, done.stderr
            return done.stdout

        header, *lines = run("list").splitlines()
        assert header.split("\t") == ["APP", "ID", "STATUS", "ACTION", "SETTLED", "REASON"]
        assert [line.split("\t")[:2] for line in lines] == [
            ["default", f"ann-{one}"] for one in range(3)
        ]
        assert {line.split("\t")[-1] for line in lines} == {"Bad."}

        def found_nothing(*words: str) -> str:
            done = ended(tmp_path, "dead-letters", *words, **gateway.settings)
            assert (done.returncode, done.stdout) == (1, "")
            return done.stderr

        none = "leanplum-gateway: No dead letters.\n"
        assert found_nothing("list", "--app", "other") == none
        assert found_nothing("list", "--status", "expired") == none
        assert found_nothing("replay", "--all", "--app", "other") == (
            "leanplum-gateway: No dead letters match.\n"
        )
        assert run("replay", "--all", "--dry-run") == "3 items would be queued again.\n"
        assert run("discard", "ann-1") == "1 item discarded: ann-1\n"
        assert run("replay", "--all") == "2 items queued again: ann-0, ann-2\n"
        until(lambda: values(leanplum, "ann") == [0, 2])
        assert found_nothing("list") == none
        refused = ended(tmp_path, "dead-letters", "replay", **gateway.settings)
        assert (refused.returncode, "--all" in refused.stderr) == (2, True)
