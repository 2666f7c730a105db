"""A running gateway, to be talked to from plain (not async) tests."""

import asyncio
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette import types

from app.callers import key_format
from app.model import Scope
from app.server.application import Application, create_app
from app.settings import Settings
from tests.support.wait import until

JSON, NDJSON, PROBLEM = "application/json", "application/x-ndjson", "application/problem+json"
PLACES = ("pointer", "header", "parameter")
# As an attribute value or an invalid value: it must not come back, nor stay in the audit
CANARY = "cAnArY-7f3b"
EVENT: dict[str, Any] = {"userId": "u1", "event": "Purchase"}

WIDE = {
    "gateway_rate_per_second": 10**6,
    "gateway_rate_burst": 10**9,
    "gateway_failed_auth_per_minute": 10**6,
    "gateway_erased_seconds": 0,  # a user of one test is another test's as well
}


def make_settings(directory: Path, migrated: Path, given: dict[str, Any]) -> Settings:
    """Settings that read neither the environment's `.env` nor anything of this machine."""
    path = directory / "g.db"
    if not path.exists():
        shutil.copy(migrated, path)
    return Settings(
        _env_file=None,
        **{
            "leanplum_app_id": "app_tests",
            "leanplum_production_key": "prod_tests_secret",
            "leanplum_api_url": "http://127.0.0.1:9/api",
            "gateway_database_url": f"sqlite:///{path}",
            "gateway_bootstrap_key": key_format.make(),
            **given,
        },
    )


