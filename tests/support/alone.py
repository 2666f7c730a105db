"""Tests that measure time run alone: the other workers of a run wait.

Every test of a run with several workers holds a lock: shared, or exclusive if the test is marked
`timed`. The timed tests come first (`first`), and a worker keeps the exclusive lock from one of
them to the next.
"""

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Any two files that are there for the whole run would do
HERE = Path(__file__).resolve()
LOCKED, GATE = HERE, HERE.with_name("__init__.py")


def is_timed(item: pytest.Item | None) -> bool:
    """Return whether a test measures time."""
    return item is not None and item.get_closest_marker("timed") is not None


def first(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return the tests with the timed ones first."""
    return sorted(items, key=lambda item: not is_timed(item))


class Turns:
    """The lock of one worker, behind a gate that is shut while a timed test waits for its turn."""

    def __init__(self, locked: Path = LOCKED, gate: Path = GATE) -> None:
        self._lock, self._gate = locked.open("rb"), gate.open("rb")
        self._is_held = False

    @contextmanager
    def turn(self, item: pytest.Item, following: pytest.Item | None) -> Iterator[None]:
        """Hold the lock during a test; keep it if the test that follows is timed as well."""
        if not self._is_held:
            self._take(fcntl.LOCK_EX if is_timed(item) else fcntl.LOCK_SH)
        try:
            yield
        finally:
            self._is_held = is_timed(item) and is_timed(following)
            if not self._is_held:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files, which gives up what is held."""
        self._lock.close()
        self._gate.close()

    def _take(self, kind: int) -> None:
        fcntl.flock(self._gate, kind)
        fcntl.flock(self._lock, kind)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
