"""The promise under kill -9: callers post items while the gateway's processes are killed again and
again.

Some of the callers' users log in all the time, under several ids and on several devices
(`histories.py`); the others never do. `GATEWAY_TESTS_KILLS` says how often a process is killed;
`make soak` sets 200.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
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
from .histories import LOGINS, Call, History, Item, events
from .stored import WAITING, counting
from .verdicts import Verdict, arrivals, judge

KILLS = int(os.environ.get("GATEWAY_TESTS_KILLS", "6"))
WRITERS, USERS_EACH, PERSONS_EACH = 3, 6, 3
PAUSE, LOGIN_PAUSE = 0.003, 0.02
# For a call that is posted until it is answered, in seconds; and then for the queue
PATIENCE = 120.0


# --- callers ------------------------------------------------------------------------------------------------------


class Person:
    """One user's history, as far as it was acknowledged; under several ids where it has logins."""

    def __init__(self, kind: str, history: History, name: str, seed: int) -> None:
        self.kind = kind
        self.calls = history(name, random.Random(f"{seed} {name}"))
        self.accepted: list[Item] = []


class Writer:
    """Posts the calls of its own persons, in order, as a backend would: what got no answer is
    posted again with the same ids, and only then the next.
    """

    def __init__(
        self, gateways: Sequence[Process], persons: Sequence[Person], pause: float
    ) -> None:
        self._gateways, self.persons, self._pause = gateways, persons, pause
        self._chance = random.Random()

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            for person in self.persons:
                call = next(person.calls)
                until(lambda call=call: self._acknowledged(call), PATIENCE, pause=0.05)  # type: ignore[misc]
                person.accepted += call.items
                time.sleep(self._pause)

    def _acknowledged(self, call: Call) -> bool:
        """Post a call through any of the gateways. Returns whether there was an answer."""
        try:
            answer = post(self._chance.choice(self._gateways), call)
        except httpx.TransportError:
            return False
        assert answer.status_code in {200, 202}, answer.text
        assert not refused(answer), answer.text
        return True


def post(gateway: Process, call: Call) -> httpx.Response:
    """Make a call with the gateway's key, as each protocol has it."""
    match call.protocol:
        case "v1":
            return gateway.call(call.method, call.path, json=call.body)
        case "sdk":
            args = {"appId": APP_ID, "clientKey": gateway.key, "apiVersion": "1.0.6"} | call.body
            return gateway.http.request(call.method, call.path, json=args)
        case "segment":
            return gateway.http.request(
                call.method, call.path, json=call.body, auth=(gateway.key, "")
            )


def refused(answer: httpx.Response) -> bool:
    """Whether any item of a call that was answered with success was refused."""
    body = answer.json()
    sdk = [entry["success"] for entry in body.get("response", ())]
    return not all([*sdk, body.get("success", True), not body.get("rejected", 0)])


def callers(gateways: Sequence[Process], seed: int) -> list[Writer]:
    """Make the writers of users who never log in, and one for each kind of history with logins."""
    plain = [[f"w{writer}-{user}" for user in range(USERS_EACH)] for writer in range(WRITERS)]
    writers = [
        Writer(gateways, [Person("events", events, name, seed) for name in names], PAUSE)
        for names in plain
    ]
    for kind, history in LOGINS.items():
        persons = [Person(kind, history, f"{kind}{number}", seed) for number in range(PERSONS_EACH)]
        writers.append(Writer(gateways, persons, LOGIN_PAUSE))
    return writers


@contextmanager
def writing(writers: Sequence[Writer]) -> Iterator[None]:
    """Let them write; at the end each call is acknowledged."""
    ended = threading.Event()
    with ThreadPoolExecutor(len(writers)) as threads:
        running: list[Future[None]] = [threads.submit(writer.run, ended) for writer in writers]
        try:
            yield
        finally:
            ended.set()
        for task in running:
            task.result()


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


def two_servers_on_postgresql(place: Place, request: pytest.FixtureRequest) -> Fleet:
    stack, folder, leanplum = place
    server: Server = request.getfixturevalue("postgresql_server")
    settings = {"GATEWAY_DATABASE_URL": server.empty(), "GATEWAY_BOOTSTRAP_KEY": key_format.make()}
    leases = stack.enter_context(shortened_leases(settings["GATEWAY_DATABASE_URL"]))
    gateways = list[Process]()
    for name in ("one", "two"):
        (folder / name).mkdir()
        gateways.append(stack.enter_context(serving(folder / name, leanplum, **settings)))
        leases.started(gateways[-1])
    return Fleet(settings["GATEWAY_DATABASE_URL"], gateways, gateways, gateways, leases.restart)


