"""Looking records up. They are kept for verifying, so there are few indexes: each call looks at a
bounded number of them, and tells where to go on.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson
from sqlalchemy import Connection

from app.audit.records import BEGUN
from app.audit.tree import Fetch, fetcher, read, written_of
from app.database.driver import DIALECTS

LOOKED_AT = 50_000  # records in one call
Outcome = Literal["success", "refused", "failed"]
FOREVER = 1 << 62
LATE_MS = (
    # By how much the order of the times may differ from that of the numbers: a record waits for its
    # commit
    60_000
)
OUTCOMES: dict[str, Collection[int]] = {
    "success": frozenset(range(400)) - {BEGUN},
    "refused": range(400, 500),
    "failed": range(500, 1_000),
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records; None takes all. `since` and `until` are in milliseconds; `users` are keyed
    hashes, any of them; `apps`: those that the caller may see, and `app` the one that is asked
    for.
    """

    since: int | None = None
    until: int | None = None
    key_id: str | None = None
    app: str | None = None
    apps: Collection[str] | None = None
    users: Collection[str] | None = None
    action: str | None = None
    outcome: Outcome | None = None
    request_id: str | None = None
    resource: str | None = None

    def takes(self, record: dict[str, Any]) -> bool:
        """Whether the record is one of these."""
        told, api = record.get("unmapped", {}), record["api"]
        app = told.get("app", "")
        return (
            (self.key_id is None or record["actor"]["user"]["uid"] == self.key_id)
            and (self.app is None or app == self.app)
            and (self.apps is None or app in self.apps)
            and (
                self.users is None
                or not {told.get("user"), *told.get("users", ())}.isdisjoint(self.users)
            )
            and (self.action is None or _is_about(self.action, api["operation"], told))
            and (self.outcome is None or int(record["status_code"]) in OUTCOMES[self.outcome])
            and (self.request_id is None or api.get("request", {}).get("uid") == self.request_id)
            and (self.resource is None or {"uid": self.resource} in record.get("resources", ()))
        )

    def words(self) -> list[str]:
        """What stands in the text of each that it takes: the database leaves out what lacks one."""
        own = (self.key_id, self.app, self.action, self.request_id, self.resource)
        given = [*own, *(self.users or () if self._one_user else ())]
        return [orjson.dumps(one).decode()[1:-1] for one in given if one is not None]

    @property
    def _one_user(self) -> bool:
        return self.users is not None and len(self.users) == 1


def _is_about(action: str, operation: str, told: dict[str, Any]) -> bool:
    return action in {operation, operation.removeprefix("leanplum ")} or action in told.get(
        "actions", ()
    )


class Page(NamedTuple):
    """Records with their numbers, and the number to go on after; None where that was all."""

    found: list[tuple[int, str]]
    following: int | None


def page(
    connection: Connection, which: Filter, after: int | None, limit: int, *, oldest_first: bool
) -> Page:
    """At most `limit` records, in the order of their numbers, which is that of the commits: whoever
    goes on after a number misses none that comes late. It may be fewer, even none, where there are
    more: then that is all of as many as are looked at in one call.
    """
    fetch, found = fetcher(connection), list[tuple[int, str]]()
    order = "ASC" if oldest_first else "DESC"
    low, high = _between(fetch, which)
    if after is not None:
        low, high = (max(low, after + 1), high) if oldest_first else (low, min(high, after - 1))
    last = min(high, low + LOOKED_AT - 1) if oldest_first else max(low, high - LOOKED_AT + 1)
    words = which.words()
    contains = "".join(f" AND {DIALECTS[connection.dialect.name].contains}" for _ in words)
    reach = (low, last) if oldest_first else (last, high)
    within = "seq BETWEEN ? AND ? AND time >= ? AND time < ?"
    select = f"SELECT seq, record FROM audit_records WHERE {within}{contains} ORDER BY seq {order}"
    since, until = which.since or -1, FOREVER if which.until is None else which.until
    for seq, text in _pages(fetch, select, (*reach, since, until, *words), limit):
        if _takes(which, text):
            if len(found) == limit:
                return Page(found, found[-1][0])
            found.append((seq, text))
    return Page(found, last if (last < high if oldest_first else last > low) else None)


def _takes(which: Filter, text: str) -> bool:
    """What somebody has changed into no record at all is none of any kind; `audit verify` names
    it.
    """
    try:
        return which.takes(orjson.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def app_of(text: str) -> str | None:
    """The app that a record is about; None where it is about none, or is no record any more."""
    try:
        found = orjson.loads(text).get("unmapped", {}).get("app")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _between(fetch: Fetch, which: Filter) -> tuple[int, int]:
    """The numbers that records of the time may have: between those that are surely earlier, and
    surely later.
    """
    # not the rows' own, of which somebody may have put one far away
    first, newest = max(read(fetch).removed, 0) + 1, written_of(fetch)
    if which.since is not None:
        first = (
            _number(
                fetch, "time < ? ORDER BY time DESC, seq DESC", which.since - LATE_MS, first - 1
            )
            + 1
        )
    if which.until is not None:
        newest = (
            _number(
                fetch, "time >= ? ORDER BY time ASC, seq ASC", which.until + LATE_MS, newest + 1
            )
            - 1
        )
    return first, newest


def _number(fetch: Fetch, which: str, time: int, otherwise: int) -> int:
    rows = fetch(f"SELECT seq FROM audit_records WHERE {which} LIMIT 1", (time,))
    return int(rows[0][0]) if rows else otherwise


def _pages(fetch: Fetch, select: str, values: tuple[Any, ...], limit: int) -> Iterator[Any]:
    """The rows, few at a time at first: most of what the database finds is taken."""
    offset, step = 0, limit + 1
    while rows := fetch(f"{select} LIMIT ? OFFSET ?", (*values, step, offset)):
        yield from rows
        offset, step = offset + len(rows), step * 4
