"""Prometheus' own check of metrics: `promtool`, from Debian's package `prometheus`."""

import os
import shutil
import subprocess

import pytest

PROMTOOL = shutil.which("promtool")
NEEDED = bool(os.environ.get("GATEWAY_TESTS_NEED_PROMTOOL"))
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None and not NEEDED, reason="there is no promtool here"
)


def faults(metrics: str) -> str:
    """Return what promtool finds wrong with metrics in the text format; "" if nothing is."""
    assert PROMTOOL is not None, "GATEWAY_TESTS_NEED_PROMTOOL is set, and there is none"
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=metrics, capture_output=True, text=True, timeout=60
    )
    said = checked.stdout + checked.stderr
    assert said or checked.returncode == 0, "it failed without a word"
    return said
