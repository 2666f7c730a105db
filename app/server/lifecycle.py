"""The steps of a stop, and how long each of them may take.

A stop has three steps. While the process drains, it still accepts work. Then it refuses new work,
and work in flight may finish. At last, work that still waits for others is cut off, so that there
is time left to store its outcome. The `Watchdog` ends the process if anything hangs all the same.
"""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

import structlog

# Shares of the shutdown time after which work in flight is cut off, outcomes are stored, and
# everything else is closed
CUT, SETTLE, CLOSE = 0.6, 0.8, 0.9
# The share that work has to end by itself once it is asked to give up, before it is canceled
GIVE_UP = 0.1
KERNEL_SECONDS = 0.5  # after the watchdog's time: then the kernel ends the process, by SIGALRM
LEAST_SECONDS = 1.5  # between the time by which everything is stored, and the forced end
LOG_SECONDS = 0.2  # that writing a log line may take before the process ends without it
EXIT_SECONDS = 3.0  # that the interpreter may take to exit once everything is closed

log = structlog.get_logger("stop")
Hook = Callable[[], None]


class Lifecycle:
    """The steps of a stop, and the hooks that are called at the beginning of each.

    `on_drain` answers callers who only wait. `on_refuse` begins nothing new. `on_cut` gives up work
    that waits for others.
    """

    def __init__(
        self, shutdown_seconds: float = 20.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.shutdown_seconds = shutdown_seconds
        self.draining = False
        self.replaced = False  # another process goes on accepting at this address
        self.on_drain = list[Hook]()
        self.on_refuse = list[Hook]()
        self.on_cut = list[Hook]()
        self._clock = clock
        self._close_at: float | None = None  # by the clock: when everything must be stored
        self._cut = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def refusing(self) -> bool:
        """Tell whether new work is refused."""
        return self._close_at is not None

    @property
    def left(self) -> float:
        """The seconds until everything must be stored, at least zero."""
        if self._close_at is None:
            return CLOSE * self.shutdown_seconds
        return max(0.0, self._close_at - self._clock())

    @property
    def left_to_settle(self) -> float:
        """The seconds until the outcomes of calls must be stored, at least zero."""
        return max(0.0, self.left - (CLOSE - SETTLE) * self.shutdown_seconds)

    def drain(self) -> None:
        """Begin to drain; later calls do nothing."""
        if not self.draining:
            self.draining = True
            log.info("stop.draining")
            _call(self.on_drain)

    def refuse(self) -> None:
        """Refuse new work from now on, and schedule the cut; later calls do nothing."""
        if self.refusing:
            return
        self.drain()
        self._close_at = self._clock() + CLOSE * self.shutdown_seconds
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(CUT * self.shutdown_seconds, self.cut)
        log.info("stop.refusing")
        _call(self.on_refuse)

    def cut(self) -> None:
        """Give up work that still waits for others; later calls do nothing."""
        self.refuse()
        if self._cut.is_set():
            return
        assert self._close_at is not None
        self._cut.set()
        seconds_to_store = (CLOSE - CUT) * self.shutdown_seconds
        self._close_at = min(self._close_at, self._clock() + seconds_to_store)
        self._cancel_timer()
        _call(self.on_cut)

    async def until_cut(self) -> None:
        """Wait until work in flight is cut off."""
        await self._cut.wait()

    def close(self) -> None:
        """Cancel the scheduled cut: nothing is left in flight."""
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def cancel_and_wait(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _call(hooks: list[Hook]) -> None:
    for hook in hooks:
        hook()


class Watchdog:
    """A timer that ends the process, whatever hangs: a thread, the event loop, or the exit."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._exit_code = 1

    def arm_for(self, drain: float, shutdown: float) -> None:
        """End the process once a stop that takes so many seconds should be over."""
        self._arm(drain + max(shutdown, CLOSE * shutdown + LEAST_SECONDS))

    def _arm(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if self._until is not None and self._until <= until:
            return  # an earlier end is set already
        first = self._until is None
        self._until = until
        # If the interpreter itself hangs, no thread runs; then the kernel ends the process
        signal.setitimer(signal.ITIMER_REAL, seconds + KERNEL_SECONDS)
        if first:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Report that everything is closed: the process may end at any moment, with exit code 0."""
        self._exit_code = 0
        if self._until is not None:
            self._arm(EXIT_SECONDS)
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self) -> None:
        while self._until is not None and (left := self._until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        logging_thread = threading.Thread(target=self._log, daemon=True)  # the log may hang too
        logging_thread.start()
        logging_thread.join(LOG_SECONDS)
        os._exit(self._exit_code)

    def _log(self) -> None:
        log.warning("stop.forced", exit_code=self._exit_code)
