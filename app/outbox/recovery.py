"""What a deliverer that is gone left open was perhaps sent: it is sent again with the same `reqId`,
or where the policy for its action says not to send twice, it ends as unknown.
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
from app.outbox.settle import Change, change
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
    """Close the open attempts of deliverers that are gone, in the transaction that is open, with an
    audit record of each; `unknown` are the actions that are not sent twice. Their lanes, and those
    that logins among them concern, stay locked while a call may outlive its process, whatever
    became of the items: the time counts from here, since a call is sent only once the commit of its
    attempt is confirmed, which may take a while. Returns how many attempts there were, and how many
    items left the queue.
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
    changes: dict[int, Change] = {
        seq: (seq, Status.UNKNOWN, now, None, 1, SAID, seq not in last_tries)
        if action in unknown
        else (seq, Status.RETRYING, None, now + OUTLIVES_MS, 1, SAID, True)
        for seq, action, _, waits, _ in sent.values()
        if waits
    }
    change(cursor, list(changes.values()))
    told, unlocked_at = [], cursor.dialect.now(cursor, now) + OUTLIVES_MS
    for attempt, seqs, lanes in lost:
        joined = logins.joined(cursor, orjson.loads(seqs))
        keep_locked(cursor, attempt, {*orjson.loads(lanes), *joined}, unlocked_at)
        of_call = [sent[seq] for seq in orjson.loads(seqs) if seq in sent]
        told.append((now, _record(attempt, now, of_call, changes, pseudonymize)))
    records.insert(cursor, macs, told)
    cursor.execute(CLOSE)
    return len(lost), sum(status is Status.UNKNOWN for _, status, *_ in changes.values())


def _record(
    attempt: str,
    now: int,
    sent: Sequence[Any],
    changes: dict[int, Change],
    pseudonymize: Pseudonymize,
) -> str:
    """The audit record of a call of which nobody knows whether it was made, and what was
    answered.
    """
    app = sent[0][4] if sent else ""
    subjects = list(dict.fromkeys(subject for _, _, subject, _, _ in sent))[: records.MOST_USERS]
    return records.leanplum_call(
        time=now,
        app=app,
        attempt=attempt,
        status=None,
        outcome=Counter(str(changes[seq][1]) for seq, *_ in sent if seq in changes),
        about={
            "actions": Counter(action for _, action, *_ in sent),
            **records.about_users(pseudonymize(app, subjects)),
        },
    )
