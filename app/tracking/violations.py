"""Counts of plan violations by app, name, code and caller key; values of users are never stored.

Counts are gathered in memory and added to the table every two seconds, so that several processes
share one table. A crash loses the counts of the last two seconds.
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
from app.tracking.names import is_name
from app.tracking.plan.validate import Violations

FLUSH_SECONDS = 2.0
RETENTION_MS = 30 * 86_400_000  # after a violation was last seen
# Names outside every plan that are counted by name; further ones are counted as OTHER
MAX_UNPLANNED_NAMES = 200
OTHER = "other"
MAX_POINTER_LENGTH = 400
MAX_LISTED = 1_000
INSERT = (
    "INSERT INTO plan_violations "
    "(app, kind, name, code, key_id, count, first_seen, last_seen, pointer)"
)
ADD_TO_EXISTING = """ ON CONFLICT (app, kind, name, code, key_id) DO UPDATE SET
count = plan_violations.count + excluded.count,
last_seen = excluded.last_seen,
pointer = excluded.pointer"""
EXPIRE = "DELETE FROM plan_violations WHERE last_seen < ?"

log = structlog.get_logger("violations")


class ViolationKey(NamedTuple):
    """The properties of a violation by which it is counted."""

    app: str
    kind: str
    name: str
    code: str
    key_id: str


@dataclass(slots=True)
class ViolationCount:
    """The count of a violation, its times (ms), and its last place in an item."""

    count: int
    first_seen: int
    last_seen: int
    pointer: str


@dataclass(frozen=True, slots=True)
class AddViolations:
    """A write that adds counts and deletes those last seen before `expire_before` (ms)."""

    counts: dict[ViolationKey, ViolationCount]
    expire_before: int

    @property
    def rows(self) -> int:
        """Rows written; counts against the size of a group commit."""
        return len(self.counts) + 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["AddViolations"]) -> Sequence[None]:
        """Add the counts of all writes."""
        for write in writes:
            rows = [
                (*key, entry.count, entry.first_seen, entry.last_seen, entry.pointer)
                for key, entry in write.counts.items()
            ]
            insert_rows(cursor, INSERT, rows, ADD_TO_EXISTING)
            cursor.execute(EXPIRE, (write.expire_before,))
        return [None] * len(writes)


class ViolationCounts:
    """The counter of plan violations."""

    def __init__(self, engine: Engine, writer: Writer, metrics: Metrics) -> None:
        self._engine, self._writer, self._metrics = engine, writer, metrics
        self._pending: dict[ViolationKey, ViolationCount] = {}
        self._unplanned_names: set[str] = set()

    def add(self, app: str, key_id: str, violations: Violations, now: int) -> None:
        """Count the violations in the items of one call."""
        for violation in violations:
            name, fault = violation.name, violation.fault
            label = name if violation.planned else OTHER
            self._metrics.count_violation(app, label, fault.code)
            counted_name = name if violation.planned else self._counted_name(name)
            key = ViolationKey(app, violation.kind, counted_name, fault.code, key_id)
            # Names that SDKs send may contain NUL, which PostgreSQL does not store.
            pointer = fault.pointer[:MAX_POINTER_LENGTH].replace("\0", "?")
            entry = self._pending.setdefault(key, ViolationCount(0, now, now, pointer))
            entry.count += 1
            entry.last_seen, entry.pointer = now, pointer

    def _counted_name(self, name: str) -> str:
        """Return an unplanned name while there are few of them, else OTHER."""
        if name in self._unplanned_names:
            return name
        if not is_name(name) or len(self._unplanned_names) >= MAX_UNPLANNED_NAMES:
            return OTHER
        self._unplanned_names.add(name)
        return name

    async def flush(self) -> None:
        """Write the pending counts. Raises StorageUnavailable, and then keeps them."""
        pending, self._pending = self._pending, {}
        if not pending:
            return
        try:
            await self._writer.write(AddViolations(pending, now_ms() - RETENTION_MS))
        except Exception:
            for key, entry in pending.items():
                newer = self._pending.setdefault(
                    key, ViolationCount(0, entry.first_seen, entry.last_seen, entry.pointer)
                )
                newer.count += entry.count
                newer.first_seen = entry.first_seen
            raise

    def stored(self, app: str) -> list[tuple[ViolationKey, ViolationCount]]:
        """Return the counts of an app, the one seen last first; at most 1,000."""
        table = plan_violations.c
        query = select(plan_violations).where(table.app == app)
        query = query.order_by(table.last_seen.desc(), table.name).limit(MAX_LISTED)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [
            (
                ViolationKey(row.app, row.kind, row.name, row.code, row.key_id),
                # `row.count` is the method of tuples.
                ViolationCount(row._mapping["count"], row.first_seen, row.last_seen, row.pointer),
            )
            for row in rows
        ]

    async def run(self) -> None:
        """Write the pending counts every two seconds until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception as error:
                # The task must not end with one failed write.
                log.warning("violations.write_failed", **describe(error))
