"""The reason why an item waits, as far as the database tells: deliverers may be other processes."""

from typing import NamedTuple

from sqlalchemy import Connection, select

from app import ids
from app.database.tables import acceptances, items
from app.model import Receipt, Status

NEAREST = 2_000  # items that are looked at: a receipt must not cost a walk over a long queue


class Waits(NamedTuple):
    """The reason why an item waits.

    `held_next`: when the app of a held item is tried again at the earliest, in milliseconds; None
    if no held item of the app is found. `behind`: an earlier item of its user waits.
    """

    held_next: int | None = None
    behind: bool = False


def look(connection: Connection, app: str, receipt: Receipt) -> Waits:
    """Look among the oldest waiting items, and those just before this one."""
    waiting = items.c.settled_at.is_(None)
    columns = (items.c.acceptance, items.c.status, items.c.next_attempt_at)
    oldest = select(*columns).where(waiting).order_by(items.c.seq).limit(NEAREST).subquery()
    held = (
        select(oldest.c.next_attempt_at)
        .join(acceptances, acceptances.c.first_seq == oldest.c.acceptance)
        .where(acceptances.c.app == app, oldest.c.status == Status.HELD.value)
        .order_by(oldest.c.next_attempt_at)
        .limit(1)
    )
    before = select(items.c.lane).where(waiting, items.c.seq < receipt.seq)
    nearest = before.order_by(items.c.seq.desc()).limit(NEAREST).subquery()
    lane = ids.lane(app, receipt.subject)
    earlier = select(nearest.c.lane).where(nearest.c.lane == lane).limit(1)
    held_next = connection.execute(held).scalar()
    return Waits(held_next, connection.execute(earlier).first() is not None)
