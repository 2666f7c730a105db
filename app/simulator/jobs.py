"""Asynchronous jobs: exports and CSV jobs, and how many exports a day may be asked for (fact sheet
§3.6, §5).

A job's state moves on with each time that somebody asks for it, not with the clock (I).
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from app.simulator.shelf import StoredFile

APP_NUMBER = 4_871
PACIFIC = timedelta(hours=-8)


def pacific_day(now: float) -> date:
    """The day of an export in Pacific Standard Time, the whole year round (I)."""
    return (datetime.fromtimestamp(now, UTC) + PACIFIC).date()


@dataclass
class Job:
    """One job, done when it is made; what it answers once it is asked for often enough."""

    job_id: str
    result: dict[str, Any]
    files: list[StoredFile] = field(default_factory=list)
    asked: int = 0
    failed: bool = False

    def next_state(self, states: tuple[str, ...]) -> str:
        """The state that is told this time; the last one stays."""
        self.asked += 1
        return states[min(self.asked, len(states)) - 1]

    def urls(self, origin: str) -> list[str]:
        return [file.url(origin) for file in self.files]

    def shown(self) -> dict[str, Any]:
        return {"jobId": self.job_id, "asked": self.asked, "result": self.result}


class Jobs:
    """All jobs of an app, and the exports of each day."""

    def __init__(self) -> None:
        self.exports: dict[str, Job] = {}
        self.multis: dict[str, Job] = {}
        self._spent: Counter[tuple[str, date]] = Counter()

    def new_id(self, prefix: str) -> str:
        """As recorded: `export_<n>_<n>`, `export_users_<n>_<n>`; the numbers' meaning is inferred
        (I).
        """
        return f"{prefix}_{APP_NUMBER}_{len(self.exports) + len(self.multis) + 1}"

    def spend(self, action: str, day: date, limit: int) -> bool:
        """Count one export of a day; False when there were enough."""
        if self._spent[action, day] >= limit:
            return False
        self._spent[action, day] += 1
        return True

    def shown(self) -> list[dict[str, Any]]:
        return [job.shown() for job in (*self.exports.values(), *self.multis.values())]
