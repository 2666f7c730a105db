"""Relayed calls and deliveries for the same users, from two API processes and two deliverers.

`GATEWAY_TESTS_FLEET_SECONDS` says how long the load lasts; `make soak` sets 60.
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count as numbers
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import APP_ID, PRODUCTION_KEY, Process, delivering, fleet
from tests.support.wait import until

from . import journal
from .stored import WAITING, counting, stuck

SECONDS = float(os.environ.get("GATEWAY_TESTS_FLEET_SECONDS", "4"))
USERS = [f"u{number}" for number in range(24)]
WRITERS, CALLERS, ERASERS = 2, 16, 2
STARTS = 2  # sessions of a user who is being erased that begin at once through each process
PAUSE = 0.6  # between the rounds of a writer: a user has nothing waiting now and then
KEYS = {"LEANPLUM_DEVELOPMENT_KEY": "dev_sandbox", "LEANPLUM_DATA_EXPORT_KEY": "exp_sandbox"}
ASKS = (("POST", "sessions"), ("POST", "sessions"), ("GET", "variables"), ("GET", ""))
BUSY = (429, 503)


@pytest.fixture
def leanplum() -> Iterator[str]:
    config = SimulatorConfig(
        app_id=APP_ID,
        production_key=PRODUCTION_KEY,
        latency_seconds=0.1,
        deduplicate=False,
        keep_requests=10**6,
    )
    with BackgroundServer(config) as server:
        yield server.url


def ask(gateway: Process, method: str, user: str, what: str) -> httpx.Response:
    """Make a call that is relayed to Leanplum while its caller waits."""
    path = f"/v1/users/{user}/{what}".rstrip("/")
    return gateway.call(method, path, **({} if method == "GET" else {"json": {}}))


def start(gateway: Process, user: str) -> httpx.Response:
    return ask(gateway, "POST", user, "sessions")


def started(gateway: Process, user: str) -> bool:
    return start(gateway, user).status_code == 200


def accepted(gateway: Process, items: Sequence[dict[str, Any]]) -> None:
    answer = gateway.call("POST", "/v1/batch", json={"items": items})
    assert answer.status_code == 202, answer.text


def erase(gateway: Process, user: str) -> None:
    answer = gateway.call("DELETE", f"/v1/users/{user}")
    assert answer.status_code == 202, answer.text


def event(user: str, number: int) -> dict[str, Any]:
    return {"action": "track", "userId": user, "event": "E", "value": number}


def update(user: str, number: int) -> dict[str, Any]:
    return {"action": "setUserAttributes", "userId": user, "userAttributes": {"number": number}}


def number_of(action: dict[str, Any]) -> int | None:
    """Return the number that a writer gave the item, None for what no writer has made."""
    if action["action"] == "track":
        return int(action["value"])
    if action["action"] == "setUserAttributes":
        return int(action["userAttributes"]["number"])
    return None


class Load:
    """Backends that write, call and erase at the same time, each by one process of the gateway
    after the other.
    """

    def __init__(self, gateways: Sequence[Process]) -> None:
        self._gateways, self._ended = gateways, threading.Event()
        self._chance = random.SystemRandom()
        self.items = dict.fromkeys(USERS, 0)
        self.asked = Counter[int]()  # answers to relayed calls, by status
        self.erased = list[str]()
        self._started = numbers()

    @contextmanager
    def running(self) -> Iterator[None]:
        tasks: list[Callable[[], None]] = [
            *(partial(self._write, USERS[number::WRITERS]) for number in range(WRITERS)),
            *([self._call] * CALLERS),
            *([self._erase] * ERASERS),
        ]
        with ThreadPoolExecutor(len(tasks)) as threads:
            running: list[Future[None]] = [threads.submit(task) for task in tasks]
            try:
                yield
            finally:
                self._ended.set()
            for task in running:
                task.result()

    def make_users(self) -> None:
        """Post a first item of each user."""
        self._post(USERS, 0)

    def _any(self) -> Process:
        return self._chance.choice(self._gateways)

    def _write(self, users: Sequence[str]) -> None:
        """Post a numbered event or update of each user, then the next."""
        for number in numbers(1):
            self._post(users, number)
            if self._ended.wait(PAUSE):
                return

    def _post(self, users: Sequence[str], number: int) -> None:
        kind = self._chance.choice([event, update])
        accepted(self._any(), [kind(user, number) for user in users])
        self.items |= dict.fromkeys(users, number + 1)

    def _call(self) -> None:
        """Make relayed calls for users of the writers."""
        while not self._ended.is_set():
            method, what = self._chance.choice(ASKS)
            answer = ask(self._any(), method, self._chance.choice(USERS), what)
            self.asked[answer.status_code] += 1

    def _erase(self) -> None:
        """Erase one user after the other, in the middle of calls that would make it anew."""
        while not self._ended.is_set():
            user = f"erased{next(self._started)}"
            until(partial(started, self._any(), user), 60)
            with ThreadPoolExecutor(2 * STARTS) as threads:
                begun = threading.Semaphore(0)
                starts = [
                    threads.submit(self._start_until_refused, gateway, user, begun)
                    for gateway in [*self._gateways] * STARTS
                ]
                begun.acquire()
                if self._chance.random() < 0.5:
                    accepted(self._any(), [event(user, 0)])
                erase(self._any(), user)
                for one in starts:
                    one.result()
            self.erased.append(user)

    def _start_until_refused(self, gateway: Process, user: str, begun: threading.Semaphore) -> None:
        """Start sessions of a user, one after the other, until it is refused since the user was
        erased.
        """

        def refused() -> bool:
            status = start(gateway, user).status_code
            self.asked[status] += 1
            begun.release()
            return status == 403

        until(refused, 60)


def there(simulator: str, users: Sequence[str]) -> list[str]:
    """Return which of the users exist at Leanplum."""
    with httpx.Client(base_url=simulator, trust_env=False) as http:
        return [user for user in users if http.get(f"/_simulator/users/{user}").status_code == 200]


def test_relayed_calls_and_deliveries_of_several_processes_never_overlap_nor_bring_an_erased_user_back(
    tmp_path: Path, record_property: Callable[[str, object], None], database: str, leanplum: str
) -> None:
    with ExitStack() as stack:
        gateways = stack.enter_context(
            fleet(tmp_path, leanplum, apis=2, deliverers=2, GATEWAY_DATABASE_URL=database, **KEYS)
        )
        waiting = stack.enter_context(counting(database))
        load = Load(gateways)
        load.make_users()
        assert stuck(waiting, WAITING) == 0
        with load.running():
            threading.Event().wait(SECONDS)
        left = stuck(waiting, WAITING)
        calls = journal.calls(leanplum)
        done = journal.done_for(calls)
        taken = {
            user: [n for _, one in done[user] if (n := number_of(one)) is not None]
            for user in USERS
        }
        counts = {
            "items": sum(load.items.values()),
            "relayed": load.asked.total(),
            "answered 429 or 503": sum(load.asked[status] for status in BUSY),
            "erasures": len(load.erased),
            "overlaps": len(journal.overlaps(calls)),
            "out of order": sum(taken[user] != list(range(load.items[user])) for user in USERS),
            "erased users there again": len(there(leanplum, load.erased)),
            "stuck": left,
        }
        record_property("counts", counts)  # in the report of --junit-xml, which `make soak` writes
        record_property("answers", dict(load.asked))
        wrong = ("overlaps", "out of order", "erased users there again", "stuck")
        assert {name: counts[name] for name in wrong} == dict.fromkeys(wrong, 0), (
            counts,
            load.asked,
        )
        assert load.asked.keys() <= {200, 403, *BUSY}, load.asked
        assert load.asked[200] > load.asked.total() / 2, load.asked
        assert load.erased
        assert counts["items"] > len(USERS)


def test_a_relayed_start_does_not_overtake_the_deletion_of_its_user_that_waits(
    tmp_path: Path, database: str, leanplum: str
) -> None:
    """Nothing is delivered until both were asked for, and the user's items are taken again at once
    after an erasure.
    """
    settings = KEYS | {"GATEWAY_DATABASE_URL": database, "GATEWAY_ERASED_SECONDS": "0"}
    with fleet(tmp_path, leanplum, apis=2, deliverers=0, **settings) as (first, second):
        through = {"ann": first, "bob": second}
        for user, gateway in through.items():
            assert start(gateway, user).status_code == 200
            erase(first, user)
            start(gateway, user)
        with delivering(first, "one"):
            for user, gateway in through.items():
                until(partial(started, gateway, user), 60)
        done = journal.done_for(journal.calls(leanplum))
        actions = {user: [one["action"] for _, one in done[user]] for user in through}
        assert actions == {user: ["start", "deleteUser", "start"] for user in through}
