"""What a sandbox prints: where everything is, once it can be used."""

import socket
from pathlib import Path

import httpx
import pytest

from app.server.sandbox import _show_url
from tests.support.processes import ROOT, Process
from tests.support.sandbox import ITS_OWN, NO_LEANPLUM, Sandbox, sandbox
from tests.support.wait import until


def test_it_is_printed_once_connections_are_accepted(tmp_path: Path) -> None:
    process = Process(tmp_path, "", "--sandbox", **NO_LEANPLUM, **ITS_OWN)
    process.launch()
    try:
        until(lambda: process.output.exists() and "curl " in process.output.read_text(), 60)
        assert process.http.get("/readyz").status_code == 200
    finally:
        process.close()


def test_the_links_lead_to_pages(tmp_path: Path) -> None:
    with sandbox(tmp_path) as running:
        for name in ("Console", "API pages", "Simulator", "Faults"):
            page = httpx.get(running.facts[name], follow_redirects=True)
            assert page.status_code == 200, name
        assert running.facts["Database"] == "sqlite:///data/sandbox.db"


def test_with_a_path_prefix_the_links_have_it(tmp_path: Path) -> None:
    with sandbox(tmp_path, GATEWAY_ROOT_PATH="/leanplum") as running:
        assert running.facts["API pages"] == f"{running.gateway.url}/leanplum/docs"
        assert httpx.get(running.facts["API pages"]).status_code == 200
        assert running.example()["status"] == "delivered"


def test_no_proxy_is_between_the_gateway_and_the_simulator(tmp_path: Path) -> None:
    with sandbox(tmp_path, GATEWAY_UPSTREAM_PROXY="http://127.0.0.1:9") as running:
        assert running.example()["status"] == "delivered"


@pytest.mark.parametrize(
    ("family", "host", "shown"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.1"),  # noqa: S104
        (socket.AF_INET6, "::1", "[::1]"),
        (socket.AF_INET6, "::", "[::1]"),
    ],
)
def test_the_address_is_one_that_this_machine_can_open(
    family: socket.AddressFamily, host: str, shown: str
) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        assert _show_url(listener, "/lp") == f"http://{shown}:{port}/lp"


def test_the_pages_show_what_is_printed(tmp_path: Path) -> None:
    with sandbox(tmp_path) as running:
        facts, command = _facts_of(running), _command_of(running)
    for page in ("README.md", "docs/sandbox.md"):
        assert facts in (ROOT / page).read_text(), page
    assert command in (ROOT / "README.md").read_text()


def _facts_of(running: Sandbox) -> str:
    """Return the printed lines with the default ports, and without the key."""
    lines = [line for line in running.printed.splitlines() if line.startswith("  ")]
    text = "\n".join(line for line in lines if "curl" not in line)
    text = text.replace(running.gateway.url, "http://127.0.0.1:8000")
    return text.replace(running.simulator, "http://127.0.0.1:8001").replace(running.key, "lpgw_…")


def _command_of(running: Sandbox) -> str:
    """Return the printed command as a page shows it: with the default port, `$KEY` and user-1."""
    command = running.curl.replace(
        f"'Authorization: Bearer {running.key}'", '"Authorization: Bearer $KEY"'
    )
    command = command.replace(running.gateway.url, "http://127.0.0.1:8000")
    return command.replace(running.user, "user-1").replace(" -d ", " \\\n  -d ")
