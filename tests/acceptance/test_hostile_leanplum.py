"""A real gateway before a server that answers as no server should: nothing is lost, memory and
waits are bounded.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import problem
from tests.support.hostile_server import Hostile, hostile
from tests.support.processes import Process, serving
from tests.support.wait import until

SECONDS = "1"
KINDS = (
    "a gzip bomb",
    "a gzip bomb in a gzip",
    "a body byte by byte",
    "endless headers",
    "more promised than sent",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with hostile() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(server: Hostile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    waits = {
        "LEANPLUM_DATA_EXPORT_KEY": "exp_sandbox",
        "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": SECONDS,
        "GATEWAY_RELAY_TIMEOUT_SECONDS": SECONDS,
    }
    with serving(tmp_path_factory.mktemp("hostile"), server.url, **waits) as running:
        yield running


def memory(gateway: Process) -> int:
    """The most bytes that the process has ever had."""
    lines = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_comes_back_items_are_kept_and_callers_are_told(
    server: Hostile, gateway: Process, kind: str
) -> None:
    before = memory(gateway)
    server.kind = kind
    user = f"hostile-{KINDS.index(kind)}"
    assert gateway.event(user, 1).status_code == 202
    until(lambda: gateway.status(f"{user}-1") == "retrying")

    # Of another user: a call for this one waits for the delivery that is in progress
    reader = f"hostile-reader-{KINDS.index(kind)}"
    told = problem(gateway.call("GET", f"/v1/users/{reader}"), 504, "upstream-timeout")
    assert told["detail"].startswith("Leanplum's answer is missing or incomplete")
    if kind == "a gzip bomb":
        assert "GATEWAY_UPSTREAM_MAX_RESPONSE_BYTES" in told["detail"]

    server.kind = None
    assert gateway.event(f"good-{KINDS.index(kind)}", 1).status_code == 202
    until(lambda: gateway.status(f"good-{KINDS.index(kind)}-1") == "delivered")
    until(lambda: gateway.status(f"{user}-1") == "delivered", 60)
    assert memory(gateway) - before < 100_000_000
