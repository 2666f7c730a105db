"""Receipts of items, and the reasons why items wait, as read from the database."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Select, and_, select

from app import ids
from app.database.driver import DIALECTS, read_rows
from app.database.tables import acceptances, attempts, item_ids, items
from app.encryption import BodyCipher, answer_context
from app.model import ENCRYPTED_PREFIX, Receipt, Status
from app.outbox import delivery_states, earlier_answers, logins
from app.outbox.delivery_states import DeliveryState
from app.outbox.earlier_answers import EarlierAnswer

# The columns of a receipt's row, and the query for such rows
COLUMNS = (
    *("seq", "id", "action", "event", "subject", "status", "attempts", "next_attempt_at"),
    *("settled_at", "leanplum", "notes", "prefix", "app", "accepted_at"),
)
SELECT = """
SELECT i.seq, i.id, i.action, i.event, i.subject, i.status, i.attempts, i.next_attempt_at,
       i.settled_at, i.leanplum, i.notes, a.prefix, a.app, a.accepted_at
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
"""
# Items that are looked at for the reason why another one waits: so many for each user of a page,
# and for ten users at most
NEAREST_ITEMS, MOST_WALKS = 2_000, 10
FIRST_OF_LANES = """
SELECT nearest.lane AS lane, min(nearest.seq) AS seq FROM (
    SELECT seq, lane FROM items WHERE settled_at IS NULL AND seq < ? ORDER BY seq DESC LIMIT ?
) AS nearest WHERE nearest.lane IN {lanes} GROUP BY nearest.lane
"""


def find(connection: Connection, app: str, item_id: str, cipher: BodyCipher) -> Receipt | None:
    """Return the receipt of an item of `app`, by the caller's own id or by the generated one."""
    own = connection.execute(
        receipts_of(app)
        .join(item_ids, and_(item_ids.c.app == acceptances.c.app, item_ids.c.seq == items.c.seq))
        .where(item_ids.c.id == item_id)
    ).first()
    if own is not None:
        return receipt(own._mapping, cipher)
    if (parsed := ids.parse(item_id)) is None:
        return None
    prefix, seq = parsed
    row = connection.execute(
        receipts_of(app).where(items.c.seq == seq, acceptances.c.prefix == prefix)
    ).first()
    return receipt(row._mapping, cipher) if row is not None else None


def receipts_of(app: str) -> Select[tuple[object, ...]]:
    """Return the query for the rows of receipts of one app."""
    columns = [column for column in items.c if column.name not in {"body", "earlier"}]
    query = select(*columns, acceptances.c.prefix, acceptances.c.app, acceptances.c.accepted_at)
    return query.join(acceptances, acceptances.c.first_seq == items.c.acceptance).where(
        acceptances.c.app == app
    )


def receipt(found: Mapping[Any, Any], cipher: BodyCipher) -> Receipt:
    """Return the receipt of one of those rows.

    Leanplum's answer is left out if it cannot be decrypted (its key is missing, or it was changed
    in the database); the receipt says so.
    """
    said = found["leanplum"] and cipher.decrypt(
        found["leanplum"], answer_context(found["app"], found["seq"])
    )
    unreadable = bool(said) and said[:1] == ENCRYPTED_PREFIX
    notes = found["notes"]
    return Receipt(
        seq=found["seq"],
        id=found["id"] or ids.made(found["prefix"], found["seq"]),
        action=found["action"],
        subject=found["subject"],
        status=Status(found["status"]),
        accepted_at=found["accepted_at"],
        attempts=found["attempts"],
        settled_at=found["settled_at"],
        next_attempt_at=found["next_attempt_at"],
        leanplum=orjson.loads(said) if said and not unreadable else None,
        leanplum_unreadable=unreadable,
        notes=orjson.loads(notes) if notes else None,
        event=found["event"],
    )


class Origin(NamedTuple):
    """Where an item came from, and what is known of it besides its receipt.

    Times are in milliseconds. `sent_at`: when the attempt began that is open now. `keeps_content`:
    the item can be sent again. `earlier`: Leanplum's answers to attempts that were not the last.
    """

    key_id: str
    request_id: str
    replayed_at: int | None
    sent_at: int | None
    keeps_content: bool
    earlier: Sequence[EarlierAnswer]


