"""Leases: each shard of lanes has one deliverer, so a user's items have one sender at a time.

A deliverer renews one row of its own; it holds its shards as long as that row has not expired. If
its liveness lock can be seen, only that lock decides whether it is alive, since a clock may be set.
All live deliverers take equal parts: one with too many gives some back, one with too few takes free
ones.

Whoever renews its leases recovers the attempts that dead deliverers left open. Their items were
perhaps sent. They are sent again with the same `reqId`, or end as unknown if their action must not
be sent twice.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from app.audit import records
from app.database.driver import Cursor
from app.ids import SHARDS
from app.model import Lease, Status
from app.outbox import earlier_answers, logins, user_lock_rows
from app.outbox.liveness_lock import KnownProcess
from app.outbox.settle import ItemChange, apply_changes, forget

RENEW = """
INSERT INTO deliverers (id, expires_at, lock, states) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
expires_at = excluded.expires_at, lock = excluded.lock, states = excluded.states
"""
EXPIRE = """
DELETE FROM deliverers
WHERE id <> ? AND (
    expires_at <= ? AND NOT coalesce(lock = ?, false) OR id || ' ' || coalesce(lock, '') IN {ids}
)
"""
# Whatever lasts this much longer than a lease was written before the clock was set back
STEPPED_MS = 600_000
STEPPED = "UPDATE deliverers SET expires_at = ? WHERE expires_at > ?"
IS_DEAD = "owner NOT IN (SELECT id FROM deliverers)"
FREE = f"UPDATE leases SET owner = NULL WHERE owner IS NOT NULL AND {IS_DEAD}"
AVAILABLE = "SELECT shard, owner FROM leases WHERE owner IS NULL OR owner = ? ORDER BY shard"
TAKE = "UPDATE leases SET owner = ? WHERE owner IS NULL AND shard IN {shards}"
GIVE = "UPDATE leases SET owner = NULL WHERE owner = ? AND shard IN {shards}"
LOST = f"SELECT id, items, lanes FROM attempts WHERE {IS_DEAD}"
CLOSE = f"DELETE FROM attempts WHERE {IS_DEAD}"
SENT = """
SELECT i.seq, i.action, i.subject, a.app, i.settled_at IS NULL
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance WHERE i.seq IN {seqs} ORDER BY i.seq
"""
NO_ANSWER = orjson.dumps(
    {"success": False, "error": "The gateway was stopped before Leanplum's answer came"}
).decode()

# Returns the keyed hashes of subjects of an app, for the audit
Pseudonymize = Callable[[str, Sequence[str]], Sequence[str]]


def fair_part(mine: int, free: int, live: int) -> tuple[int, int]:
    """Return how many free shards to take, and how many own shards to give back.

    `live` deliverers share the shards.
    """
    fair = -(-SHARDS // live)
    return max(0, min(free, fair - mine)), max(0, mine - fair)


@dataclass(frozen=True, slots=True)
class RenewLeases:
    """The write that renews a deliverer's leases, and recovers the attempts of dead ones.

    `dead`: processes that are known to have ended. `unknown`: actions that are not sent
    twice. `liveness`: the identity of the deliverer's liveness lock. `forget`: attempts that may be
    recorded and were not sent. `latest`: the latest time by which others' leases are judged, in
    case the database's clock was set forward. `states`: the states of its delivery, as JSON.
    """

    owner: str
    lease_ms: int
    now: int
    dead: Sequence[KnownProcess]
    unknown: Collection[str]
    macs: records.AuditMacs
    pseudonymize: Pseudonymize
    liveness: str | None = None
    forget: Sequence[str] = ()
    latest: int | None = None
    states: str = "{}"
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["RenewLeases"]) -> Sequence[Lease]:
        """Renew one after the other, since each changes what the next finds."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> Lease:
        now = cursor.dialect.now(cursor, self.now)
        cursor.execute("SELECT count(*) FROM deliverers WHERE id = ?", (self.owner,))
        renewed = cursor.fetchone()[0] == 1
        forget(cursor, self.forget)
        self._renew(cursor, now)
        user_lock_rows.outlive(cursor, now, self.dead)
        user_lock_rows.expire(cursor, now, self.liveness)
        lost, unknown = self._recover(cursor)
        cursor.execute(FREE)
        shards, surplus = self._take_shards(cursor)
        return Lease(
            shards=shards, surplus=surplus, lost=lost, unknown=unknown, renewed=renewed, at=now
        )

    def _renew(self, cursor: Cursor, now: int) -> None:
        """Renew this deliverer's row, and remove the rows of dead deliverers."""
        expires_at = now + self.lease_ms
        cursor.execute(RENEW, (self.owner, expires_at, self.liveness, self.states))
        cursor.execute(STEPPED, (expires_at, expires_at + STEPPED_MS))
        judged_at = now if self.latest is None else min(now, self.latest)
        statement = EXPIRE.format(ids=cursor.dialect.values("text"))
        ended = user_lock_rows.as_values(self.dead)
        cursor.execute(statement, (self.owner, judged_at, self.liveness, ended))

    def _take_shards(self, cursor: Cursor) -> tuple[frozenset[int], int]:
        """Take free shards up to the fair part; return all own ones, and how many to give back."""
        cursor.execute(AVAILABLE, (self.owner,))
        available = cursor.fetchall()
        mine = [shard for shard, owner in available if owner is not None]
        free = [shard for shard, owner in available if owner is None]
        cursor.execute("SELECT count(*) FROM deliverers")
        take, give = fair_part(len(mine), len(free), cursor.fetchone()[0])
        taken = free[:take]
        if taken:
            statement = TAKE.format(shards=cursor.dialect.values("bigint"))
            cursor.execute(statement, (self.owner, _text(taken)))
        return frozenset(mine + taken), give

    def _recover(self, cursor: Cursor) -> tuple[int, Mapping[str, int]]:
        """Close the attempts of dead deliverers, with an audit record for each.

        The lanes of the attempts, and those that logins among them concern, stay locked while a
        call may outlive its process. That time counts from here: a call is sent only once the
        commit of its attempt is confirmed, which may take a while. Return how many attempts there
        were, and how many items left the queue by app.
        """
        cursor.execute(LOST)
        attempts = [
            _LostAttempt(attempt, orjson.loads(seqs), orjson.loads(lanes))
            for attempt, seqs, lanes in cursor.fetchall()
        ]
        if not attempts:
            return 0, {}
        all_seqs = [seq for attempt in attempts for seq in attempt.seqs]
        cursor.execute(SENT.format(seqs=cursor.dialect.values("bigint")), (_text(all_seqs),))
        sent = {row[0]: _SentItem(*row) for row in cursor.fetchall()}
        changes = self._changes(cursor, list(sent.values()))
        apply_changes(cursor, list(changes.values()))
        unlocked_at = cursor.dialect.now(cursor, self.now) + user_lock_rows.OUTLIVES_MS
        audit_records = []
        for attempt in attempts:
            lanes = {*attempt.lanes, *logins.joined(cursor, attempt.seqs)}
            user_lock_rows.keep_locked(cursor, attempt.id, lanes, unlocked_at)
            items = [sent[seq] for seq in attempt.seqs if seq in sent]
            audit_records.append((self.now, self._record(attempt.id, items, changes)))
        records.insert(cursor, self.macs, audit_records)
        cursor.execute(CLOSE)
        unknown = [seq for seq, change in changes.items() if change.status is Status.UNKNOWN]
        return len(attempts), Counter(sent[seq].app for seq in unknown)

    def _changes(self, cursor: Cursor, sent: Sequence["_SentItem"]) -> dict[int, ItemChange]:
        """Return the changes of the items that still wait, by sequence number."""
        not_repeated = [item.seq for item in sent if item.action in self.unknown]
        last_tries = logins.marked(cursor, not_repeated)
        changes = dict[int, ItemChange]()
        for item in sent:
            if not item.waits:
                continue
            if item.action in self.unknown:
                status, settled_at, due = Status.UNKNOWN, self.now, None
                earlier = None if item.seq in last_tries else ""
            else:
                status, settled_at, due = (
                    Status.RETRYING,
                    None,
                    self.now + user_lock_rows.OUTLIVES_MS,
                )
                earlier = earlier_answers.line(self.now, NO_ANSWER)
            changes[item.seq] = ItemChange(
                seq=item.seq,
                status=status,
                settled_at=settled_at,
                next_attempt_at=due,
                attempts=1,
                leanplum=NO_ANSWER,
                keeps_body=item.seq not in last_tries,
                earlier=earlier,
            )
        return changes

    def _record(
        self, attempt: str, sent: Sequence["_SentItem"], changes: dict[int, ItemChange]
    ) -> str:
        """Return the audit record of a call that may or may not have been made."""
        app = sent[0].app if sent else ""
        subjects = list(dict.fromkeys(item.subject for item in sent))[: records.MOST_USERS]
        return records.leanplum_call(
            time=self.now,
            app=app,
            attempt=attempt,
            status=None,
            outcome=Counter(str(changes[item.seq].status) for item in sent if item.seq in changes),
            about={
                "actions": Counter(item.action for item in sent),
                **records.about_users(self.pseudonymize(app, subjects)),
            },
        )


class _LostAttempt(NamedTuple):
    """An open attempt of a dead deliverer."""

    id: str
    seqs: list[int]
    lanes: list[int]


class _SentItem(NamedTuple):
    """An item of such an attempt, in the column order of SENT."""

    seq: int
    action: str
    subject: str
    app: str
    waits: bool


@dataclass(frozen=True, slots=True)
class ReleaseLeases:
    """The write that gives shards back of which nothing is in flight.

    `leaving`: the deliverer ends. `forget`: attempts that may be recorded and were not sent.
    """

    owner: str
    shards: Sequence[int]
    leaving: bool = False
    forget: Sequence[str] = ()
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["ReleaseLeases"]) -> Sequence[None]:
        """Free the shards for others, from the commit on."""
        for write in writes:
            forget(cursor, write.forget)
            statement = GIVE.format(shards=cursor.dialect.values("bigint"))
            cursor.execute(statement, (write.owner, _text(write.shards)))
            if write.leaving:
                cursor.execute("DELETE FROM deliverers WHERE id = ?", (write.owner,))
        return [None] * len(writes)


def _text(values: Sequence[object]) -> str:
    return orjson.dumps(list(values)).decode()
