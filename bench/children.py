"""Child processes: start, wait until ready, pin to a core, pause, measure memory, stop by pid."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

START_LIMIT = 60.0
STOP_LIMIT = 8.0
POLL = 0.05


class ChildFailed(Exception):
    """A process did not start or ended early; the message has its name and the end of its log."""


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pinned_to(core: int | None) -> Callable[[], None] | None:
    """Return a function for a child to call first, which pins it and its threads to `core`."""
    return None if core is None else lambda: os.sched_setaffinity(0, {core})


def process_tree(pid: int) -> Iterator[int]:
    """Yield the pids of a process and its descendants."""
    yield pid
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread or the process has ended meanwhile
            for child in listing.read_text().split():
                yield from process_tree(int(child))


def proportional_mb(pid: int) -> float:
    """Return the proportional set size (PSS) of one process in megabytes.

    A page that several processes share counts in parts, so the sum over forked processes is what
    they use together.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


@dataclass
class Child:
    """A server process that the benchmark started."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    def pids(self) -> Iterator[int]:
        """Yield the pids of the process and of those that it started, parents first."""
        return process_tree(self.process.pid)

    def pss(self) -> float:
        """Return the megabytes of memory (PSS), including child processes."""
        return sum(proportional_mb(pid) for pid in self.pids())

    def pause(self) -> None:
        """Stop all its processes, each before its children, so that none is started meanwhile."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let all its processes continue."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill all its processes."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is not None:
            return
        for pid in self.pids():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause its processes during the block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Run its paused processes during the block, so that deferred work counts in its slices."""
        self.resume()
        try:
            yield
        finally:
            self.pause()

    def answers(self, path: str) -> bool:
        """Return True if a GET is answered with 200."""
        with suppress(OSError), urllib.request.urlopen(self.url + path, timeout=1) as answer:
            return int(answer.status) == 200
        return False

    def wait_ready(self, path: str) -> None:
        """Wait until it answers. Raises ChildFailed if it ends first or takes too long."""
        deadline = time.monotonic() + START_LIMIT
        while not self.answers(path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} did not become ready\n{self.log_end()}")
            time.sleep(POLL)

    def log_end(self) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Fleet:
    """All processes of a run; leaving the block stops those that still run."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self._root, self._scratch = root, scratch
        self._children: list[Child] = []

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(*self._children)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        port: int = 0,
        ready: str = "",
        env: Mapping[str, str],
        core: int | None,
    ) -> Child:
        """Start a process; if it is a server, wait until it answers on the path `ready`."""
        log = self._scratch / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                cwd=self._root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=pinned_to(core),
            )
        child = Child(name, port, process, log)
        self._children.append(child)
        if ready:
            child.wait_ready(ready)
        return child

    def stop(self, *children: Child) -> None:
        """Terminate children, and kill those that do not end in time."""
        deadline = time.monotonic() + STOP_LIMIT
        for child in children:
            child.process.send_signal(signal.SIGTERM)
            child.resume()
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
        self._children = [child for child in self._children if child not in children]

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Stop, at the end of the block, all children started inside."""
        before = list(self._children)
        try:
            yield
        finally:
            self.stop(*(child for child in self._children if child not in before))

    def run(self, argv: Sequence[str], *, core: int | None, limit: float, text: str = "") -> str:
        """Run a program and return its output. Raises ChildFailed on failure or timeout."""
        try:
            done = subprocess.run(
                argv,
                cwd=self._root,
                input=text,
                capture_output=True,
                text=True,
                timeout=limit,
                preexec_fn=pinned_to(core),
            )
        except subprocess.TimeoutExpired as late:
            raise ChildFailed(f"{argv[0]} was still running after {limit:.0f} s") from late
        if done.returncode:
            raise ChildFailed(
                f"{argv[0]} ended with status {done.returncode}\n{done.stderr[-1000:]}"
            )
        return done.stdout
