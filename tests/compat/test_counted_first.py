"""A batch that would not pass is counted, and nothing of it is looked at."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from app.compat.body_formats import BeyondLimit
from app.compat.leanplum_sdk import request as sdk
from app.compat.segment import request as segment

ENTRIES = [{"action": "track", "userId": "u", "event": "E"}] * 7


def few(count: int) -> bool:
    return count < 7


SDK: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "data": ("/api", {}, json.dumps({"action": "multi", "data": ENTRIES}).encode()),
    "no action": ("/api", {}, json.dumps({"data": ENTRIES}).encode()),
    "a list": ("/api", {"action": "multi"}, json.dumps(ENTRIES).encode()),
    "data in data": ("/api", {}, json.dumps({"data": {"data": ENTRIES}}).encode()),
    "text": ("/api", {}, json.dumps({"data": json.dumps({"data": ENTRIES})}).encode()),
    "a form": ("/api-batch", {}, urlencode({"data": json.dumps(ENTRIES)}).encode()),
    "the query": ("/api", {"data": json.dumps(ENTRIES)}, b""),
    "what is no plain JSON": (
        "/api",
        {},
        json.dumps({"data": [*ENTRIES[1:], float("nan")]}).encode(),
    ),
    "what is no entry": ("/api", {}, json.dumps({"data": [1, None, "x", [], {}, 2, 3]}).encode()),
}


@pytest.mark.parametrize(("path", "query", "body"), SDK.values(), ids=SDK)
def test_the_entries_of_an_sdk_batch_are_counted(
    path: str, query: dict[str, Any], body: bytes
) -> None:
    args = sdk.parse_body(body)
    with pytest.raises(BeyondLimit) as beyond:
        sdk.make_call(path, query, args, few)
    assert beyond.value.count == 7
    assert len(sdk.make_call(path, query, args, lambda count: count <= 7).entries) == 7


@pytest.mark.parametrize(
    "body",
    [
        {"action": "track", "data": ENTRIES},
        {"action": "multi", "createJob": True, "data": ENTRIES},
        {"action": "multi", "data": ENTRIES[:6]},
        {"action": "multi", "data": []},
    ],
    ids=["one action", "an import", "as many as fit", "none"],
)
def test_what_is_no_batch_or_fits_is_read(body: dict[str, Any]) -> None:
    assert sdk.make_call("/api", {}, body, few if body["data"] else never).entries is not None


def never(count: int) -> bool:
    return False


def test_the_messages_of_a_segment_batch_are_counted() -> None:
    batch: list[Any] = [{"type": "track"}] * 6 + [None]
    body = json.dumps({"batch": batch}).encode()
    with pytest.raises(BeyondLimit) as beyond:
        segment.parse_call("batch", body, few)
    assert beyond.value.count == 7
    read: Callable[[str, bytes], segment.SegmentCall] = segment.parse_call
    assert len(read("batch", body).messages) == 7
    assert len(segment.parse_call("track", b"{}", never).messages) == 1
