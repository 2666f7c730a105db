"""Bad days: what is not a database, what can't be written, a lock that is not given up, a disk that
is full.
"""

import asyncio
import os
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app import ids
from app.audit.records import AuditMacs
from app.clock import now_ms
from app.database.engine import connect
from app.database.writer import Probe, Writer
from app.errors import StartRefused, StorageUnavailable
from app.model import Acceptance, NewItem
from app.outbox.outbox import Outbox


def refused(path: Path) -> str:
    """The one line that says why a database at `path` can't be used."""
    with pytest.raises(StartRefused) as caught:
        connect(f"sqlite:///{path}")
    (line,) = caught.value.lines
    assert line.startswith(f"GATEWAY_DATABASE_URL: {path} can't be used: ")
    assert "\n" not in line
    return line


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process writes, and does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    connect(f"sqlite:///{tmp_path}/a/b/g.db").dispose()
    assert (tmp_path / "a/b/g.db").exists()


def test_a_directory_that_cannot_be_made_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file" / "g.db")


def test_a_directory_in_the_place_of_the_file_refuses_the_start(tmp_path: Path) -> None:
    assert "unable to open" in refused(tmp_path)


def test_what_is_no_database_refuses_the_start_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "g.db"
    path.write_bytes(b"these are somebody's notes\n" * 100)
    assert "not a database" in refused(path)
    assert path.read_bytes() == b"these are somebody's notes\n" * 100


def test_a_database_of_a_newer_gateway_refuses_the_start(tmp_path: Path) -> None:
    """After a downgrade: the schema has a revision that this version doesn't know."""
    path = tmp_path / "g.db"
    connect(f"sqlite:///{path}").dispose()
    with closing(sqlite3.connect(path)) as newer, newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StartRefused, match=r"^GATEWAY_DATABASE_URL: [^\n]*newer version[^\n]*$"):
        connect(f"sqlite:///{path}")


def test_a_database_that_another_process_keeps_locked_refuses_the_start(tmp_path: Path) -> None:
    path = tmp_path / "g.db"
    connect(f"sqlite:///{path}").dispose()
    with locked(path):
        assert "locked" in refused(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, mounted here."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root and the right to mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_read_only_file_system_refuses_the_start(small_disk: Path) -> None:
    connect(f"sqlite:///{small_disk}/g.db").dispose()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(small_disk / "g.db")


class Opened:
    """An outbox whose connections wait for a lock for a fifth of a second only."""

    def __init__(self, path: Path) -> None:
        self.engine: Engine = connect(f"sqlite:///{path}")
        event.listen(self.engine, "connect", _impatient)
        self.engine.dispose()
        self.writer = Writer(self.engine)
        self.outbox = Outbox(
            self.engine, self.writer, dedup_ms=60_000, max_queued=10**6, macs=AuditMacs(bytes(32))
        )
        self.writer.start()

    async def accept(self, body: str = "{}") -> str:
        """The id of one accepted item."""
        now = now_ms()
        item = NewItem("uann", "track", body)
        call = Acceptance(
            "default", "k", "r", "POST /v1/events", "::1", now, ids.new_prefix(now), [item], 0
        )
        ((item_id, _),) = await self.outbox.accept(call)
        return item_id

    async def accepted_of(self, count: int, body: str) -> tuple[list[str], int]:
        """The ids of those of `count` calls at once that were accepted, and how many were told to
        come back.
        """
        results = await asyncio.gather(
            *(self.accept(body) for _ in range(count)), return_exceptions=True
        )
        kept = [result for result in results if isinstance(result, str)]
        assert all(isinstance(result, str | StorageUnavailable) for result in results)
        return kept, count - len(kept)

    async def lost(self, promised: list[str]) -> list[str]:
        """Those of the promised items that have no receipt."""
        return [
            item_id for item_id in promised if await self.outbox.receipt("default", item_id) is None
        ]


def _impatient(connection: Any, _: object) -> None:
    connection.execute("PRAGMA busy_timeout=200")


def with_outbox(path: Path, body: Callable[[Opened], Awaitable[None]]) -> None:
    async def run() -> None:
        at = Opened(path)
        try:
            await body(at)
        finally:
            await at.writer.stop()
            at.engine.dispose()

    asyncio.run(run())


def test_while_the_database_is_locked_nothing_is_accepted_and_afterwards_it_is_again(
    tmp_path: Path,
) -> None:
    seen: list[bool] = []

    async def body(at: Opened) -> None:
        await at.accept()
        with locked(tmp_path / "g.db"):
            with pytest.raises(StorageUnavailable):
                await at.accept()
            seen.append(at.writer.healthy)
        await at.accept()
        await at.writer.write(Probe())
        seen.append(at.writer.healthy)
        assert seen == [False, True]
        with at.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM items").scalar() == 2

    with_outbox(tmp_path / "g.db", body)


def test_while_the_database_is_locked_many_callers_are_told_so_together_not_one_after_the_other(
    tmp_path: Path,
) -> None:
    """A lock is nobody's own fault: trying it again for each of a group would make the last wait
    for minutes.
    """

    async def body(at: Opened) -> None:
        await at.accept()
        with locked(tmp_path / "g.db"):
            started = time.monotonic()
            kept, unavailable = await at.accepted_of(20, "{}")
            seconds = time.monotonic() - started
        assert (kept, unavailable) == ([], 20)
        assert seconds < 1.5

    with_outbox(tmp_path / "g.db", body)


def test_reading_a_database_that_became_unreadable_is_told_as_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "g.db"

    async def body(at: Opened) -> None:
        item_id = await at.accept()
        await at.writer.stop()
        at.engine.dispose()
        path.write_bytes(b"garbage" * 1000)
        with pytest.raises(StorageUnavailable):
            await at.outbox.receipt("default", item_id)

    with_outbox(path, body)


def test_on_a_full_disk_nothing_is_promised_and_what_was_promised_stays(small_disk: Path) -> None:
    async def body(at: Opened) -> None:
        large = '{"info":"' + "x" * 20_000 + '"}'
        kept: list[str] = []
        refusals = 0
        for _ in range(60):
            some, unavailable = await at.accepted_of(10, large)
            kept, refusals = kept + some, refusals + unavailable
            if refusals >= 20:
                break
        assert kept
        assert refusals >= 20, "the disk did not fill up"
        assert await at.lost(kept) == []
        await asyncio.to_thread(
            subprocess.run, ["mount", "-o", "remount,size=40m", str(small_disk)], check=True
        )
        more, unavailable = await at.accepted_of(10, large)
        assert (len(more), unavailable) == (10, 0)
        assert await at.lost(kept + more) == []

    with_outbox(small_disk / "g.db", body)
