"""The state of the queue by app, for operators.

It examines a bounded number of items, the oldest ones, so that it is cheap beside millions of them.
Counts that may be higher because of that say so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from app.database.driver import read_rows
from app.database.tables import deliverers
from app.model import Status

EXAMINED = 100_000  # waiting items, and dead letters
WAITING = """
SELECT a.app, i.status, count(*) AS items, min(coalesce(i.replayed_at, a.accepted_at)) AS oldest
FROM (SELECT acceptance, status, replayed_at FROM items WHERE settled_at IS NULL
      ORDER BY seq LIMIT ?) AS i
JOIN acceptances a ON a.first_seq = i.acceptance GROUP BY a.app, i.status
"""
DEAD = """
SELECT a.app, count(*) AS items
FROM (SELECT acceptance FROM items WHERE settled_at IS NOT NULL AND body IS NOT NULL
      ORDER BY seq LIMIT ?) AS i
JOIN acceptances a ON a.first_seq = i.acceptance GROUP BY a.app
"""
# Counts in a part of the queue, and of the dead letters, in the order of their numbers
WAITING_PART = """
SELECT a.app, i.status, count(*) AS items, min(coalesce(i.replayed_at, a.accepted_at)) AS oldest,
       max(i.seq) AS last
FROM (SELECT seq, acceptance, status, replayed_at FROM items WHERE settled_at IS NULL AND seq > ?
      ORDER BY seq LIMIT ?) AS i
JOIN acceptances a ON a.first_seq = i.acceptance GROUP BY a.app, i.status
"""
DEAD_PART = """
SELECT a.app, i.status, count(*) AS items, 0 AS oldest, max(i.seq) AS last
FROM (SELECT seq, acceptance, status FROM items
      WHERE settled_at IS NOT NULL AND body IS NOT NULL AND seq > ? ORDER BY seq LIMIT ?) AS i
JOIN acceptances a ON a.first_seq = i.acceptance GROUP BY a.app, i.status
"""
PART_COLUMNS = "app, status, items, oldest, last"


class CountedItems(NamedTuple):
    """The number of items of an app with a status.

    `oldest` is since when (epoch milliseconds) the oldest has been waiting; 0 for dead letters.
    """

    app: str
    status: str
    items: int
    oldest: int


class CountedPart(NamedTuple):
    """The counts of a part of the items, and its last number; None if there is nothing left."""

    counts: Sequence[CountedItems]
    last: int | None


def count_waiting(connection: Connection, after: int, limit: int) -> CountedPart:
    """Count up to `limit` waiting items with numbers above `after`, by app and status."""
    return _count_part(connection, WAITING_PART, after, limit)


def count_dead_letters(connection: Connection, after: int, limit: int) -> CountedPart:
    """Count up to `limit` dead letters with numbers above `after`, by app and status."""
    return _count_part(connection, DEAD_PART, after, limit)


PartCounter = Callable[[Connection, int, int], CountedPart]


def _count_part(connection: Connection, statement: str, after: int, limit: int) -> CountedPart:
    rows = read_rows(connection, PART_COLUMNS, statement, (after, limit))
    counts = [CountedItems(app, status, count, oldest) for app, status, count, oldest, _ in rows]
    is_last = sum(count.items for count in counts) < limit
    return CountedPart(counts, None if is_last else max(row[4] for row in rows))


@dataclass(slots=True)
class AppQueue:
    """The items that wait for an app.

    `retrying` and `held` are part of `waiting`. `oldest` is since when (epoch milliseconds) the
    oldest item has been waiting, counted from its replay if there was one.
    """

    app: str
    waiting: int = 0
    retrying: int = 0
    held: int = 0
    dead_letters: int = 0
    oldest: int | None = None


class QueueState(NamedTuple):
    """The queues of the apps that have any, by name, and how many deliverers run.

    With `more_waiting` or `more_dead`, not all such items were examined: the counts of each app are
    the least that they can be.
    """

    apps: Sequence[AppQueue]
    deliverers: int
    more_waiting: bool
    more_dead: bool


def read_queue(connection: Connection, now: int, examined: int = EXAMINED) -> QueueState:
    """Return the state of the queue; `now` (milliseconds) tells which deliverers still run."""
    queues = dict[str, AppQueue]()
    waiting = read_rows(connection, "app, status, items, oldest", WAITING, (examined,))
    for app, status, count, oldest in waiting:
        queue = queues.setdefault(app, AppQueue(app))
        queue.waiting += count
        queue.oldest = min(oldest, queue.oldest or oldest)
        if status == Status.HELD:
            queue.held = count
        elif status == Status.RETRYING:
            queue.retrying = count
    dead = read_rows(connection, "app, items", DEAD, (examined,))
    for app, count in dead:
        queues.setdefault(app, AppQueue(app)).dead_letters = count
    running = select(func.count()).select_from(deliverers).where(deliverers.c.expires_at > now)
    return QueueState(
        apps=[queues[app] for app in sorted(queues)],
        deliverers=connection.execute(running).scalar_one(),
        more_waiting=sum(count for _, _, count, _ in waiting) == examined,
        more_dead=sum(count for _, count in dead) == examined,
    )
