"""What a deliverer that is gone left open was perhaps sent: it is sent again with the same `reqId`, or where the policy
for its action says not to send twice, it ends as unknown."""

from collections.abc import Collection

import orjson

from app.database.dialect import Cursor
from app.model import Status
from app.outbox.settle import Change, change

LOST = "SELECT id, items, started_at, erasing FROM attempts WHERE owner NOT IN (SELECT id FROM deliverers)"
CLOSE = "DELETE FROM attempts WHERE owner NOT IN (SELECT id FROM deliverers)"
ACTIONS = "SELECT seq, action FROM items WHERE settled_at IS NULL AND seq IN "
WAIT = """
UPDATE items SET next_attempt_at = ?
WHERE settled_at IS NULL AND (next_attempt_at IS NULL OR next_attempt_at < ?) AND seq IN {seqs}
"""
SAID = orjson.dumps({"success": False, "error": "The gateway was stopped before Leanplum's answer came"}).decode()
# A call may outlive the process that made it. Leanplum doesn't say for how long it locks a user, so this is a choice.
OUTLIVES_MS = 5_000


def recover(cursor: Cursor, now: int, unknown: Collection[str]) -> tuple[int, int]:
    """Close the open attempts of deliverers that are gone, in the transaction that is open; `unknown` are the actions
    that are not sent twice. Returns how many attempts there were, and how many items left the queue."""
    cursor.execute(LOST)
    lost = cursor.fetchall()
    if not lost:
        return 0, 0
    started = {seq: started_at for _, seqs, started_at, _ in lost for seq in orjson.loads(seqs)}
    cursor.execute(ACTIONS + cursor.dialect.values("bigint"), (orjson.dumps(list(started)).decode(),))
    changes: list[Change] = [
        (seq, Status.UNKNOWN, now, None, 1, SAID, True)
        if action in unknown
        else (seq, Status.RETRYING, None, started[seq] + OUTLIVES_MS, 1, SAID, True)
        for seq, action in cursor.fetchall()
    ]
    change(cursor, changes)
    for _, _, started_at, erasing in lost:
        if erasing:  # its subject's items are gone, and may be in a call that is still at work
            due = started_at + OUTLIVES_MS
            cursor.execute(WAIT.format(seqs=cursor.dialect.values("bigint")), (due, due, erasing))
    cursor.execute(CLOSE)
    return len(lost), sum(status is Status.UNKNOWN for _, status, *_ in changes)
