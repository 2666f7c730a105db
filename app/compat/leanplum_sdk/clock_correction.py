"""Correct the time of each entry by the error of the sender's clock. Pure.

The `time` of a batch as a whole is the sender's clock when it sent the batch. Leanplum takes the
difference to its own clock and moves each entry's time by it. Entries that the gateway sends on
later come with the gateway's clock, so the gateway makes that correction (fact sheet §12).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.leanplum.values import LATEST

UNREADABLE = "time: the time of the call is not epoch seconds; the entry's time is not corrected"
OUT_OF_RANGE = "time: the time of the call is too far from now; the entry's time is not corrected"


@dataclass(frozen=True, slots=True)
class Correction:
    """What the entries of one call have to be moved by. `fault`: why that is not known."""

    seconds: float = 0.0
    fault: str | None = None

    def applied(self, entry: Mapping[str, Any]) -> tuple[Any, float | None, str | None]:
        """Return an entry's time, what it was moved by, and why it was left as it is.

        A time keeps its type: a text of digits stays one.
        """
        given = entry.get("time")
        found = epoch_seconds(given)
        if found is None or self.fault is not None or not self.seconds:
            return given, None, self.fault if found is not None else None
        moved = round(found + self.seconds, 6)
        if not 0 < moved < LATEST:
            return given, None, OUT_OF_RANGE
        return str(moved) if isinstance(given, str) else moved, self.seconds, None


NO_CORRECTION = Correction()


def correction_of(call_time: Any, received_at: int) -> Correction:
    """Return the correction for a batch with this `time`, received at `received_at` (ms)."""
    if call_time is None or call_time == "":
        return NO_CORRECTION
    sent_at = epoch_seconds(call_time)
    if sent_at is None:
        return Correction(fault=UNREADABLE)
    return Correction(round(received_at / 1000 - sent_at, 3))


def epoch_seconds(value: Any) -> float | None:
    """Return a time as epoch seconds; None for what is none, such as milliseconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < LATEST else None
