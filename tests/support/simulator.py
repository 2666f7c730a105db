"""A gateway that delivers to a real simulator, with all four kinds of Leanplum's keys."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.settings import Settings
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.gateway import Talk, running

KEYS = {
    "leanplum_production_key": "prod_sandbox",
    "leanplum_development_key": "dev_sandbox",
    "leanplum_data_export_key": "exp_sandbox",
    "leanplum_content_read_only_key": "cro_sandbox",
}


class Leanplum:
    """The simulator, as a test sees it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, trust_env=False)

    def calls(self) -> list[dict[str, Any]]:
        """Every HTTP call that arrived, oldest first."""
        found: list[dict[str, Any]] = self._http.get("/_simulator/requests").json()["requests"]
        return found

    def arrived(self) -> list[dict[str, Any]]:
        """Every action that arrived, with the key of its call as `clientKey`."""
        found = []
        for call in self.calls():
            args = call["args"]
            many = args.get("action") == "multi" and "data" in args
            found += [
                {**one, "clientKey": args["clientKey"]}
                for one in (args["data"] if many else [args])
            ]
        return found

    def fault(self, **fault: Any) -> None:
        self._http.post("/_simulator/faults", json={"faults": [fault]}).raise_for_status()

    def mend(self) -> None:
        self._http.delete("/_simulator/faults").raise_for_status()

    def user(self, user: str) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get(f"/_simulator/users/{user}").json()
        return found

    def files(self) -> list[dict[str, Any]]:
        answer = self._http.get("/_simulator/files").json()
        found: list[dict[str, Any]] = answer["files"] if isinstance(answer, dict) else answer
        return found

    def forget(self) -> None:
        self._http.post("/_simulator/reset").raise_for_status()

    def close(self) -> None:
        self._http.close()


@contextmanager
def simulated(config: SimulatorConfig | None = None) -> Iterator[Leanplum]:
    """A simulator of one's own."""
    with BackgroundServer(config or SimulatorConfig(migrate_state=True)) as server:
        leanplum = Leanplum(server.url)
        try:
            yield leanplum
        finally:
            leanplum.close()


@contextmanager
def delivering_to(
    leanplum: Leanplum, settings: Callable[..., Settings], path: Path, **given: Any
) -> Iterator[Talk]:
    """A gateway that delivers to this simulator."""
    told = {
        "leanplum_app_id": "app_sandbox",
        "leanplum_api_url": f"{leanplum.url}/api",
        **KEYS,
        **given,
    }
    told = {name: value for name, value in told.items() if value is not None}
    with running(settings(**told), path, delivery=True) as talk:
        yield talk
