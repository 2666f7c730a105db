"""A gateway with two apps on a port, and its console."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from app.callers import key_format
from app.server.application import Application, create_app
from tests.support.gateway import WIDE, make_settings
from tests.support.http_server import served

SECONDS = 30  # that a busy machine may take for an answer
APPS = "".join(
    f'[apps.{name}]\napp_id = "{name}"\nproduction_key = "p"\napi_url = "http://127.0.0.1:9/api"\n'
    for name in ("one", "two")
)


class Site(NamedTuple):
    """A gateway on a port, with two apps. Nothing is delivered."""

    url: str
    key: str
    app: Application
    path: Path

    def sign_in(self, key: str = "") -> str:
        """Return the cookie of a new session."""
        answer = httpx.post(
            f"{self.url}/console/sign-in", data={"key": key or self.key}, timeout=SECONDS
        )
        return answer.headers["set-cookie"].partition(";")[0]

    def make_key(
        self, *scopes: str, apps: list[str] | None = None, name: str = "made"
    ) -> tuple[str, str]:
        body = {"name": name, "scopes": ["console:read", *scopes], "apps": apps}
        made = httpx.post(
            f"{self.url}/v1/keys", json=body, headers=self.headers(), timeout=SECONDS
        ).json()
        return made["id"], made["key"]

    def headers(self, app: str = "one") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "X-Leanplum-App": app}

    def track(self, user: str, event: str = "Purchase", app: str = "one", **item: str) -> None:
        body = {"userId": user, "event": event, "params": {"secret": "cAnArY"}, **item}
        answer = httpx.post(
            f"{self.url}/v1/events", json=body, headers=self.headers(app), timeout=SECONDS
        )
        answer.raise_for_status()


@contextmanager
def running_site(folder: Path, migrated: Path) -> Iterator[Site]:
    key = key_format.make()
    (folder / "apps.toml").write_text(APPS)
    given = {
        "gateway_apps_file": folder / "apps.toml",
        "leanplum_app_id": None,
        "leanplum_production_key": None,
        "gateway_bootstrap_key": key,
    }
    settings = make_settings(folder, migrated, WIDE | given)
    app = create_app(settings, delivery=False)
    with served(settings, app) as port:
        yield Site(f"http://127.0.0.1:{port}", key, app, folder / "g.db")
