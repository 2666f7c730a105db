"""Shared limits over TLS: which servers are trusted, and what is said of the others at the start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.limits.valkey import Valkey as Client
from tests.support import tls_simulator
from tests.support.processes import Process, serving
from tests.support.tls_terminator import terminated
from tests.support.valkey import Valkey

from .limiters import asked, limit

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def files(tmp_path: Path) -> tls_simulator.Files:
    return tls_simulator.make_files(tmp_path)


@pytest.fixture
def port(valkey: Valkey, files: tls_simulator.Files) -> Iterator[int]:
    """Where a Valkey speaks TLS."""
    with terminated(valkey.port, files.server) as found:
        yield found


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_a_server_of_the_trusted_authority_decides(
    port: int, files: tls_simulator.Files, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))

    async def taken(shared: Client) -> list[bool]:
        mine = (limit("tls", 1, 2),)
        return [one.allowed for one in await shared.take([(mine, 2), (mine, 1)])]

    assert asked(f"{scheme}://127.0.0.1:{port}", taken) == [True, False]


def test_a_gateway_shares_its_limits_over_tls(
    tmp_path: Path, port: int, files: tls_simulator.Files
) -> None:
    settings = {
        "GATEWAY_SHARED_LIMITS_URL": f"rediss://127.0.0.1:{port}/0",
        "SSL_CERT_FILE": str(files.authority),
    }
    with serving(tmp_path, NOBODY, **settings) as gateway:
        limits = gateway.http.get("/readyz").json()["parts"]["limits"]
        assert limits["detail"] == "shared by 1 replica"


def test_a_server_of_another_authority_refuses_the_start_with_what_to_do(
    tmp_path: Path, port: int
) -> None:
    url = f"rediss://gateway:pa55-word@127.0.0.1:{port}"
    gateway = Process(tmp_path, NOBODY, GATEWAY_SHARED_LIMITS_URL=url)
    gateway.launch()
    try:
        assert gateway.process.wait(60) == 2
    finally:
        gateway.close()
    (line,) = gateway.output.read_text().splitlines()
    assert "GATEWAY_SHARED_LIMITS_URL: " in line
    assert "certificate verify failed" in line
    assert "SSL_CERT_FILE must name a file with the authority that signed" in line
    assert "pa55-word" not in gateway.output.read_text()
