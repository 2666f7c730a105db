"""What processes have used so far, as the kernel counts it: processor time by thread, writes."""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_NUMBER = re.compile(r"_\d+$")  # of a thread of a pool
_WRITTEN = re.compile(r"^write_bytes: (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """Processor microseconds by name of the thread, and bytes written to storage."""

    threads: dict[str, float] = field(default_factory=dict)
    written: float = 0.0

    @property
    def processor(self) -> float:
        """Microseconds of all threads."""
        return sum(self.threads.values())

    def since(self, before: "Usage") -> "Usage":
        """Return what was used after `before`."""
        threads = {
            name: spent - before.threads.get(name, 0.0) for name, spent in self.threads.items()
        }
        return Usage(threads, self.written - before.written)

    def per(self, items: int) -> "Usage":
        """Return the share of one of `items`; nothing if there are none."""
        if not items:
            return Usage()
        threads = {name: spent / items for name, spent in self.threads.items()}
        return Usage(threads, self.written / items)


def read_usage(pids: Iterable[int]) -> Usage:
    """Return the sum over the processes that still run."""
    threads: dict[str, float] = {}
    written = 0
    for pid in pids:
        folder = Path("/proc") / str(pid)
        with suppress(OSError):  # it has ended
            written += _written(folder)
            for task in (folder / "task").iterdir():
                name = _name(task)
                threads[name] = threads.get(name, 0.0) + _nanoseconds(task) / 1e3
    return Usage(threads, written)


def _written(folder: Path) -> int:
    found = _WRITTEN.search((folder / "io").read_text())
    return int(found[1]) if found else 0


def _name(task: Path) -> str:
    return _NUMBER.sub("", (task / "comm").read_text().strip())


def _nanoseconds(task: Path) -> int:
    # Documentation/scheduler/sched-stats.rst: the time on a processor is the first of three fields.
    return int((task / "schedstat").read_text().split()[0])
