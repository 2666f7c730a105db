"""No value under a privacy rule reaches the disk, whatever way it comes: the database file and its
log are searched.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from tests.support.gateway import NDJSON, WIDE, Talk
from tests.support.simulator import KEYS, Leanplum, simulated
from tests.support.wait import until

Start = Callable[..., Talk]
CANARY = "cAnArY-9c4d"
RULES = """
[renames."*"]
"params.old" = "params.new"
[[privacy]]
do = "drop"
keys = ["params.card*", "params.old", "info", "*.iosPushToken"]
[[privacy]]
do = "hash"
keys = ["userAttributes.email", "*.token"]
[[privacy]]
do = "mask"
values = "^secret-"
"""
CARD = CANARY
PARAMS = {"card_no": CARD, "old": CARD, "note": f"secret-{CARD}"}
NESTED = {"card": {"no": CARD, "more": {"x": CARD}}, "a": {"token": CARD}}


def rest(talk: Talk) -> None:
    """Everything that callers can write: alone, in batches of both kinds, with good and with bad
    neighbours.
    """
    event = {"userId": "u", "event": "e", "info": CARD, "params": PARAMS}
    update = {
        "userId": "u",
        "userAttributes": {"email": CARD, "push": {"token": CARD}, "notes": [f"secret-{CARD}"]},
    }
    state = {"userId": "u", "state": "s", "params": NESTED}
    devices = {"userId": "u", "devices": [{"deviceId": "d", "iosPushToken": CARD}]}
    items = [
        {"action": "track", **event},
        {"action": "setUserAttributes", **update},
        {"action": "advance", **state},
        {"action": "setUserAttributes", **devices},
        {"action": "track", **event, "id": "own-id"},
    ]
    for content in (items, [*items[:4], {"action": "track", "event": CARD, "info": CARD}]):
        assert talk.batch(content).status_code == 202
    lines = b"\n".join(map(orjson.dumps, items[:4]))
    assert talk.batch(lines, headers={"Content-Type": NDJSON}).status_code == 202
    assert talk.event(event).status_code == 202
    assert talk.event({**event, "params": {**PARAMS, **NESTED}}).status_code == 202
    assert (
        talk.post(
            "/v1/users/u", {**update, "ip": CARD, "userAgent": CARD}, method="PATCH"
        ).status_code
        == 202
    )
    assert talk.post("/v1/users/u/states", {"state": "s", "params": NESTED}).status_code == 202
    assert (
        talk.post("/v1/users/u/sessions", {"userAttributes": update["userAttributes"]}).status_code
        == 200
    )
    assert talk.post("/v1/preview", {"items": items}).status_code == 200
    # A dead letter
    assert talk.event({"userId": "refused", "event": "e", "params": PARAMS}).status_code == 202


def sdk(talk: Talk) -> None:
    """The same as SDKs send it: objects as text, in JSON, in forms, in the query."""
    keys = {"appId": "app_sandbox", "clientKey": talk.key}
    entries: list[dict[str, Any]] = [
        {
            "action": "track",
            "userId": "s",
            "event": "e",
            "info": CARD,
            "params": orjson.dumps(PARAMS).decode(),
        },
        {"action": "track", "userId": "s", "event": "e", "params": NESTED},
        {
            "action": "track",
            "userId": "refused",
            "event": "e",
            "params": orjson.dumps(PARAMS).decode(),
        },
        {
            "action": "track",
            "userId": "s",
            "event": "e",
            "params": f'{{"card_no":"{CARD}","card_no":"x"}}',
        },
        {"action": "track", "userId": "s", "event": "e", "params": f'{{"card_no":"{CARD}"'},
        {
            "action": "setUserAttributes",
            "userId": "s",
            "userAttributes": orjson.dumps({"email": CARD}).decode(),
        },
        {
            "action": "start",
            "userId": "s",
            "userAttributes": orjson.dumps({"email": CARD}).decode(),
        },
        {
            "action": "setUserAttributes",
            "userId": "s",
            "devMode": True,
            "userAttributes": {"email": CARD},
        },
    ]
    batch = {**keys, "action": "multi", "time": time.time(), "data": entries}
    assert talk.call("POST", "/api", key=None, json=batch).status_code == 200
    form = urlencode(
        {
            **keys,
            "action": "multi",
            "time": "1.8E9",
            "data": orjson.dumps({"data": entries}).decode(),
        }
    )
    assert talk.call("POST", "/api", key=None, content=form).status_code == 200
    for entry in entries:
        text = {
            name: one if isinstance(one, str) else orjson.dumps(one).decode()
            for name, one in entry.items()
        }
        assert talk.call("GET", f"/api?{urlencode({**keys, **text})}", key=None).status_code == 200


def told(leanplum: Leanplum) -> bytes:
    """All that Leanplum was sent."""
    return orjson.dumps(leanplum.calls())


def disk(talk: Talk) -> bytes:
    """All bytes of the database, its log and what is beside it."""
    talk.get("/readyz")
    return b"".join(path.read_bytes() for path in talk.path.parent.glob("g.db*"))


@pytest.fixture(scope="module")
def leanplum() -> Any:
    with simulated() as found:
        yield found


@pytest.mark.parametrize("way", [rest, sdk])
@pytest.mark.parametrize("ruled", [True, False], ids=["with the rules", "without them"])
def test_a_value_under_a_rule_is_neither_stored_nor_sent(
    start: Start, tmp_path: Path, leanplum: Leanplum, way: Callable[[Talk], None], ruled: bool
) -> None:
    """Without the rules the same search finds it: it can tell."""
    leanplum.forget()
    file = tmp_path / "enrichment.toml"
    file.write_text(RULES if ruled else "")
    given = {
        **WIDE,
        **KEYS,
        "leanplum_api_url": f"{leanplum.url}/api",
        "leanplum_app_id": "app_sandbox",
    }
    leanplum.fault(mode="success-false", userId="refused", times=None)
    talk = start(delivery=True, gateway_enrichment_file=file, **given)
    way(talk)
    until(lambda: talk.app.services.outbox.queued == 0)
    dead = talk.rows(
        "SELECT count(*) FROM items WHERE settled_at IS NOT NULL AND body IS NOT NULL"
    )[0][0]
    assert dead, "a dead letter keeps its body, which is searched as well"
    assert (CANARY.encode() in disk(talk)) is not ruled
    assert (CANARY.encode() in told(leanplum)) is not ruled
