"""A batch beyond its key's limit is refused before its items are judged, on a real server."""

import json
import os
from collections.abc import Iterator

import httpx
import pytest

from tests.attacks.measuring import RULES, processor_seconds
from tests.support.processes import Process, serving

ITEMS = [
    {"action": "track", "userId": f"u{number}", "event": "E", "params": {"a": "b@c.de"}}
    for number in range(1_000)
]
NDJSON, JSON = "application/x-ndjson", "application/json"
BODIES = {
    NDJSON: "\n".join(map(json.dumps, ITEMS)).encode(),
    JSON: json.dumps({"items": ITEMS}).encode(),
}
CALLS = 20
# Of the server, for a batch that is refused: to judge one takes three times as much
PROCESSOR_SECONDS = 0.015


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "rules.toml").write_text(RULES)
    more = {"GATEWAY_ENRICHMENT_FILE": str(folder / "rules.toml"), "GATEWAY_LOG_LEVEL": "error"}
    with serving(folder, "http://127.0.0.1:9", "--no-delivery", **more) as running:
        yield running


def key_of(gateway: Process, **limits: int) -> str:
    made = gateway.call(
        "POST", "/v1/keys", json={"name": os.urandom(4).hex(), "scopes": ["events:write"], **limits}
    )
    assert made.status_code == 201, made.text
    key: str = made.json()["key"]
    return key


def post(gateway: Process, key: str, kind: str, body: bytes) -> httpx.Response:
    return gateway.call(
        "POST",
        "/v1/batch",
        content=body,
        headers={"Authorization": f"Bearer {key}", "Content-Type": kind},
    )


@pytest.mark.parametrize("kind", BODIES)
def test_a_batch_beyond_the_limit_costs_little(gateway: Process, kind: str) -> None:
    key = key_of(gateway, ratePerSecond=10, rateBurst=1_500)
    assert post(gateway, key, kind, BODIES[kind]).status_code == 202
    before = processor_seconds(gateway.process.pid)
    answers = [post(gateway, key, kind, BODIES[kind]) for _ in range(CALLS)]
    used = processor_seconds(gateway.process.pid) - before
    assert {answer.status_code for answer in answers} == {429}
    assert "retry-after" in answers[0].headers
    assert used / CALLS < PROCESSOR_SECONDS
    rest = b"\n".join(BODIES[NDJSON].split(b"\n")[:450])
    assert post(gateway, key, NDJSON, rest).status_code == 202, "what was refused took nothing"


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        (JSON, b'{"items": [' + b'{"action"' * 600, 400),
        (JSON, b'{"items": 1, "x": "' + b'\\"action\\" ' * 600 + b'"}', 422),
        (NDJSON, BODIES[NDJSON] + b"\n" + BODIES[NDJSON], 413),
        (NDJSON, b"\n" * 600 + b'{"action":"track","userId":"u","event":"E"}' + b"\n" * 600, 202),
        (
            JSON,
            json.dumps({"items": [{**ITEMS[0], "params": {"t": '"action"' * 600}}]}).encode(),
            202,
        ),
    ],
    ids=["no JSON", "no items", "too many items", "blank lines", "words like items"],
)
def test_only_items_count(gateway: Process, kind: str, body: bytes, status: int) -> None:
    key = key_of(gateway, ratePerSecond=1, rateBurst=50)
    assert post(gateway, key, kind, body).status_code == status
