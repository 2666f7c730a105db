"""Reading waiting items in the order of acceptance, which is that of the sequence numbers.

Numbers become visible in their order, since the transactions that assign them take the write lock
one after the other. So all items below the newest one seen are visible.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection

from app import ids
from app.database.driver import DIALECTS, Dialect
from app.encryption import BodyCipher, body_context
from app.model import Backlog, Item, ItemPage, ReadRequest, ReadResult, ReplayedLane

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
# Waiting items that one search for given lanes walks over, since no index is by lane
LANES_PART = 250_000
BACKLOG_RANGE = 250_000  # numbers in which a caller's items are searched at once
PART_END = """
SELECT seq FROM items WHERE settled_at IS NULL AND seq > ? AND seq < ?
ORDER BY seq LIMIT 1 OFFSET ?
"""
CALLERS = """
SELECT caller, first, last, total, (
    SELECT a.app FROM items i JOIN acceptances a ON a.first_seq = i.acceptance WHERE i.seq = last
) FROM (
    SELECT caller, min(seq) AS first, max(seq) AS last, count(*) AS total FROM (
        SELECT seq, caller FROM items WHERE settled_at IS NULL AND seq > ? AND seq <= ?
        ORDER BY seq LIMIT ?
    ) AS part GROUP BY caller
) AS callers
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


class CallersPart(NamedTuple):
    """The callers in a part of the queue, and where the items of each begin.

    The next part begins at `after`; None if there is none.
    """

    callers: dict[int, Backlog]
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
    is_last = sum(total for _, _, _, total, _ in found) < CALLERS_PART
    return CallersPart(
        {caller: Backlog(app, first - 1) for caller, first, _, _, app in found},
        None if is_last else max(last for _, _, last, _, _ in found),
    )


def read_waiting_items(
    connection: Connection, wanted: ReadRequest, cipher: BodyCipher
) -> ReadResult:
    """Read what a request asks for, in the order of the fields of `ReadResult`.

    What is read later can only be newer. For a fresh request there are `read_end` and
    `read_callers`.
    """
    end = read_end(connection, wanted)
    last, replays = end.last, end.replays
    read = _Reader(connection, wanted, cipher)
    lanes = read.lanes() if wanted.lanes else None
    replayed = read.replayed(replays) if replays > wanted.replays else {}
    tail = read.tail(wanted.tail, last) if wanted.tail is not None else None
    backlogs = [
        (caller, read.backlog(caller, after, limit, last))
        for caller, after, limit in wanted.backlogs
    ]
    earlier = dict[int, int]()
    if wanted.unread_after:
        doubtful = list(tail.items) if tail is not None else []
        doubtful += [
            item for _, page in backlogs for item in page.items if item.app in wanted.contended
        ]
        for app, after in wanted.unread_after.items():
            earlier |= read.earlier(after, [item for item in doubtful if item.app == app])
    return ReadResult(wanted, last, replays, {}, lanes, replayed, tail, backlogs, earlier)


class _Reader:
    """The statements, on one connection."""

    def __init__(self, connection: Connection, wanted: ReadRequest, cipher: BodyCipher) -> None:
        self._connection, self._wanted, self._cipher = connection, wanted, cipher
        self._dialect: Dialect = DIALECTS[connection.dialect.name]
        self._numbers = self._dialect.values("bigint")

    def lanes(self) -> ItemPage:
        """Return the waiting items of some lanes in the first part of their range."""
        wanted = self._wanted
        part_end = self._part_end(wanted.lanes_from - 1, wanted.lanes_upto + 1)
        upto = wanted.lanes_upto if part_end is None else part_end
        which = f"seq >= ? AND seq <= ? AND lane IN {self._numbers}"
        page = self._page(which, [wanted.lanes_from, upto, _text(wanted.lanes)], wanted.limit)
        return (
            ItemPage(page.items, False, part_end) if page.whole and part_end is not None else page
        )

    def earlier(self, after: int, doubtful: Sequence[Item]) -> dict[int, int]:
        """Return by lane the lowest number that an unread item of it may have.

        Lanes that have none are left out. Only the first part of the range is searched, since
        callers' items wait meanwhile: for a lane that is not found there, the number after the part
        is returned.
        """
        # A lane that is read now may not be skipped any more once this result is taken
        read_now, skipped = self._wanted.lanes, self._wanted.skipped
        lanes = {
            item.lane for item in doubtful if item.lane in read_now or item.lane not in skipped
        }
        if not lanes:
            return {}
        before = max(item.seq for item in doubtful)
        part_end = self._part_end(after, before)
        upto = before if part_end is None else part_end + 1
        statement = self._dialect.sql(EARLIER.format(lanes=self._numbers))
        rows = self._connection.exec_driver_sql(statement, (after, upto, _text(lanes)))
        found = {row[0]: row[1] for row in rows}
        return found if part_end is None else dict.fromkeys(lanes, upto) | found

    def _part_end(self, after: int, before: int) -> int | None:
        """Return the number at which the first part of a range ends; None if it is all of it."""
        if before - after <= LANES_PART:
            return None
        values = (after, before, LANES_PART - 1)
        row = self._connection.exec_driver_sql(self._dialect.sql(PART_END), values).first()
        return None if row is None else int(row[0])

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

    def backlog(self, caller: int, after: int, limit: int, last: int) -> ItemPage:
        """Return the waiting items of one caller in a range after a sequence number."""
        upto = after + BACKLOG_RANGE
        page = self._page("caller = ? AND seq > ? AND seq <= ?", [caller, after, upto], limit)
        return ItemPage(page.items, False, upto) if page.whole and upto < last else page

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
