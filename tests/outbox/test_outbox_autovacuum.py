"""How PostgreSQL keeps tables small that change with each item, or all the time."""

import psycopg
import pytest

from app.outbox.minute_counts import StoreCounts
from app.telemetry.minute_counts import CountRow
from tests.support.postgres import Server

from .harness import Opened, settle, track, with_outbox

ROUNDS = 60
CHANGED_IN_PLACE = {"deliverers", "minute_counts", "sequence"}
UPDATES = "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE n_tup_upd > 0"
OPTIONS = "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL"


@pytest.fixture
def url(postgresql_server: Server) -> str:
    return postgresql_server.empty()


def test_rows_that_change_all_the_time_are_changed_in_place(url: str) -> None:
    """An update in place writes to no index, and the next one reuses the room of its old row."""

    async def body(at: Opened) -> None:
        for number in range(ROUNDS):
            await at.accept(track())
            await at.outbox.renew("one", 60_000, [], ())
            await at.writer.write(StoreCounts([CountRow(60_000, "default", "accepted", 1, number)]))
        await settle(at, await at.waiting())

    with_outbox(url, body)
    with psycopg.connect(url) as connection:
        updates = {name: (all_, hot) for name, all_, hot in connection.execute(UPDATES.encode())}
    for table in CHANGED_IN_PLACE:
        updated, in_place = updates[table]
        assert updated >= ROUNDS - 1, table
        assert in_place >= 0.9 * updated, table


def test_large_tables_are_vacuumed_after_a_twentieth_has_changed(url: str) -> None:
    with psycopg.connect(url) as connection:
        found = connection.execute(OPTIONS.encode()).fetchall()
    options: dict[str, list[str]] = dict(found)
    for table in ("acceptances", "audit_records", "item_ids", "items", "search_keys"):
        assert "autovacuum_vacuum_scale_factor=0.05" in options[table], table
    for table in ("attempts", "logins", "user_locks"):
        assert "autovacuum_vacuum_scale_factor=0" in options[table], table
