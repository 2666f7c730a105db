"""What a gateway's database holds, looked up beside its processes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import text

from app.database.engine import connect
from tests.support.wait import until

WAITING = "settled_at IS NULL"
DEAD = "settled_at IS NOT NULL AND body IS NOT NULL"
QUIET_SECONDS = 15.0  # longer than a call that failed once or twice waits to be sent again

Count = Callable[[str], int]


@contextmanager
def counting(database: str) -> Iterator[Count]:
    """Give what counts the items that meet an SQL condition."""
    engine = connect(database)

    def count(condition: str) -> int:
        with engine.connect() as connection:
            return int(
                connection.execute(
                    text(f"SELECT count(*) FROM items WHERE {condition}")
                ).scalar_one()
            )

    try:
        yield count
    finally:
        engine.dispose()


def stuck(count: Count, condition: str, seconds: float = 300.0) -> int:
    """Wait until no item meets the condition; how many still do where their number no longer
    changes.
    """
    left, changed = count(condition), time.monotonic()

    def over() -> bool:
        nonlocal left, changed
        now = time.monotonic()
        if (found := count(condition)) != left:
            left, changed = found, now
        return left == 0 or now - changed > QUIET_SECONDS

    until(over, seconds, pause=0.1)
    return left
