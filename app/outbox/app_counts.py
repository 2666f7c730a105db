"""Counts of items by app, for the console: those that wait, and dead letters.

They are cheap with ten million items: waiting ones are counted in their index alone, and dead
letters up to a limit.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from app.database.driver import DIALECTS
from app.database.tables import deliverers

MOST_DEAD = 10_000  # dead letters that are counted
# `caller` is a number for an app and a key, so the first item of each group tells the app.
WAITING = """
SELECT a.app, sum(w.waiting), min(a.accepted_at) FROM (
    SELECT caller, count(*) AS waiting, min(seq) AS seq
    FROM items WHERE settled_at IS NULL GROUP BY caller
) AS w JOIN items i ON i.seq = w.seq JOIN acceptances a ON a.first_seq = i.acceptance
GROUP BY a.app
"""
DEAD = """
SELECT a.app, count(*) FROM (
    SELECT acceptance FROM items WHERE settled_at IS NOT NULL AND body IS NOT NULL
    ORDER BY seq DESC LIMIT ?
) AS d JOIN acceptances a ON a.first_seq = d.acceptance
GROUP BY a.app
"""


class WaitingCount(NamedTuple):
    """How many items of an app wait, and when the oldest was accepted (epoch milliseconds)."""

    app: str
    items: int
    oldest_at: int


class DeadCount(NamedTuple):
    """How many dead letters an app has, among the newest `MOST_DEAD` of all apps."""

    app: str
    items: int


def count_waiting(connection: Connection) -> Sequence[WaitingCount]:
    """Return the numbers of waiting items of each app that has any."""
    rows = connection.exec_driver_sql(WAITING)
    return [WaitingCount(app, int(count), oldest_at) for app, count, oldest_at in rows]


def count_dead(connection: Connection) -> Sequence[DeadCount]:
    """Return the numbers of dead letters of each app that has any."""
    statement = DIALECTS[connection.dialect.name].sql(DEAD)
    rows = connection.exec_driver_sql(statement, (MOST_DEAD,))
    return [DeadCount(app, int(count)) for app, count in rows]


def count_deliverers(connection: Connection, now: int) -> int:
    """Return how many processes deliver, by their leases."""
    alive = select(func.count()).select_from(deliverers).where(deliverers.c.expires_at > now)
    return int(connection.execute(alive).scalar_one())
