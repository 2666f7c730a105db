"""Logins: an item with `newUserId` makes two users one, so later items of both wait for it.

Order is kept by lane, and a login is in one lane alone. So accepting it also writes a row for each
other lane that it concerns: the new id's and the device's. While the login waits, no item of those
lanes with a higher number is begun (`settle.Begin`); within its own lane order holds anyway. A row
counts only while its login waits: whatever settles the login frees the lanes in the same
transaction, and a login that is replayed holds back what was not sent by then. Rows of logins that
cannot wait any more are removed by housekeeping.

A login waits only for lower numbers, whichever lanes it joins, so there are no cycles.

The deletion of the new id waits for the login, too. A login must not create an erased user again.
So a login that is a dead letter then loses its content, and one that waits is marked: it loses its
content if it becomes a dead letter. Neither can be replayed after the deletion was delivered.

A deletion has a row as well: it joins the lane of its id as a user's with that of the id as a
device's. It is begun only while no call is in flight in either (`settle.Begin`).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection

from app import ids
from app.database.driver import DIALECTS, Cursor, read_rows
from app.encryption import BodyCipher, answer_context, body_context
from app.model import ENCRYPTED_PREFIX, ERASES

MARK = '"newUserId"'  # bodies are written by us, so the name stands in them in this form alone
INSERT = "INSERT INTO logins (lane, seq)"
ANY = "EXISTS (SELECT 1 FROM logins)"
FIRST = """
SELECT l.lane AS lane, min(l.seq) AS seq FROM logins l JOIN items i ON i.seq = l.seq
WHERE i.settled_at IS NULL AND l.lane IN {lanes} GROUP BY l.lane
"""
WAITS = """
SELECT 1 FROM logins l JOIN items i ON i.seq = l.seq
WHERE i.settled_at IS NULL AND l.seq > ? AND l.lane IN {lanes} LIMIT 1
"""
JOINED = "SELECT lane FROM logins WHERE lane >= 0 AND seq IN {seqs}"
LAST_EXAMINED = """
SELECT max(seq), count(*) FROM (SELECT seq FROM logins WHERE seq > ? ORDER BY seq LIMIT ?) AS l
"""
OVER = """
SELECT l.lane, l.seq FROM logins l LEFT JOIN items i ON i.seq = l.seq
WHERE l.seq > ? AND l.seq <= ?
  AND (i.seq IS NULL OR (i.settled_at IS NOT NULL AND i.body IS NULL)) LIMIT ?
