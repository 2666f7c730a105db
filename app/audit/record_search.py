"""Search for audit records.

Records are stored for verification, with few indexes: each call reads a bounded number of them and
says where the next one continues.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson
from sqlalchemy import Connection

from app.audit.records import BEGUN
from app.audit.tree import Fetch, fetcher, read_tree, read_written
from app.database.driver import DIALECTS

MAX_READ = 50_000  # records in one call
Outcome = Literal["success", "refused", "failed"]
FOREVER = 1 << 62
# A record's time is older than its number, since it waits for its commit: by this much at most
LATE_MS = 60_000
STATUSES_OF: dict[str, Collection[int]] = {
    "success": frozenset(range(400)) - {BEGUN},
    "refused": range(400, 500),
    "failed": range(500, 1_000),
}


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """The conditions that records must meet to be returned; a field that is None selects all.

    `since` and `until` are in milliseconds. `users` are keyed hashes, any of which a record may
    name. `apps` are those that the caller may see, `app` is the one asked for.
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

    def matches(self, record: dict[str, Any]) -> bool:
        """Return whether a record is one of these. Raises KeyError and TypeError for no record."""
        details, api = record.get("unmapped", {}), record["api"]
        if self.key_id is not None and record["actor"]["user"]["uid"] != self.key_id:
            return False
        if not self._matches_app(details.get("app", "")):
            return False
        if self.users is not None:
            users = {details.get("user"), *details.get("users", ())}
            if users.isdisjoint(self.users):
                return False
        if self.action is not None and not _is_about(self.action, api["operation"], details):
            return False
        if self.outcome is not None and int(record["status_code"]) not in STATUSES_OF[self.outcome]:
            return False
        if self.request_id is not None and api.get("request", {}).get("uid") != self.request_id:
            return False
        return self.resource is None or {"uid": self.resource} in record.get("resources", ())

    def _matches_app(self, app: str) -> bool:
        if self.app is not None and app != self.app:
            return False
        return self.apps is None or app in self.apps

    def required_texts(self) -> list[str]:
        """Return texts that every match contains; the database skips records without one."""
        values = [self.key_id, self.app, self.action, self.request_id, self.resource]
        if self.users is not None and len(self.users) == 1:
            values += self.users
        return [orjson.dumps(value).decode()[1:-1] for value in values if value is not None]


def _is_about(action: str, operation: str, details: dict[str, Any]) -> bool:
    if action in {operation, operation.removeprefix("leanplum ")}:
        return True
    return action in details.get("actions", ())


class RecordPage(NamedTuple):
    """Records as (number, text), and the number to continue after; None for the last page."""

    records: list[tuple[int, str]]
    next_after: int | None


class _Range(NamedTuple):
    """Record numbers from `first` to `last`."""

    first: int
    last: int


def find_page(
    connection: Connection,
    record_filter: RecordFilter,
    after: int | None,
    limit: int,
    *,
    oldest_first: bool,
) -> RecordPage:
    """Return up to `limit` records in the order of their numbers, which is that of the commits.

    Whoever continues after a number misses no record that was committed late. A page may have fewer
    records, even none, and still not be the last: then so many were read as one call may read.
    """
    fetch = fetcher(connection)
    remaining = _rest(_possible_numbers(fetch, record_filter), after, oldest_first=oldest_first)
    if oldest_first:
        within = _Range(remaining.first, min(remaining.last, remaining.first + MAX_READ - 1))
        end, is_last = within.last, within.last >= remaining.last
    else:
        within = _Range(max(remaining.first, remaining.last - MAX_READ + 1), remaining.last)
        end, is_last = within.first, within.first <= remaining.first
    texts = record_filter.required_texts()
    contains = f" AND {DIALECTS[connection.dialect.name].contains}" * len(texts)
    order = "ASC" if oldest_first else "DESC"
    select = (
        "SELECT seq, record FROM audit_records WHERE seq BETWEEN ? AND ? AND time >= ? "
        f"AND time < ?{contains} ORDER BY seq {order}"
    )
    since = record_filter.since or -1
    until = FOREVER if record_filter.until is None else record_filter.until
    records = list[tuple[int, str]]()
    for seq, text in _read(fetch, select, (*within, since, until, *texts), limit):
        if _matches(record_filter, text):
            if len(records) == limit:
                return RecordPage(records, records[-1][0])
            records.append((seq, text))
    return RecordPage(records, None if is_last else end)


def _rest(numbers: _Range, after: int | None, *, oldest_first: bool) -> _Range:
    """Return the numbers that come after a page which ended with number `after`."""
    if after is None:
        return numbers
    if oldest_first:
        return _Range(max(numbers.first, after + 1), numbers.last)
    return _Range(numbers.first, min(numbers.last, after - 1))


def _matches(record_filter: RecordFilter, text: str) -> bool:
    """Return whether a text is a record that matches; one damaged by hand never does."""
    try:
        return record_filter.matches(orjson.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def app_of(text: str) -> str | None:
    """Return the app that a record is about; None where there is none, or for a damaged record."""
    try:
        app = orjson.loads(text).get("unmapped", {}).get("app")
    except (ValueError, AttributeError):
        return None
    return app if isinstance(app, str) else None


def _possible_numbers(fetch: Fetch, record_filter: RecordFilter) -> _Range:
    """Return the numbers that records of the filter's time may have.

    They begin after the last record that is surely earlier, and end before the first that is surely
    later. Without a time they are those the tree and the sequence name, not those of the rows: a
    row that was inserted by hand may have any number.
    """
    first, last = max(read_tree(fetch).removed, 0) + 1, read_written(fetch)
    if record_filter.since is not None:
        earlier = "time < ? ORDER BY time DESC, seq DESC"
        number = _first_number(fetch, earlier, record_filter.since - LATE_MS)
        first = first if number is None else number + 1
    if record_filter.until is not None:
        later = "time >= ? ORDER BY time ASC, seq ASC"
        number = _first_number(fetch, later, record_filter.until + LATE_MS)
        last = last if number is None else number - 1
    return _Range(first, last)


def _first_number(fetch: Fetch, condition: str, time: int) -> int | None:
    rows = fetch(f"SELECT seq FROM audit_records WHERE {condition} LIMIT 1", (time,))
    return int(rows[0][0]) if rows else None


def _read(fetch: Fetch, select: str, values: tuple[Any, ...], limit: int) -> Iterator[Any]:
    """Yield rows, read in steps that grow: most of what the database finds matches."""
    offset, step = 0, limit + 1
    while rows := fetch(f"{select} LIMIT ? OFFSET ?", (*values, step, offset)):
        yield from rows
        offset, step = offset + len(rows), step * 4
