"""A real nginx in front of gateways."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.wait import free_port, until

CONFIG = """daemon off; pid {scratch}/pid; error_log {scratch}/errors; worker_processes 1; {user}
events {{ worker_connections 256; }}
http {{ access_log off; client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/f; uwsgi_temp_path {scratch}/u; scgi_temp_path {scratch}/s;
    {upstreams}
    server {{ listen 127.0.0.1:{port}; {server} }} }}
"""
needs_nginx = pytest.mark.skipif(
    shutil.which("nginx") is None and "GATEWAY_TESTS_NEED_NGINX" not in os.environ,
    reason="nginx is not installed",
)


@contextmanager
def nginx(server: str, upstreams: str = "") -> Iterator[int]:
    """Yield the port of an nginx, with the directives of its `server` block and its upstreams."""
    # A short path: pytest's own folders are closed to nginx's workers
    with tempfile.TemporaryDirectory() as scratch:
        port, config = free_port(), Path(scratch) / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            CONFIG.format(scratch=scratch, port=port, server=server, upstreams=upstreams, user=user)
        )
        process = subprocess.Popen(
            ["nginx", "-c", str(config), "-p", scratch], stderr=subprocess.PIPE
        )
        try:
            until(lambda: _accepts(port, process))
            yield port
        finally:
            process.terminate()
            process.communicate(timeout=10)


def _accepts(port: int, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, process.stderr and process.stderr.read()
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True