"""
REMOVE = "DELETE FROM logins WHERE (lane, seq) IN {rows}"
Row = tuple[int, int]  # lane, sequence number of the login
EXAMINED = 5_000  # rows that a step of housekeeping examines: most of them may still wait
LAST_TRY = -1  # the lane of a row that marks a login whose user was erased meanwhile
OF_LANE = f"""
SELECT i.seq, i.settled_at IS NOT NULL, i.action, i.subject, i.body
FROM logins l JOIN items i ON i.seq = l.seq JOIN acceptances a ON a.first_seq = i.acceptance
WHERE l.lane = ? AND a.app = ? AND i.body IS NOT NULL AND i.seq < ? AND i.action <> '{ERASES}'
"""
JOIN = """
INSERT INTO logins (lane, seq) SELECT v.lane, v.seq FROM {rows} AS v WHERE true
ON CONFLICT DO NOTHING
"""
DELETIONS = f"""
SELECT i.lane, l.lane FROM logins l JOIN items i ON i.seq = l.seq
WHERE i.action = '{ERASES}' AND l.lane >= 0 AND l.seq IN {{seqs}}
"""
MARK_LAST = f"""
INSERT INTO logins (lane, seq) SELECT {LAST_TRY}, v.seq FROM {{rows}} AS v WHERE true
ON CONFLICT DO NOTHING
"""
MARKED = f"SELECT seq FROM logins WHERE lane = {LAST_TRY} AND seq IN {{seqs}}"
GIVE_UP = """
UPDATE items SET body = NULL, leanplum = v.said, earlier = NULL
FROM {rows} AS v WHERE items.seq = v.seq
"""
GIVEN_UP = {"success": False, "error": "Not sent again: a user whom it names was erased."}
FORGET = """
DELETE FROM logins WHERE lane = ? AND NOT EXISTS (
    SELECT 1 FROM items i WHERE i.seq = logins.seq AND (i.settled_at IS NULL OR i.body IS NOT NULL)
)
"""


def rows(app: str, body: str, subject: str, lane: int, seq: int) -> Iterator[Row]:
    """Yield the rows of an item whose body has the mark; none where it is no login."""
    user, new, device = _whom(body)
    if not new or new == user:
        return
    subjects = [f"u{new}", *([f"u{user}"] if user else []), *([f"d{device}"] if device else [])]
    others = {ids.lane(app, other) for other in subjects} - {lane}
    if subject != f"u{new}":  # the erasure of the new id looks for it here, whichever lane it is in
        others.add(ids.lane(app, f"u{new}"))
    for other in others:
        yield other, seq


def named(body: str) -> tuple[str, ...]:
    """Return the subjects that an item with `newUserId` can create: the new id and the old one.

    Other items have none.
    """
    if MARK not in body:
        return ()
    user, new, device = _whom(body)
    if not new:
        return ()
    old = f"u{user}" if user else f"d{device}"
    return f"u{new}", old


def _whom(body: str) -> tuple[str, str, str]:
    """Return the ids of the user, the new user and the device; "" if missing."""
    fields: dict[str, Any] = orjson.loads(body)
    user, new, device = (
        ids.text_of(fields.get(name)) or "" for name in ("userId", "newUserId", "deviceId")
    )
    return user, new, device


def first(cursor: Cursor, lanes: Collection[int]) -> dict[int, int]:
    """Return by lane the number of the first waiting login that concerns it."""
    cursor.execute(FIRST.format(lanes=cursor.dialect.values("bigint")), (_text(list(lanes)),))
    return dict(cursor.fetchall())


def waits(cursor: Cursor, lanes: Collection[int], after: int) -> bool:
    """Return whether a login after a sequence number waits that concerns one of the lanes."""
    cursor.execute(WAITS.format(lanes=cursor.dialect.values("bigint")), (after, _text(list(lanes))))
    return cursor.fetchone() is not None


def joined(cursor: Cursor, seqs: Sequence[int]) -> set[int]:
    """Return the other lanes that the logins among the items concern."""
    cursor.execute(JOINED.format(seqs=cursor.dialect.values("bigint")), (_text(seqs),))
    return {lane for (lane,) in cursor.fetchall()}


def wait(connection: Connection, lanes: Collection[int]) -> bool:
    """Return whether a login waits that concerns one of the lanes, on a reading connection."""
    dialect = DIALECTS[connection.dialect.name]
    statement = dialect.sql(WAITS.format(lanes=dialect.values("bigint")))
    return connection.exec_driver_sql(statement, (0, _text(list(lanes)))).first() is not None


def first_waiting(connection: Connection, lanes: Collection[int]) -> dict[int, int]:
    """Return by lane the number of the first waiting login, read on a connection for reading."""
    statement = FIRST.format(lanes=DIALECTS[connection.dialect.name].values("bigint"))
    return dict(read_rows(connection, "lane, seq", statement, (_text(list(lanes)),)))


class Over(NamedTuple):
    """Rows of logins that will never wait again; `after` is the number to go on from."""

    rows: Sequence[Row]
    after: int


def over(connection: Connection, after: int, limit: int) -> Over:
    """Return rows of logins above a number that were delivered, given up or removed.

    The numbers to go on from return to 0 when all logins were examined.
    """
    sql = DIALECTS[connection.dialect.name].sql
    last, count = connection.exec_driver_sql(sql(LAST_EXAMINED), (after, EXAMINED)).one()
    if last is None:
        return Over((), 0)
    found = connection.exec_driver_sql(sql(OVER), (after, last, limit))
    rows = [(lane, seq) for lane, seq in found]
    if len(rows) == limit:  # there may be more of them among these logins
        return Over(rows, after)
    return Over(rows, last if count == EXAMINED else 0)


def remove(cursor: Cursor, found: Sequence[Row]) -> None:
    """Remove the rows that `over` has returned."""
    if found:
        statement = REMOVE.format(rows=cursor.dialect.rows(lane="bigint", seq="bigint"))
        cursor.execute(statement, (_text(found),))


# --- logins that name an erased user ---


def erase(cursor: Cursor, cipher: BodyCipher, app: str, subject: str, before: int) -> int:
    """Prevent logins below a number from creating an erased user again.

    Return how many dead letters that ended. A login that cannot be decrypted counts as one that
    names the user.
    """
    cursor.execute(OF_LANE, (ids.lane(app, subject), app, before))
    dead, waiting = list[int](), list[int]()
    for seq, settled, action, whose, body in cursor.fetchall():
        text = cipher.decrypt(body, body_context(app, action, seq, whose))
        if text[:1] == ENCRYPTED_PREFIX or subject in named(text):
            (dead if settled else waiting).append(seq)
    if waiting:
        statement = MARK_LAST.format(rows=cursor.dialect.rows(seq="bigint"))
        cursor.execute(statement, (_text([[seq] for seq in waiting]),))
    if dead:
        told = [(seq, cipher.encrypt(_text(GIVEN_UP), answer_context(app, seq))) for seq in dead]
        cursor.execute(
            GIVE_UP.format(rows=cursor.dialect.rows(seq="bigint", said="text")), (_text(told),)
        )
    return len(dead)


def join(cursor: Cursor, app: str, subject: str, deletions: Sequence[int]) -> None:
    """Let items of another subject that follow the deletions wait for them."""
    if deletions:
        statement = JOIN.format(rows=cursor.dialect.rows(lane="bigint", seq="bigint"))
        lane = ids.lane(app, subject)
        cursor.execute(statement, (_text([[lane, seq] for seq in deletions]),))


def deletions(cursor: Cursor, seqs: Sequence[int]) -> dict[int, set[int]]:
    """Return by lane the other lanes that the deletions among the items join."""
    cursor.execute(DELETIONS.format(seqs=cursor.dialect.values("bigint")), (_text(seqs),))
    found = defaultdict[int, set[int]](set)
    for lane, other in cursor.fetchall():
        found[lane].add(other)
    return found


def marked(cursor: Cursor, dead: Sequence[int]) -> set[int]:
    """Return which of these new dead letters name an erased user, so that they keep no content."""
    if not dead:
        return set()
    cursor.execute(MARKED.format(seqs=cursor.dialect.values("bigint")), (_text(dead),))
    return {seq for (seq,) in cursor.fetchall()}


def forget(cursor: Cursor, app: str, subject: str) -> None:
    """Remove an erased subject's rows, except those of logins that wait."""
    cursor.execute(FORGET, (ids.lane(app, subject),))


def _text(values: object) -> str:
    return orjson.dumps(values).decode()
