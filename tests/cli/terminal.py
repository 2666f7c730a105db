"""A terminal of its own for a command, with what the command shows on it."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tests.support.processes import command, environment

ESCAPE = "\x1b"


class Shown(NamedTuple):
    """How a command ended, and what it wrote to the terminal."""

    code: int
    text: str


def on_terminal(
    folder: Path,
    *words: str,
    stdout: int | None = None,
    columns: int = 200,
    ending: bytes = b"",
    after: str = "",
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Shown:
    """Run a command on a terminal of so many columns; standard output may go elsewhere.

    Type `ending` once the text `after` is shown.
    """
    env = environment(folder, **settings) | {"COLUMNS": str(columns), "TERM": "xterm-256color"}
    return shown(command(*words), folder, env, stdout, ending, after)


def shown(
    words: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    stdout: int | None = None,
    ending: bytes = b"",
    after: str = "",
) -> Shown:
    """Run any command on a terminal."""
    ours, theirs = pty.openpty()
    out = theirs if stdout is None else stdout
    with subprocess.Popen(
        words,
        cwd=folder,
        env=env,
        stdin=theirs,
        stdout=out,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_take_terminal,
    ) as process:
        os.close(theirs)
        try:
            text = _read(ours, ending, after)
            return Shown(process.wait(timeout=30), text)
        finally:
            process.kill()
            os.close(ours)


def _take_terminal() -> None:
    """Make the terminal that of the new session, so that Ctrl-C reaches the command."""
    import fcntl
    import termios

    fcntl.ioctl(2, termios.TIOCSCTTY, 0)


def _read(descriptor: int, ending: bytes, after: str) -> str:
    """Return all that is written until the command closes the terminal."""
    found, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([descriptor], [], [], 1)[0]:
            continue
        try:
            new = os.read(descriptor, 65_536)
        except OSError:  # Linux: nobody has the other end any more
            break
        if not new:
            break
        found += new
        if ending and after.encode() in found:
            os.write(descriptor, ending)
            ending = b""
    return found.decode(errors="replace").replace("\r\n", "\n")
