"""Recovery of attempts that a dead deliverer left open.

Their items were perhaps sent. They are sent again with the same `reqId`, or end as unknown if their
action must not be sent twice.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import orjson

from app.audit import records
from app.audit.records import AuditMacs
from app.database.driver import Cursor
from app.model import Status
from app.outbox import logins
from app.outbox.settle import ItemChange, apply_changes
from app.outbox.user_lock_rows import OUTLIVES_MS, keep_locked

LOST = "SELECT id, items, lanes FROM attempts WHERE owner NOT IN (SELECT id FROM deliverers)"
CLOSE = "DELETE FROM attempts WHERE owner NOT IN (SELECT id FROM deliverers)"
SENT = """
SELECT i.seq, i.action, i.subject, i.settled_at IS NULL, a.app
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance WHERE i.seq IN {seqs} ORDER BY i.seq
"""
SAID = orjson.dumps(
    {"success": False, "error": "The gateway was stopped before Leanplum's answer came"}
).decode()

# The keyed hashes of subjects of an app, for the audit
Pseudonymize = Callable[[str, Sequence[str]], Sequence[str]]


def recover(
    cursor: Cursor, now: int, unknown: Collection[str], macs: AuditMacs, pseudonymize: Pseudonymize
) -> tuple[int, int]:
    """Close the attempts of dead deliverers in the open transaction, with an audit record each.

    `unknown` are the actions that are not sent twice. The lanes of the attempts, and those that
    logins among them concern, stay locked while a call may outlive its process. That time counts
    from here: a call is sent only once the commit of its attempt is confirmed, which may take a
    while. Return how many attempts there were, and how many items left the queue.
    """
    cursor.execute(LOST)
    lost = cursor.fetchall()
    if not lost:
        return 0, 0
    attempted = [seq for _, seqs, _ in lost for seq in orjson.loads(seqs)]
    cursor.execute(
        SENT.format(seqs=cursor.dialect.values("bigint")), (orjson.dumps(attempted).decode(),)
    )
    sent = {row[0]: row for row in cursor.fetchall()}
    last_tries = logins.marked(
        cursor, [seq for seq, action, *_ in sent.values() if action in unknown]
    )
    changes = dict[int, ItemChange]()
    for seq, action, _, waits, _ in sent.values():
        if not waits:
            continue
        if action in unknown:
            keeps_body = seq not in last_tries
            changes[seq] = ItemChange(seq, Status.UNKNOWN, now, None, 1, SAID, keeps_body)
        else:
            due = now + OUTLIVES_MS
            changes[seq] = ItemChange(seq, Status.RETRYING, None, due, 1, SAID, True)
    apply_changes(cursor, list(changes.values()))
    told, unlocked_at = [], cursor.dialect.now(cursor, now) + OUTLIVES_MS
    for attempt, seqs, lanes in lost:
        joined = logins.joined(cursor, orjson.loads(seqs))
        keep_locked(cursor, attempt, {*orjson.loads(lanes), *joined}, unlocked_at)
        of_call = [sent[seq] for seq in orjson.loads(seqs) if seq in sent]
        told.append((now, _record(attempt, now, of_call, changes, pseudonymize)))
    records.insert(cursor, macs, told)
    cursor.execute(CLOSE)
    return len(lost), [change.status for change in changes.values()].count(Status.UNKNOWN)


def _record(
    attempt: str,
    now: int,
    sent: Sequence[Any],
    changes: dict[int, ItemChange],
    pseudonymize: Pseudonymize,
) -> str:
    """Return the audit record of a call of which nobody knows whether it was made."""
    app = sent[0][4] if sent else ""
    subjects = list(dict.fromkeys(subject for _, _, subject, _, _ in sent))[: records.MOST_USERS]
    return records.leanplum_call(
        time=now,
        app=app,
        attempt=attempt,
        status=None,
        outcome=Counter(str(changes[seq].status) for seq, *_ in sent if seq in changes),
        about={
            "actions": Counter(action for _, action, *_ in sent),
            **records.about_users(pseudonymize(app, subjects)),
        },
    )
