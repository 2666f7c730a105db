"""A gateway behind its real server as phones see it, and the entries of their sessions."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import httpx

from app.callers import key_format
from app.server.application import create_app
from tests.support.gateway import WIDE, make_settings
from tests.support.http_server import served
from tests.support.simulator import KEYS, Leanplum
from tests.support.wait import until

PHONE_SECONDS = 10.0


Entry = dict[str, Any]


class Gateway:
    """A gateway behind its real server, as a phone sees it."""

    def __init__(self, port: int, app: Any, key: str) -> None:
        self.url, self.app, self.key = f"http://127.0.0.1:{port}", app, key

    def android(
        self, entries: list[Entry], *, seconds: float = PHONE_SECONDS, path: str = "/api"
    ) -> httpx.Response:
        """A form, as Android sends it. Raises httpx.TimeoutException where the phone gives up."""
        form = {"appId": "app_sandbox", "clientKey": self.key, "client": "android", "sdkVersion": "7.8.0",
                "action": "multi", "time": repr(time.time()), "data": json.dumps({"data": entries})}  # fmt: skip
        with httpx.Client(trust_env=False, timeout=seconds) as client:
            return client.post(
                self.url + path,
                content=urlencode(form),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )

    def javascript(self, entries: list[Entry]) -> httpx.Response:
        query = urlencode({"appId": "app_sandbox", "client": "js", "clientKey": self.key, "sdkVersion": "1.9.1",
                           "action": "multi", "time": repr(time.time())})  # fmt: skip
        with httpx.Client(trust_env=False, timeout=PHONE_SECONDS) as client:
            return client.post(
                f"{self.url}/api?{query}",
                content=json.dumps({"data": entries}),
                headers={"Content-Type": "text/plain"},
            )

    def settled(self) -> None:
        until(
            lambda: self.app.services.outbox.queued == 0 and not self.app.services.relay._tasks,
            20,
        )


@contextmanager
def gateway(leanplum: Leanplum, directory: Any, migrated: Any, **given: Any) -> Iterator[Gateway]:
    key = key_format.make()
    told = {"leanplum_app_id": "app_sandbox", "leanplum_api_url": f"{leanplum.url}/api", **KEYS}
    settings = make_settings(
        directory, migrated, {**WIDE, **told, "gateway_bootstrap_key": key, **given}
    )
    app = create_app(settings, delivery=True)
    with served(settings, app) as port:
        yield Gateway(port, app, key)


def entry(action: str, user: str, device: str, **more: Any) -> Entry:
    """An entry as Android writes it; each is another moment's."""
    common = {
        "deviceId": device,
        "userId": user,
        "sdkVersion": "7.8.0",
        "devMode": "false",
        "ct": False,
    }
    ids = {"reqId": str(uuid.uuid4()), "uuid": "of-the-device", "time": f"{time.time():.6f}"}
    return {"action": action, **common, **ids, **more}


def answers(answer: httpx.Response) -> list[Entry]:
    found: list[Entry] = answer.json()["response"]
    return found


def arrived(leanplum: Leanplum) -> list[Any]:
    return [one["reqId"] for one in leanplum.arrived()]


def ids(sent: list[Entry]) -> list[Any]:
    return [one["reqId"] for one in sent]
