"""The list of what the image installs (`make sbom`)."""

import json
import re
import subprocess
from os import environ

import pytest

from app import __version__
from tests.support.processes import ROOT

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv/sbom").exists() and "GATEWAY_TESTS_NEED_SITE" not in environ,
    reason="`make sbom` has not been run here",
)


def test_the_list_has_every_package_of_the_lock_with_its_hashes() -> None:
    done = subprocess.run(
        ["make", "sbom", "PIP_AUDIT=no-such-tool"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no-such-tool is not installed: known vulnerabilities are not looked up" in done.stdout
    document = json.loads((ROOT / "build/sbom.cdx.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    gateway = document["metadata"]["component"]
    assert (gateway["name"], gateway["version"]) == ("leanplum-gateway", __version__)
    listed = {part["name"]: part for part in document["components"]}
    lock = (ROOT / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.MULTILINE))
    assert {name: part["version"] for name, part in listed.items()} == pins
    for part in listed.values():
        (distribution,) = part["externalReferences"]
        assert distribution["hashes"], part["name"]
