"""After a crash: what was perhaps sent is sent again, with the same `reqId`, and the lost attempt is counted."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.database.writer import Cursor

COUNT = """
UPDATE items SET attempts = attempts + 1
WHERE settled_at IS NULL AND seq IN (
    SELECT value FROM attempts, json_each(attempts.items) WHERE attempts.finished_at IS NULL
)
"""
CLOSE = "UPDATE attempts SET finished_at = ?, outcome = '{\"lost\":1}' WHERE finished_at IS NULL"


@dataclass(frozen=True, slots=True)
class Recover:
    """Close the attempts that a crash left open; tells how many there were."""

    now: int
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Recover"]) -> Sequence[int]:
        """Count the lost attempts on their items and close them."""
        cursor.execute(COUNT)
        cursor.execute(CLOSE, (writes[0].now,))
        return [int(cursor.rowcount)] * len(writes)
