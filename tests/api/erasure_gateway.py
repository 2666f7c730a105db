"""Gateways behind their real server, on a database of either kind, for tests of erasures."""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import orjson

from app import ids
from app.callers import key_format
from app.database.engine import connect
from app.encryption import NO_ENCRYPTION
from app.server.application import create_app
from app.settings import Settings
from tests.support.http_server import served
from tests.support.segment import basic
from tests.support.simulator import KEYS, Leanplum

CALLER_KEY = key_format.make()
APP = {"appId": "app_sandbox", "apiVersion": "1.0.6"}


class Gateway:
    """One running gateway, as its callers and its database's owner see it."""

    def __init__(self, port: int, key: str, database: str) -> None:
        self.key, self.database, self._engine = key, database, connect(database)
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=30
        )

    def close(self) -> None:
        self._http.close()
        self._engine.dispose()

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self._http.request(
            method, path, **({} if body is None else {"json": body}), **options
        )

    def sdk(self, **args: Any) -> httpx.Response:
        """One call of Leanplum's protocol."""
        return self.call("POST", "/api", {**APP, "clientKey": self.key, **args})

    def segment(self, path: str, **message: Any) -> httpx.Response:
        return self.call("POST", f"/segment/v1/{path}", message, headers=basic(self.key))

    def erase(self, user: str, wait: int | None = None) -> dict[str, Any]:
        headers = {} if wait is None else {"Prefer": f"wait={wait}"}
        answer = self.call("DELETE", f"/v1/users/{user}?fullErasure=true", headers=headers)
        assert answer.status_code in {200, 202}, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def settled(self, item_id: str) -> dict[str, Any] | None:
        """The receipt of an item, once it is final."""
        found: dict[str, Any] = self.call("GET", f"/v1/receipts/{item_id}").json()
        return found if "settledAt" in found else None

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What is in the database now."""
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]


def cells(database: str) -> Iterator[tuple[str, str, Any]]:
    """Every value of every table, with the names of its table and column."""
    engine = connect(database)
    try:
        with engine.connect() as connection:
            for table in engine.dialect.get_table_names(connection):
                found = connection.exec_driver_sql(f"SELECT * FROM {table}")
                for row in found.mappings():
                    for column, value in row.items():
                        yield table, column, value
    finally:
        engine.dispose()


@contextmanager
def gateway(
    settings: Callable[..., Settings],
    database: str,
    leanplum: Leanplum,
    *,
    delivery: bool = True,
    **given: Any,
) -> Iterator[Gateway]:
    """A gateway that delivers to this simulator."""
    told = {
        "leanplum_app_id": "app_sandbox",
        "leanplum_api_url": f"{leanplum.url}/api",
        "gateway_database_url": database,
        "gateway_rate_per_second": 10**6,
        "gateway_rate_burst": 10**9,
        "gateway_bootstrap_key": CALLER_KEY,  # the same for all on one database
        **KEYS,
        **given,
    }
    made = settings(**told)
    key = made.gateway_bootstrap_key
    assert key is not None
    with served(made, create_app(made, delivery=delivery)) as port:
        found = Gateway(port, key.get_secret_value(), database)
        try:
            yield found
        finally:
            found.close()


def made_of(name: str) -> dict[str, Any]:
    """What could be made of an id by whoever has no key."""
    found: dict[str, Any] = {"itself": name}
    for text in (
        name,
        f"u{name}",
        f"default{name}",
        f"defaultu{name}",
        f"default\0u{name}",
        f"u{name}default",
    ):
        found |= {
            f"crc32 {text!r}": zlib.crc32(text.encode()),
            f"adler32 {text!r}": zlib.adler32(text.encode()),
        }
        for kind in ("md5", "sha1", "sha256"):
            found[f"{kind} {text!r}"] = hashlib.new(kind, text.encode()).hexdigest()
        for size in (8, 10, 16, 20, 32, 64):
            found[f"blake2b {size} {text!r}"] = hashlib.blake2b(
                text.encode(), digest_size=size
            ).hexdigest()
    for action in ("track", "deleteUser", "setUserAttributes"):
        for body in ("", orjson.dumps({"userId": name}).decode()):
            found[f"digest {action} {body}"] = NO_ENCRYPTION.digest(action, f"u{name}", body).hex()
    lane = ids.lane("default", f"u{name}")
    of_device = ids.lane("default", f"d{name}")
    places = {"lane": lane, "place in line": f"delivery {lane}"}
    return (
        found
        | places
        | {"device's lane": of_device, "device's place in line": f"delivery {of_device}"}
    )


def found_in(database: str, name: str) -> list[tuple[str, str, str]]:
    """Where in the database something stands that was made of an id."""
    made, found = made_of(name), []
    for table, column, value in cells(database):
        text = bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)
        for how, one in made.items():
            here = (
                value == one if isinstance(value, int) else len(str(one)) > 4 and str(one) in text
            )
            if here:
                found.append((table, column, how))
    return found
