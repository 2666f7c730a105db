"""A deliverer that lives and has lost the database: others take its users over, and it ends its
calls before they do.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.database_proxy import proxied
from tests.support.postgres import Server
from tests.support.processes import (
    APP_ID,
    PRODUCTION_KEY,
    Process,
    delivering,
    plan,
    serving,
    values,
)
from tests.support.wait import until

from . import journal

# Longer than a takeover takes on a busy machine, and less than a call may take
SLOW_SECONDS, CALL_SECONDS = 100.0, 120
LEAST_SECONDS = 3.0  # between the two calls of a user: five, and the machine is busy
USERS = 20


@pytest.fixture
def leanplum() -> Iterator[str]:
    config = SimulatorConfig(app_id=APP_ID, production_key=PRODUCTION_KEY)
    with BackgroundServer(config) as server:
        yield server.url


def calls_for(leanplum: str, user: str) -> list[journal.Call]:
    return [call for call in journal.calls(leanplum) if f"u{user}" in names(call)]


def names(call: journal.Call) -> set[str]:
    return {user for named in journal.by_name([call]) for user in named.users}


def test_its_calls_are_ended_before_others_call_for_the_same_users(
    tmp_path: Path, leanplum: str, postgresql_server: Server
) -> None:
    url = postgresql_server.empty()
    plan(leanplum, {"mode": "slow", "delay": SLOW_SECONDS, "times": 1})
    with (
        proxied(url) as proxy,
        serving(tmp_path, leanplum, "--no-delivery", GATEWAY_DATABASE_URL=url) as api,
    ):
        settings = api.settings | {"GATEWAY_DATABASE_URL": proxy.url}
        settings["GATEWAY_UPSTREAM_TIMEOUT_SECONDS"] = str(CALL_SECONDS)
        behind_proxy = Process(tmp_path, leanplum, **settings)
        with delivering(behind_proxy, "one") as one:
            assert api.event("ann", 0).status_code == 202
            until(lambda: len(calls_for(leanplum, "ann")) == 1)
            with delivering(api, "two"):
                for user in range(USERS):
                    assert api.event(f"u{user}", 0).status_code == 202
                proxy.refuse()
                until(lambda: one.logged(b"liveness_lock.lapsed"))
                lapsed_at = time.time()
                assert len(calls_for(leanplum, "ann")) == 1
                until(lambda: one.logged(b"call.unanswered"))
                until(lambda: len(calls_for(leanplum, "ann")) == 2)
                assert calls_for(leanplum, "ann")[1].began - lapsed_at > LEAST_SECONDS
                until(lambda: all(values(leanplum, f"u{user}") == [0] for user in range(USERS)))
        behind_proxy.close()
