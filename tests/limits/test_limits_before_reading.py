"""A batch of an SDK or a Segment library beyond its key's limit is counted, not looked into, on a
real server.
"""

import os
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import httpx
import pytest

from tests.attacks import bodies
from tests.attacks.bodies import Body
from tests.attacks.measuring import RULES, processor_seconds
from tests.support.processes import APP_ID, Process, serving

ITEMS, CALLS = 2_000, 12
PROCESSOR_SECONDS = (
    # Of the server, for a batch that is refused unread: to read the widest takes three times as
    # much
    0.03
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("reading")
    (folder / "rules.toml").write_text(RULES)
    more = {
        "GATEWAY_ENRICHMENT_FILE": str(folder / "rules.toml"),
        "GATEWAY_LOG_LEVEL": "error",
        "GATEWAY_MAX_BATCH_ITEMS": str(ITEMS),
    }
    with serving(folder, "http://127.0.0.1:9", "--no-delivery", **more) as running:
        yield running


def key_of(gateway: Process, **limits: int) -> str:
    fields = {"name": os.urandom(4).hex(), "scopes": ["sdk", "events:write"], **limits}
    made = gateway.call("POST", "/v1/keys", json=fields)
    assert made.status_code == 201, made.text
    key: str = made.json()["key"]
    return key


def post(gateway: Process, path: str, body: Body) -> httpx.Response:
    return gateway.http.post(path, content=body[0], headers=body[1])


def listed(body: Body, key: str) -> Body:
    """The entries alone, as a list; the rest is in the query."""
    return body[0][body[0].index(b"[") : body[0].rindex(b"]") + 1], body[1]


FORMS: dict[str, Callable[[str], tuple[str, Body]]] = {
    "JSON": lambda key: ("/api", bodies.sdk_batch(key, ITEMS)),
    "JSON as text": lambda key: ("/api", bodies.as_text(bodies.sdk_batch(key, ITEMS))),
    "a form": lambda key: ("/api", bodies.as_fields(bodies.sdk_batch(key, ITEMS))),
    "gzip": lambda key: ("/api", bodies.gzipped(bodies.sdk_batch(key, ITEMS))),
    "a list": lambda key: (
        "/api-batch?" + urlencode({"clientKey": key, "appId": APP_ID}), listed(bodies.sdk_batch(key, ITEMS), key),
    ),
    "Segment": lambda key: ("/segment/v1/batch", bodies.segment_batch(key, ITEMS)),
    "Segment, gzip": lambda key: ("/segment/v1/batch", bodies.gzipped(bodies.segment_batch(key, ITEMS))),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "burst", [ITEMS + 1_000, 5], ids=["what is left is too little", "nothing is left"]
)
def test_a_batch_beyond_the_limit_is_refused_in_every_form(
    gateway: Process, burst: int, form: Callable[[str], tuple[str, Body]]
) -> None:
    path, body = form(key_of(gateway, ratePerSecond=1, rateBurst=burst))
    assert post(gateway, path, body).status_code == 200
    answer = post(gateway, path, body)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 900
    assert answer.headers["ratelimit"].startswith('"caller";r=')


@pytest.mark.parametrize("path", ["/api", "/segment/v1/batch"])
def test_with_an_empty_bucket_a_batch_costs_little(gateway: Process, path: str) -> None:
    key = key_of(gateway, ratePerSecond=1, rateBurst=5)
    assert post(gateway, "/api", bodies.sdk_batch(key, ITEMS)).status_code == 200
    body = wide(key) if path == "/api" else bodies.segment_batch(key, ITEMS)
    before = processor_seconds(gateway.process.pid)
    answers = [post(gateway, path, body) for _ in range(CALLS)]
    used = processor_seconds(gateway.process.pid) - before
    assert {answer.status_code for answer in answers} == {429}
    assert used / CALLS < PROCESSOR_SECONDS


def wide(key: str) -> Body:
    """A batch whose entries have 150 parameters each."""
    params = {f"name{number}": number for number in range(150)}
    data = [{"action": "track", "userId": "u", "event": "E", "params": params}] * ITEMS
    return bodies.sdk_call(key, action="multi", data=data)


def test_a_key_whose_bucket_is_empty_is_refused_before_its_body_is_read(gateway: Process) -> None:
    key = key_of(gateway, ratePerSecond=1, rateBurst=5)
    assert post(gateway, "/api", bodies.sdk_batch(key, 100)).status_code == 200
    garbage = b'{"clientKey":"%s","data":[' % key.encode(), {"Content-Type": "application/json"}
    for path, body in (
        ("/api", garbage),
        (
            "/api?" + urlencode({"clientKey": key, "appId": APP_ID}),
            (b"\xff" * 70_000, {"Content-Type": "text/plain"}),
        ),
        ("/segment/v1/batch", (b'{"writeKey":"%s","batch":{' % key.encode(), garbage[1])),
    ):
        assert post(gateway, path, body).status_code == 429, path
    authorization = {"Authorization": f"Bearer {key}"}
    for path, kind in (
        ("/v1/batch", "text/html"),
        ("/v1/batch", bodies.NDJSON),
        ("/v1/preview", bodies.JSON),
    ):
        answer = gateway.http.post(
            path, content=b"no JSON", headers={**authorization, "Content-Type": kind}
        )
        assert answer.status_code == 429, path


def test_items_that_say_nothing_of_their_action_are_counted_too(gateway: Process) -> None:
    key = key_of(gateway, ratePerSecond=1, rateBurst=500)
    items = [{"userId": f"u{at}", "note": "a@b.c" * 20} for at in range(400)]
    headers = {"Authorization": f"Bearer {key}"}
    assert gateway.http.post("/v1/batch", json={"items": items}, headers=headers).status_code == 422
    before = processor_seconds(gateway.process.pid)
    for _ in range(CALLS):
        assert (
            gateway.http.post("/v1/batch", json={"items": items}, headers=headers).status_code
            == 429
        )
    assert (processor_seconds(gateway.process.pid) - before) / CALLS < 0.01
