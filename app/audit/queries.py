"""Looking records up. They are kept for verifying, so there are few indexes: each call looks at a bounded number of
them, and tells where to go on."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson
from sqlalchemy import Connection

from app.audit.tree import Fetch, fetcher
from app.database.dialect import DIALECTS

LOOKED_AT = 50_000  # records in one call
Outcome = Literal["success", "refused", "failed"]
Place = tuple[int, int]  # time and number
BEGIN, END = (-1, 0), (1 << 62, 0)
OUTCOMES: dict[str, range] = {"success": range(400), "refused": range(400, 500), "failed": range(500, 1_000)}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records; None takes all. `since` and `until` are in milliseconds; `users` are keyed hashes, any of them;
    `apps`: those that the caller may see, and `app` the one that is asked for."""

    since: int | None = None
    until: int | None = None
    key_id: str | None = None
    app: str | None = None
    apps: Collection[str] | None = None
    users: Collection[str] | None = None
    action: str | None = None
    outcome: Outcome | None = None
    request_id: str | None = None

    def takes(self, record: dict[str, Any]) -> bool:
        """Whether the record is one of these."""
        told, api = record.get("unmapped", {}), record["api"]
        app = told.get("app", "")
        return (
            (self.key_id is None or record["actor"]["user"]["uid"] == self.key_id)
            and (self.app is None or app == self.app)
            and (self.apps is None or app in self.apps)
            and (self.users is None or not {told.get("user"), *told.get("users", ())}.isdisjoint(self.users))
            and (self.action is None or _is_about(self.action, api["operation"], told))
            and (self.outcome is None or int(record["status_code"]) in OUTCOMES[self.outcome])
            and (self.request_id is None or api.get("request", {}).get("uid") == self.request_id)
        )

    def words(self) -> list[str]:
        """What stands in the text of each that it takes: the database leaves out what lacks one."""
        given = [self.key_id, self.app, self.action, self.request_id, *(self.users or () if self._one_user else ())]
        return [orjson.dumps(one).decode()[1:-1] for one in given if one is not None]

    @property
    def _one_user(self) -> bool:
        return self.users is not None and len(self.users) == 1


def _is_about(action: str, operation: str, told: dict[str, Any]) -> bool:
    return action in {operation, operation.removeprefix("leanplum ")} or action in told.get("actions", ())


class Page(NamedTuple):
    """Records with their numbers, and where to go on; None where that was all."""

    found: list[tuple[int, str]]
    following: Place | None


def page(connection: Connection, which: Filter, after: Place | None, limit: int, *, oldest_first: bool) -> Page:
    """At most `limit` records, by their time and number. It may be fewer, even none, where there are more: then that is
    all of as many as are looked at in one call."""
    fetch, found = fetcher(connection), list[tuple[int, str]]()
    order, beyond = ("ASC", ">") if oldest_first else ("DESC", "<")
    begin = after or (BEGIN if oldest_first else END)
    since, until = which.since or -1, END[0] if which.until is None else which.until
    reach = f"(time, seq) {beyond} (?, ?) AND time >= ? AND time < ?"
    edge = f"SELECT time, seq FROM audit_records WHERE {reach} ORDER BY time {order}, seq {order} LIMIT 1 OFFSET ?"
    end = fetch(edge, (*begin, since, until, LOOKED_AT - 1))
    words = which.words()
    contains = "".join(f" AND {DIALECTS[connection.dialect.name].contains}" for _ in words)
    within = f"{reach} AND NOT (time, seq) {beyond} (?, ?)" if end else reach
    select = f"SELECT time, seq, record FROM audit_records WHERE {within}{contains} ORDER BY time {order}, seq {order}"
    last = tuple(end[0]) if end else ()
    following = begin
    for place, seq, text in _pages(fetch, select, (*begin, since, until, *last, *words), limit):
        if which.takes(orjson.loads(text)):
            if len(found) == limit:
                return Page(found, following)
            found.append((seq, text))
            following = (place, seq)
    return Page(found, (end[0][0], end[0][1]) if end else None)


def _pages(fetch: Fetch, select: str, values: tuple[Any, ...], limit: int) -> Iterator[tuple[int, int, str]]:
    """The rows, few at a time at first: most of what the database finds is taken."""
    offset, step = 0, limit + 1
    while rows := fetch(f"{select} LIMIT ? OFFSET ?", (*values, step, offset)):
        yield from rows
        offset, step = offset + len(rows), step * 4
