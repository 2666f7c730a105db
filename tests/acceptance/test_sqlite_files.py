"""Somebody moves, deletes or replaces the files of SQLite under a running gateway.

Nothing is acknowledged that is not in the database at its place, `/readyz` says what is wrong, and
where the same files come back all goes on by itself.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import APP_ID, PRODUCTION_KEY, Process, serving
from tests.support.wait import until

numbers = count(1)


@pytest.fixture(scope="module")
def leanplum() -> Iterator[str]:
    with BackgroundServer(SimulatorConfig(app_id=APP_ID, production_key=PRODUCTION_KEY)) as server:
        yield server.url


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, leanplum: str) -> Iterator[Process]:
    """A gateway whose database is reached by a link to another directory."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "place").mkdir()
    (folder / "g.db").symlink_to("place/real.db")
    with serving(folder, leanplum, LEANPLUM_DEVELOPMENT_KEY="dev_sandbox") as started:
        assert started.event("ann", 0).status_code == 202
        yield started


# The first write after a change may find it only once its commit is sent.
NOTHING_TAKEN = "The database cannot commit now; nothing was accepted."
MAY_BE_TAKEN = "The outcome of the database commit is unknown: the item may have been accepted."


def refuses(gateway: Process) -> httpx.Response:
    """Every kind of write is refused; the answer to one."""
    number = next(numbers)
    answers = [
        gateway.event("ann", number),
        gateway.call(
            "POST", "/v1/batch", json={"items": [{"action": "track", "userId": "u", "event": "E"}]}
        ),
        gateway.call("DELETE", "/v1/users/bob", params={"fullErasure": "true"}),
        gateway.call("POST", "/v1/keys", json={"name": "late", "scopes": ["sdk"]}),
        gateway.http.post(
            "/segment/v1/track", json={"userId": "u", "event": "E"}, auth=(gateway.key, "")
        ),
        gateway.http.post(
            "/api",
            json={
                "appId": APP_ID,
                "clientKey": gateway.key,
                "action": "track",
                "userId": "u",
                "event": "E",
            },
        ),
    ]
    assert [answer.status_code for answer in answers] == [503] * len(answers), [
        a.text for a in answers
    ]
    assert answers[0].json()["type"] == "/problems/storage-unavailable"
    return answers[0]


def unready(gateway: Process) -> str:
    """What `/readyz` says is wrong with the database."""
    answer = gateway.http.get("/readyz")
    assert answer.status_code == 503
    detail: str = answer.json()["parts"]["database"]["detail"]
    return detail


def takes(gateway: Process) -> None:
    """It is ready, and an item is delivered."""
    number = next(numbers)
    assert gateway.ready()
    assert gateway.event("cid", number).status_code == 202
    until(lambda: gateway.status(f"cid-{number}") == "delivered")


@contextmanager
def moved(*paths: Path) -> Iterator[None]:
    for path in paths:
        path.rename(path.with_name(f"{path.name}.away"))
    yield
    for path in paths:
        path.with_name(f"{path.name}.away").rename(path)


@contextmanager
def deleted_and_linked_again(path: Path) -> Iterator[None]:
    kept = path.with_name("kept")
    os.link(path, kept)
    path.unlink()
    yield
    os.link(kept, path)
    kept.unlink()


@contextmanager
def in_place_of_a_copy(path: Path) -> Iterator[None]:
    kept = path.with_name("kept")
    path.rename(kept)
    shutil.copy(kept, path)
    yield
    kept.rename(path)


@contextmanager
def link_to_another(link: Path) -> Iterator[None]:
    target = link.readlink()
    link.unlink()
    other = link.with_name("other.db")
    shutil.copy(link.parent / target, other)
    link.symlink_to(other)
    yield
    link.unlink()
    link.symlink_to(target)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda at: moved(at / "place/real.db"), "moved, deleted or replaced"),
        (lambda at: moved(at / "place"), "moved, deleted or replaced"),
        (lambda at: moved(at / "g.db"), "moved, deleted or replaced"),
        (lambda at: moved(at / "place/real.db-wal"), "its -wal or -shm file"),
        (lambda at: moved(at / "place/real.db-shm"), "its -wal or -shm file"),
        (lambda at: moved(*at.glob("place/real.db*")), "moved, deleted or replaced"),
        (lambda at: deleted_and_linked_again(at / "place/real.db"), "moved, deleted or replaced"),
        (lambda at: in_place_of_a_copy(at / "place/real.db"), "moved, deleted or replaced"),
        (lambda at: link_to_another(at / "g.db"), "moved, deleted or replaced"),
    ],
    ids=["file", "folder", "link", "wal", "shm", "all-three", "deleted", "copy", "link-elsewhere"],
)
def test_while_the_files_are_away_nothing_is_acknowledged_and_it_goes_on_when_they_are_back(
    gateway: Process, change: Callable[[Path], AbstractContextManager[None]], word: str
) -> None:
    with change(gateway.folder):
        first, later = refuses(gateway), refuses(gateway)
        assert first.json()["detail"].startswith((NOTHING_TAKEN, MAY_BE_TAKEN))
        assert later.json()["detail"].startswith(NOTHING_TAKEN)
        detail = unready(gateway)
        assert word in detail
        assert "restart" in detail
        assert gateway.http.get("/livez").status_code == 200
    takes(gateway)


def test_what_is_written_after_the_file_was_deleted_is_not_acknowledged_and_no_other_file_is_made(
    tmp_path: Path, leanplum: str
) -> None:
    """Deleted in the midst of a load. Who had it open before counts what was committed until just
    after.
    """
    path = tmp_path / "g.db"
    counted = "SELECT count(*) FROM items"
    with (
        serving(tmp_path, leanplum, "--no-delivery") as gateway,
        ThreadPoolExecutor(8) as threads,
        closing(sqlite3.connect(path)) as reader,
    ):
        reader.execute(counted).fetchone()
        asked = [threads.submit(gateway.event, f"u{number}", 1) for number in range(300)]
        until(lambda: asked[20].done())
        path.unlink()
        (committed,) = reader.execute(counted).fetchone()
        answers = [one.result() for one in asked]
        taken = [answer for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len(taken) + len(refused) == 300
        assert refused, "it was deleted too late"
        assert len(taken) <= committed
        assert not path.exists()
        assert "restart" in unready(gateway)
        assert gateway.terminate() == 0


def test_a_file_that_is_cut_off_is_noticed_and_one_that_was_cleaned_in_order_is_not(
    tmp_path: Path, leanplum: str
) -> None:
    path = tmp_path / "g.db"
    with serving(tmp_path, leanplum, "--no-delivery") as gateway:
        for number in range(3):
            items = [{"action": "track", "userId": "u", "event": "E", "info": "x" * 900}] * 1000
            assert gateway.call("POST", "/v1/batch", json={"items": items}).status_code == 202, (
                number
            )
        with closing(sqlite3.connect(path)) as other:
            other.execute("DELETE FROM items")
            other.commit()
            other.execute("VACUUM")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert gateway.event("ann", 1).status_code == 202
        os.truncate(path, 16 * 1024)
        assert gateway.event("ann", 2).status_code == 503
        assert "cut off" in unready(gateway)
