"""The promise while PostgreSQL fails under load: a failover to a synchronous standby, restarts,
crashes and cut connections.

The gateways get one URL that names both servers, and nobody restarts them. `GATEWAY_TESTS_FAILOVERS`
says how often each outage happens; `make soak` sets 10.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from app.callers import key_format
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.postgres_cluster import node, pair
from tests.support.processes import APP_ID, PRODUCTION_KEY, Process, serving
from tests.support.wait import until

from . import journal
from .histories import LOGINS
from .load import PATIENCE, callers, judged, writing
from .stored import WAITING, counting

TIMES = int(os.environ.get("GATEWAY_TESTS_FAILOVERS", "1"))
LOAD_SECONDS = 2.0  # of load before each outage, and after it
NO_PRIMARY_SECONDS = 3.0  # while callers must get 503
OTHERS = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
BACKENDS, CUT = f"SELECT pid {OTHERS}", f"SELECT pg_terminate_backend(pid) {OTHERS}"
Outage = Callable[[], None]


@contextmanager
def failovers() -> Iterator[tuple[str, Outage]]:
    """The primary is killed, and its standby promoted; then the old one becomes the standby."""
    with pair() as servers:

        def outage() -> None:
            if servers.standby.process is None:
                servers.attach()
            servers.primary.kill()
            time.sleep(NO_PRIMARY_SECONDS)
            servers.fail_over()

        yield servers.url, outage


@contextmanager
def restarts() -> Iterator[tuple[str, Outage]]:
    """The server is shut down and started again."""
    with node() as server:
        yield server.url, server.restart


@contextmanager
def crashes() -> Iterator[tuple[str, Outage]]:
    """One process of the server is killed, so that the server ends all sessions and recovers."""
    with node() as server:

        def outage() -> None:
            ((pid, *_), *_) = server.run(BACKENDS)
            assert isinstance(pid, int)
            os.kill(pid, signal.SIGKILL)
            until(server.answers, 60)

        yield server.url, outage


@contextmanager
def cuts() -> Iterator[tuple[str, Outage]]:
    """Every connection is ended by the server."""
    with node() as server:

        def outage() -> None:
            assert server.run(CUT)

        yield server.url, outage


OUTAGES = {"failover": failovers, "restart": restarts, "crash": crashes, "cut": cuts}


@contextmanager
def fleet(folder: Path, leanplum: str, url: str) -> Iterator[list[Process]]:
    """Two servers that accept and deliver, on one database and with one key."""
    settings = {"GATEWAY_DATABASE_URL": url, "GATEWAY_BOOTSTRAP_KEY": key_format.make()}
    with ExitStack() as stack:
        gateways = list[Process]()
        for name in ("one", "two"):
            (folder / name).mkdir()
            gateways.append(stack.enter_context(serving(folder / name, leanplum, **settings)))
        yield gateways


def seconds_until_ready(gateways: list[Process]) -> float:
    """Wait until all gateways are ready again, by themselves."""
    began = time.monotonic()
    until(lambda: all(gateway.ready() for gateway in gateways), 60)
    return time.monotonic() - began


@pytest.mark.parametrize("outage", OUTAGES)
def test_nothing_acknowledged_is_lost_reordered_or_sent_twice_when_the_database_fails(
    tmp_path: Path, record_property: Callable[[str, object], None], outage: str
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    record_property("seed", seed)
    unavailable = list[httpx.Response]()
    with ExitStack() as stack:
        leanplum = stack.enter_context(BackgroundServer(simulator()))
        url, strike = stack.enter_context(OUTAGES[outage]())
        gateways = stack.enter_context(fleet(tmp_path, leanplum.url, url))
        writers = callers(gateways, seed, unavailable)
        ready_after = list[float]()
        with writing(writers):
            for _ in range(TIMES):
                time.sleep(LOAD_SECONDS)
                strike()
                ready_after.append(seconds_until_ready(gateways))
            time.sleep(LOAD_SECONDS)
        with counting(url) as count:
            until(lambda: count(WAITING) == 0, PATIENCE, pause=0.2)
        persons = [person for writer in writers for person in writer.persons]
        counts, found = judged(persons, journal.calls(leanplum.url), gateways[0], [])
        record_property("counts", {kind: dict(one) for kind, one in counts.items()})
        record_property("unavailable", len(unavailable))
        record_property("ready after", [round(seconds, 1) for seconds in ready_after])
        assert found == {}
        assert counts["events"]["acknowledged"] > TIMES
        assert all(counts[kind]["logins"] for kind in LOGINS)
        assert all("retry-after" in answer.headers for answer in unavailable)
        assert outage != "failover" or unavailable


def simulator() -> SimulatorConfig:
    return SimulatorConfig(
        app_id=APP_ID,
        production_key=PRODUCTION_KEY,
        latency_seconds=0.02,
        deduplicate=False,
        keep_requests=10**6,
    )