class ShortenedLeases:
    """Ends the leases of killed processes at once, as time would later: on PostgreSQL nothing else
    tells of a process's end, and while these are held nobody delivers what was theirs.
    """

    def __init__(self, database: str) -> None:
        self._engine = connect(database)
        self._known = set[str]()
        self._owners = dict[Killable, str]()

    def started(self, process: Killable) -> None:
        """Wait until a process that was just started has leases."""
        until(lambda: bool(self._new()), 60)
        (self._owners[process],) = self._new()
        self._known.add(self._owners[process])

    def restart(self, process: Killable) -> None:
        process.kill()
        expire = text("UPDATE deliverers SET expires_at = 0 WHERE id = :id")
        with self._engine.begin() as connection:
            connection.execute(expire, {"id": self._owners.pop(process)})
        process.start()
        self.started(process)

    def close(self) -> None:
        self._engine.dispose()

    def _new(self) -> set[str]:
        with self._engine.connect() as connection:
            return (
                set(connection.execute(text("SELECT id FROM deliverers")).scalars()) - self._known
            )


@contextmanager
def shortened_leases(database: str) -> Iterator[ShortenedLeases]:
    leases = ShortenedLeases(database)
    try:
        yield leases
    finally:
        leases.close()


# --- the test -----------------------------------------------------------------------------------------------------

FLEETS = {
    "one process": one_process,
    "an API and two deliverers": api_and_two_deliverers,
    "three workers and a delivering one": three_workers,
    "two servers on PostgreSQL": two_servers_on_postgresql,
}


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
            until(lambda: count(WAITING) == 0, PATIENCE + KILLS, pause=0.2)
        persons = [person for writer in writers for person in writer.persons]
        counts, found = judged(persons, journal.calls(leanplum.url), running)
        record_property(
            "counts", {kind: dict(one) for kind, one in counts.items()}
        )  # in the report of --junit-xml, which `make soak` writes
        assert found == {}
        assert counts["events"]["acknowledged"] > KILLS
        assert all(counts[kind]["logins"] > KILLS / 10 for kind in LOGINS)


def judged(
    persons: Sequence[Person], calls: Sequence[journal.Call], fleet: Fleet
) -> tuple[dict[str, Counter[str]], dict[str, object]]:
    """Return the counts by kind of history, and what breaks the promise, by what it is."""
    arrived = arrivals(calls)
    verdicts = [(person, judge(person.accepted, arrived, fleet.kills)) for person in persons]
    counts: dict[str, Counter[str]] = {person.kind: Counter() for person in persons}
    for person, verdict in verdicts:
        counts[person.kind] += counted(verdict)
    found: dict[str, list[object]] = {
        "lost": [mark for _, one in verdicts for mark in one.lost],
        "out of order": [mark for _, one in verdicts for mark in one.out_of_order],
        "sent again without a kill": [mark for _, one in verdicts for mark in one.without_a_kill],
        "sent more often than attempted": [
            item.mark
            for person, one in verdicts
            for item in unattempted(fleet.gateways[0], person, one)
        ],
        "overlaps": list[object](journal.overlaps(journal.by_name(calls))),
    }
    return counts, {name: broken for name, broken in found.items() if broken}


def counted(verdict: Verdict) -> Counter[str]:
    return Counter(
        acknowledged=verdict.acknowledged,
        logins=verdict.logins,
        arrived=verdict.arrived,
        repeated=len(verdict.repeated),
        lost=len(verdict.lost),
        out_of_order=len(verdict.out_of_order),
    )


def unattempted(gateway: Process, person: Person, verdict: Verdict) -> Iterator[Item]:
    """Find items whose receipts tell of fewer attempts than arrived."""
    for item in person.accepted:
        times = verdict.repeated.get(item.mark, 0)
        if times and item.item_id is not None:
            receipt = gateway.call("GET", f"/v1/receipts/{item.item_id}").json()
            if receipt["attempts"] < times:
                yield item
