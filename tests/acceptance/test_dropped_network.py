"""A network that drops every packet, in a namespace of the test's own: callers hear in time, the
second host of the URL is tried, all goes on by itself, and what is sent again is there once.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.postgres import Server
from tests.support.processes import ROOT

FIREWALL = [
    "unshare",
    "--net",
    "iptables",
    "--append",
    "INPUT",
    "--protocol",
    "tcp",
    "--jump",
    "DROP",
]


def missing() -> str | None:
    """Why there can be no namespace with a firewall here."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if absent := [name for name in ("unshare", "ip", "iptables") if shutil.which(name) is None]:
        return f"there is no {' and no '.join(absent)} here"
    done = subprocess.run(FIREWALL, capture_output=True, text=True, check=False)
    return (
        None
        if done.returncode == 0
        else f"the kernel allows no firewall in a namespace: {done.stderr.strip()}"
    )


def test_where_the_network_drops_everything_callers_hear_in_time_and_all_goes_on(
    tmp_path: Path, postgresql_server: Server, record_property: Callable[[str, object], None]
) -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    program = [
        sys.executable,
        "-m",
        "tests.acceptance.dropped_network",
        postgresql_server.empty(),
        str(tmp_path),
    ]
    done = subprocess.run(
        ["unshare", "--net", *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, seconds in json.loads(done.stdout).items():
        record_property(name, seconds)
