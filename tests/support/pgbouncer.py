"""A real PgBouncer for tests, Debian's package: started in front of the tests' PostgreSQL."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from .wait import free_port

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
NEEDED = bool(os.environ.get("GATEWAY_TESTS_NEED_PGBOUNCER"))
needs_pgbouncer = pytest.mark.skipif(
    PGBOUNCER is None and not NEEDED, reason="there is no PgBouncer here"
)
CONFIG = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 200
{more}
"""


@contextmanager
def pgbouncer(database_url: str, mode: str, *, size: int = 5, more: str = "") -> Iterator[str]:
    """Start one that pools in this mode; the URL of the database through it."""
    assert PGBOUNCER is not None, "GATEWAY_TESTS_NEED_PGBOUNCER is set, and there is none"
    server = conninfo_to_dict(database_url)
    listen = free_port()
    with tempfile.TemporaryDirectory(prefix="pgbouncer") as folder:
        settings = {
            "host": server["host"],
            "port": server.get("port", 5432),
            "user": server["user"],
            "listen": listen,
            "mode": mode,
            "size": size,
            "more": more,
        }
        config = Path(folder) / "pgbouncer.ini"
        config.write_text(CONFIG.format(**settings))
        Path(folder).chmod(0o755)
        # It refuses to run as root, and so does PostgreSQL.
        owner = os.stat(str(server["host"])).st_uid if os.geteuid() == 0 else None
        with (Path(folder) / "log").open("ab") as log:
            process = subprocess.Popen([PGBOUNCER, str(config)], user=owner, stdout=log, stderr=log)
        try:
            url = f"postgresql://gateway:pa55-word@127.0.0.1:{listen}/{server['dbname']}"
            _wait(url, process, Path(folder) / "log")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, log.read_text()
        try:
            psycopg.connect(url, autocommit=True).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
