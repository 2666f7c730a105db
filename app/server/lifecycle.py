"""How far the process is on its way out, and how long each part of that may take.

A stop has three parts. While it drains, work is still taken. Then new work is refused, and what is
in flight may end. At last what still waits for others is cut off, so that there is time left to
write down what came of it. Whatever hangs all the same ends with the process (`Watchdog`).
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable

import structlog

# Shares of the shutdown time by which work is cut off, what came of it is written down, and all
# else.
CUT, SETTLE, CLOSE = 0.6, 0.8, 0.9
GIVE_UP = 0.1  # the share that what is given up has to be answered, before it is cut off by force
HANDLED_BY_KERNEL_SECONDS = 0.5  # after the watchdog's time; then not even a thread can run
LEAST_SECONDS = 1.5  # between the time by which all is written down, and the end by force
LOG_SECONDS = 0.2  # that a line of the log may take before the process ends without it
END_SECONDS = 3.0  # that the interpreter may take to end once everything is closed

log = structlog.get_logger("stop")
Hook = Callable[[], None]


class Lifecycle:
    """The parts of a stop, and what is to be done at the beginning of each.

    `on_drain`: answer those who only wait. `on_refuse`: begin nothing new. `on_cut`: give up what
    waits for others.
    """

    def __init__(
        self, shutdown_seconds: float = 20.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.shutdown_seconds = shutdown_seconds
        self.draining = False
        self.on_drain = list[Hook]()
        self.on_refuse = list[Hook]()
        self.on_cut = list[Hook]()
        self._clock = clock
        self._close_at: float | None = None  # by the clock: when all must be written down
        self._cut = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def refusing(self) -> bool:
        """Tell whether new work is refused."""
        return self._close_at is not None

    @property
    def left(self) -> float:
        """The seconds until all must be written down, not below zero."""
        if self._close_at is None:
            return CLOSE * self.shutdown_seconds
        return max(0.0, self._close_at - self._clock())

    @property
    def left_to_settle(self) -> float:
        """The seconds until what came of calls must be written down, not below zero."""
        return max(0.0, self.left - (CLOSE - SETTLE) * self.shutdown_seconds)

    def drain(self) -> None:
        """Begin to drain, once."""
        if not self.draining:
            self.draining = True
            log.info("stop.draining")
            _run(self.on_drain)

    def refuse(self) -> None:
        """Refuse new work from now on, once; what is in flight is cut off after its share."""
        if self.refusing:
            return
        self.drain()
        self._close_at = self._clock() + CLOSE * self.shutdown_seconds
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(CUT * self.shutdown_seconds, self.cut)
        log.info("stop.refusing")
        _run(self.on_refuse)

    def cut(self) -> None:
        """Give up, once, what still waits for others."""
        self.refuse()
        if self._cut.is_set():
            return
        assert self._close_at is not None
        self._cut.set()
        writing = (CLOSE - CUT) * self.shutdown_seconds
        self._close_at = min(self._close_at, self._clock() + writing)
        self._forget_timer()
        _run(self.on_cut)

    async def until_cut(self) -> None:
        """Wait until what is in flight is cut off."""
        await self._cut.wait()

    def close(self) -> None:
        """Nothing is left to cut off."""
        self._forget_timer()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _run(hooks: list[Hook]) -> None:
    for hook in hooks:
        hook()


class Watchdog:
    """Ends the process at a time, whatever hangs in it: a thread, the event loop, the exit
    itself.
    """

    def __init__(self) -> None:
        self._until: float | None = None
        self._exit_code = 1

    def arm_for(self, drain: float, shutdown: float) -> None:
        """End the process when a stop should be over that drains and shuts down in so many
        seconds.
        """
        self._arm(drain + max(shutdown, CLOSE * shutdown + LEAST_SECONDS))

    def _arm(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if self._until is not None and self._until <= until:
            return  # it is to end sooner
        first, self._until = self._until is None, until
        signal.setitimer(signal.ITIMER_REAL, seconds + HANDLED_BY_KERNEL_SECONDS)  # SIGALRM kills
        if first:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def all_is_closed(self) -> None:
        """Whatever hangs from now on holds nothing: the process may end in a moment, with 0."""
        self._exit_code = 0
        if self._until is not None:
            self._arm(END_SECONDS)
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self) -> None:
        while self._until is not None and (left := self._until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        telling = threading.Thread(target=self._tell, daemon=True)  # the log may hang as well
        telling.start()
        telling.join(LOG_SECONDS)
        os._exit(self._exit_code)

    def _tell(self) -> None:
        log.warning("stop.forced", exit_code=self._exit_code)
