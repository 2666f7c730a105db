"""What broke the plan, counted: by app, event, code and caller key; never a value.

Gathered in memory, and added to the table every two seconds, so that several processes tell one
story. What a crash leaves unwritten is lost, as counts may be.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from sqlalchemy import Engine, select

from app.clock import now_ms
from app.database.driver import Cursor
from app.database.engine import reading
from app.database.tables import plan_violations
from app.database.writer import Writer, insert_rows
from app.telemetry import Metrics, describe
from app.tracking.name_rules import is_name
from app.tracking.plan.validate import Violations

FLUSH_SECONDS = 2.0
KEPT_MS = 30 * 86_400_000  # since they were last seen
MOST_UNPLANNED = 200  # names that no plan has, told by name; the rest are OTHER
OTHER = "other"
LONGEST_POINTER = 400
MOST_SHOWN = 1_000
ADD = "INSERT INTO plan_violations (app, kind, name, code, key_id, count, first_seen, last_seen, pointer)"
TO_THEM = """ ON CONFLICT (app, kind, name, code, key_id) DO UPDATE SET
count = plan_violations.count + excluded.count, last_seen = excluded.last_seen, pointer = excluded.pointer"""
EXPIRE = "DELETE FROM plan_violations WHERE last_seen < ?"

log = structlog.get_logger("violations")


class Of(NamedTuple):
    """What is counted together."""

    app: str
    kind: str
    name: str
    code: str
    key_id: str


@dataclass(slots=True)
class Tally:
    """How often, when (ms), and where in the item the last time."""

    count: int
    first_seen: int
    last_seen: int
    pointer: str


@dataclass(frozen=True, slots=True)
class Add:
    """Add what was gathered, and remove what is long past."""

    found: dict[Of, Tally]
    until: int

    @property
    def rows(self) -> int:
        """Its weight in a group."""
        return len(self.found) + 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Add"]) -> Sequence[None]:
        """Write it."""
        for write in writes:
            rows = [
                (*of, tally.count, tally.first_seen, tally.last_seen, tally.pointer)
                for of, tally in write.found.items()
            ]
            insert_rows(cursor, ADD, rows, TO_THEM)
            cursor.execute(EXPIRE, (write.until,))
        return [None] * len(writes)


class ViolationCounts:
    """Counts what breaks the plan."""

    def __init__(self, engine: Engine, writer: Writer, metrics: Metrics) -> None:
        self._engine, self._writer, self._metrics = engine, writer, metrics
        self._gathered: dict[Of, Tally] = {}
        self._unplanned: set[str] = set()

    def add(self, app: str, key_id: str, found: Violations, now: int) -> None:
        """Count what was found in the items of one call."""
        for kind, name, planned, _, fault in found:
            label = name if planned else OTHER
            self._metrics.plan_violations.labels(app, label, fault.code).inc()
            of = Of(app, kind, name if planned else self._told(name), fault.code, key_id)
            # SDKs send names that no database takes
            pointer = fault.pointer[:LONGEST_POINTER].replace("\0", "?")
            tally = self._gathered.setdefault(of, Tally(0, now, now, pointer))
            tally.count, tally.last_seen, tally.pointer = tally.count + 1, now, pointer

    def _told(self, name: str) -> str:
        """The name of something that is in no plan, where it is one, and as long as there are few
        of them.
        """
        if name in self._unplanned:
            return name
        if not is_name(name) or len(self._unplanned) >= MOST_UNPLANNED:
            return OTHER
        self._unplanned.add(name)
        return name

    async def flush(self) -> None:
        """Write what was gathered. Raises StorageUnavailable, and keeps it then."""
        gathered, self._gathered = self._gathered, {}
        if not gathered:
            return
        try:
            await self._writer.write(Add(gathered, now_ms() - KEPT_MS))
        except Exception:
            for of, tally in gathered.items():
                later = self._gathered.setdefault(
                    of, Tally(0, tally.first_seen, tally.last_seen, tally.pointer)
                )
                later.count, later.first_seen = later.count + tally.count, tally.first_seen
            raise

    def stored(self, app: str) -> list[tuple[Of, Tally]]:
        """What is counted of an app, the latest first; at most 1,000."""
        of_app = select(plan_violations).where(plan_violations.c.app == app)
        query = of_app.order_by(plan_violations.c.last_seen.desc(), plan_violations.c.name).limit(
            MOST_SHOWN
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [
            (
                Of(row.app, row.kind, row.name, row.code, row.key_id),
                Tally(row._mapping["count"], row.first_seen, row.last_seen, row.pointer),
            )
            for row in rows
        ]

    async def run(self) -> None:
        """Write every two seconds, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception as error:
                # the outermost place: one failed writing must not be the last
                log.warning("violations.unwritten", **describe(error))
