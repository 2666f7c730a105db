"""The servers of a run: their commands, environments and cores."""

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from bench.children import Child, Fleet, free_port
from bench.postgres import PostgresServer, postgresql

GATEWAY = ("app",)
"""The program of a gateway: a module, and its first arguments."""
_OURS = ("LEANPLUM_", "GATEWAY_", "BENCH_", "OTEL_")
NO_MORE: Mapping[str, str] = MappingProxyType({})


def cores() -> tuple[int, int]:
    """Return the core for the servers under test, and the one for load and upstream."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of the gateway, which would change the figures."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


def _python(*module: str) -> list[str]:
    return [sys.executable, "-m", *module]


class Stage:
    """The starter of servers; all databases and logs are in `scratch`."""

    def __init__(self, fleet: Fleet, scratch: Path, key: str, postgres: str = "") -> None:
        """`postgres` is the URL of a server to use; without it, one is started when needed."""
        self.fleet, self.scratch, self.key, self._postgres = fleet, scratch, key, postgres
        self.server_core, self.load_core = cores()
        self._numbers = itertools.count(1)

    def echo(self) -> Child:
        """Start yardstick (a)."""
        return self._uvicorn("echo", core=self.server_core, ready="/")

    def collector(self) -> Child:
        """Start a server that takes spans, and answers each export with 200."""
        return self._uvicorn("echo", core=self.load_core, ready="/")

    def seed(self, upstream: Child) -> Child:
        """Start yardstick (b)."""
        env = {"BENCH_UPSTREAM": f"{upstream.url}/api"}
        return self._uvicorn("seed", core=self.server_core, ready="/readyz", env=env)

    def upstream(self, *, delay: float = 0.0, fail_each: int = 0, pinned: bool = True) -> Child:
        """Start a Leanplum that accepts all but every `fail_each`-th call, which gets a 503."""
        core = self.load_core if pinned else None
        env = {"BENCH_UPSTREAM_DELAY": str(delay), "BENCH_UPSTREAM_FAIL_EACH": str(fail_each)}
        return self._uvicorn("upstream", core=core, ready="/stats", env=env)

    def new_sqlite(self) -> str:
        """Return the URL of a new SQLite database."""
        return f"sqlite:///{self.scratch}/gateway-{next(self._numbers)}.db"

    @contextmanager
    def postgresql(self) -> Iterator[PostgresServer]:
        """Run a PostgreSQL server during the block, or use the one that was named."""
        with (
            tempfile.TemporaryDirectory(dir=self.scratch, prefix="postgres-") as folder,
            postgresql(Path(folder), self._postgres) as server,
        ):
            yield server

    def gateway(
        self,
        upstream: Child,
        *,
        database: str = "",
        workers: int = 1,
        delivery: bool = False,
        pinned: bool = True,
        program: Sequence[str] = GATEWAY,
        env: Mapping[str, str] = NO_MORE,
    ) -> Child:
        """Start a gateway; without a URL of a `database`, it gets a new SQLite file.

        `env`: further variables.
        """
        port = free_port()
        options = ["--port", str(port), "--workers", str(workers)]
        return self.fleet.start(
            f"gateway-{next(self._numbers)}",
            [*_python(*program), "serve", *options, *([] if delivery else ["--no-delivery"])],
            port=port,
            ready="/readyz",
            env={**self._environment(upstream, database or self.new_sqlite()), **env},
            core=self.server_core if pinned else None,
        )

    def deliverer(
        self, upstream: Child, database: str, *, program: Sequence[str] = GATEWAY
    ) -> Child:
        """Start a process that delivers what waits in a database, and do not wait for it."""
        return self.fleet.start(
            f"deliverer-{next(self._numbers)}",
            [*_python(*program), "deliver"],
            env=self._environment(upstream, database),
            core=None,
        )

    def _environment(self, upstream: Child, database: str) -> dict[str, str]:
        """Return the settings: limits that are never reached, and no time to drain."""
        return clean_environment() | {
            "LEANPLUM_APP_ID": "app_bench",
            "LEANPLUM_PRODUCTION_KEY": "prod_bench",
            "LEANPLUM_API_URL": f"{upstream.url}/api",
            "GATEWAY_DATABASE_URL": database,
            "GATEWAY_MAX_QUEUED_ITEMS": "100000000",
            "GATEWAY_BOOTSTRAP_KEY": self.key,
            "GATEWAY_RATE_PER_SECOND": "100000000",
            "GATEWAY_RATE_BURST": "100000000",
            "GATEWAY_DRAIN_SECONDS": "0",
        }

    def _uvicorn(
        self, module: str, *, core: int | None, ready: str, env: dict[str, str] | None = None
    ) -> Child:
        port = free_port()
        argv = [*_python("uvicorn"), f"bench.servers.{module}:app", "--port", str(port)]
        options = ["--no-access-log", "--log-level", "warning"]
        lifespan = ["--lifespan", "on" if module == "seed" else "off"]
        return self.fleet.start(
            f"{module}-{next(self._numbers)}",
            [*argv, *options, *lifespan],
            port=port,
            ready=ready,
            env=clean_environment() | (env or {}),
            core=core,
        )
