"""The filter of items that searches and the feed share, as SQL on items `i`, acceptances `a`."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import orjson

from app.database.driver import Dialect
from app.model import Status


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """A choice of items; None takes all.

    `subject` is a user or device, as items have it; `event` the name of an event or state. `since`
    and `until` (milliseconds) bound the time at which an item was accepted.
    """

    apps: Set[str] | None = None
    subject: str | None = None
    action: str | None = None
    event: str | None = None
    statuses: Set[Status] | None = None
    request_id: str | None = None
    since: int | None = None
    until: int | None = None

    def sql(self, dialect: Dialect) -> tuple[str, tuple[Any, ...]]:
        """Return the conditions, to be put behind another one, and their values."""
        texts = dialect.values("text")
        conditions = [
            ("i.subject = ?", self.subject),
            ("i.action = ?", self.action),
            ("i.event = ?", self.event),
            (f"i.status IN {texts}", _list(self.statuses)),
            (f"a.app IN {texts}", _list(self.apps)),
            ("a.request_id = ?", self.request_id),
            ("a.accepted_at >= ?", self.since),
            ("a.accepted_at < ?", self.until),
        ]
        chosen = [(condition, value) for condition, value in conditions if value is not None]
        sql = "".join(f" AND {condition}" for condition, _ in chosen)
        return sql, tuple(value for _, value in chosen)


ALL_ITEMS = ItemFilter()


def _list(values: Set[str] | None) -> str | None:
    return None if values is None else orjson.dumps(sorted(values)).decode()