class Talk:
    """One gateway: its app, its settings, its database file, its bootstrap key, and HTTP to it."""

    def __init__(
        self, app: Application, settings: Settings, portal: BlockingPortal, path: Path
    ) -> None:
        self.app, self.settings, self.path = app, settings, path
        key = settings.gateway_bootstrap_key
        self.key = key.get_secret_value() if key else ""
        self._portal = portal
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://gateway"
        )

    def close(self) -> None:
        self._portal.call(self._http.aclose)

    def do(self, function: Callable[[], Any]) -> Any:
        """Call a function, async or not, on the gateway's event loop."""
        return self._portal.call(function)

    def call(
        self, method: str, url: str, *, key: str | None = "", **options: Any
    ) -> httpx.Response:
        """One request; `key` is the bootstrap key unless told, None sends none."""
        return httpx_response(self.do(partial(self._request, method, url, key=key, **options)))

    def at_once(self, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        """Many requests (method, URL, options) in flight together."""

        async def all_of_them() -> list[httpx.Response]:
            return await asyncio.gather(
                *(self._request(method, url, **options) for method, url, options in requests)
            )

        return list(self.do(all_of_them))

    async def _request(
        self, method: str, url: str, *, key: str | None = "", **options: Any
    ) -> httpx.Response:
        headers: dict[Any, Any] = (
            {} if key is None else {"Authorization": f"Bearer {key or self.key}"}
        )
        options["headers"] = headers | dict(options.get("headers", {}))
        return await self._http.request(method, url, **options)

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.call("GET", url, **options)

    def event(self, body: Any = None, **options: Any) -> httpx.Response:
        """POST /v1/events: a value is sent as JSON, bytes as they are."""
        return self.post("/v1/events", EVENT if body is None else body, **options)

    def batch(self, body: Any, **options: Any) -> httpx.Response:
        """POST /v1/batch: a list is sent as its items, bytes as they are."""
        return self.post(
            "/v1/batch", {"items": body} if isinstance(body, list) else body, **options
        )

    def post(self, url: str, body: Any, *, method: str = "POST", **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {"Content-Type": JSON} | dict(options.pop("headers", {}))
        return self.call(method, url, content=content, headers=headers, **options)

    def create_key(self, *scopes: Scope, **fields: Any) -> tuple[str, str]:
        """Return the id of a new caller key, and the key."""
        body = {"name": os.urandom(4).hex(), "scopes": list(scopes), **fields}
        answer = self.post("/v1/keys", body)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"], answer.json()["key"]

    def metric(self, name: str) -> float:
        """Return the value of a metric by its name and labels, as /metrics shows it."""
        text = self.get("/metrics", key=None).text
        found = re.search(rf"^leanplum_gateway_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def queued(self) -> int:
        """Return how many items wait."""
        return self.app.services.outbox.queued

    def until_nothing_waits(self, seconds: float = 20.0) -> None:
        """Wait until everything that was accepted is settled."""
        until(lambda: self.queued() == 0, seconds)

    def user_hash(self, user: str, app: str | None = None) -> str:
        """Return the keyed hash by which the audit names a user of an app."""
        headers = {} if app is None else {"X-Leanplum-App": app}
        refused = self.post(f"/v1/users/{user}/states", {"state": 0}, headers=headers)
        assert refused.status_code == 422, refused.text
        (record,) = self.audit(refused.headers["x-request-id"])
        hashed: str = record["unmapped"]["user"]
        return hashed

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What is in the database now, read on another connection: only what is committed."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()

    def execute(self, statement: str, *values: Any) -> None:
        """Change the database beside the gateway."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(statement, values)
            connection.commit()

    def items(self) -> int:
        """How many items are on disk."""
        return int(self.rows("SELECT count(*) FROM items")[0][0])

    def audit(self, request_id: str | None = None) -> list[dict[str, Any]]:
        """The audit records that are on disk now, oldest first; those of one request."""
        records = [
            orjson.loads(record)
            for (record,) in self.rows("SELECT record FROM audit_records ORDER BY seq")
        ]
        return [
            one for one in records if request_id in (None, one["api"].get("request", {}).get("uid"))
        ]

    def raw(
        self,
        headers: list[tuple[bytes, bytes]],
        *messages: dict[str, Any],
        path: str = "/v1/events",
    ) -> int:
        """POST by bare ASGI messages, for what no HTTP client would send; the status answered."""
        scope: types.Scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "server": ("gateway", 80),
            "client": ("127.0.0.1", 1), "headers": [
                (b"host", b"gateway"), (b"authorization", f"Bearer {self.key}".encode()), *headers,
            ],
        }  # fmt: skip
        waiting, statuses = list(messages), list[int]()

        async def receive() -> Any:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

        self.do(partial(_asgi, self.app, scope, receive, send))
        return statuses[0]


async def _asgi(
    app: Application, scope: types.Scope, receive: types.Receive, send: types.Send
) -> None:
    await app(scope, receive, send)


def httpx_response(found: Any) -> httpx.Response:
    assert isinstance(found, httpx.Response)
    return found


@contextmanager
def running(settings: Settings, path: Path, *, delivery: bool = False) -> Iterator[Talk]:
    """A gateway on an event loop of its own thread; closed at the end as in production."""
    app = create_app(settings, delivery=delivery)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        closing(Talk(app, settings, portal, path)) as talk,
    ):
        yield talk


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The problem document of an answer, after checking its form."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == PROBLEM
    found: dict[str, Any] = answer.json()
    assert found.keys() <= {"type", "title", "status", "detail", "instance", "errors"}, found
    assert (found["type"], found["status"]) == (f"/problems/{slug}", status)
    assert found["title"]
    assert found["detail"]
    assert found["instance"] == answer.headers["x-request-id"]
    assert slug != "validation" or "errors" in found
    assert slug == "validation" or not any("pointer" in one for one in found.get("errors", ()))
    assert ("retry-after" in answer.headers) == (status in {429, 503})
    return found


def pointers(found: dict[str, Any]) -> dict[str, str]:
    """The faults of a problem: code by pointer; by the name of the header or parameter where one is
    at fault.
    """
    return {
        next(error[one] for one in PLACES if one in error): error["code"]
        for error in found["errors"]
    }
