"""How a process's end is known: by a lock that ends with it, a file's or a session's.

The first tests are those of the port, on both databases; then those of the file's.
"""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import StartRefused
from app.outbox import liveness_lock
from tests.support.wait import until

from .harness import gone_ids

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from app.outbox.liveness_lock import held
with held(sys.argv[1], sys.argv[2]) as lock:
    print("held", lock.identity(), flush=True)
    sys.stdin.read()
"""


def holding(url: str, owner: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url, owner],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("held ")
    return process


def renamed(identity: str | None, owner: str) -> str:
    """The identity that a lock of another process has: the same file, or the same server."""
    assert identity is not None
    return identity.replace("/one", f"/{owner}")


def test_another_is_dead_only_once_its_process_has_ended(database: str) -> None:
    with liveness_lock.held(database, "one") as lock:
        process = holding(database, "two")
        others = {name: renamed(lock.identity(), name) for name in ("two", "never-there")}
        try:
            until(lambda: gone_ids(lock, others) == ["never-there"], 20)
            assert gone_ids(lock, others) == ["never-there"], "having asked changes nothing"
        finally:
            process.kill()
            process.communicate(timeout=20)
        until(lambda: gone_ids(lock, others) == ["two", "never-there"], 20)
        assert lock.lapses() == 0


def test_two_in_one_process_know_of_each_other(database: str) -> None:
    with liveness_lock.held(database, "one") as lock:
        with liveness_lock.held(database, "two") as other:
            two = {"two": other.identity(), "never-there": renamed(lock.identity(), "never-there")}
            until(lambda: gone_ids(lock, two) == ["never-there"], 20)
        until(lambda: gone_ids(lock, two) == ["two", "never-there"], 20)


def test_asking_for_oneself_gives_nothing_up(database: str) -> None:
    with liveness_lock.held(database, "one") as one, liveness_lock.held(database, "two") as two:
        nobody = {"never-there": renamed(one.identity(), "never-there")}
        until(lambda: gone_ids(one, nobody) and gone_ids(two, nobody), 20)
        assert gone_ids(one, {"one": one.identity()}) == []
        assert gone_ids(two, {"one": one.identity()}) == []


def test_who_has_no_lock_or_one_elsewhere_is_not_taken_for_gone(database: str) -> None:
    with liveness_lock.held(database, "one") as lock:
        others = {"none": None, "elsewhere": "1:2", "gone": renamed(lock.identity(), "gone")}
        until(lambda: gone_ids(lock, others) == ["gone"], 20)


def test_a_lock_that_is_given_up_is_free(database: str) -> None:
    with liveness_lock.held(database, "one") as lock:
        with liveness_lock.held(database, "two") as two:
            others = {"two": two.identity()}
        until(lambda: gone_ids(lock, others) == ["two"], 20)
        with liveness_lock.held(database, "two") as two:
            until(lambda: gone_ids(lock, {"two": two.identity()}) == [], 20)


def test_who_locks_a_file_that_is_not_there_any_more_is_not_taken_for_gone(tmp_path: Path) -> None:
    url, path = f"sqlite:///{tmp_path}/g.db", tmp_path / "g.db-deliverers"
    with liveness_lock.held(url, "one") as one:
        before = {"one": one.identity()}
        path.rename(tmp_path / "moved")
        with liveness_lock.held(url, "two") as two:
            assert two.identity() not in {None, before["one"]}
            assert gone_ids(two, before) == []
            after = {"one": one.identity()}
            assert after == {"one": two.identity()}, "it has locked the file that is there now"
            assert gone_ids(two, after) == []
        path.unlink()
        assert one.identity() is not None, "it has made the file anew"
        assert path.exists()


def test_where_there_are_no_such_locks_only_the_lease_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a file system answers that doesn't know the command
    monkeypatch.setattr(liveness_lock, "SET_LOCK", 10**6)
    with pytest.raises(OSError, match="Invalid"), (tmp_path / "x").open("wb") as file:
        fcntl.fcntl(file, 10**6, b"")
    with liveness_lock.held(f"sqlite:///{tmp_path}/g.db", "one") as lock:
        assert lock.identity() is None
        assert gone_ids(lock, {"two": None}) == []


def test_a_folder_that_cannot_be_written_refuses_the_start(tmp_path: Path) -> None:
    missing = f"sqlite:///{tmp_path}/no/g.db"
    with (
        pytest.raises(StartRefused, match="GATEWAY_DATABASE_URL"),
        liveness_lock.held(missing, "one"),
    ):
        pass
