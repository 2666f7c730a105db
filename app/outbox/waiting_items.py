"""Reading waiting items in the order of acceptance, which is that of the sequence numbers.

Numbers become visible in their order, since the transactions that assign them take the write lock
one after the other. So all items below the newest one seen are visible.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection

from app import ids
from app.database.driver import DIALECTS, Dialect
from app.encryption import BodyCipher, body_context
from app.model import EarlierLookup, Item, ItemPage, ReadRequest, ReadResult, ReplayedLane

COLUMNS = ", ".join(Item._fields)
WAITING = """
SELECT {columns} FROM (SELECT *, sum(length(body)) OVER (ORDER BY seq) AS upto FROM (
    SELECT i.seq, coalesce(i.id, a.prefix || {hex}) AS id, a.app, i.subject, i.action, i.body,
           a.accepted_at, i.attempts, coalesce(i.next_attempt_at, 0) AS next_attempt_at,
           i.lane, i.caller, coalesce(i.replayed_at, a.accepted_at) AS queued_at, a.traceparent
    FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
    WHERE i.seq IN (SELECT seq FROM items WHERE settled_at IS NULL AND {which} ORDER BY seq LIMIT ?)
) AS found) AS counted WHERE upto - length(body) < ?
"""
# Of all bodies of a page, less the last: bounds memory, and SQLite's longest value
PAGE_CHARACTERS = 8_000_000
# The whole of a long queue takes longer than anybody waits for an answer.
CALLERS_PART = 500_000
# Waiting items among which earlier ones are searched for at once
EARLIER_PART = 500_000
# The last number of the part has no lane
EARLIER_IN_PART = """
WITH part AS MATERIALIZED (
    SELECT seq, lane FROM items WHERE settled_at IS NULL AND seq > ? AND seq < ?
    ORDER BY seq LIMIT ?
)
SELECT lane, min(seq) FROM part WHERE lane IN {lanes} GROUP BY lane
UNION ALL SELECT NULL, max(seq) FROM part
"""
CALLERS = """
SELECT caller, max(seq), count(*) FROM (
    SELECT seq, caller FROM items WHERE settled_at IS NULL AND seq > ? AND seq <= ?
    ORDER BY seq LIMIT ?
) AS part GROUP BY caller
"""
REPLAYED = """
SELECT i.lane, min(a.app), min(i.seq), max(i.seq)
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE i.settled_at IS NULL AND i.replay > ? AND i.replay <= ? GROUP BY i.lane
"""
EARLIER = """
SELECT lane, min(seq) FROM items
WHERE settled_at IS NULL AND seq > ? AND seq < ? AND lane IN {lanes} GROUP BY lane
"""


class EarlierPart(NamedTuple):
    """By lane the lowest number in a part of a search; `last` is the part's last number.

    `last` is None if the part is empty, and so the search is over.
    """

    earlier: dict[int, int]
    last: int | None


class CallersPart(NamedTuple):
    """The callers in a part of the queue; the next begins at `after`, None if there is none."""

    callers: frozenset[int]
    after: int | None


def read_end(connection: Connection, wanted: ReadRequest) -> ReadResult:
    """Read the end of the queue, before anything else of it.

    An item that is accepted after a replay is read only once that replay was seen, lest it
    overtakes what was sent again.
    """
    last, replays = connection.exec_driver_sql("SELECT last, replays FROM sequence").one()
    return ReadResult(wanted, last, replays)


def read_callers(connection: Connection, after: int, upto: int) -> CallersPart:
    """Read which callers have waiting items in the part of the queue after a number."""
    statement = DIALECTS[connection.dialect.name].sql(CALLERS)
    found = connection.exec_driver_sql(statement, (after, upto, CALLERS_PART)).all()
    is_last = sum(count for _, _, count in found) < CALLERS_PART
    return CallersPart(
        frozenset(caller for caller, _, _ in found),
        None if is_last else max(seq for _, seq, _ in found),
    )


def read_waiting_items(
    connection: Connection, wanted: ReadRequest, cipher: BodyCipher
) -> ReadResult:
    """Read what a request asks for, in the order of the fields of `ReadResult`.

    What is read later can only be newer. For a fresh request there are `read_end` and
    `read_callers`. A search for earlier items that may take long is left to the caller (`to_find`).
    """
    end = read_end(connection, wanted)
    last, replays = end.last, end.replays
    read = _Reader(connection, wanted, cipher)
    lanes = read.lanes() if wanted.lanes else None
    replayed = read.replayed(replays) if replays > wanted.replays else {}
    tail = read.tail(wanted.tail, last) if wanted.tail is not None else None
    backlogs = [
        (caller, read.backlog(caller, after, limit)) for caller, after, limit in wanted.backlogs
    ]
    result = ReadResult(wanted, last, replays, [], lanes, replayed, tail, backlogs)
    lookup = _earlier_lookup(result)
    if lookup is None:
        return result
    if lookup.before - lookup.after > EARLIER_PART:
        return replace(result, to_find=lookup)
    return replace(result, earlier=read_earlier(connection, lookup))


def _earlier_lookup(result: ReadResult) -> EarlierLookup | None:
    """Return the search for earlier items of the lanes of a result; None if there are none."""
    wanted, after = result.request, result.request.unread_after
    doubtful = list(result.tail.items) if result.tail is not None else []
    if wanted.contended:
        doubtful += [item for _, page in result.backlogs for item in page.items]
    if after is None or not doubtful:
        return None
    before = max(item.seq for item in doubtful)
    return EarlierLookup(after, before, frozenset(item.lane for item in doubtful))


def read_earlier(connection: Connection, lookup: EarlierLookup) -> dict[int, int]:
    """Return by lane the lowest number of a waiting item in the range of a search."""
    dialect = DIALECTS[connection.dialect.name]
    statement = dialect.sql(EARLIER.format(lanes=dialect.values("bigint")))
    values = (lookup.after, lookup.before, _text(lookup.lanes))
    return {row[0]: row[1] for row in connection.exec_driver_sql(statement, values)}


def read_earlier_part(connection: Connection, lookup: EarlierLookup) -> EarlierPart:
    """Read the first part of a search."""
    dialect = DIALECTS[connection.dialect.name]
    statement = dialect.sql(EARLIER_IN_PART.format(lanes=dialect.values("bigint")))
    values = (lookup.after, lookup.before, EARLIER_PART, _text(lookup.lanes))
    found = {row[0]: row[1] for row in connection.exec_driver_sql(statement, values)}
    last = found.pop(None)
    return EarlierPart(found, last)


class _Reader:
    """The statements, on one connection."""

    def __init__(self, connection: Connection, wanted: ReadRequest, cipher: BodyCipher) -> None:
        self._connection, self._wanted, self._cipher = connection, wanted, cipher
        self._dialect: Dialect = DIALECTS[connection.dialect.name]
        self._numbers = self._dialect.values("bigint")

    def lanes(self) -> ItemPage:
        """Return the waiting items of lanes that were deferred."""
        wanted = self._wanted
        which = f"seq >= ? AND seq <= ? AND lane IN {self._numbers}"
        return self._page(
            which, [wanted.lanes_from, wanted.lanes_upto, _text(wanted.lanes)], wanted.limit
        )

    def replayed(self, upto: int) -> dict[int, ReplayedLane]:
        """Return the lanes of items replayed since the last known replay, up to `upto`."""
        statement, values = REPLAYED, list[Any]([self._wanted.replays, upto])
        if self._wanted.shards is not None:
            values.append(_text(self._wanted.shards))
            statement = statement.replace(
                "GROUP BY", f"AND i.lane % {ids.SHARDS} IN {self._numbers} GROUP BY"
            )
        found = self._connection.exec_driver_sql(self._dialect.sql(statement), tuple(values))
        return {lane: ReplayedLane(*passed) for lane, *passed in found}

    def tail(self, after: int, upto: int) -> ItemPage:
        """Return the items in a range of numbers, without those of the callers to leave out."""
        which, values = "seq > ? AND seq <= ?", list[Any]([after, upto])
        if self._wanted.leave_out:
            which = f"{which} AND caller NOT IN {self._numbers}"
            values.append(_text(self._wanted.leave_out))
        return self._page(which, values, self._wanted.limit)

    def backlog(self, caller: int, after: int, limit: int) -> ItemPage:
        """Return the waiting items of one caller after a sequence number."""
        return self._page("caller = ? AND seq > ?", [caller, after], limit)

    def _page(self, which: str, values: list[Any], limit: int) -> ItemPage:
        if self._wanted.shards is not None:
            which, values = (
                f"{which} AND lane % {ids.SHARDS} IN {self._numbers}",
                [*values, _text(self._wanted.shards)],
            )
        found = self._rows(which, (*values, limit, PAGE_CHARACTERS))
        whole = len(found) < limit and sum(len(item.body) for item in found) < PAGE_CHARACTERS
        return ItemPage(self._opened(found) if self._cipher.can_decrypt else found, whole)

    def _opened(self, found: list[Item]) -> list[Item]:
        """Return the items with their bodies decrypted, as far as that is possible."""
        opened = self._cipher.decrypt
        bodies = [
            opened(one.body, body_context(one.app, one.action, one.seq, one.subject))
            for one in found
        ]
        decrypted = zip(found, bodies, strict=True)
        return [Item._make((*one[:5], body, *one[6:])) for one, body in decrypted]

    def _rows(self, which: str, values: tuple[Any, ...]) -> list[Item]:
        columns = f"json_group_array(json_array({COLUMNS}))" if self._dialect.one_row else COLUMNS
        statement = WAITING.format(columns=columns, which=which, hex=self._dialect.hex_seq)
        if self._dialect.one_row:
            found = orjson.loads(self._connection.exec_driver_sql(statement, values).scalar_one())
        else:
            found = self._connection.exec_driver_sql(
                self._dialect.sql(statement + "ORDER BY seq"), values
            )
        return list(map(Item._make, found))


def _text(numbers: Iterable[int]) -> str:
    return orjson.dumps(list(numbers)).decode()
