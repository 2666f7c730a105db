"""The search of receipts, newest first, by any outcome.

A search examines spans of items, from the newest to the oldest, each by one statement. What chooses
the spans is the narrowest part of the filter: a request, a user or device, a status that few items
have, or else the time alone. A search examines a bounded number of items, so it may end before its
page is full; the page says where to go on.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from heapq import merge
from itertools import chain, islice
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection

from app import ids
from app.database.driver import DIALECTS, read_rows
from app.encryption import BodyCipher
from app.model import DEAD, Receipt, Status
from app.outbox.item_filter import ALL_ITEMS, ItemFilter
from app.outbox.receipts import COLUMNS, SELECT, receipt
from app.outbox.search_index import (
    LISTED,
    REQUEST,
    SEEKS,
    Extent,
    extents,
    find_blocks,
    find_keys,
)

EXAMINED = 100_000  # items that a search examines
WALK = 10_000  # numbers of a span of items that no index chooses
LANE_SHARE = 20  # an item of another lane costs such a part of one that is compared in full
WAITING = frozenset({Status.ACCEPTED, Status.RETRYING, Status.HELD})
UNDELIVERED = DEAD | {Status.SKIPPED}
MAX_SEQ = 9_000_000_000_000_000_000

PREVIOUS = "SELECT max(seq) FROM items WHERE seq >= ? AND seq < ?"
# The conditions are those of the indexes (`database/tables.py`).
WAITING_ITEMS = """
SELECT seq FROM items WHERE settled_at IS NULL AND seq >= ? AND seq < ? ORDER BY seq DESC LIMIT ?
"""
UNDELIVERED_ITEMS = """
SELECT seq FROM items WHERE settled_at IS NOT NULL AND status != 'delivered'
   AND seq >= ? AND seq < ? AND status = ? ORDER BY seq DESC LIMIT ?
"""
REQUESTS = """
SELECT first_seq AS seq FROM acceptances WHERE first_seq >= ? AND first_seq < ? AND request = ?
ORDER BY first_seq DESC LIMIT ?
"""
ACCEPTANCES = """
SELECT a.first_seq,
       (SELECT min(b.first_seq) FROM acceptances b WHERE b.first_seq > a.first_seq) AS next
FROM acceptances a WHERE a.first_seq IN {firsts}
"""
OWN_IDS = """
SELECT seq FROM item_ids WHERE seq >= ? AND seq < ? AND app = ? AND id >= ? AND id <= ?
ORDER BY seq DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class ReceiptSearch:
    """A search of the receipts of one app: at most `limit`, whose numbers are below `before`.

    `own_ids`: only items whose caller-given ids are between these bounds. `examined`: how many
    items are looked at; the default is `EXAMINED`.
    """

    app: str
    which: ItemFilter = ALL_ITEMS
    own_ids: tuple[str, str] | None = None
    before: int | None = None
    limit: int = 100
    examined: int | None = None


class ReceiptPage(NamedTuple):
    """Receipts, newest first; `before` is where the search goes on, None where it has ended."""

    receipts: Sequence[Receipt]
    before: int | None = None


class Span(NamedTuple):
    """Items to examine: those of a condition, of which `first` is the lowest number."""

    condition: str
    values: tuple[Any, ...]
    first: int
    size: int


def search(connection: Connection, wanted: ReceiptSearch, cipher: BodyCipher) -> ReceiptPage:
    """Return a page of receipts."""
    which = replace(wanted.which, apps={wanted.app})
    found = list[dict[str, Any]]()
    examined, before = 0, None
    most = EXAMINED if wanted.examined is None else wanted.examined
    for span in _Spans(connection, wanted).find():
        found += _read(connection, which, span, wanted.limit + 1 - len(found))
        examined += span.size
        if len(found) > wanted.limit:
            before = found[wanted.limit - 1]["seq"]
            break
        if examined >= most:
            before = span.first
            break
    return ReceiptPage([receipt(row, cipher) for row in found[: wanted.limit]], before)


def _read(
    connection: Connection, which: ItemFilter, span: Span, limit: int
) -> list[dict[str, Any]]:
    """Return the matching rows of a span, newest first."""
    conditions, values = which.sql(DIALECTS[connection.dialect.name])
    statement = f"{SELECT} WHERE {span.condition}{conditions} ORDER BY i.seq DESC LIMIT ?"
    rows = read_rows(connection, ", ".join(COLUMNS), statement, (*span.values, *values, limit))
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


