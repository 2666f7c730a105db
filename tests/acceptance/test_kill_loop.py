"""The promise under kill -9: callers post items while the gateway's processes are killed again and
again.

Some of the callers' users log in all the time, under several ids and on several devices
(`histories.py`); the others never do. `GATEWAY_TESTS_KILLS` says how often a process is killed;
`make soak` sets 200.
"""

import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import text

from app.callers import key_format
from app.database.engine import connect
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.postgres import Server
from tests.support.processes import APP_ID, PRODUCTION_KEY, Deliverer, Process, delivering, serving
from tests.support.wait import until
from tests.workers.worker_processes import Worker, workers_serving

from . import journal
from .histories import LOGINS
from .load import PATIENCE, callers, judged, writing
from .stored import WAITING, counting

KILLS = int(os.environ.get("GATEWAY_TESTS_KILLS", "6"))
# On PostgreSQL: a liveness lock is free for 3 s, the next renewal comes within 2 s, and the machine
# is busy. The lease that would end otherwise lasts 45 s
TAKEOVER_SECONDS = 30.0


# --- processes ----------------------------------------------------------------------------------------------------

Killable = Process | Deliverer | Worker


def restart(process: Killable) -> None:
    process.kill()
    process.start()


@dataclass
class Fleet:
    """The processes of one gateway, on one database."""

    database: str
    gateways: Sequence[Process]
    processes: Sequence[Killable]
    deliver: Collection[Killable]
    restart: Callable[[Killable], None] = restart
    kills: list[float] = field(default_factory=list)
    """When processes that deliver were killed."""
    takeovers: list[float] = field(default_factory=list)
    """After how many seconds others had what a killed process had leased, where that was waited for."""

    def kill_again_and_again(self, chance: random.Random) -> None:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.05, 0.6))
            struck = chance.choice(self.processes)
            if struck in self.deliver:
                self.kills.append(time.time())
            self.restart(struck)


Place = tuple[ExitStack, Path, str]  # what closes the processes, their folder, Leanplum's address


def one_process(place: Place, request: pytest.FixtureRequest) -> Fleet:
    stack, folder, leanplum = place
    gateway = stack.enter_context(serving(folder, leanplum))
    return Fleet(gateway.settings["GATEWAY_DATABASE_URL"], [gateway], [gateway], [gateway])


def api_and_two_deliverers(place: Place, request: pytest.FixtureRequest) -> Fleet:
    stack, folder, leanplum = place
    gateway = stack.enter_context(serving(folder, leanplum, "--no-delivery"))
    beside = [stack.enter_context(delivering(gateway, name)) for name in ("one", "two")]
    return Fleet(gateway.settings["GATEWAY_DATABASE_URL"], [gateway], [gateway, *beside], beside)


def three_workers(place: Place, request: pytest.FixtureRequest) -> Fleet:
    stack, folder, leanplum = place
    gateway = stack.enter_context(workers_serving(folder, leanplum, 3))
    names = ("accepting-1", "accepting-2", "accepting-3", "delivering")
    workers = [Worker(gateway, name) for name in names]
    return Fleet(gateway.settings["GATEWAY_DATABASE_URL"], [gateway], workers, workers[-1:])


def five_processes_on_postgresql(place: Place, request: pytest.FixtureRequest) -> Fleet:
    """Three processes that accept and deliver, and two that only deliver."""
    stack, folder, leanplum = place
    server: Server = request.getfixturevalue("postgresql_server")
    settings = {"GATEWAY_DATABASE_URL": server.empty(), "GATEWAY_BOOTSTRAP_KEY": key_format.make()}
    takeovers = stack.enter_context(closing(Takeovers(settings["GATEWAY_DATABASE_URL"])))
    gateways, processes = list[Process](), list[Killable]()
    for name in ("one", "two", "three"):
        (folder / name).mkdir()
        gateways.append(stack.enter_context(serving(folder / name, leanplum, **settings)))
        processes.append(gateways[-1])
        takeovers.started(processes[-1])
    for name in ("four", "five"):
        processes.append(stack.enter_context(delivering(gateways[0], name)))
        takeovers.started(processes[-1])
    fleet = Fleet(
        settings["GATEWAY_DATABASE_URL"], gateways, processes, processes, takeovers.restart
    )
    fleet.takeovers = takeovers.seconds
    return fleet


class Takeovers:
    """Restarts processes on PostgreSQL, and waits until others have what was theirs."""

    def __init__(self, database: str) -> None:
        self._engine = connect(database)
        self._known = set[str]()
        self._owners = dict[Killable, str]()
        self.seconds = list[float]()

    def started(self, process: Killable) -> None:
        """Wait until a process that was just started has leases."""
        until(lambda: bool(self._living() - self._known), 60)
        (self._owners[process],) = self._living() - self._known
        self._known.add(self._owners[process])

    def restart(self, process: Killable) -> None:
        process.kill()
        began, owner = time.monotonic(), self._owners.pop(process)
        until(lambda: owner not in self._living(), 60)
        self.seconds.append(time.monotonic() - began)
        process.start()
        self.started(process)

    def close(self) -> None:
        self._engine.dispose()

    def _living(self) -> set[str]:
        with self._engine.connect() as connection:
            return set(connection.execute(text("SELECT id FROM deliverers")).scalars())


# --- the test -----------------------------------------------------------------------------------------------------

FLEETS = {
    "one process": one_process,
    "an API and two deliverers": api_and_two_deliverers,
    "three workers and a delivering one": three_workers,
    "three servers and two deliverers on PostgreSQL": five_processes_on_postgresql,
}


def until_drained(waiting: Callable[[], int]) -> None:
    """Wait until nothing waits; while a delivering process was killed, items have piled up."""
    least, since = waiting(), time.monotonic()
    while count := waiting():
        if count < least:
            least, since = count, time.monotonic()
        assert time.monotonic() - since < PATIENCE, f"{count} items wait, and none is delivered"
        time.sleep(0.2)


@pytest.mark.parametrize("fleet", FLEETS)
def test_nothing_acknowledged_is_lost_reordered_or_sent_twice_whenever_a_process_is_killed(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
    fleet: str,
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    record_property("seed", seed)
    config = SimulatorConfig(
        app_id=APP_ID,
        production_key=PRODUCTION_KEY,
        latency_seconds=0.02,
        deduplicate=False,
        keep_requests=10**6,
    )
    with ExitStack() as stack:
        leanplum = stack.enter_context(BackgroundServer(config))
        running = FLEETS[fleet]((stack, tmp_path, leanplum.url), request)
        writers = callers(running.gateways, seed)
        with writing(writers):
            running.kill_again_and_again(random.Random(seed))
        with counting(running.database) as count:
            until_drained(lambda: count(WAITING))
        persons = [person for writer in writers for person in writer.persons]
        counts, found = judged(
            persons, journal.calls(leanplum.url), running.gateways[0], running.kills
        )
        record_property(
            "counts", {kind: dict(one) for kind, one in counts.items()}
        )  # in the report of --junit-xml, which `make soak` writes
        record_property("takeovers", [round(seconds, 1) for seconds in running.takeovers])
        assert found == {}
        assert all(seconds < TAKEOVER_SECONDS for seconds in running.takeovers)
        assert counts["events"]["acknowledged"] > KILLS
        assert all(counts[kind]["logins"] > KILLS / 10 for kind in LOGINS)
