"""What a command says of itself, and of words that it does not know."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app import __version__
from tests.cli.terminal import on_terminal
from tests.support.processes import command, ended, environment

GROUPS = ("receipts", "keys", "dead-letters", "audit", "plan", "taxonomy")


def test_the_version_is_printed(tmp_path: Path) -> None:
    done = ended(tmp_path, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"leanplum-gateway {__version__}\n",
        "",
    )


@pytest.mark.parametrize("words", [("-h",), ("keys", "-h"), ("keys", "list", "-h")], ids=" ".join)
def test_a_short_option_shows_the_help(tmp_path: Path, words: tuple[str, ...]) -> None:
    short, long = ended(tmp_path, *words), ended(tmp_path, *words[:-1], "--help")
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert short.stdout.startswith("Usage: ")
    assert "╭" not in short.stdout, "a pipe gets no boxes"
    assert "\x1b" not in short.stdout


def test_help_takes_less_than_half_a_second_of_processor_time(tmp_path: Path) -> None:
    code = (
        "import os, sys; sys.argv = ['app', '--help']\n"
        "try:\n from app.cli.main import main; main()\n"
        "finally: print(sum(os.times()[:2]), *sorted(sys.modules), file=sys.stderr)"
    )
    env = environment(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, *modules = done.stderr.split()
    assert float(seconds) < 0.5
    heavy = {"fastapi", "sqlalchemy", "httpx", "pydantic_settings", "structlog", "alembic", "rich"}
    assert heavy.isdisjoint(modules)


def test_a_command_without_words_shows_its_help_as_an_error(tmp_path: Path) -> None:
    for words in ((), *((group,) for group in GROUPS)):
        done = ended(tmp_path, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recipts",), "No such command 'recipts'. Did you mean 'receipts'?"),
        (("keys", "lst"), "No such command 'lst'. Did you mean 'list'?"),
        (("keys", "list", "--jsn"), "No such option: --jsn. Did you mean --json?"),
        (("keys", "create"), "Missing option '--name'."),
        (("keys", "revoke"), "Missing argument 'key_id'."),
        (("serve", "--port", "x"), "Invalid value for '--port': "),
        (("status", "more"), "Got unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_words_are_told_in_one_style_with_what_was_probably_meant(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    done = ended(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(f"leanplum-gateway: {message}")
    assert re.fullmatch(r"leanplum-gateway: Run .*--help for its options\.", second)


@pytest.mark.parametrize(
    "words",
    [
        ("dead-letters", "replay"),
        ("dead-letters", "list", "--status", "lost"),
        ("dead-letters", "list", "--since", "yesterday"),
        ("receipts", "find", "--status", "lost"),
        ("receipts", "find", "--user", "u", "--device", "d"),
        ("receipts", "find", "--since", "yesterday"),
        ("status", "--max-age", "long"),
        ("audit", "export", "--json"),
        ("audit", "verify", "--acknowledge", "x"),
        ("audit", "verify", "--export", "none.jsonl"),
        ("plan", "lint"),
        ("keys", "create", "--name", "n", "--scope", "events:fly"),
        ("send", "E", "--user", "u"),
        ("send", "E", "--user", "u", "--key-file", "none"),
        ("send", "E", "--user", "u", "--param", "p"),
        ("check",),
    ],
    ids=" ".join,
)
def test_bad_use_ends_with_2_and_lines_of_one_style(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = ended(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert all(line.startswith("leanplum-gateway: ") for line in done.stderr.splitlines())
    assert list(tmp_path.iterdir()) == []


# --- completion -----------------------------------------------------------------------------------


def test_the_completion_of_a_shell_is_shown_for_the_installed_command(tmp_path: Path) -> None:
    env = environment(tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            command("--show-completion", shell), env=env, cwd=tmp_path, capture_output=True, text=True, check=True
        )  # fmt: skip
        assert "_LEANPLUM_GATEWAY_COMPLETE" in done.stdout
        assert "-m app" not in done.stdout


def test_completion_is_installed_for_the_installed_command(tmp_path: Path) -> None:
    env = environment(
        tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1", HOME=str(tmp_path)
    )
    done = subprocess.run(
        command("--install-completion", "bash"), env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert "completion installed" in done.stdout
    script = tmp_path / ".bash_completions" / "leanplum-gateway.sh"
    assert "_LEANPLUM_GATEWAY_COMPLETE" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("leanplum-gateway rec", "receipts"), ("leanplum-gateway receipts f", "find")],
)
def test_commands_are_completed(tmp_path: Path, typed: str, completed: str) -> None:
    program = tmp_path / "leanplum-gateway"
    program.write_text(f"#!{sys.executable}\nfrom app.__main__ import main\nmain()\n")
    program.chmod(0o755)
    env = environment(
        tmp_path,
        _LEANPLUM_GATEWAY_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(typed.count(" ")),
    )
    done = subprocess.run(
        [str(program)], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert completed in done.stdout.split()


# --- pipes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("settings",), ("settings", "--json"), ("--version",)], ids=" ".join
)
def test_a_pipe_that_nobody_reads_ends_a_command_quietly(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command(*words), stdout=writing, stderr=subprocess.PIPE, env=environment(tmp_path),
            cwd=tmp_path, check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_ctrl_c_ends_tail_as_it_should_end(tmp_path: Path) -> None:
    assert ended(tmp_path, "migrate").returncode == 0
    done = on_terminal(tmp_path, "tail", ending=b"\x03", after="TIME")
    assert done.code == 0
    assert "Traceback" not in done.text
