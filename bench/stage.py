"""The servers of a run: their commands, environments and cores."""

import itertools
import os
import sys
from pathlib import Path

from bench.children import Child, Fleet, free_port

_OURS = ("LEANPLUM_", "GATEWAY_", "BENCH_")


def cores() -> tuple[int, int]:
    """Return the core for the servers under test, and the one for load and upstream."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of the gateway, which would change the figures."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


class Stage:
    """The starter of servers; all databases and logs are in `scratch`.

    `postgresql`: the URL of a server for those on PostgreSQL.
    """

    def __init__(self, fleet: Fleet, scratch: Path, key: str, postgresql: str = "") -> None:
        self.fleet, self.scratch, self.key = fleet, scratch, key
        self.postgresql = postgresql
        self.server_core, self.load_core = cores()
        self._numbers = itertools.count(1)

    def echo(self) -> Child:
        """Start yardstick (a)."""
        return self._uvicorn("echo", core=self.server_core, ready="/")

    def seed(self, upstream: Child) -> Child:
        """Start yardstick (b)."""
        env = {"BENCH_UPSTREAM": f"{upstream.url}/api"}
        return self._uvicorn("seed", core=self.server_core, ready="/readyz", env=env)

    def upstream(self, *, delay: float = 0.0, fail_each: int = 0, pinned: bool = True) -> Child:
        """Start a Leanplum that accepts all but every `fail_each`-th call, which gets a 503."""
        core = self.load_core if pinned else None
        env = {"BENCH_UPSTREAM_DELAY": str(delay), "BENCH_UPSTREAM_FAIL_EACH": str(fail_each)}
        return self._uvicorn("upstream", core=core, ready="/stats", env=env)

    def gateway(
        self,
        upstream: Child,
        *,
        delivery: bool = False,
        pinned: bool = True,
        without: str = "",
        database: str = "",
    ) -> Child:
        """Start a gateway on a new SQLite file, or on the `database` with this URL.

        `without`: leave out a part (servers/without.py).
        """
        port, name = free_port(), f"gateway-{next(self._numbers)}"
        module = ["bench.servers.without", without] if without else ["app"]
        argv = [sys.executable, "-m", *module, "serve", "--port", str(port)]
        return self.fleet.start(
            name,
            argv if delivery else [*argv, "--no-delivery"],
            port=port,
            ready="/readyz",
            env=clean_environment() | self._settings(name, upstream, database),
            core=self.server_core if pinned else None,
        )

    def _settings(self, name: str, upstream: Child, database: str) -> dict[str, str]:
        """Return the settings: limits that are never reached, and no time to drain."""
        return {
            "LEANPLUM_APP_ID": "app_bench",
            "LEANPLUM_PRODUCTION_KEY": "prod_bench",
            "LEANPLUM_API_URL": f"{upstream.url}/api",
            "GATEWAY_DATABASE_URL": database or f"sqlite:///{self.scratch / name}.db",
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
        argv = [sys.executable, "-m", "uvicorn", f"bench.servers.{module}:app", "--port", str(port)]
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
