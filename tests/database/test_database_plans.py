"""The plans of all statements that the gateway executes, in a database of very many items.

A gateway is used in every way while its statements are recorded. Then each is explained in
databases whose planner sees 10,000,000 items: nearly all delivered, or all waiting.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import app
from app.database.engine import connect
from app.database.tables import metadata
from app.outbox import search_index
from bench.rows import NUMBERS, ManyItems, fill
from bench.search import index
from tests.support.exercise import exercise
from tests.support.gateway import make_settings
from tests.support.plans import whole_reads
from tests.support.simulator import delivering_to, simulated
from tests.support.statements import Recorded, recorded

ROWS = 40_000
SCALE = 250  # the planner of PostgreSQL is told of so many times the rows
WAITING = {"delivered": 1_000, "no statistics": 1_000, "waiting": ROWS}
# Tables that grow with the items that are accepted.
GROWING = {
    "acceptances",
    "audit_checkpoints",
    "audit_nodes",
    "audit_records",
    "item_ids",
    "items",
    "logins",
    "minute_counts",
    "search_keys",
}
# Tables that may be read whole, and why.
SMALL = {
    "attempts": "one row for each call in flight",
    "audit_tree": "one row",
    "caller_keys": "one row for each key",
    "caller_secrets": "two rows for each key, at most",
    "console_sessions": "one row for each session",
    "data_keys": "one row for each data key",
    "dead_letter_runs": "kept for two days",
    "deliverers": "one row for each process",
    "erasures": "read into memory as a whole, after each erasure",
    "leases": "64 rows",
    "own_secrets": "a few rows",
    "plan_violations": "one row for each kind of violation",
    "row_sets": "two rows",
    "search_blocks": "one row for 16,384 items",
    "sequence": "one row",
    "taxonomy": "read into memory as a whole, at the start",
    "user_locks": "one row for each relayed call",
}
# Statements that read every entry of an index, and why.
WHOLE_INDEXES = {
    "FROM items WHERE items.settled_at IS NULL": "the count of what waits, of the index alone",
    "SELECT size, note FROM audit_checkpoints": "`audit verify` and `audit export` read all",
    "EXISTS (SELECT 1 FROM logins)": "it stops at the first row",
    "WHERE substr(body, 1,": "at the start, for a data key that is missing",
    "SELECT max(settled_at) FROM items": "it stops at the first row",
    "replayed_at FROM items WHERE settled_at IS NULL ORDER BY seq LIMIT": "it stops at the LIMIT",
}
SPECIAL = {"items_dead", "items_dead_settled"}  # dead letters alone; their lists examine each
FILLERS = (
    "INSERT INTO audit_records (seq, time, record) {numbers} SELECT seq, seq * 1000, '{{}}'",
    "INSERT INTO logins (lane, seq) {numbers} SELECT seq * 77, seq",
    "INSERT INTO audit_nodes (level, place, hash) {numbers} SELECT 8, seq, {bytes}",
    "INSERT INTO audit_checkpoints (size, time, note, lasting) {numbers} SELECT seq, seq, '', 1",
    "INSERT INTO minute_counts (minute, app, kind, part, total) {numbers} "
    "SELECT 2000000000000 + seq, '', '', 1, 1",
)
STATEMENT = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM)\s")
# Of one database only, or before there are tables.
NOT_EXERCISED = {
    "session_lock.py",  # reads no table, on a connection of its own
    *("driver.py", "postgresql.py", "size.py", "sqlite_files.py"),
    "sandbox_database.py",  # of the sandbox's own database
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """The database of a test."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def new_database(
    kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Return the URL of an empty database on each call."""

    def make() -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('plans')}/g.db"
        url: str = request.getfixturevalue("postgresql_server").empty()
        return url

    return make


@pytest.fixture(scope="module")
def executed(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Recorded:
    """The statements of a gateway that was used in every way."""
    folder, url = tmp_path_factory.mktemp("gateway"), new_database()
    connect(url).dispose()  # the statements of migrations are not the gateway's
    with pytest.MonkeyPatch.context() as patch, recorded() as found, simulated() as leanplum:
        patch.setattr(search_index, "BLOCK", 8)

        def settings(**given: Any) -> Any:
            return make_settings(folder, migrated, given)

        with delivering_to(leanplum, settings, folder / "g.db", gateway_database_url=url) as talk:
            exercise(talk, leanplum)
    return found


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest, new_database: Callable[[], str]) -> Iterator[Engine]:
    """A database whose planner expects very many items."""
    engine = connect(new_database())
    fill(engine, ManyItems(ROWS, WAITING[request.param], users=10_000, own_ids=True))
    index(engine)
    is_sqlite = engine.dialect.name == "sqlite"
    numbers = NUMBERS.replace("?", "1", 1).replace("?", "10000", 1)
    with engine.connect() as connection:
        say = connection.exec_driver_sql
        for filler in FILLERS:
            some_bytes = "x'00'" if is_sqlite else "decode('00', 'hex')"
            say(filler.format(numbers=numbers, bytes=some_bytes) + " FROM numbers")
        connection.commit()
        if request.param == "no statistics":
            yield engine
            engine.dispose()
            return
        say("ANALYZE")
        if not is_sqlite:
            say(
                f"UPDATE pg_class SET reltuples = reltuples * {SCALE} WHERE reltuples > 1000 "
                "AND relnamespace = CAST('public' AS regnamespace)"
            )
        connection.commit()
    yield engine
    engine.dispose()


def test_each_table_is_known_to_grow_or_to_be_small() -> None:
    assert GROWING.isdisjoint(SMALL)
    assert GROWING | SMALL.keys() == metadata.tables.keys()


def test_each_statement_of_the_code_is_executed(executed: Recorded) -> None:
    texts = [" ".join(statement.split()) for statement in executed]
    missing = [
        f"{where}: {pattern.pattern}"
        for where, pattern in _statements_of_the_code()
        if not any(pattern.search(text) for text in texts)
    ]
    assert missing == [], "execute these too, in tests/support/exercise.py"


@pytest.mark.parametrize(
    ("kind", "filled"),
    [
        ("sqlite", "delivered"),
        ("sqlite", "waiting"),
        ("sqlite", "no statistics"),  # as the gateway leaves it
        ("postgresql", "delivered"),
        ("postgresql", "waiting"),
    ],
    indirect=True,
    scope="module",
)
def test_no_statement_reads_a_table_that_grows_with_items_as_a_whole(
    executed: Recorded, filled: Engine
) -> None:
    allowed = SMALL.keys() | SPECIAL | _indexes_of(SMALL.keys()) | {"alembic_version"}
    wrong = {}
    for statement, values in executed.items():
        text = " ".join(statement.split())
        reads = whole_reads(filled, statement, values) - allowed
        reads = {name for name in reads if name in GROWING or name in _indexes_of(GROWING)}
        if reads and not any(part in text for part in WHOLE_INDEXES):
            wrong[text] = reads
    assert wrong == {}


def _indexes_of(tables: Any) -> set[str]:
    named = {each.name for table in tables for each in metadata.tables[table].indexes}
    return {str(name) for name in named} | {f"{table}_pkey" for table in tables}


def _statements_of_the_code() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Yield where each statement is, and a pattern that its text matches when it is executed."""
    root = Path(app.__file__).parent
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if path.name in NOT_EXERCISED or "migrations" in parts or "simulator" in parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = _text_of(node)
            if STATEMENT.match(text) and len(text.split()) > 3:
                pieces = re.split(r"\{\w*\}|\?|\0", " ".join(text.split()))
                pattern = ".*?".join(re.escape(piece) for piece in pieces)
                yield f"{'/'.join(parts)}:{getattr(node, 'lineno', 0)}", re.compile(pattern)


def _text_of(node: ast.AST) -> str:
    """Return the text of a literal, with a zero byte for each value inside."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(part) for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "\0"
