"""Starts the gateway's commands fast: a process that has imported the gateway forks one for each
command.

What it forks is a process like any other, with memory, files and connections of its own, which can
be killed. Only the imports are done already, which take longer than the rest of a start.

    python -m tests.acceptance.fork_server    reads orders, a line of JSON each, and answers with process ids
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

from .processes import ROOT, command, environment


class Forked:
    """A process that the fork server has started, as the tests need it: its exit code is not known
    here.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self._pidfd = pid, os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return None while it runs."""
        ended, _, _ = select.select([self._pidfd], [], [], 0)
        return 0 if ended else None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        ended, _, _ = select.select([self._pidfd], [], [], timeout)
        if not ended:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return 0

    def __del__(self) -> None:
        os.close(self._pidfd)


class ForkServer:
    """The test's side of a fork server."""

    def __init__(self, orders: IO[str], pids: IO[str]) -> None:
        self._orders, self._pids = orders, pids

    def spawn(
        self, words: Sequence[str], folder: Path, env: Mapping[str, str], output: Path
    ) -> Forked:
        """Start a command as `processes.spawn` does."""
        start = command()
        assert list(words[: len(start)]) == start, (
            "only commands of the gateway itself can be forked"
        )
        order = {
            "words": list(words[len(start) :]),
            "folder": str(folder),
            "env": dict(env),
            "output": str(output),
        }
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()
        return Forked(int(self._pids.readline()))


@contextmanager
def fork_server(folder: Path) -> Iterator[ForkServer]:
    """Run a fork server, which ends with the context; what it has forked does not."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.fork_server"],
        cwd=ROOT,
        env=environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield ForkServer(process.stdin, process.stdout)


def serve_orders() -> None:
    """Fork a process for each order until there are no more."""
    from app.cli import main

    # The commands import it when they are run, and all else with it.
    import_module("app.server.sandbox")
    # The kernel forgets children once they have ended
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(json.loads(line), main.main)
        print(pid, flush=True)  # noqa: T201


def _run(order: dict[str, Any], run: Any) -> NoReturn:
    """Become the process that was ordered."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["app", *order["words"]]
    code: Any = 1
    try:
        run()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    serve_orders()
