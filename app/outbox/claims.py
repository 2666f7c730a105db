"""Finding what waits. The pages come in the order of acceptance, which is the order of the sequence numbers."""

import orjson
from sqlalchemy import Connection

from app import ids
from app.model import Item

# One row with all in it: sqlite3 gives the interpreter's lock up and takes it back once a row, which costs
# milliseconds each when the event loop is busy.
WAITING = """
SELECT json_group_array(json_array(seq, id, prefix, app, subject, action, body, accepted_at, attempts, next_attempt_at))
FROM (SELECT *, sum(length(body)) OVER (ORDER BY seq) AS upto FROM (
    SELECT i.seq, i.id, a.prefix, a.app, i.subject, i.action, i.body, a.accepted_at, i.attempts,
           coalesce(i.next_attempt_at, 0) AS next_attempt_at
    FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
    WHERE i.settled_at IS NULL AND i.seq > ?
    ORDER BY i.seq LIMIT ?
)) WHERE upto - length(body) < ?
"""
PAGE_CHARACTERS = 8_000_000  # of all bodies of a page, less the last: bounds memory, and SQLite's longest value


def waiting(connection: Connection, after: int, limit: int) -> list[Item]:
    """At most `limit` items that wait, with sequence numbers above `after`, in order; fewer where they are large."""
    found = connection.exec_driver_sql(WAITING, (after, limit, PAGE_CHARACTERS)).scalar_one()
    return [
        Item(seq, item_id or ids.made(prefix, seq), app, subject, action, body, accepted_at, attempts, next_attempt_at)
        for seq, item_id, prefix, app, subject, action, body, accepted_at, attempts, next_attempt_at in orjson.loads(
            found
        )
    ]
