"""The attacks that no request makes: what the gateway stands on falls silent, goes away, or answers
with bombs.
"""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import httpx

from tests.attacks.measuring import (
    Caller,
    Measured,
    Row,
    Weight,
    Window,
    gateway_under,
    rest,
    simulator,
)
from tests.support.hostile_server import hostile
from tests.support.postgres import Server, postgresql
from tests.support.processes import Process
from tests.support.wait import until

HOSTILE_PER_SECOND = 10
KINDS = (
    "a gzip bomb",
    "a gzip bomb in a gzip",
    "an endless body",
    "endless headers",
    "very many values",
)
Outage = Callable[[], AbstractContextManager[None]]


def hostile_leanplum(folder: Path, seconds: float, before: float) -> Row:
    """Leanplum answers bombs and endless responses to items and to relayed calls."""
    short = {"GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "2", "GATEWAY_RELAY_TIMEOUT_SECONDS": "2"}
    with (
        hostile() as server,
        gateway_under(folder, server.url, LEANPLUM_DATA_EXPORT_KEY="exp_sandbox", **short) as one,
    ):

        def attacking(until_then: float) -> Counter[str]:
            answers, number = Counter[str](), 0
            while time.monotonic() < until_then:
                number += 1
                server.kind = KINDS[number % len(KINDS)]
                answers[str(one.event(f"hostile-{number}", number).status_code)] += 1
                if number % HOSTILE_PER_SECOND == 0:
                    answers[str(one.call("GET", f"/v1/users/hostile-{number}").status_code)] += 1
                time.sleep(1 / HOSTILE_PER_SECOND)
            return answers

        return _row(
            "hostile-leanplum",
            "bombs and endless answers from Leanplum",
            one,
            attacking,
            seconds,
            before,
        )


def deleted_file(folder: Path, seconds: float, before: float) -> Row:
    """SQLite's files are moved away and put back."""

    @contextmanager
    def away() -> Iterator[None]:
        hidden = folder / "hidden"
        hidden.mkdir()
        files = sorted(folder.glob("g.db*"))
        for file in files:
            shutil.move(file, hidden / file.name)
        try:
            yield
        finally:
            for file in files:
                shutil.move(hidden / file.name, file)

    with simulator() as upstream, gateway_under(folder, upstream) as gateway:
        return _outage(
            "deleted-file",
            "SQLite's files are moved away, and back",
            gateway,
            away,
            seconds,
            before,
        )


def silent_database(
    folder: Path, seconds: float, before: float, server: Server, commit_seconds: int
) -> Row:
    """PostgreSQL is stopped by a signal: it answers nothing, and no connection ends."""
    more = {"GATEWAY_DATABASE_URL": server.empty(), "GATEWAY_COMMIT_SECONDS": str(commit_seconds)}
    with simulator() as upstream, gateway_under(folder, upstream, **more) as gateway:
        what = "PostgreSQL is stopped by a signal, and goes on"
        return _outage("silent-database", what, gateway, lambda: stopped(server), seconds, before)


def silent_database_alone(folder: Path, seconds: float, before: float) -> Row:
    """The same, with a server of its own."""
    with postgresql() as server:
        return silent_database(folder, seconds, before, server, 10)


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Every process of a PostgreSQL is stopped for as long as this lasts."""
    told = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.pid)], capture_output=True, text=True, check=True
    )
    pids = [server.pid, *map(int, told.stdout.split())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _outage(
    name: str, what: str, gateway: Process, outage: Outage, seconds: float, before: float
) -> Row:
    """Ask `/readyz` and `/livez` during an outage; then all must go on by itself."""

    def asking(until_then: float) -> Counter[str]:
        answers = Counter[str]()
        with outage(), httpx.Client(base_url=gateway.url, timeout=30, trust_env=False) as http:
            while time.monotonic() < until_then:
                for path in ("/readyz", "/livez"):
                    answers[f"{path} {http.get(path).status_code}"] += 1
                time.sleep(0.2)
        return answers

    row = _row(name, what, gateway, asking, seconds, before)
    assert gateway.event("after", 1).status_code == 202
    return row


def _row(
    name: str,
    what: str,
    gateway: Process,
    act: Callable[[float], Counter[str]],
    seconds: float,
    before: float,
) -> Row:
    until(lambda: gateway.event("first", 1).status_code == 202)
    caller = Caller(gateway)
    try:
        quiet = rest(gateway.process.pid, before)
        with Weight(gateway.process.pid) as weight:
            began = time.monotonic()
            answers = act(began + seconds)
            during = Window(began, time.monotonic())
        until(gateway.ready, 30)
        events = caller.end()
    finally:
        caller.close()
    return Measured(name, what, quiet, during, dict(answers), weight).row(events, since_sent=True)
