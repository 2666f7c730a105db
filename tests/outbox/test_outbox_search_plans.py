"""How the databases run searches of many receipts: by indexes, and within the time that is promised."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from app import ids
from app.database.driver import DIALECTS
from app.database.engine import connect, reading
from app.outbox import feed, search, search_index
from bench.search import APP, fill, index, measure, searches

ROWS = 100_000
SECONDS = 1.0
FAR = 1 << 60


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Engine]:
    """A database with the receipts of a day, and their index."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('search')}/g.db"
    else:
        url = request.getfixturevalue("postgresql_server").empty()
    engine = connect(url)
    fill(engine, ROWS)
    index(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
    yield engine
    engine.dispose()


def plan(connection: Connection, statement: str, *values: Any) -> str:
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    sql = DIALECTS[connection.dialect.name].sql(f"{explain} {statement}")
    return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(sql, values))


@pytest.mark.slow
def test_each_search_of_a_day_s_receipts_takes_at_most_a_second(filled: Engine) -> None:
    for name, which in searches(ROWS):
        assert max(measure(filled, which, 3)) < 1000 * SECONDS, name


@pytest.mark.slow
def test_each_statement_of_a_search_and_of_the_feed_goes_by_an_index(filled: Engine) -> None:
    with reading(filled) as connection:
        dialect = DIALECTS[connection.dialect.name]
        numbers, lane = dialect.values("bigint"), ids.lane(APP, "uuser-1")
        find = search_index.FIND.format(blocks=numbers)
        plans = {
            "search_keys": plan(connection, find, "[1,2,3]", lane, 0, FAR, 100),
            "items_waiting": plan(connection, search.WAITING_ITEMS, 0, FAR, 100),
            "items_undelivered": plan(
                connection, search.UNDELIVERED_ITEMS, 0, FAR, "rejected", 100
            ),
            "items_settled": plan(connection, feed.SETTLED_INDEXES[0], FAR, 100),
            "items_dead_settled": plan(connection, feed.SETTLED_INDEXES[1], FAR, 100),
        }
        accepted = plan(connection, feed.ENTRIES.format(which="i.seq > ?"), FAR, 100)
    for name, text in plans.items():
        assert name in text, text
        assert "SCAN items\n" not in f"{text}\n", text
        assert "Seq Scan on items" not in text, text
    assert "Seq Scan on items" not in accepted
    assert "SCAN i\n" not in f"{accepted}\n"
