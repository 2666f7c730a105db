"""The feed: items as they are accepted and as they settle, in every process on the database.

It polls. What is new is found by indexes alone: accepted items by their sequence number, which
becomes visible in order, and settled ones by the time at which they settled. Processes take that
time shortly before they commit, so the last seconds are read again, and what was seen is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection

from app import ids
from app.database.driver import DIALECTS, read_rows
from app.model import Status
from app.outbox.item_filter import ALL_ITEMS, ItemFilter

# A process takes the time of an outcome before it commits it, and its clock may be behind those of
# others. An item that settles later than this is left out of the feed.
OVERLAP_MS = 5_000
LIMIT = 500  # entries of one kind that a step returns
SCANNED = 5_000  # items of one kind that a step looks at

LAST = "SELECT last FROM sequence"
# Dead letters and other settled items have an index each (`database/tables.py`).
SETTLED_INDEXES = tuple(
    f"SELECT seq, settled_at FROM items WHERE settled_at IS NOT NULL AND body {is_null} "
    "AND settled_at >= ? ORDER BY settled_at DESC LIMIT ?"
    for is_null in ("IS NULL", "IS NOT NULL")
)
LAST_SETTLED = tuple(
    f"SELECT max(settled_at) FROM items WHERE settled_at IS NOT NULL AND body {is_null}"
    for is_null in ("IS NULL", "IS NOT NULL")
)
COLUMNS = """
seq, own_id, prefix, app, action, event, subject, status, attempts, accepted_at, settled_at
"""
ENTRIES = """
SELECT i.seq, i.id AS own_id, a.prefix, a.app, i.action, i.event, i.subject, i.status, i.attempts,
       a.accepted_at, i.settled_at
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE {which} ORDER BY i.seq DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """An item that was accepted (`settled` is False) or has settled.

    It has no content: neither what was sent nor what Leanplum said.
    """

    settled: bool
    seq: int
    id: str
    app: str
    action: str
    event: str | None
    subject: str
    status: Status
    attempts: int
    accepted_at: int
    settled_at: int | None

    @property
    def at(self) -> int:
        """The time (ms) of what the entry reports."""
        return self.settled_at if self.settled and self.settled_at else self.accepted_at


class FeedStep(NamedTuple):
    """New entries in the order of time; `truncated` if others that are new were left out."""

    entries: Sequence[FeedEntry]
    truncated: bool


class Feed:
    """A reader of the feed, which begins with what is new from now on.

    A step costs little if little is new. It looks at most at `scanned` items of each kind, and
    returns at most `limit` entries of them; at a higher rate the newest ones.
    """

    def __init__(
        self, which: ItemFilter = ALL_ITEMS, limit: int = LIMIT, scanned: int = SCANNED
    ) -> None:
        self._which, self._limit, self._scanned = which, limit, scanned
        self._accepted: int | None = None  # the last sequence number that was read
        self._settled = 0  # the last time of settling that was read
        # By sequence number: when it settled, of the items that the last step looked at
        self._seen: Mapping[int, int] = {}

    def step(self, connection: Connection, history: int = 0) -> FeedStep:
        """Return what is new since the last step.

        The first step returns only the last `history` entries of each kind.
        """
        is_first = self._accepted is None
        limit = history if is_first else self._limit
        accepted, more_accepted = self._read_accepted(connection, limit)
        settled, more_settled = self._read_settled(connection, limit)
        entries = sorted(
            [*accepted, *settled], key=lambda entry: (entry.at, entry.settled, entry.seq)
        )
        return FeedStep(entries, not is_first and (more_accepted or more_settled))

    def _read_accepted(self, connection: Connection, limit: int) -> tuple[list[FeedEntry], bool]:
        """Return the newest items since the last number, and whether there were more."""
        last = connection.exec_driver_sql(LAST).scalar_one()
        before, self._accepted = self._accepted, last
        if last == before or not limit:
            return [], False
        after = max(last - self._scanned, before or 0)
        which, values = "i.seq > ? AND i.seq <= ?", (after, last)
        entries = self._read_entries(connection, which, values, limit, settled=False)
        more = len(entries) > limit or (before is not None and before < after)
        return entries[:limit], more

    def _read_settled(self, connection: Connection, limit: int) -> tuple[list[FeedEntry], bool]:
        """Return the newest items that settled since the last step, and whether there were more."""
        is_first = not self._settled
        if is_first:
            self._settled = _last_settled(connection)
        since = 0 if is_first and limit else self._settled - OVERLAP_MS
        scanned, more = dict[int, int](), False
        for index in SETTLED_INDEXES:
            values = since, self._scanned
            found = read_rows(connection, "seq, settled_at", index, values)
            scanned |= {row[0]: row[1] for row in found}
            more |= len(found) == self._scanned and all(self._is_new(*row) for row in found)
        new = [seq for seq, at in scanned.items() if self._is_new(seq, at)]
        self._seen = scanned
        self._settled = max(scanned.values(), default=self._settled)
        if not new or not limit:
            return [], more
        if self._which == ALL_ITEMS:  # the filter leaves none out, so the newest are enough
            more |= len(new) > limit
            new = nlargest(limit, new, key=scanned.__getitem__)
        which = f"i.seq IN {DIALECTS[connection.dialect.name].values('bigint')}"
        seqs = orjson.dumps(new).decode()
        entries = self._read_entries(connection, which, (seqs,), len(new), settled=True)
        # What was replayed meanwhile is not settled any more.
        entries = [entry for entry in entries if entry.settled_at is not None]
        entries.sort(key=lambda entry: (entry.at, entry.seq), reverse=True)
        return entries[:limit], more or len(entries) > limit

    def _is_new(self, seq: int, settled_at: int) -> bool:
        return self._seen.get(seq) != settled_at

    def _read_entries(
        self,
        connection: Connection,
        which: str,
        values: tuple[Any, ...],
        limit: int,
        *,
        settled: bool,
    ) -> list[FeedEntry]:
        """Return at most `limit` + 1 chosen items."""
        chosen, chosen_values = self._which.sql(DIALECTS[connection.dialect.name])
        statement = ENTRIES.format(which=which + chosen)
        parameters = (*values, *chosen_values, limit + 1)
        found = read_rows(connection, COLUMNS, statement, parameters)
        return [_entry(row, settled=settled) for row in found]


def _last_settled(connection: Connection) -> int:
    """Return the last time at which an item settled; 1 if none has."""
    times = [connection.exec_driver_sql(statement).scalar() for statement in LAST_SETTLED]
    return max([time for time in times if time is not None], default=1)


def _entry(row: Sequence[Any], *, settled: bool) -> FeedEntry:
    seq, own_id, prefix, *columns = row
    app, action, event, subject, status, attempts, accepted_at, settled_at = columns
    return FeedEntry(
        settled=settled,
        seq=seq,
        id=own_id or ids.made(prefix, seq),
        app=app,
        action=action,
        event=event,
        subject=subject,
        status=Status(status),
        attempts=attempts,
        accepted_at=accepted_at,
        settled_at=settled_at,
    )
