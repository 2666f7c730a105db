"""Calls of Leanplum's own protocol, as its SDKs make them."""

import json
import time
from typing import Any
from urllib.parse import urlencode

import httpx

from app.model import Scope
from tests.support.gateway import Talk


def settled(talk: Talk) -> None:
    talk.until_nothing_waits()


def scoped(talk: Talk, *scopes: Scope) -> str:
    """A new key with these scopes."""
    return talk.create_key(*scopes)[1]


class Sdk:
    """Calls as an SDK makes them: no header has a key."""

    def __init__(self, talk: Talk, key: str | None = None) -> None:
        self._talk, self.key = talk, key or talk.key

    def call(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self._talk.call(method, url, key=None, **options)

    def get(self, **args: Any) -> httpx.Response:
        return self.call(
            "GET", "/api?" + urlencode({"appId": "app_sandbox", "clientKey": self.key, **args})
        )

    def post(self, body: Any, path: str = "/api", **query: Any) -> httpx.Response:
        """JSON in a POST, with the keys in it."""
        keys = {"appId": "app_sandbox", "clientKey": self.key}
        return self.call("POST", f"{path}?{urlencode(query)}", json={**keys, **body})

    def multi(self, *entries: Any, path: str = "/api", **more: Any) -> httpx.Response:
        return self.post(
            {"action": "multi", "time": time.time(), "data": list(entries), **more}, path
        )

    def android(self, *entries: dict[str, Any]) -> httpx.Response:
        """A form, whose `data` is a text of {"data": […]} (fact sheet §7)."""
        form = {"appId": "app_sandbox", "clientKey": self.key, "client": "android", "sdkVersion": "7.8.0",
                "action": "multi", "time": "1.700000000123E9", "data": json.dumps({"data": entries})}  # fmt: skip
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept-Encoding": "gzip"}
        return self.call("POST", "/api", content=urlencode(form).encode(), headers=headers)

    def javascript(self, *entries: dict[str, Any]) -> httpx.Response:
        """text/plain JSON, the arguments in the query, the key in each entry again."""
        query = {"appId": "app_sandbox", "client": "js", "clientKey": self.key, "sdkVersion": "1.9.1",
                 "action": "multi", "time": "1700000000.123"}  # fmt: skip
        keys = {
            "appId": "app_sandbox",
            "client": "js",
            "clientKey": self.key,
            "sdkVersion": "1.9.1",
        }
        body = json.dumps({"data": [{**keys, **one} for one in entries]})
        headers = {"Content-Type": "text/plain", "Origin": "https://shop.example"}
        return self.call("POST", "/api?" + urlencode(query), content=body.encode(), headers=headers)


def entries(answer: httpx.Response) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer.json()["response"]
    return found


TRACK: dict[str, Any] = {"action": "track", "userId": "u1", "event": "E"}
