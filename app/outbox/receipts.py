"""Reading receipts."""

import orjson
from sqlalchemy import Connection, Row, Select, and_, select

from app import ids
from app.database.tables import acceptances, item_ids, items
from app.model import SEALED, Receipt, Status
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
    """Make a receipt of one of those rows. What Leanplum said is left out where it can't be decrypted, since its key is
    not here or it was changed in the database; the receipt tells so."""
    found = row._mapping
    said = found["leanplum"] and vault.open(found["leanplum"], said_place(found["app"], found["seq"]))
    unreadable = bool(said) and said[:1] == SEALED
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
    )
