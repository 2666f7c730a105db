"""Giving rows from before there were MACs theirs: once, by the first process that starts with the audit's key.

Whoever can change the database could ask for it again, so it is refused where the audit knows of a change of these rows
since they have MACs; `audit verify` then names what is wrong. Where rows are given MACs, the audit says how many.
"""

import structlog
from sqlalchemy import Engine

from app.audit import records
from app.audit.marks import Marks
from app.audit.row_macs import (
    PENDING,
    TABLES,
    RowMacs,
    Table,
    detail_of,
    read_row,
    store,
    stored,
)
from app.clock import now_ms
from app.database.dialect import Cursor
from app.database.engine import snapshot, transaction

KNOWN = "SELECT 1 FROM audit_records WHERE {contains} LIMIT 1"
FIRST_VERSION = 1
ADVICE = "somebody changed the database by hand: run `audit verify`; docs/audit.md tells what then"

log = structlog.get_logger("audit")


def begin(engine: Engine, marks: Marks) -> None:
    """Make the digest of each set of rows that has none yet, and the MACs of the rows that have none.

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


def _is_known(cursor: Cursor, name: str) -> bool:
    """Whether the audit has a record of a change of the set since it has a digest."""
    cursor.execute(
        KNOWN.format(contains=cursor.dialect.contains), (records.DETAIL + detail_of(name, 0)[:-1],)
    )
    return cursor.fetchone() is not None


def _give(cursor: Cursor, macs: RowMacs, table: Table) -> tuple[int, list[int]]:
    """Give the rows of a table that have no MAC theirs; how many, and what all whose MACs fit add to the digest."""
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
