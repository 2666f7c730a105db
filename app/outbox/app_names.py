"""The names of the apps that items belong to, found without a walk through all items."""

from collections.abc import Iterator

from sqlalchemy import Connection, func, select

from app import ids
from app.database.tables import acceptances, item_ids, items, minute_counts

NEWEST = 10_000  # acceptances that are looked at for the names of their apps


def apps_of_id(connection: Connection, item_id: str) -> list[str]:
    """Return the apps in which an item may have this id, given by a caller or generated."""
    names = [*_apps_with_given_ids(connection), *_app_of_generated_id(connection, item_id)]
    return list(dict.fromkeys(names))


def app_names(connection: Connection) -> list[str]:
    """Return the apps that had items or calls lately, or items with ids from callers.

    Lately: in the last two days, or in the last calls that brought items.
    """
    counted = connection.execute(select(minute_counts.c.app).distinct()).scalars()
    newest = select(acceptances.c.app).order_by(acceptances.c.first_seq.desc()).limit(NEWEST)
    recent = connection.execute(select(newest.subquery().c.app).distinct()).scalars()
    return sorted({*counted, *recent, *_apps_with_given_ids(connection)})


def _apps_with_given_ids(connection: Connection) -> Iterator[str]:
    """Yield the apps that have ids from callers: one step in the index of ids for each app."""
    name: str | None = ""
    while name is not None:
        following = select(func.min(item_ids.c.app)).where(item_ids.c.app > name)
        name = connection.execute(following).scalar()
        if name is not None:
            yield name


def _app_of_generated_id(connection: Connection, item_id: str) -> list[str]:
    parsed = ids.parse(item_id)
    if parsed is None:
        return []
    prefix, seq = parsed
    query = select(acceptances.c.app).join(items, items.c.acceptance == acceptances.c.first_seq)
    matching = query.where(items.c.seq == seq, acceptances.c.prefix == prefix)
    return list(connection.execute(matching).scalars())
