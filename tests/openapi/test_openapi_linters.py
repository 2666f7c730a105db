"""The OpenAPI document passes Redocly's and Spectral's rules; each exception has its reason."""

import json

import pytest

from tests.openapi.tools import COMMITTED, HERE, needs_node, node_tool

pytestmark = pytest.mark.sdk


@needs_node
def test_redocly_reports_nothing() -> None:
    config = ("--config", HERE / "redocly.yaml")
    report = json.loads(node_tool("redocly", "lint", COMMITTED, *config, "--format", "json"))
    assert report["problems"] == []


@needs_node
def test_spectral_reports_nothing() -> None:
    ruleset = ("--ruleset", HERE / "spectral.yaml", "--fail-severity", "hint")
    report = node_tool("spectral", "lint", COMMITTED, *ruleset, "--format", "json", "--quiet")
    assert json.loads(report) == []
