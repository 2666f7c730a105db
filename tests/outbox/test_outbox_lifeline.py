"""How a deliverer's end is known: by a lock that the kernel gives up with its process."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import StartRefused
from app.outbox import lifeline

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from app.outbox.lifeline import held
with held(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(url: str, owner: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url, owner], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_is_dead_only_once_its_process_has_ended(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/g.db"
    with lifeline.held(url, "one") as dead:
        process = holding(url, "two")
        try:
            assert dead(["two", "never-there"]) == ["never-there"]
            assert dead(["two"]) == [], "having asked changes nothing"
        finally:
            process.kill()
            process.communicate(timeout=20)
        assert dead(["two"]) == ["two"]


def test_two_in_one_process_know_of_each_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/g.db"
    with lifeline.held(url, "one") as dead:
        with lifeline.held(url, "two"):
            assert dead(["two"]) == []
        assert dead(["two"]) == ["two"]


def test_on_a_server_only_the_lease_tells() -> None:
    with lifeline.held("postgresql://host/db", "one") as dead:
        assert dead(["two"]) == []


def test_where_there_are_no_such_locks_only_the_lease_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "SET_LOCK", 10**6)  # as a file system answers that doesn't know the command
    with pytest.raises(OSError, match="Invalid"), (tmp_path / "x").open("wb") as file:
        fcntl.fcntl(file, 10**6, b"")
    with lifeline.held(f"sqlite:///{tmp_path}/g.db", "one") as dead:
        assert dead(["two"]) == []


def test_a_folder_that_cannot_be_written_refuses_the_start(tmp_path: Path) -> None:
    missing = f"sqlite:///{tmp_path}/no/g.db"
    with pytest.raises(StartRefused, match="GATEWAY_DATABASE_URL"), lifeline.held(missing, "one"):
        pass
