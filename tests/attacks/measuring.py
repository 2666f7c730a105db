"""Starts a gateway, the well-behaved caller and one attacker after another, and makes the rows of
the table.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from app.callers import key_format
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.attacks.rows import Attack
from tests.attacks.sending import Target
from tests.support.processes import APP_ID, PRODUCTION_KEY, ROOT, Process, serving
from tests.support.wait import until

TICKS = os.sysconf("SC_CLK_TCK")
MANY = 1_000_000  # connections: as many as an attack has
MEBIBYTE = 1024 * 1024
LOOKS = 0.05  # seconds between two looks at the gateway's memory
# What the gateway may use of a core between attacks, and how long that is awaited
IDLE, IDLE_SECONDS = 0.3, 15.0
# An e-mail rule and patterns that engines with backtracking never finish. Addresses are never
# locked out, which is the harder case: as many attackers as there are addresses.
RULES = r"""
[[privacy]]
do = "mask"
values = '[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}'

[[privacy]]
do = "drop"
values = '(a+)+$'

[[privacy]]
do = "hash"
paths = ['(c+)+$']
"""
SETTINGS: Mapping[str, str | None] = {
    "GATEWAY_FAILED_AUTH_PER_MINUTE": "1000000",
    "GATEWAY_RATE_BURST": None,  # the default
    "LEANPLUM_DEVELOPMENT_KEY": "dev_sandbox",
}


@dataclass(frozen=True)
class Span:
    """How long answers took, in milliseconds."""

    count: int
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Span":
        ordered = sorted(seconds)
        if not ordered:
            return cls(0, 0.0, 0.0, 0.0)
        p50, p99, longest = (_percentile(ordered, share) * 1000 for share in (0.5, 0.99, 1.0))
        return cls(len(ordered), round(p50, 1), round(p99, 1), round(longest, 1))


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


@dataclass(frozen=True)
class Row:
    """One attack: the well-behaved caller before it and during it, and what it took of the
    gateway.
    """

    name: str
    what: str
    seconds: float
    requests: int
    answers: dict[str, int]
    before: Span
    during: Span
    outcomes: dict[str, int]  # of the well-behaved caller's events meanwhile
    processor_seconds: float
    waited_seconds: float  # that the gateway's event loop was ready to run and had no processor
    memory_mb: int  # at most, resident
    grown_mb: int  # beyond what was resident before

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Window:
    """A part of the run, by the clock that all processes share."""

    began: float
    ended: float

    def holds(self, moment: float) -> bool:
        return self.began <= moment < self.ended


@dataclass(frozen=True)
class Event:
    """One of the well-behaved caller's."""

    due: float
    since_due: float
    since_sent: float
    outcome: str

    @property
    def sent(self) -> float:
        return self.due + self.since_due - self.since_sent


class Caller:
    """The well-behaved caller's process."""

    def __init__(self, gateway: Process) -> None:
        self._process = started("caller", str(gateway.port))
        say(self._process, gateway.key)
        assert pipe(self._process.stdout).readline() == "ready\n"

    def end(self) -> list[Event]:
        """What became of its events."""
        told, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0
        return [Event(*one) for one in json.loads(told)]

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)


def started(module: str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"tests.attacks.{module}", *words]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def say(process: "subprocess.Popen[str]", line: str) -> None:
    pipe(process.stdin).write(line + "\n")
    pipe(process.stdin).flush()


