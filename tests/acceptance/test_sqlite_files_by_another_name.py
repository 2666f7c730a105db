"""SQLite's file is reached by another name than the one that it was opened by, under a running
gateway.

The file is the same, but its log is not where whoever opens it next looks for it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import APP_ID, PRODUCTION_KEY, Process, serving


@pytest.fixture(scope="module")
def leanplum() -> Iterator[str]:
    with BackgroundServer(SimulatorConfig(app_id=APP_ID, production_key=PRODUCTION_KEY)) as server:
        yield server.url


@contextmanager
def running(folder: Path, leanplum: str, *, link: bool) -> Iterator[Process]:
    """A gateway on `place/g.db`, named itself or by the link `linked/g.db` in a linked folder."""
    (folder / "place").mkdir()
    (folder / "linked").symlink_to("place")
    url = f"sqlite:///{folder}/{'linked' if link else 'place'}/g.db"
    with serving(folder, leanplum, "--no-delivery", GATEWAY_DATABASE_URL=url) as started:
        yield started


@contextmanager
def renamed_and_linked(path: Path, to: Path) -> Iterator[None]:
    """`to` may be relative to the folder, and is the link's text."""
    path.rename(path.parent / to)
    path.symlink_to(to)
    yield
    (path.parent / to).rename(path)


@contextmanager
def linked_hard_and_by_a_link_to_that(path: Path) -> Iterator[None]:
    os.link(path, path.with_name("other"))
    path.unlink()
    path.symlink_to("other")
    yield
    path.with_name("other").rename(path)


@contextmanager
def in_another_folder_by_a_hard_link(path: Path) -> Iterator[None]:
    folder = path.parent
    away, second = folder.with_name("away"), folder.with_name("second")
    folder.rename(away)
    second.mkdir()
    os.link(away / path.name, second / path.name)
    folder.symlink_to(second)
    yield
    folder.unlink()
    away.rename(folder)


@pytest.mark.parametrize("link", [False, True], ids=["named", "linked"])
def test_nothing_is_acknowledged_while_only_another_name_leads_to_the_file(
    tmp_path: Path, leanplum: str, link: bool
) -> None:
    path = tmp_path / "place/g.db"
    changes: list[Callable[[], AbstractContextManager[None]]] = [
        lambda: renamed_and_linked(path, Path("g.db.old")),
        lambda: renamed_and_linked(path, tmp_path / "g.db"),
        lambda: linked_hard_and_by_a_link_to_that(path),
        lambda: in_another_folder_by_a_hard_link(path),
    ]
    with running(tmp_path, leanplum, link=link) as gateway:
        for number, change in enumerate(changes):
            assert gateway.event("ann", number).status_code == 202
            with change():
                answer, ready = gateway.event("bob", number), gateway.http.get("/readyz")
                assert (answer.status_code, ready.status_code) == (503, 503), number
                assert answer.json()["type"] == "/problems/storage-unavailable"
                assert "moved, deleted or replaced" in ready.json()["parts"]["database"]["detail"]
        assert gateway.event("ann", len(changes)).status_code == 202
        gateway.kill()
        gateway.start()
        taken = [gateway.status(f"ann-{number}") for number in range(len(changes) + 1)]
        assert taken == ["accepted"] * len(taken)


@pytest.mark.parametrize("link", [False, True], ids=["named", "linked"])
def test_a_folder_that_is_moved_with_its_log_and_linked_loses_nothing(
    tmp_path: Path, leanplum: str, link: bool
) -> None:
    with running(tmp_path, leanplum, link=link) as gateway:
        assert gateway.event("ann", 1).status_code == 202
        (tmp_path / "place").rename(tmp_path / "away")
        (tmp_path / "place").symlink_to("away")
        assert gateway.event("ann", 2).status_code == 202
        gateway.kill()
        gateway.start()
        assert [gateway.status(one) for one in ("ann-1", "ann-2")] == ["accepted", "accepted"]
