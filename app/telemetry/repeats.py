"""Failures that repeat: logged once, and then at growing intervals with a count.

While a database is away, each of thousands of writes fails in the same way. One line for each would
hide everything else, and fill the disk.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.telemetry.log_lines import LogLine

# Between two lines of one failure; each time twice as long
FIRST_SECONDS, MOST_SECONDS = 1.0, 300.0
MOST_KINDS = 1_000  # failures that are told apart at once
REPEATED = "repeated"  # the field with the number of lines that were left out
# Fields that differ although the failure is the same
VARYING = frozenset({"request_id", "trace_id", "attempt", "writes", "items"})


@dataclass(slots=True)
class _Failure:
    """A failure: when its next line may come, the interval until then, and what was left out."""

    line: LogLine
    next_at: float
    interval: float = FIRST_SECONDS
    left_out: int = 0

    def pop(self, now: float) -> dict[str, int]:
        """Return the count for the line that comes now; the next one comes after twice as long."""
        count = {REPEATED: self.left_out} if self.left_out else {}
        self.left_out = 0
        self.interval = min(MOST_SECONDS, 2 * self.interval)
        self.next_at = now + self.interval
        return count


class Repeats:
    """The failures that were logged lately."""

    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        """`ticks` is a monotonic clock, in seconds."""
        self._ticks = ticks
        self._failures: dict[str, _Failure] = {}
        self._lock = threading.Lock()

    def admit(self, line: LogLine) -> LogLine | None:
        """Return the line to log, with the number of those left out since the last; or None."""
        key, now = _identity(line.event, line.fields), self._ticks()
        with self._lock:
            failure = self._failures.get(key)
            if failure is None or _is_over(failure, now):
                self._make_room()
                self._failures[key] = _Failure(line, now + FIRST_SECONDS)
                return line
            failure.line = line
            if now < failure.next_at:
                failure.left_out += 1
                return None
            return _with(line, failure.pop(now))

    def due(self, *, at_end: bool = False) -> list[LogLine]:
        """Return lines for failures whose next line may come, and of which some were left out.

        `at_end`: return those of all.
        """
        now = self._ticks()
        with self._lock:
            waiting = [failure for failure in self._failures.values() if failure.left_out]
            ready = [failure for failure in waiting if at_end or now >= failure.next_at]
            return [_with(failure.line, failure.pop(now)) for failure in ready]

    def _make_room(self) -> None:
        """Forget the oldest failures, first those of which no line was left out."""
        while len(self._failures) >= MOST_KINDS:
            oldest = next(iter(self._failures))
            told = (key for key, failure in self._failures.items() if not failure.left_out)
            del self._failures[next(told, oldest)]


def _is_over(failure: _Failure, now: float) -> bool:
    """Return whether a failure did not occur for so long that the next one is a new one."""
    return not failure.left_out and now >= failure.next_at + failure.interval


def _identity(event: str, fields: Mapping[str, Any]) -> str:
    return repr((event, [(name, fields[name]) for name in fields if name not in VARYING]))


def _with(line: LogLine, count: Mapping[str, int]) -> LogLine:
    return line._replace(fields={**line.fields, **count})
