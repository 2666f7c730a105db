"""Starts the gateway's commands fast: a process that has imported the gateway forks one for each
command, so that none spends 1.5 s of processor time on imports.

What it forks is a process like any other, with memory, files and connections of its own, which can
be killed. Only its environment as /proc shows it, and its name, are the fork server's: tests that
look at those start a fresh interpreter instead (`processes.spawn_fresh`).

    python -m tests.support.fork_server FOLDER    reads orders, a line of JSON each, answers with
                                                  process ids, and writes how each process ended
                                                  into FOLDER/ID
"""

import atexit
import contextlib
import gc
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
REAP_SECONDS = 20.0  # that the fork server may take, on a busy machine, to say how a process ended


class Forked:
    """A process that the fork server has started, as `subprocess.Popen` shows one."""

    def __init__(self, pid: int, status: Path) -> None:
        self.pid, self._status = pid, status
        self._returncode: int | None = None
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._pidfd = -1

    def poll(self) -> int | None:
        """Return the exit code, minus the signal where one ended it; None while it runs."""
        if self._returncode is None and self._has_ended(0):
            self._returncode = self._read_status()
        return self._returncode

    def wait(self, timeout: float | None = None) -> int:
        if self._returncode is None:
            if not self._has_ended(timeout):
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            self._returncode = self._read_status()
        return self._returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _has_ended(self, timeout: float | None) -> bool:
        if self._pidfd < 0:
            return True
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))

    def _read_status(self) -> int:
        deadline = time.monotonic() + REAP_SECONDS
        while not self._status.exists():
            assert time.monotonic() < deadline, "the fork server does not say how a process ended"
            time.sleep(0.001)
        code = os.waitstatus_to_exitcode(int(self._status.read_text()))
        self._status.unlink()
        return code

    def __del__(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)


class ForkServer:
    """The test's side of a fork server, which ends with this process.

    Threads may share it: one order is answered before the next is sent.
    """

    def __init__(self) -> None:
        self._one_order = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="forks", ignore_cleanup_errors=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", self._folder.name],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)

    def close(self) -> None:
        """End the fork server; what it has forked goes on."""
        self._process.communicate()
        self._folder.cleanup()

    def fork(
        self,
        words: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
    ) -> Forked:
        """Start a command of the gateway in a folder, with what it prints appended to files."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        errors = errors or output
        for path in (output, errors):
            path.touch()  # whoever reads it need not wait until the process has begun
        order = {
            "words": list(words),
            "folder": str(folder),
            "env": dict(env),
            "output": str(output),
            "errors": str(errors),
        }
        with self._one_order:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            pid = int(self._process.stdout.readline())
        return Forked(pid, Path(self._folder.name) / str(pid))


_starting = threading.Lock()


def fork_server() -> ForkServer:
    """Return the fork server of this test process, started when it is first needed."""
    with _starting:  # a cached function may be called twice by two threads
        return _started()


@cache
def _started() -> ForkServer:
    return ForkServer()


def serve_orders(folder: Path) -> None:
    """Fork a process for each order until there are no more."""

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                fresh = folder / f"{pid}.new"
                fresh.write_text(str(status))
                fresh.rename(folder / str(pid))

    _import_everything()
    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(json.loads(line))
        print(pid, flush=True)  # noqa: T201


def _import_everything() -> None:
    """Import what the commands import when they run."""
    import app

    for module in pkgutil.walk_packages(app.__path__, "app."):
        if ".migrations" not in module.name:
            import_module(module.name)
    # Click names the program after its main module
    sys.modules["__main__"] = import_module("app.__main__")
    gc.freeze()  # a collection in a forked process would copy every page


def _run(order: dict[str, Any]) -> NoReturn:
    """Become the process that was ordered."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    nothing = os.open(os.devnull, os.O_RDONLY)
    output, errors = (os.open(order[name], flags) for name in ("output", "errors"))
    for source, target in ((nothing, 0), (output, 1), (errors, 2)):
        os.dup2(source, target)
        os.close(source)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = [str(ROOT / "app" / "__main__.py"), *order["words"]]
    code: Any = 1
    try:
        import_module("app.cli.main").main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        if isinstance(code, str):
            print(code, file=sys.stderr)  # noqa: T201
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    serve_orders(Path(sys.argv[1]))
