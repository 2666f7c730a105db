"""Leases: each shard of lanes has one deliverer, so a user's items have one sender at a time.

A deliverer renews one row of its own; it holds its shards as long as that row has not expired. If
its liveness lock can be seen, only that lock decides whether it is alive, since a clock may be set.
All live deliverers take equal parts: one with too many gives some back, one with too few takes free
ones.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import orjson

from app.audit.records import AuditMacs
from app.database.driver import Cursor
from app.ids import SHARDS
from app.model import Lease
from app.outbox import user_lock_rows
from app.outbox.recovery import Pseudonymize, recover
from app.outbox.settle import forget

RENEW = """
INSERT INTO deliverers (id, expires_at, lock) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, lock = excluded.lock
"""
EXPIRE = """
DELETE FROM deliverers WHERE id <> ? AND ((expires_at <= ? AND NOT coalesce(lock = ?, false)) OR id IN {ids})
"""
# Beyond a lease of one's own: whatever lasts longer was written before the clock was set back
STEPPED_MS = 600_000
STEPPED = "UPDATE deliverers SET expires_at = ? WHERE expires_at > ?"
FREE = "UPDATE leases SET owner = NULL WHERE owner IS NOT NULL AND owner NOT IN (SELECT id FROM deliverers)"
TAKE = "UPDATE leases SET owner = ? WHERE owner IS NULL AND shard IN {shards}"
GIVE = "UPDATE leases SET owner = NULL WHERE owner = ? AND shard IN {shards}"


def fair_part(mine: int, free: int, live: int) -> tuple[int, int]:
    """Return how many free shards to take, and how many own shards to give back.

    `live` deliverers share the shards.
    """
    fair = -(-SHARDS // live)
    return max(0, min(free, fair - mine)), max(0, mine - fair)


@dataclass(frozen=True, slots=True)
class RenewLeases:
    """The write that renews a deliverer's leases, and recovers the attempts of dead ones.

    `dead`: ids of processes that are known to have ended. `unknown`: actions that are not sent
    twice. `liveness`: the identity of the deliverer's liveness lock. `forget`: attempts that may be
    recorded and were not sent. `latest`: the latest time by which others' leases are judged, in
    case the database's clock was set forward.
    """

    owner: str
    lease_ms: int
    now: int
    dead: Sequence[str]
    unknown: Collection[str]
    macs: AuditMacs
    pseudonymize: Pseudonymize
    liveness: str | None = None
    forget: Sequence[str] = ()
    latest: int | None = None
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
        cursor.execute(RENEW, (self.owner, now + self.lease_ms, self.liveness))
        cursor.execute(STEPPED, (now + self.lease_ms, now + self.lease_ms + STEPPED_MS))
        judged = now if self.latest is None else min(now, self.latest)
        gone = (self.owner, judged, self.liveness, _text(self.dead))
        cursor.execute(EXPIRE.format(ids=cursor.dialect.values("text")), gone)
        user_lock_rows.outlive(cursor, now, self.dead)
        user_lock_rows.expire(cursor, now, self.liveness)
        lost, settled = recover(cursor, self.now, self.unknown, self.macs, self.pseudonymize)
        cursor.execute(FREE)
        cursor.execute(
            "SELECT shard, owner FROM leases WHERE owner IS NULL OR owner = ? ORDER BY shard",
            (self.owner,),
        )
        found = cursor.fetchall()
        mine = [shard for shard, owner in found if owner is not None]
        free = [shard for shard, owner in found if owner is None]
        cursor.execute("SELECT count(*) FROM deliverers")
        take, give = fair_part(len(mine), len(free), cursor.fetchone()[0])
        if take:
            cursor.execute(
                TAKE.format(shards=cursor.dialect.values("bigint")),
                (self.owner, _text(free[:take])),
            )
        return Lease(frozenset(mine + free[:take]), give, lost, settled, renewed, now)


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
