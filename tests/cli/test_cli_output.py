"""What commands print: tables, tab-separated columns and JSON, and what is not a result."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from app.cli import output, progress
from app.cli.main import cli
from app.errors import NotFound
from tests.cli.terminal import on_terminal, shown
from tests.support.processes import command, ended, environment

SERVERS = {"serve", "deliver", "simulate"}


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of a group, with the names of its options."""
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from commands(found, (*words, name))
        else:
            yield (*words, name, *(option for one in found.params for option in one.opts))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a migrated database of the default place, in which nothing is."""
    assert ended(tmp_path, "migrate").returncode == 0
    return tmp_path


def test_every_command_that_ends_takes_json() -> None:
    without = [found[0] for found in commands(typer.main.get_command(cli)) if "--json" not in found]
    assert set(without) == SERVERS


# --- one document, and nothing else -------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "document"),
    [
        (("migrate",), {"schema": "0001"}),
        (("audit", "verify"), {"findings": [], "records": 0}),
        (("dead-letters", "replay", "--all"), {"matched": 0, "ids": []}),
        (("dead-letters", "discard", "--all", "--dry-run"), {"matched": 0, "dryRun": True}),
        (("status",), {"attention": [], "apps": [], "deliverers": 0}),
        (("openapi", "api"), {"path": "api/openapi.json", "changed": True}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_json_is_one_document(
    folder: Path, words: tuple[str, ...], document: dict[str, Any]
) -> None:
    done = ended(folder, *words, "--json")
    found = json.loads(done.stdout)
    assert document.items() <= found.items()
    assert done.returncode == (1 if found.get("matched") == 0 else 0), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "list"),
        ("dead-letters", "list"),
        ("taxonomy", "list"),
        ("receipts", "find"),
        ("receipts", "find", "--user", "u"),
    ],
    ids=" ".join,
)
def test_an_empty_list_is_brackets_and_ends_with_1(folder: Path, words: tuple[str, ...]) -> None:
    listed, table = ended(folder, *words, "--json"), ended(folder, *words)
    assert (listed.returncode, listed.stdout) == (1, "[]\n")
    assert (table.returncode, table.stdout) == (1, "")
    assert table.stderr == listed.stderr
    assert re.fullmatch(r"leanplum-gateway: .*\n", table.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ("receipts", "show", "none"),
        ("keys", "revoke", "key_none"),
        ("keys", "rotate", "key_none"),
        ("keys", "patch", "key_none", "--name", "n"),
        ("taxonomy", "forget", "events", "none"),
        ("audit", "export", "none.jsonl"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_ends_with_1_and_prints_nothing(
    folder: Path, words: tuple[str, ...]
) -> None:
    done = ended(folder, *words, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"leanplum-gateway: .*\n", done.stderr)


def test_each_act_on_a_key_and_the_audit_log_is_one_document(folder: Path) -> None:
    made = json.loads(ended(folder, "keys", "create", "--name", "n", "--json").stdout)
    public = json.loads(ended(folder, "audit", "public-key", "--json").stdout)["publicKey"]
    assert public == ended(folder, "audit", "public-key").stdout.strip()
    exported = json.loads(ended(folder, "audit", "export", "log.jsonl", "--json").stdout)
    lines = (folder / "log.jsonl").read_text().splitlines()
    assert exported == {"path": "log.jsonl", "lines": len(lines)}
    verified = ended(
        folder, "audit", "verify", "--export", "log.jsonl", "--public-key", public, "--json"
    )
    assert "findings" in json.loads(verified.stdout)
    moved = ended(folder, "audit", "key", "--move", "--json")
    assert json.loads(moved.stdout)["removed"] is False
    revoked = json.loads(ended(folder, "keys", "revoke", made["id"], "--json").stdout)
    assert revoked == {"id": made["id"], "revoked": True}


def test_plans_are_linted_and_compared_as_documents(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\nevents: {A: {value: 3}}\n")
    (tmp_path / "old.yaml").write_text("version: 1\nevents: {A: {}}\n")
    (tmp_path / "new.yaml").write_text("version: 1\nevents: {A: {}, B: {}}\n")
    bad = ended(tmp_path, "plan", "lint", "bad.yaml", "--json")
    (finding,) = json.loads(bad.stdout)["findings"]
    assert (bad.returncode, finding["file"], finding["line"]) == (1, "bad.yaml", 2)
    good = ended(tmp_path, "plan", "lint", "new.yaml", "--json")
    (plan,) = json.loads(good.stdout)["plans"]
    assert (good.returncode, plan["entries"]["events"]) == (0, 2)
    changed = ended(tmp_path, "plan", "diff", "old.yaml", "new.yaml", "--json")
    assert "B" in str([change["where"] for change in json.loads(changed.stdout)])
    equal = ended(tmp_path, "plan", "diff", "old.yaml", "old.yaml", "--json")
    assert (equal.returncode, json.loads(equal.stdout)) == (0, [])


def test_what_is_logged_does_not_mix_with_results(folder: Path) -> None:
    """An unknown setting is a warning; it and the log go to standard error."""
    done = ended(folder, "settings", "--json", GATEWAY_PROT="1", GATEWAY_LOG_LEVEL="debug")
    assert isinstance(json.loads(done.stdout), list)
    assert done.stderr.startswith("leanplum-gateway: GATEWAY_PROT")


def test_an_openapi_document_that_is_old_fails_the_check(tmp_path: Path) -> None:
    missing = ended(tmp_path, "openapi", "--check")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "is not up to date" in missing.stderr
    assert list(tmp_path.iterdir()) == []


# --- tables -------------------------------------------------------------------------------------


def test_a_pipe_gets_a_header_and_columns_separated_by_tabs(folder: Path) -> None:
    ended(folder, "keys", "create", "--name", "shop", "--scope", "sdk")
    header, row = ended(folder, "keys", "list").stdout.splitlines()
    assert header == "ID\tLAST FOUR\tNAME\tCREATED\tLAST USED\tENDS\tSCOPES"
    assert row.split("\t")[2:][:1] == ["shop"]
    assert len(row.split("\t")) == len(header.split("\t"))


def test_a_terminal_gets_a_table_that_keeps_every_character_of_an_id(folder: Path) -> None:
    made = json.loads(ended(folder, "keys", "create", "--name", "shop", "--json").stdout)
    wide = on_terminal(folder, "keys", "list", columns=200).text
    assert "\x1b[1mNAME" in wide, "the header is bold"
    assert "─" in wide
    assert made["id"] in wide
    assert "\t" not in wide
    narrow = re.sub(r"\x1b\[\d*m", "", on_terminal(folder, "keys", "list", columns=60).text)
    header, *lines = narrow.splitlines()
    rule = next(index for index, line in enumerate(lines) if line.startswith("─"))
    column = "".join(line[: header.index("LAST")].strip() for line in lines[rule + 1 :])
    assert column == made["id"]


def test_no_color_is_respected(folder: Path) -> None:
    ended(folder, "keys", "create", "--name", "shop")
    env = environment(folder, NO_COLOR="1", TERM="dumb", COLUMNS="200")
    assert "\x1b" not in shown(command("keys", "list"), folder, env).text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain", "plain"),
        ("Ünïcödé 漢字", "Ünïcödé 漢字"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\tb\nc\r", r"a\tb\nc\r"),
        ("a\x9b\u202e\u200bb", r"a\x9b\u202e\u200bb"),
    ],
)
def test_characters_that_control_a_terminal_are_escaped(text: str, escaped: str) -> None:
    assert output.printable(text) == escaped


def test_rows_are_printed_before_all_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        output.flush()
        assert capsys.readouterr().out == '[\n{"a": 1}'
        yield {"a": 2}

    output.print_rows(rows(), ["A"], lambda row: [str(row["a"])], as_json=True, empty="none")
    assert capsys.readouterr().out == ',\n{"a": 2}\n]\n'
    with pytest.raises(NotFound, match="none"):
        output.print_rows([], ["A"], lambda row: [], as_json=True, empty="none")


# --- progress -----------------------------------------------------------------------------------

SLOW = """
import sys, time
from app.cli.progress import progress
with progress("Moving things", total=4) as advance:
    for _ in range(4):
        time.sleep(float(sys.argv[1]))
        advance(1)
print("done")
"""


def test_progress_is_shown_on_a_terminal_after_two_seconds_and_not_in_the_result(
    tmp_path: Path,
) -> None:
    env = environment(tmp_path, TERM="xterm-256color", COLUMNS="100")
    result = tmp_path / "result"
    with result.open("w") as file:
        slow = shown([sys.executable, "-c", SLOW, "0.8"], tmp_path, env, stdout=file.fileno())
        quick = shown([sys.executable, "-c", SLOW, "0"], tmp_path, env, stdout=file.fileno())
    assert (slow.code, quick.code) == (0, 0)
    assert re.search(r"Moving things.*3/4", slow.text, re.DOTALL)
    assert quick.text == ""
    assert result.read_text() == "done\ndone\n"


def test_without_a_terminal_there_is_no_progress(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.progress("Moving things", total=1) as advance:
        assert list(progress.counted(range(3), advance)) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_things_are_counted_as_they_are_used() -> None:
    steps = list[int]()
    for _ in progress.counted(range(progress.STEP * 2 + 7), steps.append):
        pass
    assert steps == [progress.STEP, progress.STEP, 7]
