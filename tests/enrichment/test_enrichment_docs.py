"""What docs/enrichment.md says is so."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.enrichment.config import STEPS, parse
from app.enrichment.privacy import FREE
from tests.support.processes import serving

PAGE = (Path(__file__).resolve().parents[2] / "docs/enrichment.md").read_text()
Serve = Callable[..., Any]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_its_worked_example_answers_what_it_says(tmp_path: Path) -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (curl,) = re.findall(r"^curl .*?\n}'$", PAGE, re.DOTALL | re.MULTILINE)
    (answer,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "enrichment.toml"
    file.write_text(toml)
    with serving(
        tmp_path, "http://127.0.0.1:9", "--no-delivery", GATEWAY_ENRICHMENT_FILE=str(file)
    ) as gateway:
        environ = {"URL": gateway.url, "KEY": gateway.key}
        done = subprocess.run(
            ["bash", "-c", f"{curl} -f"], env=environ, capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout)
    found["results"][0]["enrichment"].pop("warnings", None)  # they come with the years
    assert found == json.loads(answer)


def test_its_file_says_something_in_every_section() -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    made = parse(toml)
    assert {name for name in type(made).model_fields if not getattr(made, name)} <= {"flatten"}


def test_its_table_has_every_step() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(STEPS)


def test_it_names_what_is_under_no_rule() -> None:
    told = PAGE.partition("Under no rule")[2].partition("SDKs' own fields")[0]
    assert set(re.findall(r"`(\w+)`", told)) <= FREE
    assert {"userId", "deviceId", "newUserId", "id"} <= set(re.findall(r"`(\w+)`", told))
