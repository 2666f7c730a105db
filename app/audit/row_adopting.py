"""Giving rows from before there were MACs theirs: once, by the first process that starts with the
audit's key.

Whoever can change the database could ask for it again, so it is refused where the audit knows of a
change of these rows since they have MACs; `audit verify` then names what is wrong. Where rows are
given MACs, the audit says how many.
"""

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import Engine

from app.audit import records, verify_rows
from app.audit.record_macs import Marks
from app.audit.row_macs import (
    EMPTY,
    PENDING,
    SETS,
    TABLES,
    TAKE,
    RowMacs,
    Table,
    detail_of,
    read_row,
    store,
    stored,
)
from app.audit.tree import raw_of
from app.clock import now_ms
from app.database.driver import Cursor
from app.database.engine import snapshot, transaction

RECORDED = "SELECT record FROM audit_records WHERE {contains}"
KNOWN = "SELECT 1 FROM audit_records WHERE {contains} LIMIT 1"
INSERT = "INSERT INTO row_sets (name, members, digest, version) VALUES (?, ?, ?, ?)"
FIRST_VERSION = 1
ADVICE = "somebody changed the database by hand: run `audit verify`; docs/audit.md tells what then"

log = structlog.get_logger("audit")


def begin(engine: Engine, marks: Marks) -> None:
    """Make the digest of each set of rows that has none yet, and the MACs of the rows that have
    none.

    Raises StorageUnavailable.
    """
    with snapshot(engine) as connection:
        pending = [name for (name,) in connection.exec_driver_sql(PENDING)]
    if not pending:
        return
    with transaction(engine) as cursor:
        for name in pending:
            _begin(cursor, marks, name)


def _begin(cursor: Cursor, marks: Marks, name: str) -> None:
    summary = stored(cursor, name)
    if summary is None or summary.mac is not None:  # another process was first
        return
    if _is_known(cursor, name):
        log.error("audit.rows_not_adopted", set=name, advice=ADVICE)
        return
    adopted = members = digest = 0
    for table in (one for one in TABLES if one.of_set == name):
        given, terms = _give(cursor, marks.rows, table)
        adopted, members, digest = adopted + given, members + len(terms), digest + sum(terms)
    version = FIRST_VERSION if adopted else 0
    store(cursor, name, marks.rows.summary(name, members, digest, version))
    if adopted:
        now = now_ms()
        text = records.rows_adopted(time=now, name=name, count=adopted)
        told = records.detailed(text, detail_of(name, version))
        records.insert(cursor, marks, [(now, told)])


def vouch(engine: Engine, marks: Marks, tell: Callable[[str], None]) -> int:
    """Take the rows as they are now, where something is wrong with them; whoever runs this vouches
    for them. Return how many findings there were; each is told before it is done. The audit has a
    record of it.
    """
    with transaction(engine) as cursor:

        def fetch(statement: str, values: tuple[Any, ...]) -> Sequence[Any]:
            cursor.execute(statement, values)
            return cursor.fetchall()

        known = {name: _newest_change(cursor, name) for name in SETS}
        findings = verify_rows.verify(fetch, marks.rows, known)
        for one in findings:
            tell(one.detail)
        if findings:
            for name in SETS:
                _vouch(cursor, marks, name, known[name])
    return len(findings)


def _vouch(cursor: Cursor, marks: Marks, name: str, known: int) -> None:
    given = members = digest = 0
    for table in (one for one in TABLES if one.of_set == name):
        cursor.execute(TAKE.format(table=table.name))
        count, terms = _give(cursor, marks.rows, table)
        given, members, digest = given + count, members + len(terms), digest + sum(terms)
    summary = stored(cursor, name)
    version = max(known, 0 if summary is None else summary.version) + 1
    cursor.execute("DELETE FROM row_sets WHERE name = ?", (name,))
    cursor.execute(INSERT, (name, 0, EMPTY, 0))
    store(cursor, name, marks.rows.summary(name, members, digest, version))
    now = now_ms()
    text = records.administrative_act(
        time=now, act="audit.adopt-rows", subject=name, details={"rows": given}
    )
    records.insert(cursor, marks, [(now, records.detailed(text, detail_of(name, version)))])


def _newest_change(cursor: Cursor, name: str) -> int:
    """Return the number of the newest change of a set that the audit has a record of; 0 where it
    has none.
    """
    like = records.DETAIL + detail_of(name, 0)[:-1]
    cursor.execute(RECORDED.format(contains=cursor.dialect.contains), (like,))
    changes = (records.told_of(raw_of(text)).change for (text,) in cursor.fetchall())
    return max(
        (change[1] for change in changes if change is not None and change[0] == name), default=0
    )


def _is_known(cursor: Cursor, name: str) -> bool:
    """Whether the audit has a record of a change of the set since it has a digest."""
    cursor.execute(
        KNOWN.format(contains=cursor.dialect.contains), (records.DETAIL + detail_of(name, 0)[:-1],)
    )
    return cursor.fetchone() is not None


def _give(cursor: Cursor, macs: RowMacs, table: Table) -> tuple[int, list[int]]:
    """Give the rows of a table that have no MAC theirs; how many, and what all whose MACs fit add
    to the digest.
    """
    cursor.execute(table.select)
    adopted, terms = 0, list[int]()
    for row in map(read_row, cursor.fetchall()):
        if row.mac is None:
            mac = macs.of(table, row.values)
            cursor.execute(table.put, (mac, row.values[0]))
            adopted += 1
        elif macs.fits(table, row):
            mac = row.mac
        else:
            continue
        terms.append(macs.term(mac))
    return adopted, terms
