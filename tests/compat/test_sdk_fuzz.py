"""Whatever is sent to the SDK endpoint, the answer is in Leanplum's envelope, and never a failure of
the gateway's own.
"""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.leanplum.actions import ACTIONS
from tests.support.gateway import Talk

ODD = st.sampled_from(["", "\x00", "\ud800", "a" * 500, "1.7E9", "{", '{"data":[]}', "true", "é"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | ODD,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | ODD, inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["action", "userId", "deviceId", "event", "state", "time", "reqId", "uuid", "clientKey", "appId", "devMode", "data",
     "createJob", "userAttributes", "params", "values", "messageId", "newsfeedMessageId"]
) | ODD  # fmt: skip
ENTRIES = st.dictionaries(NAMES, VALUES | st.sampled_from(sorted(ACTIONS)), max_size=5) | VALUES
SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)


def check(talk: Talk, answer: Any) -> None:
    found = json.loads(answer.content)["response"]
    assert found
    assert all(isinstance(one, dict) and "success" in one for one in found)
    assert "The gateway failed" not in answer.text
    assert answer.headers["access-control-allow-origin"] == "*"


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(st.lists(ENTRIES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=3))
def test_any_entries_are_answered_one_by_one(
    gateway: Talk, entries: list[Any], args: dict[str, Any]
) -> None:
    keys = {"appId": "app_tests", "clientKey": gateway.key, "action": "multi"}
    body = json.dumps({**args, **keys, "data": entries}).encode()
    answer = gateway.call("POST", "/api", key=None, content=body)
    check(gateway, answer)
    if answer.status_code == 200:
        assert len(json.loads(answer.content)["response"]) == max(1, len(entries))


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(ENTRIES)
def test_any_single_call_is_answered(gateway: Talk, args: Any) -> None:
    keys = {"appId": "app_tests", "clientKey": gateway.key}
    body = json.dumps({**args, **keys} if isinstance(args, dict) else args).encode()
    check(gateway, gateway.call("POST", "/api", key=None, content=body))


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(st.binary(max_size=200), st.sampled_from(["", "application/json", "multipart/form-data", "text/plain",
                                                 "multipart/form-data; boundary=x", "x"]))  # fmt: skip
def test_any_bytes_are_answered(gateway: Talk, body: bytes, media: str) -> None:
    url = f"/api?appId=app_tests&action=multi&clientKey={gateway.key}"
    check(
        gateway, gateway.call("POST", url, key=None, content=body, headers={"Content-Type": media})
    )
