"""Commands that only read, as real processes: they create nothing, and say honestly that there is
nothing.
"""

import json
from pathlib import Path

import pytest

from tests.support.processes import ended

READ = [
    ("keys", "list", "--json"),
    ("dead-letters", "list", "--json"),
    ("dead-letters", "replay", "--all", "--dry-run"),
    ("dead-letters", "discard", "--all", "--dry-run"),
    ("audit", "verify"),
    ("audit", "verify", "--json"),
    ("audit", "export"),
    ("audit", "public-key"),
    ("receipts", "find"),
    ("receipts", "find", "--user", "u", "--json"),
    ("receipts", "show", "id"),
    ("status",),
    ("status", "--json"),
    ("tail",),
    ("tail", "--json"),
    ("taxonomy", "list"),
    ("taxonomy", "list", "--json"),
]
CHANGE = [
    ("dead-letters", "replay", "abc"),
    ("dead-letters", "discard", "--all"),
    ("keys", "revoke", "key_x"),
    ("keys", "rotate", "key_x"),
    ("keys", "patch", "key_x", "--name", "y"),
    ("taxonomy", "forget", "events", "x"),
]


@pytest.fixture
def database(tmp_path: Path) -> dict[str, str]:
    """The setting that names a database in an own folder, which isn't there yet."""
    return {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/data/g.db"}


@pytest.mark.parametrize("words", READ, ids=" ".join)
def test_a_command_that_reads_creates_no_database(
    tmp_path: Path, database: dict[str, str], words: tuple[str, ...]
) -> None:
    found = ended(tmp_path, *words, **database)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.count("\n") == 1
    assert "there is no database at" in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", READ, ids=" ".join)
def test_a_command_that_reads_migrates_no_database(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "g.db").touch()
    found = ended(tmp_path, *words, GATEWAY_DATABASE_URL=f"sqlite:///{tmp_path}/g.db")
    assert (found.returncode, found.stdout) == (2, "")
    assert "has no tables yet" in found.stderr
    assert [(one.name, one.stat().st_size) for one in tmp_path.iterdir()] == [("g.db", 0)]


@pytest.mark.parametrize("words", READ, ids=" ".join)
def test_a_command_that_reads_leaves_a_database_as_it_is_and_nothing_beside_it(
    tmp_path: Path, database: dict[str, str], words: tuple[str, ...]
) -> None:
    if words[0] == "tail":
        pytest.skip("it does not end by itself; docs/cli.md's examples end it")
    assert ended(tmp_path, "keys", "create", "--name", "shop", **database).returncode == 0
    before = _contents(tmp_path)
    assert ended(tmp_path, *words, **database).returncode in {0, 1}
    assert _contents(tmp_path) == before


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("words", CHANGE, ids=" ".join)
def test_a_command_that_changes_what_is_there_creates_no_database(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    url = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/data/g.db"}
    found = ended(tmp_path, *words, **url)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert "there is no database at" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_there_are_no_dead_letters_to_list_or_to_act_on(
    tmp_path: Path, database: dict[str, str]
) -> None:
    assert ended(tmp_path, "migrate", **database).returncode == 0
    listed = ended(tmp_path, "dead-letters", "list", "--json", **database)
    assert (listed.returncode, json.loads(listed.stdout)) == (1, [])
    table = ended(tmp_path, "dead-letters", "list", **database)
    assert (table.returncode, table.stdout, table.stderr) == (
        1,
        "",
        "leanplum-gateway: No dead letters.\n",
    )
    for act in ("replay", "discard"):
        for words in (("--all", "--dry-run"), ("--all",), ("no-such-id",)):
            done = ended(tmp_path, "dead-letters", act, *words, **database)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == "leanplum-gateway: No dead letters match.\n"


def test_an_audit_in_which_nothing_is_recorded_yet_is_told_as_that(
    tmp_path: Path, database: dict[str, str]
) -> None:
    assert ended(tmp_path, "migrate", **database).returncode == 0
    verified = ended(tmp_path, "audit", "verify", **database)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout == "Nothing is recorded yet, and nothing is sealed.\n"
    exported = ended(tmp_path, "audit", "export", "log.jsonl", **database)
    assert (exported.returncode, exported.stdout) == (1, "")
    assert (
        exported.stderr
        == "leanplum-gateway: Nothing is recorded yet: there is nothing to export.\n"
    )
    assert not (tmp_path / "log.jsonl").exists()


def test_an_audit_in_which_nothing_is_sealed_yet_is_told_as_that(
    tmp_path: Path, database: dict[str, str]
) -> None:
    assert ended(tmp_path, "keys", "create", "--name", "shop", **database).returncode == 0
    verified = ended(tmp_path, "audit", "verify", **database)
    assert verified.returncode == 0, verified.stdout
    assert verified.stdout.startswith("Nothing is sealed yet")
    assert "NOT" not in verified.stdout
    told = json.loads(ended(tmp_path, "audit", "verify", "--json", **database).stdout)
    assert (told["findings"], told["sealed"], told["records"]) == ([], 0, 1)
