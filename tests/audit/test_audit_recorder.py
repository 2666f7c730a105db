"""Records of what is no write itself are written sooner or later, whatever the database is like
just now.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import event

from app.audit import recorder
from app.audit.recorder import AuditRecorder
from app.audit.records import AuditMacs
from app.database.engine import connect
from app.database.writer import Writer


def records(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as beside:
        return [text for (text,) in beside.execute("SELECT record FROM audit_records ORDER BY seq")]


def with_recorder(
    path: Path, do: Callable[[AuditRecorder, sqlite3.Connection], Awaitable[None]], busy_ms: int
) -> None:
    """Do something with a recorder, and another connection that may hold the lock which writers
    need.
    """
    engine = connect(f"sqlite:///{path}")

    def impatient(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={busy_ms}")

    event.listen(engine, "connect", impatient)
    engine.dispose()

    async def run() -> None:
        writer = Writer(engine)
        writer.start()
        made = AuditRecorder(writer, AuditMacs(bytes(32)))
        with closing(sqlite3.connect(path, isolation_level=None)) as beside:
            try:
                await do(made, beside)
            finally:
                await writer.stop()
                made.close()
                engine.dispose()

    asyncio.run(run())


def test_a_record_that_can_not_be_written_now_is_written_later_with_those_after_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "g.db"

    async def body(at: AuditRecorder, beside: sqlite3.Connection) -> None:
        beside.execute("BEGIN IMMEDIATE")
        await at.record(1, '{"one":1}')
        await at.record(2, '{"two":2}')
        await at.flush()
        assert records(path) == []
        beside.execute("ROLLBACK")
        await at.flush()
        assert [text[-7:] for text in records(path)] == ['"one":1}'[1:], '"two":2}'[1:]]

    with_recorder(path, body, busy_ms=50)


def test_while_a_commit_hangs_only_those_wait_that_came_before_it_was_known(tmp_path: Path) -> None:
    path = tmp_path / "g.db"

    async def body(at: AuditRecorder, beside: sqlite3.Connection) -> None:
        beside.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        await at.record(1, '{"one":1}')
        assert time.monotonic() - began < recorder.WAIT_SECONDS + 1
        began = time.monotonic()
        await at.record(2, '{"two":2}')
        assert time.monotonic() - began < 0.5
        beside.execute("ROLLBACK")
        await at.flush()
        assert len(records(path)) == 2

    with_recorder(path, body, busy_ms=20_000)


def test_what_is_more_than_can_be_kept_and_what_is_kept_at_the_end_is_in_the_log_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_KEPT", 1)

    async def body(at: AuditRecorder, beside: sqlite3.Connection) -> None:
        beside.execute("BEGIN IMMEDIATE")
        for number in range(3):
            await at.record(1, f'{{"n":{number}}}')

    with structlog.testing.capture_logs() as logs:
        with_recorder(tmp_path / "g.db", body, busy_ms=50)
    assert sorted(line["record"] for line in logs if line["event"] == "record.lost") == [
        '{"n":0}', '{"n":1}', '{"n":2}',
    ]  # fmt: skip
