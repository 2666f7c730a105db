"""A sandbox (`serve --sandbox`) as a process, and what it prints at its start."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from tests.support.processes import Process, serving
from tests.support.wait import until

# What a sandbox gets from tests: no app, and ports so that sandboxes run beside each other
NO_LEANPLUM: dict[str, str | None] = {
    **dict.fromkeys(("LEANPLUM_APP_ID", "LEANPLUM_PRODUCTION_KEY", "LEANPLUM_API_URL")),
    "GATEWAY_SANDBOX_PORT": "0",
}
# Without the key and the database that other tests choose
ITS_OWN: dict[str, str | None] = {"GATEWAY_BOOTSTRAP_KEY": None, "GATEWAY_DATABASE_URL": None}
QUICK = {"GATEWAY_RETRY_MAX_SECONDS": "0.2"}
FACT = re.compile(
    r"^  (Console|API pages|Simulator|Faults|Database|Your key) +(\S+)(.*)", re.MULTILINE
)


class Sandbox:
    """A running sandbox, by what it printed."""

    def __init__(self, gateway: Process, printed: str) -> None:
        self.gateway, self.printed = gateway, printed
        found = FACT.findall(printed)
        self.facts = {name: fact for name, fact, _ in found}
        self.notes = {name: note.strip() for name, _, note in found}
        self.key = self.facts["Your key"]
        self.simulator = self.facts["Faults"].removesuffix("/_simulator/faults")
        lines = map(str.strip, printed.splitlines())
        (self.curl,) = [line for line in lines if line.startswith("curl ")]

    @property
    def user(self) -> str:
        """The user of the printed command."""
        body: dict[str, Any] = orjson.loads(shlex.split(self.curl)[-1])
        return str(body["userId"])

    def adapted(self, command: str) -> str:
        """Return a command of the documentation with this sandbox's ports and key."""
        command = command.replace("http://127.0.0.1:8000", self.gateway.url)
        return command.replace("http://127.0.0.1:8001", self.simulator).replace("$KEY", self.key)

    def run(self, command: str) -> Any:
        """Run a command of the documentation, and return the JSON that it shows."""
        return orjson.loads(shell(self.adapted(command)))

    def example(self) -> dict[str, Any]:
        """Run the printed command, and return the receipt."""
        receipt: dict[str, Any] = orjson.loads(shell(self.curl))
        return receipt


def shell(command: str) -> str:
    """Run a shell command that ends well, and return its output."""
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@contextmanager
def sandbox(folder: Path, *words: str, **settings: str | None) -> Iterator[Sandbox]:
    """Run a sandbox in this folder, until the end of the context; kill it then."""
    output = folder / "output"
    before = output.stat().st_size if output.exists() else 0
    chosen = {**NO_LEANPLUM, **ITS_OWN, **QUICK, **settings}
    with serving(folder, "", "--sandbox", *words, **chosen) as gateway:
        until(lambda: b"curl " in output.read_bytes()[before:])
        yield Sandbox(gateway, output.read_bytes()[before:].decode())
