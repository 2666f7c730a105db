"""What docs/segment.md says is so."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from app.compat.segment.request import TYPES
from app.ingest.segment_context import SegmentRules
from tests.support.processes import ended, serving
from tests.support.simulator import simulated
from tests.support.wait import until

PAGE = (Path(__file__).resolve().parents[2] / "docs/segment.md").read_text()
EXAMPLE = PAGE.partition("## A worked example")[2].partition("\n## ")[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_its_worked_example_arrives_as_it_says(tmp_path: Path) -> None:
    commands = re.findall(r"^    (curl .*?}')$", EXAMPLE, re.MULTILINE | re.DOTALL)
    (expected,) = re.findall(r"```json\n(.*?)```", EXAMPLE, re.DOTALL)
    assert len(commands) == 2
    with simulated() as leanplum, serving(tmp_path, leanplum.url) as gateway:
        environ = {"URL": gateway.url, "KEY": gateway.key}
        for command in commands:
            done = subprocess.run(
                ["bash", "-c", f"{command} -f"], env=environ, capture_output=True, check=True
            )
            assert json.loads(done.stdout) == {"success": True}
        for item in ("m-1", "m-2", "m-3"):
            until(lambda: gateway.status(item) == "delivered", 20)  # noqa: B023
        found = leanplum.arrived()
    assert [
        {n: v for n, v in one.items() if n not in ("time", "reqId", "uuid", "clientKey")}
        for one in found
    ] == (json.loads(expected))


def test_its_command_makes_a_key(tmp_path: Path) -> None:
    (command,) = re.findall(r"^    python -m app (.*)$", PAGE, re.MULTILINE)
    assert ended(tmp_path, *command.split()).returncode == 0


def test_its_choices_are_all_that_there_are_with_their_defaults() -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    told = tomllib.loads(toml)["segment"]
    assert SegmentRules(**told).model_dump() == SegmentRules().model_dump() | {
        "events": told["events"]
    }
    assert told.keys() == SegmentRules.model_fields.keys()


def test_its_table_has_every_kind_of_message() -> None:
    rows = re.findall(r"^\| (\w+) \| `\w+` \| ", PAGE, re.MULTILINE)
    assert set(TYPES) <= set(rows)
