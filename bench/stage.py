"""How each server of a run is started: with which command, which environment, on which core."""

import itertools
import os
import sys
from pathlib import Path

from bench.children import Child, Fleet, free_port

_OURS = ("LEANPLUM_", "GATEWAY_", "BENCH_")


def cores() -> tuple[int, int]:
    """The core for servers under test, and the one for load and upstream."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def clean_environment() -> dict[str, str]:
    """The environment without the gateway's settings, so that a developer's own cannot colour the
    figures.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


class Stage:
    """Starts servers; all databases and logs live in `scratch`."""

    def __init__(self, fleet: Fleet, scratch: Path, key: str) -> None:
        self.fleet, self.scratch, self.key = fleet, scratch, key
        self.server_core, self.load_core = cores()
        self._numbers = itertools.count(1)

    def echo(self) -> Child:
        """Yardstick (a)."""
        return self._uvicorn("echo", core=self.server_core, ready="/")

    def seed(self, upstream: Child) -> Child:
        """Yardstick (b)."""
        env = {"BENCH_UPSTREAM": f"{upstream.url}/api"}
        return self._uvicorn("seed", core=self.server_core, ready="/readyz", env=env)

    def upstream(self, *, delay: float = 0.0, fail_each: int = 0, pinned: bool = True) -> Child:
        """A Leanplum that says yes; but to every `fail_each`-th call that it is unavailable."""
        core = self.load_core if pinned else None
        env = {"BENCH_UPSTREAM_DELAY": str(delay), "BENCH_UPSTREAM_FAIL_EACH": str(fail_each)}
        return self._uvicorn("upstream", core=core, ready="/stats", env=env)

    def gateway(
        self, upstream: Child, *, delivery: bool = False, pinned: bool = True, without: str = ""
    ) -> Child:
        """The gateway on a database of its own; `without` one of its parts
        (`bench/servers/without.py`).
        """
        port, name = free_port(), f"gateway-{next(self._numbers)}"
        module = ["bench.servers.without", without] if without else ["app"]
        argv = [sys.executable, "-m", *module, "serve", "--port", str(port)]
        return self.fleet.start(
            name,
            argv if delivery else [*argv, "--no-delivery"],
            port=port,
            ready="/readyz",
            env=clean_environment() | self._settings(name, upstream),
            core=self.server_core if pinned else None,
        )

    def _settings(self, name: str, upstream: Child) -> dict[str, str]:
        """The limiter stays on, with a limit that is never reached; stopping takes no time."""
        return {
            "LEANPLUM_APP_ID": "app_bench",
            "LEANPLUM_PRODUCTION_KEY": "prod_bench",
            "LEANPLUM_API_URL": f"{upstream.url}/api",
            "GATEWAY_DATABASE_URL": f"sqlite:///{self.scratch / name}.db",
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