def pipe(one: IO[str] | None) -> IO[str]:
    assert one is not None
    return one


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def waited_seconds(pid: int) -> float:
    """How long the process's first thread, which answers, was ready to run and had no processor."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Weight:
    """What a process takes while the context lasts: processor time, and memory at most."""

    def __init__(self, pid: int) -> None:
        self._pid, self._ended = pid, threading.Event()
        self.processor_seconds = self.waited_seconds = 0.0
        self.before = self.most = resident(pid)

    def __enter__(self) -> "Weight":
        self._began = processor_seconds(self._pid), waited_seconds(self._pid)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.processor_seconds = processor_seconds(self._pid) - self._began[0]
        self.waited_seconds = waited_seconds(self._pid) - self._began[1]

    def _look(self) -> None:
        while not self._ended.wait(LOOKS):
            self.most = max(self.most, resident(self._pid))


@dataclass(frozen=True)
class Measured:
    """An attack that was made, before the caller has said what it noticed."""

    name: str
    what: str
    before: Window
    during: Window
    answers: dict[str, int]
    weight: Weight

    def row(self, events: Sequence[Event], *, since_sent: bool = False) -> Row:
        """`since_sent`: an event counts from when it was sent, as where each waits for a deadline
        of its own.
        """
        meanwhile = [
            one for one in events if self.during.holds(one.sent if since_sent else one.due)
        ]
        before = [one.since_due for one in events if self.before.holds(one.due)]
        return Row(
            self.name, self.what, round(self.during.ended - self.during.began, 1), sum(self.answers.values()),
            self.answers, Span.of(before),
            Span.of([one.since_sent if since_sent else one.since_due for one in meanwhile]),
            dict(Counter(one.outcome for one in meanwhile)), round(self.weight.processor_seconds, 2),
            round(self.weight.waited_seconds, 2),
            self.weight.most // MEBIBYTE, (self.weight.most - self.weight.before) // MEBIBYTE,
        )  # fmt: skip


def rest(pid: int, seconds: float) -> Window:
    """Wait until the gateway is idle but for its well-behaved caller, and so many seconds more,
    which are returned.
    """
    deadline = time.monotonic() + min(IDLE_SECONDS, 10 * seconds)
    while time.monotonic() < deadline:
        used, began = processor_seconds(pid), time.monotonic()
        time.sleep(0.3)
        if (processor_seconds(pid) - used) / (time.monotonic() - began) < IDLE:
            break
    began = time.monotonic()
    time.sleep(seconds)
    return Window(began, time.monotonic())


def attack(
    gateway: Process, target: Target, one: Attack, seconds: float, before: float, connections: int
) -> Measured:
    """Make one attack for so many seconds, after so many of quiet."""
    attacker = started("attacker", one.name, str(seconds), str(min(one.connections, connections)))
    try:
        say(attacker, json.dumps(asdict(target)))
        assert pipe(attacker.stdout).readline() == "ready\n"
        quiet = rest(gateway.process.pid, before)
        with Weight(gateway.process.pid) as weight:
            began = time.monotonic()
            told, _ = attacker.communicate("\n", timeout=seconds + 90)
            during = Window(began, time.monotonic())
        return Measured(one.name, one.what, quiet, during, json.loads(told), weight)
    finally:
        if attacker.poll() is None:
            attacker.kill()
            attacker.wait(10)


def target_of(gateway: Process) -> Target:
    """Make the attackers' keys."""

    def made(name: str, *scopes: str, **more: int) -> tuple[str, str]:
        answer = gateway.call("POST", "/v1/keys", json={"name": name, "scopes": scopes, **more})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"], answer.json()["key"]

    until(lambda: gateway.event("first", 1).status_code == 202)
    return Target(
        gateway.port,
        sdk=made("phone", "sdk")[1],
        writer=made("backend", "events:write")[1],
        poor=made("poor", "events:write", "sdk", ratePerSecond=1)[1],
        half=made("half", "events:write", "sdk", ratePerSecond=1, rateBurst=1_500)[1],
        manager=made("manager", "keys:manage", "sdk")[1],
        changed=made("changed", "sdk")[0],
        unknown=key_format.make(),
    )


@contextmanager
def gateway_under(folder: Path, upstream: str, **settings: str | None) -> Iterator[Process]:
    (folder / "rules.toml").write_text(RULES)
    more = {**SETTINGS, "GATEWAY_ENRICHMENT_FILE": str(folder / "rules.toml"), **settings}
    with serving(folder, upstream, **more) as gateway:
        yield gateway


@contextmanager
def simulator() -> Iterator[str]:
    with BackgroundServer(SimulatorConfig(app_id=APP_ID, production_key=PRODUCTION_KEY)) as server:
        yield server.url


def measured(
    folder: Path, attacks: Sequence[Attack], seconds: float, before: float, connections: int = MANY
) -> list[Row]:
    """Make the attacks one after another on one gateway, with so many connections at most."""
    with simulator() as upstream, gateway_under(folder, upstream) as gateway:
        target, caller = target_of(gateway), Caller(gateway)
        try:
            made = [attack(gateway, target, one, seconds, before, connections) for one in attacks]
            events = caller.end()
        finally:
            caller.close()
    return [one.row(events) for one in made]
