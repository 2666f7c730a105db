"""Query parameters through the real server: one that a call does not declare is refused, and
nothing is done.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import WIDE, make_settings
from tests.support.http_server import served
from tests.support.openapi import PATHS

CALLS = [
    (method.upper(), path)
    for path, found in PATHS.items()
    for method in found
    if path.startswith("/v1/")
]
UNKNOWN = "unknown query parameter"
EVENT = {"userId": "u1", "event": "Purchase"}


class Running:
    """A server, a client of it, and its database."""

    def __init__(self, client: httpx.Client, key: str, path: Path) -> None:
        self.client, self.key, self.path = client, key, path

    def accepted(self) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            return int(connection.execute("SELECT count(*) FROM items").fetchone()[0])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("queries")
    kinds = ("development", "data_export", "content_read_only")
    given = (
        WIDE
        | {"gateway_erased_seconds": 3600}
        | {f"leanplum_{kind}_key": f"{kind}_secret" for kind in kinds}
    )
    settings = make_settings(directory, migrated, given)
    assert settings.gateway_bootstrap_key is not None
    key = settings.gateway_bootstrap_key.get_secret_value()
    with (
        served(settings) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        client.headers["Authorization"] = f"Bearer {key}"
        yield Running(client, key, directory / "g.db")


def refused(answer: httpx.Response, *names: str) -> None:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/validation"
    told = [(fault["parameter"], fault["detail"]) for fault in problem["errors"]]
    assert tuple(name for name, _ in told) == names
    assert all(detail.startswith(UNKNOWN) for _, detail in told)


@pytest.mark.parametrize(("method", "path"), CALLS, ids=[" ".join(call) for call in CALLS])
def test_every_call_refuses_a_query_parameter_that_it_does_not_declare(
    server: Running, method: str, path: str
) -> None:
    before = server.accepted()
    url = re.sub(r"{\w+}", "1", path)
    refused(server.client.request(method, f"{url}?nonsense=1", json=EVENT), "nonsense")
    assert server.accepted() == before
    documented = PATHS[path][method.lower()]["responses"]
    assert "422" in documented


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("x", ["x"]),
        ("x=", ["x"]),
        ("=1", [""]),
        ("b=1&a=2&b=3", ["a", "b"]),
        ("wait%3d5", ["wait=5"]),
        ("EVENT=Purchase", ["EVENT"]),
        ("_=1700000000", ["_"]),
    ],
)
@pytest.mark.parametrize("path", ["/v1/events", "/v1/batch"])
def test_the_hot_writes_refuse_a_query_however_it_is_written(
    server: Running, path: str, query: str, names: list[str]
) -> None:
    before = server.accepted()
    refused(server.client.post(f"{path}?{query}", json=EVENT), *names)
    assert server.accepted() == before


@pytest.mark.parametrize("query", ["", "&", "&&"])
def test_a_query_without_a_parameter_is_none(server: Running, query: str) -> None:
    assert server.client.post(f"/v1/events?{query}", json=EVENT).status_code == 202


@pytest.mark.parametrize("name", ["fullerasure", "full_erasure", "FullErasure", "fullErasure%20"])
def test_a_misspelt_erasure_erases_nobody(server: Running, name: str) -> None:
    refused(server.client.delete(f"/v1/users/kept?{name}=true"), name.replace("%20", " "))
    assert server.client.post("/v1/events", json=EVENT | {"userId": "kept"}).status_code == 202


def test_declared_parameters_are_taken(server: Running) -> None:
    assert server.client.delete("/v1/users/gone?fullErasure=true").status_code == 202
    assert server.client.get("/v1/dead-letters?limit=1").status_code == 200
    assert server.client.get("/v1/audit?limit=1&order=oldest").status_code == 200


def test_who_calls_is_asked_first(server: Running) -> None:
    answer = server.client.get("/v1/keys?x=1", headers={"Authorization": "Bearer nobody"})
    assert answer.status_code == 401


def test_an_address_that_is_none_stays_one(server: Running) -> None:
    assert server.client.get("/v1/nothing?x=1").status_code == 404
    assert server.client.get("/v1/events?x=1").status_code == 405
    assert server.client.head("/v1/keys?x=1").status_code == 422


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/metrics", "/problems", "/docs", "/openapi.json"]
)
def test_operations_pages_take_any_query(server: Running, path: str) -> None:
    assert server.client.get(f"{path}?x=1").status_code == 200


def test_other_protocols_keep_their_own_rule(server: Running) -> None:
    sdk = {
        "appId": "app_tests",
        "clientKey": server.key,
        "apiVersion": "1.0.6",
        "action": "track",
        "event": "E",
    }
    answer = server.client.post(
        "/api?x=1", json=sdk | {"userId": "u1"}, headers={"Authorization": ""}
    )
    assert (answer.status_code, answer.json()["response"][0]["success"]) == (200, True)
    track = {"userId": "u1", "event": "E", "messageId": "m1"}
    assert (
        server.client.post("/segment/v1/track?x=1", json=track, auth=(server.key, "")).status_code
        == 200
    )
