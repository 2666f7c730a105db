"""A gateway on a port, which delivers to a simulator, for browsers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page

from app.callers import key_format
from app.server.application import create_app
from tests.support.browser import Visit
from tests.support.gateway import WIDE, make_settings
from tests.support.http_server import served
from tests.support.simulator import KEYS, Leanplum, simulated
from tests.support.wait import until


class ConsoleSite:
    """The gateway, its first key, and the simulator behind it."""

    def __init__(self, url: str, key: str, leanplum: Leanplum) -> None:
        self.url, self.key, self.leanplum = url, key, leanplum
        self._cookie = ""
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
        )

    def send(self, *items: dict[str, Any]) -> list[str]:
        """Accept items, in one call; return their ids."""
        answer = self.http.post("/v1/batch", json={"items": list(items)})
        answer.raise_for_status()
        return [result["id"] for result in answer.json()["results"]]

    def track(self, user: str, event: str = "Purchase", **fields: Any) -> str:
        return self.send({"action": "track", "userId": user, "event": event, **fields})[0]

    def receipt(self, item_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/receipts/{item_id}").json()
        return found

    def until_status(self, item_id: str, status: str) -> None:
        until(lambda: self.receipt(item_id)["status"] == status)

    def cookie(self) -> str:
        """Return the cookie of one session, as the header `Cookie` has it."""
        if not self._cookie:
            answer = self.http.post("/console/sign-in", data={"key": self.key})
            self._cookie = answer.headers["set-cookie"].partition(";")[0]
        return self._cookie

    def opened(self, visit: Visit, path: str, **options: Any) -> Page:
        """Return the page at a path of the console, with one session for all of its visits."""
        page = visit(f"{self.url}/console/sign-in", **options)
        name, _, value = self.cookie().partition("=")
        page.context.add_cookies([{"name": name, "value": value, "url": f"{self.url}/console"}])
        page.goto(f"{self.url}/console{path}")
        return page

    def signed_in(self, visit: Visit, path: str = "", **options: Any) -> Page:
        """Return the page at a path of the console, after signing in."""
        page = visit(f"{self.url}/console/sign-in", **options)
        page.get_by_label("Caller key").fill(self.key)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{self.url}/console")
        if path:
            page.goto(f"{self.url}/console{path}")
        return page


@contextmanager
def console_site(folder: Path, migrated: Path, **given: Any) -> Iterator[ConsoleSite]:
    """A gateway of one's own."""
    key = key_format.make()
    with simulated() as leanplum:
        settings = make_settings(
            folder,
            migrated,
            {
                **WIDE,
                **KEYS,
                "leanplum_app_id": "app_sandbox",
                "leanplum_api_url": f"{leanplum.url}/api",
                "gateway_bootstrap_key": key,
                **given,
            },
        )
        app = create_app(settings, delivery=True)
        with served(settings, app) as port:
            site = ConsoleSite(f"http://127.0.0.1:{port}", key, leanplum)
            try:
                yield site
            finally:
                site.http.close()