class _Spans:
    """The spans of one search. Numbers are found by an index, and yielded in chunks."""

    def __init__(self, connection: Connection, wanted: ReceiptSearch) -> None:
        self._connection, self._wanted = connection, wanted
        self._dialect = DIALECTS[connection.dialect.name]

    def find(self) -> Iterator[Span]:
        """Yield the spans, newest first."""
        wanted, which = self._wanted, self._wanted.which
        if which.request_id is not None and wanted.own_ids is None:
            return self._by_request(which.request_id)
        ranges = extents(self._connection, which.since, which.until, wanted.before)
        if wanted.own_ids is not None:
            values = (wanted.app, *wanted.own_ids)
            chunks = (self._chunks(OWN_IDS, extent, values) for extent in ranges)
            return map(self._listed, chain.from_iterable(chunks))
        if which.subject is not None:
            return self._by_subject(which.subject, ranges)
        if which.statuses is not None and which.statuses <= UNDELIVERED:
            return map(self._listed, self._by_outcome(which.statuses, ranges))
        if which.statuses is not None and which.statuses <= WAITING:
            chunks = (self._chunks(WAITING_ITEMS, extent, ()) for extent in ranges)
            return map(self._listed, chain.from_iterable(chunks))
        return chain.from_iterable(self._walk(extent, WALK) for extent in ranges)

    def _by_subject(self, subject: str, ranges: Sequence[Extent]) -> Iterator[Span]:
        lane = ids.lane(self._wanted.app, subject)
        for extent in ranges:
            if extent.indexed:
                yield from map(self._listed, self._seek(lane, extent))
            else:
                spans = self._walk(extent, 10 * WALK, " AND i.lane = ?", (lane,))
                yield from (span._replace(size=span.size // LANE_SHARE) for span in spans)

    def _by_request(self, request_id: str) -> Iterator[Span]:
        """Yield a span for each acceptance of a request.

        Its first item may have been accepted long before `before`, so no time bounds apply.
        """
        checksum = ids.request_checksum(request_id)
        for extent in extents(self._connection, None, None, self._wanted.before):
            if extent.indexed:
                chunks = self._seek(REQUEST + checksum, extent)
            else:
                chunks = self._chunks(REQUESTS, extent, (checksum,))
            for firsts in chunks:
                yield from self._of_acceptances(firsts)

    def _of_acceptances(self, firsts: Sequence[int]) -> Iterator[Span]:
        """Yield the spans of acceptances: long ones each by itself, the others together.

        Callers choose the ids of their requests, so many may have the same, or its checksum.
        """
        statement = ACCEPTANCES.format(firsts=self._dialect.values("bigint"))
        before = MAX_SEQ if self._wanted.before is None else self._wanted.before
        found = read_rows(self._connection, "first_seq, next", statement, (_text(firsts),))
        together: list[int] = []
        for first, following in sorted(found, reverse=True):
            end = min(before, following or MAX_SEQ)
            is_long = end - first > LISTED
            if together and (is_long or len(together) >= LISTED):
                yield self._listed(together)
                together = []
            if is_long:
                condition = "i.seq >= ? AND i.seq < ? AND i.acceptance = ?"
                yield Span(condition, (first, end, first), first, LISTED)
            else:
                together += range(end - 1, first - 1, -1)
        if together:
            yield self._listed(together)

    def _by_outcome(
        self, statuses: Set[Status], ranges: Sequence[Extent]
    ) -> Iterator[Sequence[int]]:
        """Yield the numbers of items that have settled with one of these statuses."""
        for extent in ranges:
            by_status = [
                chain.from_iterable(self._chunks(UNDELIVERED_ITEMS, extent, (status.value,)))
                for status in statuses
            ]
            numbers = merge(*by_status, reverse=True)
            while chunk := list(islice(numbers, LISTED)):
                yield chunk

    def _walk(
        self,
        extent: Extent,
        length: int,
        condition: str = "",
        values: tuple[Any, ...] = (),
    ) -> Iterator[Span]:
        """Yield spans of the items in a range, without the gaps between them."""
        end = extent.end
        statement = self._dialect.sql(PREVIOUS)
        while True:
            bounds = extent.first, end
            newest = self._connection.exec_driver_sql(statement, bounds).scalar()
            if newest is None:
                return
            first = max(extent.first, newest + 1 - length)
            in_range = f"i.seq >= ? AND i.seq < ?{condition}"
            yield Span(in_range, (first, newest + 1, *values), first, newest + 1 - first)
            end = first

    def _seek(self, key: int, extent: Extent) -> Iterator[Sequence[int]]:
        """Yield the numbers that the blocks have for a key."""
        blocks = find_blocks(self._connection, extent.first, extent.end)
        for start in range(0, len(blocks), SEEKS):
            some, end = blocks[start : start + SEEKS], extent.end
            while found := find_keys(self._connection, key, some, extent.first, end, limit=LISTED):
                yield found
                end = found[-1]

    def _chunks(
        self, statement: str, extent: Extent, values: tuple[Any, ...]
    ) -> Iterator[Sequence[int]]:
        """Yield the numbers that a statement finds in a range."""
        end = extent.end
        while found := read_rows(
            self._connection, "seq", statement, (extent.first, end, *values, LISTED)
        ):
            yield [seq for (seq,) in found]
            end = found[-1][0]

    def _listed(self, seqs: Sequence[int]) -> Span:
        condition = f"i.seq IN {self._dialect.values('bigint')}"
        return Span(condition, (_text(seqs),), seqs[-1], len(seqs))


def _text(numbers: Sequence[int]) -> str:
    return orjson.dumps(numbers).decode()
