"""Dead letters: what Leanplum refused, what was given up, and what was perhaps done. An operator looks at them, sends
them again, or discards them."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import ColumnElement, Connection, select

from app import ids
from app.audit import records
from app.audit.marks import Marks
from app.database.dialect import Cursor
from app.database.tables import acceptances, items
from app.database.tables import item_ids as given_ids
from app.model import Receipt, Status
from app.outbox.receipts import receipt, receipts_of
from app.vault import Vault

STEP = 1_000  # items in one transaction
DEAD = frozenset({Status.REJECTED, Status.EXPIRED, Status.UNKNOWN})  # they keep their body
Record = tuple[int, str]  # an audit record: its time, its text
IS_DEAD = "settled_at IS NOT NULL AND body IS NOT NULL"
REPLAY = f"""
UPDATE items SET status = 'accepted', attempts = 0, settled_at = NULL, next_attempt_at = NULL, leanplum = NULL,
       replayed_at = ?, replay = (SELECT replays + 1 FROM sequence)
WHERE {IS_DEAD} AND seq IN {{seqs}}
"""
DISCARD = f"UPDATE items SET body = NULL WHERE {IS_DEAD} AND seq IN {{seqs}}"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters; None takes all. `since` and `until` are about when an item became one, in milliseconds;
    `item_ids`: only these."""

    action: str | None = None
    status: Status | None = None
    since: int | None = None
    until: int | None = None
    item_ids: tuple[str, ...] | None = None


def find(connection: Connection, app: str, which: Filter, after: int, limit: int, vault: Vault) -> list[Receipt]:
    """At most `limit` dead letters of `app` with sequence numbers above `after`, in the order of acceptance."""
    rows = receipts_of(app).where(items.c.settled_at.isnot(None), items.c.body.isnot(None), items.c.seq > after)
    for condition in _conditions(connection, app, which):
        rows = rows.where(condition)
    return [receipt(row, vault) for row in connection.execute(rows.order_by(items.c.seq).limit(limit))]


def apps(connection: Connection) -> list[str]:
    """The apps that there are dead letters of."""
    dead = select(acceptances.c.app).join(items, items.c.acceptance == acceptances.c.first_seq)
    dead = dead.where(items.c.settled_at.isnot(None), items.c.body.isnot(None))
    return sorted(connection.execute(dead.distinct()).scalars())


def _conditions(connection: Connection, app: str, which: Filter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if which.action is not None:
        found.append(items.c.action == which.action)
    if which.status is not None:
        found.append(items.c.status == which.status)
    if which.since is not None:
        found.append(items.c.settled_at >= which.since)
    if which.until is not None:
        found.append(items.c.settled_at < which.until)
    if which.item_ids is not None:
        found.append(items.c.seq.in_(_numbers(connection, app, which.item_ids)))
    return found


def _numbers(connection: Connection, app: str, wanted: Sequence[str]) -> list[int]:
    """The sequence numbers of items by their ids, the callers' own or made here."""
    own = select(given_ids.c.id, given_ids.c.seq).where(given_ids.c.app == app, given_ids.c.id.in_(wanted))
    found = {row.id: row.seq for row in connection.execute(own)}
    parsed = {seq: prefix for one in wanted if one not in found and (made := ids.parse(one)) for prefix, seq in [made]}
    made_here = (
        select(items.c.seq, acceptances.c.prefix)
        .join(acceptances, acceptances.c.first_seq == items.c.acceptance)
        .where(items.c.seq.in_(list(parsed)), acceptances.c.app == app)
    )
    return [*found.values(), *(seq for seq, prefix in connection.execute(made_here) if parsed[seq] == prefix)]


@dataclass(frozen=True, slots=True)
class Replay:
    """Dead letters go back into the queue: as new, but with their number, id and content."""

    seqs: Sequence[int]
    now: int
    record: Record
    marks: Marks
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Replay"]) -> Sequence[int]:
        """Tells of each how many went back; fewer where someone else was quicker. Deliverers are told by a count,
        since these items lie behind where they read."""
        counts = []
        for write in writes:
            statement = REPLAY.format(seqs=cursor.dialect.values("bigint"))
            cursor.execute(statement, (write.now, orjson.dumps(list(write.seqs)).decode()))
            counts.append(cursor.rowcount)
        records.insert(cursor, writes[0].marks, [write.record for write in writes])
        cursor.execute("UPDATE sequence SET replays = replays + 1")
        return counts


@dataclass(frozen=True, slots=True)
class Discard:
    """Dead letters are given up for good: their receipts stay, their bodies go."""

    seqs: Sequence[int]
    record: Record
    marks: Marks
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Discard"]) -> Sequence[int]:
        """Tells of each how many there were."""
        counts = []
        for write in writes:
            statement = DISCARD.format(seqs=cursor.dialect.values("bigint"))
            cursor.execute(statement, (orjson.dumps(list(write.seqs)).decode(),))
            counts.append(cursor.rowcount)
        records.insert(cursor, writes[0].marks, [write.record for write in writes])
        return counts
