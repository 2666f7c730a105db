"""Rows of many items, written beside the gateway in its own schema, by a few large statements."""

import zlib
from dataclasses import dataclass

import orjson
from sqlalchemy import Engine

from app import ids
from app.clock import now_ms
from app.database.driver import Cursor
from app.database.engine import transaction

APP, KEY_ID, OTHER_KEY_ID = "default", "key_bench", "key_other"
CALL = 10  # items of one call
SPAN_MS = 86_400_000  # over which the items were accepted
STEP = 100_000  # items of one transaction
# The SQL of a content, with the user's id in it
BODY = """
'{{"event":"Purchase","userId":"' || substr(u.subject, 2) || '","value":9.99,"currencyCode":"EUR"}}'
"""
USERS = """
CREATE TABLE bench_users (number bigint PRIMARY KEY, subject text NOT NULL, lane bigint NOT NULL)
"""
INSERT_USERS = "INSERT INTO bench_users SELECT u.number, u.subject, u.lane FROM {rows} AS u"
NUMBERS = """
WITH RECURSIVE numbers (seq) AS (
    SELECT CAST(? AS bigint) UNION ALL SELECT seq + 1 FROM numbers WHERE seq < ?
)
"""
ACCEPTED_AT = "CAST({begun} + {span} * (seq / {count}.0) AS bigint)"
ACCEPTANCES = """
INSERT INTO acceptances (first_seq, prefix, app, key_id, request_id, accepted_at, request)
{numbers}
SELECT seq, '{prefix}', '{app}', '{key_id}', 'request-' || seq, {accepted_at}, 0
FROM numbers WHERE (seq - 1) % {call} = 0
"""
ITEMS = """
INSERT INTO items (
    seq, acceptance, subject, action, body, status, attempts, settled_at, lane, caller, event
)
{numbers}
SELECT seq, seq - (seq - 1) % {call}, u.subject, 'track',
       CASE WHEN status IN ('accepted', 'rejected') THEN {body} END, status,
       CASE WHEN status = 'accepted' THEN 0 ELSE 1 END,
       CASE WHEN status <> 'accepted' THEN {accepted_at} + 100 END, u.lane,
       CASE WHEN seq > {others_after} THEN {other} ELSE {caller} END,
       'Event ' || seq % 50
FROM (
    SELECT seq, CASE WHEN seq > {settled} THEN 'accepted' WHEN seq % 500 = 0 THEN 'rejected'
                     WHEN seq % 250 = 1 THEN 'skipped' ELSE 'delivered' END AS status
    FROM numbers
) AS n JOIN bench_users u ON u.number = n.seq % {users}
"""
IDS = """
INSERT INTO item_ids (app, id, seq, digest, accepted_at)
{numbers}
SELECT '{app}', 'own-' || seq, seq, {digest}, {accepted_at} FROM numbers WHERE seq % 5 = 0
"""


@dataclass(frozen=True, slots=True)
class ManyItems:
    """The items to write: `waiting` of them, the newest ones, wait; `users` have them in turn.

    `others`: how many of them, the newest again, a second caller has sent.
    """

    count: int
    waiting: int
    others: int = 0
    users: int = 100_000
    own_ids: bool = False


def fill(engine: Engine, items: ManyItems) -> None:
    """Write acceptances, items and, if wanted, ids of a fifth of the items."""
    begun = now_ms() - SPAN_MS
    with transaction(engine) as cursor:
        cursor.execute(USERS)
        _insert_users(cursor, items.users)
    values = {
        "numbers": NUMBERS,
        "prefix": ids.new_prefix(begun),
        "app": APP,
        "key_id": KEY_ID,
        "accepted_at": ACCEPTED_AT.format(begun=begun, span=SPAN_MS, count=items.count),
        "call": CALL,
        "body": BODY.strip().format(),
        "caller": ids.share(APP, KEY_ID),
        "other": ids.share(APP, OTHER_KEY_ID),
        "others_after": items.count - items.others,
        "settled": items.count - items.waiting,
        "users": items.users,
        "digest": "zeroblob(32)" if engine.dialect.name == "sqlite" else "decode('00', 'hex')",
    }
    statements = [ACCEPTANCES, ITEMS, *([IDS] if items.own_ids else [])]
    for first in range(1, items.count + 1, STEP):
        last = min(first + STEP - 1, items.count)
        with transaction(engine) as cursor:
            for statement in statements:
                cursor.execute(statement.format(**values), (first, last))
            cursor.execute("UPDATE sequence SET last = ?", (last,))
    with transaction(engine) as cursor:
        cursor.execute("DROP TABLE bench_users")


def _insert_users(cursor: Cursor, count: int) -> None:
    app_crc = zlib.crc32(APP.encode())
    users = []
    for number in range(count):
        subject = f"uuser-{number}"
        users.append((number, subject, zlib.crc32(subject.encode(), app_crc)))
    rows = cursor.dialect.rows(number="bigint", subject="text", lane="bigint")
    cursor.execute(INSERT_USERS.format(rows=rows), (orjson.dumps(users).decode(),))
