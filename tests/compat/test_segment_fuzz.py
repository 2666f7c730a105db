"""Whatever is sent to the Segment endpoint, the answer is the protocol's, and never a failure of the
gateway's own.
"""

import json
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.compat.segment.plain_values import to_name
from app.compat.segment.request import PATHS, TYPES
from app.ingest.validate import ITEM_ACTIONS
from tests.support.gateway import Talk
from tests.support.segment import post

ODD = st.sampled_from(
    [
        "",
        "\x00",
        "\ud800",
        "a" * 500,
        "1.7E9",
        "é",
        ".",
        "-1",
        "a/",
        "{",
        "a,b",
        "2023-01-01",
        "All",
    ]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | ODD,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | ODD, inner, max_size=4)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(
    st.sampled_from(["revenue", "value", "currency", "name", "category", "createdAt", "address", "city", "page", "ip",
                     "active", "traits", "device", "os", "app", "location", "userAgent", "Leanplum", "All"]) | ODD,
    VALUES, max_size=5,
)  # fmt: skip
NAMES = st.sampled_from(
    ["userId", "anonymousId", "previousId", "groupId", "event", "name", "category", "timestamp", "originalTimestamp",
     "sentAt", "messageId", "writeKey", "batch"]
) | ODD  # fmt: skip
MESSAGES = st.builds(
    lambda kind, ids, objects, more: {**ids, **objects, **more, **({} if kind is None else {"type": kind})},
    st.sampled_from([*TYPES, None, "merge"]),
    st.dictionaries(st.sampled_from(["userId", "anonymousId", "previousId", "groupId", "event"]),
                    st.text(min_size=1, max_size=5)),
    st.dictionaries(st.sampled_from(["properties", "traits", "context", "integrations"]), OBJECTS | VALUES, max_size=4),
    st.dictionaries(NAMES, VALUES, max_size=3),
)  # fmt: skip
SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
ANY_PATH = st.sampled_from([path.removeprefix("/segment/v1/") for path in PATHS])


def check(answer: httpx.Response) -> None:
    found = json.loads(answer.content)
    assert isinstance(found["success"], bool)
    assert answer.status_code in {200, 400, 413, 415}, found
    if answer.content != b'{"success": true}':
        assert found["success"] is False
        assert found["code"]
        assert found["message"]
        assert found.get("rejected", True)
    assert answer.headers["access-control-allow-origin"] == "*"


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(st.lists(MESSAGES | VALUES, max_size=4), OBJECTS)
def test_any_batch_is_answered_message_by_message(
    gateway: Talk, messages: list[Any], common: Any
) -> None:
    answer = post(gateway, "batch", json.dumps({"batch": messages, "context": common}).encode())
    check(answer)
    refused = answer.json().get("rejected", [])
    assert all(0 <= one["index"] < len(messages) for one in refused)
    assert (answer.status_code == 400) == (bool(messages) and len(refused) == len(messages))


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(ANY_PATH, MESSAGES | VALUES)
def test_any_json_is_answered_at_every_path(gateway: Talk, path: str, body: Any) -> None:
    check(post(gateway, path, json.dumps(body).encode()))


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(ANY_PATH, st.binary(max_size=200), st.sampled_from(["gzip", "zstd", "identity", "x", ""]))
def test_any_bytes_are_answered_at_every_path(
    gateway: Talk, path: str, body: bytes, encoding: str
) -> None:
    check(post(gateway, path, body, headers={"Content-Encoding": encoding}))


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1, max_size=200) | ODD.filter(bool))
def test_any_text_becomes_a_name_that_leanplum_takes_and_stays_it(text: str) -> None:
    made = to_name(text.encode("utf-8", "replace").decode())
    assert made == to_name(made)
    ITEM_ACTIONS["track"].alone.validate_python({"userId": "u", "event": made, "params": {made: 1}})
