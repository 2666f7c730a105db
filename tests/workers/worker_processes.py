"""The processes of `serve --workers N`, as the supervisor's log names them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import orjson

from app.limits.shared_memory import SharedMemory
from tests.support.processes import Process, serving_fresh
from tests.support.wait import until


class Worker:
    """One worker of a gateway: whichever process has its name."""

    def __init__(self, gateway: Process, name: str) -> None:
        self.gateway, self.name = gateway, name

    @property
    def pid(self) -> int:
        """The process that was ready last under this name."""
        return pids(self.gateway, self.name)[-1]

    def kill(self) -> None:
        """Kill the process, and wait until another is ready."""
        before = len(pids(self.gateway, self.name))
        os.kill(self.pid, signal.SIGKILL)
        until(lambda: len(pids(self.gateway, self.name)) > before)

    def start(self) -> None:
        """Do nothing: the supervisor has started another."""


def pids(gateway: Process, name: str) -> list[int]:
    """Return the processes that were ready under a name, in their order."""
    return [
        line["gateway.pid"]
        for line in lines(gateway, "worker.ready")
        if line["gateway.worker"] == name
    ]


def lines(gateway: Process, event: str) -> list[dict[str, Any]]:
    """Return the log lines of an event. A killed process may leave a part of another line."""
    named = f'"event.action":"{event}"'.encode()
    whole, _, _ = gateway.output.read_bytes().rpartition(b"\n")
    parsed = [orjson.loads(line) for line in whole.splitlines() if named in line]
    return [line for line in parsed if line["event.action"] == event]


def descendants(pid: int) -> list[int]:
    """Return the processes that a process and its children have started."""
    listed = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    children = [int(child) for child in listed.split()]
    return [one for child in children for one in (child, *descendants(child))]


def forkserver(gateway: Process) -> int | None:
    """Return the process that forks the workers, if there is one yet."""
    for pid in descendants(gateway.process.pid):
        if b"multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextmanager
def workers_serving(
    folder: Path, upstream: str, count: int, **settings: str | None
) -> Iterator[Process]:
    """A gateway with so many accepting workers, all of them ready."""
    names = [f"accepting-{number}" for number in range(1, count + 1)]
    given = {"GATEWAY_LOG_FORMAT": "json", **settings}
    with serving_fresh(folder, upstream, "--workers", str(count), **given) as gateway:
        until(lambda: all(pids(gateway, name) for name in [*names, "delivering"]))
        try:
            yield gateway
        finally:
            started = [line["gateway.pid"] for line in lines(gateway, "worker.ready")]
            if gateway.process.poll() is None:
                gateway.kill()
            until(lambda: not any(is_running(pid) for pid in started))


@contextmanager
def ended_process(
    target: Callable[[SharedMemory, Any], None], memory: SharedMemory
) -> Iterator[ForkServerProcess]:
    """A process that has begun its work, and is killed at the end of the block."""
    context = multiprocessing.get_context("forkserver")
    begun = context.Event()
    process = context.Process(target=target, args=(memory, begun))
    process.start()
    try:
        assert begun.wait(60)
        yield process
    finally:
        process.kill()
        process.join()