def find_origin(connection: Connection, receipt: Receipt, cipher: BodyCipher) -> Origin | None:
    """Return where an item came from; None if it was removed meanwhile."""
    row = connection.execute(
        select(
            acceptances.c.key_id,
            acceptances.c.request_id,
            items.c.replayed_at,
            items.c.body.isnot(None),
            acceptances.c.app,
            items.c.earlier,
        )
        .join(acceptances, acceptances.c.first_seq == items.c.acceptance)
        .where(items.c.seq == receipt.seq)
    ).first()
    if row is None:
        return None
    key_id, request_id, replayed_at, keeps_content, app, earlier = row
    # There are no more open attempts than calls in flight.
    opened = connection.execute(select(attempts.c.started_at, attempts.c["items"])).all()
    sent_at = [began for began, seqs in opened if receipt.seq in orjson.loads(seqs)]
    return Origin(
        key_id=key_id,
        request_id=request_id,
        replayed_at=replayed_at,
        sent_at=max(sent_at, default=None),
        keeps_content=bool(keeps_content),
        earlier=earlier_answers.read(earlier, cipher, app, receipt.seq),
    )


class Waits(NamedTuple):
    """The reason why an item waits.

    `held_next`: when the app of a held item is tried again at the earliest, in milliseconds; None
    if no held item of the app is found. `behind`: an earlier item of its user waits. `in_flight`:
    it is being sent. `delivery`: the state of the deliverer that has its lane; None if none has.
    """

    held_next: int | None = None
    behind: bool = False
    in_flight: bool = False
    delivery: DeliveryState | None = None


def find_waits(connection: Connection, app: str, receipts: Iterable[Receipt]) -> dict[int, Waits]:
    """Return what each waiting item of an app waits for, by number, as far as the database tells.

    Deliverers may be other processes. Only the oldest waiting items, and those just before the
    newest of these, are looked at: a page must not cost a walk over a long queue.
    """
    lanes = {each.seq: ids.lane(app, each.subject) for each in receipts if not each.settled}
    if not lanes:
        return {}
    held_next, in_flight = _held_next(connection, app), _in_flight(connection)
    deliveries = delivery_states.of_lanes(connection, app, set(lanes.values()))
    first = _first_of_lanes(connection, set(lanes.values()), max(lanes))
    return {
        seq: Waits(
            held_next=held_next,
            behind=first.get(lane, seq) < seq,
            in_flight=seq in in_flight,
            delivery=deliveries.get(lane),
        )
        for seq, lane in lanes.items()
    }


def _held_next(connection: Connection, app: str) -> int | None:
    """Return when a held item of the app is tried again, of the oldest waiting items."""
    columns = (items.c.acceptance, items.c.status, items.c.next_attempt_at)
    waiting = select(*columns).where(items.c.settled_at.is_(None))
    oldest = waiting.order_by(items.c.seq).limit(NEAREST_ITEMS).subquery()
    held = (
        select(oldest.c.next_attempt_at)
        .join(acceptances, acceptances.c.first_seq == oldest.c.acceptance)
        .where(acceptances.c.app == app, oldest.c.status == Status.HELD.value)
        .order_by(oldest.c.next_attempt_at)
        .limit(1)
    )
    return connection.execute(held).scalar()


def _first_of_lanes(connection: Connection, lanes: Set[int], newest: int) -> dict[int, int]:
    """Return by lane the first waiting item that is just before `newest`, or the first login."""
    dialect = DIALECTS[connection.dialect.name]
    statement = FIRST_OF_LANES.format(lanes=dialect.values("bigint"))
    values = newest, NEAREST_ITEMS * min(len(lanes), MOST_WALKS), orjson.dumps([*lanes]).decode()
    first: dict[int, int] = dict(read_rows(connection, "lane, seq", statement, values))
    for lane, seq in logins.first_waiting(connection, lanes).items():
        first[lane] = min(seq, first.get(lane, seq))
    return first


def _in_flight(connection: Connection) -> set[int]:
    """Return the numbers of the items that are being sent."""
    attempts = connection.exec_driver_sql("SELECT items FROM attempts").scalars()
    return {seq for sent in attempts for seq in orjson.loads(sent)}
