"""The examples of proxies in deploy/: a gateway behind nginx, as it is configured there; Envoy's is
only read.
"""

import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.pages import shell_blocks, succeed
from tests.support.processes import ROOT, Process, serving
from tests.support.tls_simulator import Files, make_files
from tests.support.wait import free_port, until

CONFIG = (ROOT / "deploy/nginx.conf").read_text()
ENVOY = (ROOT / "deploy/envoy.yaml").read_text()
CHECK = shell_blocks("docs/operations.md")["TLS and proxies"][0]
CALLER = "127.0.0.2"  # another address than nginx's, which alone is trusted
FORGED = "203.0.113.9"
needs_nginx = pytest.mark.skipif(
    shutil.which("nginx") is None and "GATEWAY_TESTS_NEED_NGINX" not in os.environ,
    reason="nginx is not installed",
)


def local(config: str, scratch: Path, files: Files, port: int, upstream: int) -> str:
    """Return the example with this machine's places in it."""
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"{kind}_temp_path {scratch}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    for text, here in {
        "worker_processes auto;": f"daemon off; pid {scratch}/pid; error_log {scratch}/errors; {user}",
        "http {": f"http {{ {temporary}",
        "/var/log/nginx/gateway.log": f"{scratch}/calls.log",
        "/etc/nginx/gateway.crt": str(files.server),
        "/etc/nginx/gateway.key": str(files.server),
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "server 127.0.0.1:8000": f"server 127.0.0.1:{upstream}",
    }.items():
        assert config.count(text) == 1, text
        config = config.replace(text, here)
    return config


@contextmanager
def nginx(scratch: Path, port: int) -> Iterator[None]:
    process = subprocess.Popen(["nginx", "-c", f"{scratch}/nginx.conf", "-p", str(scratch)])
    try:
        until(lambda: process.poll() is not None or accepts(port))
        assert process.poll() is None
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def behind(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Process, httpx.Client, Path]]:
    """A gateway, a client of the nginx before it, and the log of nginx."""
    folder = tmp_path_factory.mktemp("proxied")
    files, port = make_files(folder), free_port()
    context = ssl.create_default_context(cafile=str(files.authority))
    with (
        tempfile.TemporaryDirectory() as scratch,  # pytest's own are closed to nginx's workers
        serving(
            folder, "http://127.0.0.1:9", "--no-delivery", GATEWAY_TRUSTED_PROXIES="127.0.0.1/32"
        ) as gateway,
    ):
        text = local(CONFIG, Path(scratch), files, port, gateway.port)
        (Path(scratch) / "nginx.conf").write_text(text)
        succeed(CHECK, Path(scratch))
        with (
            nginx(Path(scratch), port),
            httpx.Client(
                base_url=f"https://127.0.0.1:{port}", timeout=40,
                headers={"Authorization": f"Bearer {gateway.key}"},
                transport=httpx.HTTPTransport(verify=context, local_address=CALLER),
            ) as client,
        ):  # fmt: skip
            yield gateway, client, Path(scratch) / "calls.log"


@needs_nginx
def test_calls_pass_with_tls_and_the_callers_address(
    behind: tuple[Process, httpx.Client, Path],
) -> None:
    gateway, client, _ = behind
    headers = {
        "X-Forwarded-For": FORGED,
        "Forwarded": f"for={FORGED}",
        "X-Request-ID": "through-nginx",
    }
    answer = client.post("/v1/events", json={"userId": "u", "event": "E"}, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert answer.headers["X-Request-ID"] == "through-nginx"
    (record,) = until(
        lambda: gateway.call("GET", "/v1/audit", params={"requestId": "through-nginx"}).json()[
            "records"
        ]
    )
    assert record["record"]["src_endpoint"]["ip"] == CALLER


@needs_nginx
def test_the_gateway_answers_what_is_large_or_has_a_slash_in_an_id(
    behind: tuple[Process, httpx.Client, Path],
) -> None:
    _, client, _ = behind
    large = client.post(
        "/v1/events", content=b"x" * 6 * 2**20, headers={"Content-Type": "application/json"}
    )
    assert large.status_code == 413
    assert large.json()["type"] == "/problems/too-large"
    upload = client.post("/v1/files", content=b"x" * 51_000_000)
    assert upload.headers["Content-Type"] == "application/problem+json"
    slash = client.patch("/v1/users/a%2Fb", json={"userAttributes": {"plan": "pro"}})
    assert slash.status_code == 202, slash.text
    assert slash.json()["userId"] == "a/b"


@needs_nginx
def test_the_prefix_is_the_gateways_and_metrics_are_closed(
    behind: tuple[Process, httpx.Client, Path],
) -> None:
    _, client, _ = behind
    answer = client.get("/v1/none", headers={"X-Forwarded-Prefix": "/elsewhere"})
    assert answer.status_code == 404
    assert answer.json()["type"] == "/problems/not-found"
    assert client.get("/metrics").status_code == 403
    assert client.get("/readyz").status_code == 200


@needs_nginx
def test_no_key_is_in_the_log(behind: tuple[Process, httpx.Client, Path]) -> None:
    gateway, client, log = behind
    _, key = gateway.create_key("sdk")
    query = {
        "appId": "app_sandbox",
        "clientKey": key,
        "action": "track",
        "event": "E",
        "userId": "u",
    }
    answer = client.get("/api", params=query, headers={"Authorization": ""})
    assert answer.json()["response"][0]["success"] is True, answer.text
    until(lambda: '"GET /api" 200' in log.read_text())
    assert key not in log.read_text()
    assert gateway.key not in log.read_text()


def test_the_example_of_envoy_leads_to_the_gateway_and_agrees_with_nginx() -> None:
    resources = yaml.safe_load(ENVOY)["static_resources"]
    (listener,), (cluster,) = resources["listeners"], resources["clusters"]
    chain = listener["filter_chains"][0]
    manager: dict[str, Any] = chain["filters"][0]["typed_config"]
    assert manager["use_remote_address"] is True
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert routes[0]["match"] == {"path": "/metrics"}
    assert routes[1]["route"]["cluster"] == cluster["name"]
    assert "retry_policy" not in routes[1]["route"]
    assert manager["route_config"]["request_headers_to_remove"] == [
        "forwarded",
        "x-forwarded-prefix",
    ]
    seconds = re.findall(r"proxy_read_timeout (\d+s);", CONFIG)
    assert [routes[1]["route"]["timeout"]] == seconds
