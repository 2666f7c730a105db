"""Logins: an item with `newUserId` makes two users one, so what is accepted after it waits for it, under either id.

Order is kept by lane, and a login is in one lane alone. So accepting it also writes a row for each other lane that it
concerns: the new id's, the device's. While the login waits, nothing of those lanes with a higher number is begun
(`settle.Begin`); within its own lane order holds anyway. A row counts only while its login waits, so whatever ends the
login frees the lanes in the same transaction, and a login that an operator sends again holds back what was not sent by
then. Rows of logins that can't wait any more are swept.

A login waits for nothing but lower numbers, whichever lanes it joins, so chains and logins back end.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection

from app import ids
from app.database.dialect import DIALECTS, Cursor

MARK = '"newUserId"'  # bodies are written by us, so the name stands in them in this form alone
ROWS = "INSERT INTO logins (lane, seq)"
ANY = "EXISTS (SELECT 1 FROM logins)"
FIRST = """
SELECT l.lane, min(l.seq) FROM logins l JOIN items i ON i.seq = l.seq
WHERE i.settled_at IS NULL AND l.lane IN {lanes} GROUP BY l.lane
"""
WAITS = """
SELECT 1 FROM logins l JOIN items i ON i.seq = l.seq
WHERE i.settled_at IS NULL AND l.seq > ? AND l.lane IN {lanes} LIMIT 1
"""
JOINED = "SELECT lane FROM logins WHERE seq IN {seqs}"
OVER = """
SELECT l.lane, l.seq FROM logins l LEFT JOIN items i ON i.seq = l.seq
WHERE i.seq IS NULL OR (i.settled_at IS NOT NULL AND i.body IS NULL) LIMIT ?
"""
REMOVE = "DELETE FROM logins WHERE (lane, seq) IN {rows}"
Row = tuple[int, int]  # lane, sequence number of the login


def rows(app: str, body: str, lane: int, seq: int) -> Iterator[int]:
    """Return the rows of an item whose body has the mark, as flat values: none where it is no login."""
    fields: dict[str, Any] = orjson.loads(body)
    user, new, device = (_id(fields.get(name)) for name in ("userId", "newUserId", "deviceId"))
    if not new or new == user:
        return
    subjects = [f"u{new}", *([f"u{user}"] if user else []), *([f"d{device}"] if device else [])]
    for other in {ids.lane(app, subject) for subject in subjects} - {lane}:
        yield other
        yield seq


def _id(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def first(cursor: Cursor, lanes: Collection[int]) -> dict[int, int]:
    """Return the number of the first login that waits, for those of the lanes that one concerns."""
    cursor.execute(FIRST.format(lanes=cursor.dialect.values("bigint")), (_text(list(lanes)),))
    return dict(cursor.fetchall())


def waits(cursor: Cursor, lanes: Collection[int], after: int) -> bool:
    """Whether a login after a sequence number waits that concerns one of the lanes."""
    cursor.execute(WAITS.format(lanes=cursor.dialect.values("bigint")), (after, _text(list(lanes))))
    return cursor.fetchone() is not None


def joined(cursor: Cursor, seqs: Sequence[int]) -> set[int]:
    """Return the lanes that those of the items concern which are logins, beside their own."""
    cursor.execute(JOINED.format(seqs=cursor.dialect.values("bigint")), (_text(seqs),))
    return {lane for (lane,) in cursor.fetchall()}


def wait(connection: Connection, lanes: Collection[int]) -> bool:
    """Whether any login waits that concerns one of the lanes, as a reader sees it."""
    dialect = DIALECTS[connection.dialect.name]
    statement = dialect.sql(WAITS.format(lanes=dialect.values("bigint")))
    return connection.exec_driver_sql(statement, (0, _text(list(lanes)))).first() is not None


def over(connection: Connection, limit: int) -> list[Row]:
    """Find rows of logins that will never wait again: done for good, given up, or removed."""
    statement = DIALECTS[connection.dialect.name].sql(OVER)
    return [(lane, seq) for lane, seq in connection.exec_driver_sql(statement, (limit,))]


def remove(cursor: Cursor, found: Sequence[Row]) -> None:
    """Remove the rows that `over` has found."""
    if found:
        statement = REMOVE.format(rows=cursor.dialect.rows(lane="bigint", seq="bigint"))
        cursor.execute(statement, (_text(found),))


def _text(values: Sequence[object]) -> str:
    return orjson.dumps(values).decode()
