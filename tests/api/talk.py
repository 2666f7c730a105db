"""A running gateway, to be talked to from plain (not async) tests."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.types import Receive, Scope, Send

from app.server.application import Application, create_app
from app.settings import Settings

JSON, NDJSON, PROBLEM = "application/json", "application/x-ndjson", "application/problem+json"
PLACES = ("pointer", "header", "parameter")
# As an attribute value or an invalid value: it must not come back, nor stay in the audit
CANARY = "cAnArY-7f3b"
EVENT: dict[str, Any] = {"userId": "u1", "event": "Purchase"}


class Talk:
    """One gateway: its app, its database file, its bootstrap key, and HTTP to it."""

    def __init__(self, app: Application, portal: BlockingPortal, key: str, path: Path) -> None:
        self.app, self.key, self.path = app, key, path
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

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What is in the database now, read on another connection: only what is committed."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()

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
        scope: Scope = {
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


async def _asgi(app: Application, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def httpx_response(found: Any) -> httpx.Response:
    assert isinstance(found, httpx.Response)
    return found


@contextmanager
def running(settings: Settings, path: Path, *, delivery: bool = False) -> Iterator[Talk]:
    """A gateway on an event loop of its own thread; closed at the end as in production."""
    app = create_app(settings, delivery=delivery)
    key = settings.gateway_bootstrap_key
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        closing(Talk(app, portal, key.get_secret_value() if key else "", path)) as talk,
    ):
        yield talk


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The problem document of an answer, after holding it against contract §8."""
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
