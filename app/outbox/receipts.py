"""Reading receipts."""

import orjson
from sqlalchemy import Connection, Row, Select, and_, select

from app import ids
from app.database.tables import acceptances, item_ids, items
from app.model import Receipt, Status
from app.vault import Vault, said_place


def find(connection: Connection, app: str, item_id: str, vault: Vault) -> Receipt | None:
    """The receipt of an item of `app`, by the caller's own id or by the one that the gateway made."""
    own = connection.execute(
        receipts_of(app)
        .join(item_ids, and_(item_ids.c.app == acceptances.c.app, item_ids.c.seq == items.c.seq))
        .where(item_ids.c.id == item_id)
    ).first()
    if own is not None:
        return receipt(own, vault)
    if (parsed := ids.parse(item_id)) is None:
        return None
    prefix, seq = parsed
    row = connection.execute(receipts_of(app).where(items.c.seq == seq, acceptances.c.prefix == prefix)).first()
    return receipt(row, vault) if row is not None else None


def receipts_of(app: str) -> Select[tuple[object, ...]]:
    """The rows that receipts are made of, all of one app."""
    columns = [column for column in items.c if column.name != "body"]
    query = select(*columns, acceptances.c.prefix, acceptances.c.app, acceptances.c.accepted_at)
    return query.join(acceptances, acceptances.c.first_seq == items.c.acceptance).where(acceptances.c.app == app)


def receipt(row: Row[tuple[object, ...]], vault: Vault) -> Receipt:
    """One of those rows as a receipt. Raises StorageUnavailable where it is sealed by a key that isn't here."""
    found = row._mapping
    said = found["leanplum"] and vault.read(found["leanplum"], said_place(found["app"], found["seq"]))
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
        leanplum=orjson.loads(said) if said else None,
        notes=orjson.loads(notes) if notes else None,
    )
