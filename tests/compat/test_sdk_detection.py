"""(detect) at the SDK-compatible endpoint and under /v1: no place or language of the gateway counts
as a user's.
"""

import json
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from app.http.proxies import TrustedProxies
from app.leanplum.mapping import (
    ADDRESS_HEADER,
    LANGUAGE_HEADER,
    PLACE_FIELDS,
    end_user_headers,
    is_public_address,
    preferred_locale,
)
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.sdk import Sdk, entries
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

FIELDS = (*PLACE_FIELDS, "locale")
ASKED = dict.fromkeys(FIELDS, "(detect)")
USER = "203.0.113.7"
BEHIND = {"X-Forwarded-For": USER, "Accept-Language": "de-AT,en;q=0.5"}
PROXIES = {"gateway_trusted_proxies": "127.0.0.1/32"}
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture
def start(leanplum: Leanplum, tmp_path: Path, migrated: Any) -> Start:
    leanplum.forget()

    def settings(**given: Any) -> Any:
        return make_settings(tmp_path, migrated, WIDE | given)

    return lambda **given: delivering_to(leanplum, settings, tmp_path / "g.db", **given)


def settled(talk: Talk) -> None:
    until(lambda: talk.app.services.outbox.queued == 0)


def send(talk: Talk, *actions: str, headers: dict[str, str] = BEHIND, batch: bool = True) -> None:
    """Actions of one user that ask Leanplum to detect everything."""
    sdk = Sdk(talk)
    sent = [
        {"action": action, "userId": "u1", "deviceId": "d1", **ASKED, "city ": "(detect)"}
        for action in actions
    ]
    args = {"appId": "app_sandbox", "clientKey": sdk.key}
    bodies = (
        [{**args, "action": "multi", "time": 1, "data": sent}]
        if batch
        else [{**args, **one} for one in sent]
    )
    for body in bodies:
        answer = sdk.call("POST", "/api", json=body, headers=headers)
        assert [one["success"] for one in entries(answer)] == [True] * (
            len(sent) if batch else 1
        ), answer.text
    settled(talk)


def told(leanplum: Leanplum) -> list[dict[str, Any]]:
    """What each action that arrived says of the place and the language."""
    return [{name: one[name] for name in FIELDS if name in one} for one in leanplum.arrived()]


def header(leanplum: Leanplum, name: str) -> list[str | None]:
    return [call["headers"].get(name.lower()) for call in leanplum.calls()]


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("mode", [None, "resolve"])
def test_what_nobody_can_tell_is_left_out(
    start: Start, leanplum: Leanplum, mode: str | None, batch: bool
) -> None:
    with start(**({"gateway_detect": mode} if mode else {}), **PROXIES) as talk:
        send(talk, "start", "setUserAttributes", headers={}, batch=batch)
        assert told(leanplum) == [{}, {}]
        # Another field of such a value stays as it is
        assert "(detect)" in json.dumps(leanplum.calls())
        assert set(header(leanplum, ADDRESS_HEADER)) == {None}


@pytest.mark.parametrize("batch", [True, False])
def test_the_language_of_the_request_is_the_locale(
    start: Start, leanplum: Leanplum, batch: bool
) -> None:
    with start(**PROXIES) as talk:
        send(talk, "start", "setUserAttributes", batch=batch)
        assert told(leanplum) == [{"locale": "de_AT"}] * 2
        assert USER not in json.dumps(leanplum.calls())


@pytest.mark.parametrize("batch", [True, False])
def test_forwarded_is_the_end_user_s_address_where_an_sdk_waits(
    start: Start, leanplum: Leanplum, batch: bool
) -> None:
    with start(gateway_detect="forward", **PROXIES) as talk:
        send(talk, "start", batch=batch)
        assert told(leanplum) == [ASKED]
        assert header(leanplum, ADDRESS_HEADER) == [USER]
        assert header(leanplum, LANGUAGE_HEADER) == [BEHIND["Accept-Language"]]


def test_what_is_delivered_later_has_no_sender_so_it_never_asks(
    start: Start, leanplum: Leanplum
) -> None:
    with start(gateway_detect="forward", **PROXIES) as talk:
        send(talk, "setUserAttributes")
        assert told(leanplum) == [{"locale": "de_AT"}]
        assert header(leanplum, ADDRESS_HEADER) == [None]


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        ({}, USER, {}),  # nobody trusted names the user, and the peer is this machine
        (PROXIES, "", {}),
        (PROXIES, "unknown", {}),
        (PROXIES, "10.1.2.3", {}),
        (PROXIES, f"198.51.100.9, {USER}, 127.0.0.1", dict.fromkeys(PLACE_FIELDS, "(detect)")),
    ],
)
def test_an_address_that_is_not_the_user_s_is_not_asked_about(
    start: Start,
    leanplum: Leanplum,
    proxies: dict[str, str],
    forwarded: str,
    expected: dict[str, str],
) -> None:
    with start(gateway_detect="forward", **proxies) as talk:
        send(talk, "start", headers={"X-Forwarded-For": forwarded})
        assert told(leanplum) == [expected]
        assert header(leanplum, ADDRESS_HEADER)[0] in (
            {USER} if expected else {None, "127.0.0.1", "10.1.2.3"}
        )


@pytest.mark.parametrize("mode", ["resolve", "forward"])
def test_a_backend_s_own_place_counts_as_no_user_s_either(
    start: Start, leanplum: Leanplum, mode: str
) -> None:
    with start(gateway_detect=mode, **PROXIES) as talk:
        assert talk.post("/v1/users/u1/sessions", {**ASKED}, headers=BEHIND).status_code == 200
        answer = talk.post(
            "/v1/users/u1", {**ASKED, "userAttributes": {"city": "(detect)"}}, method="PATCH"
        )
        assert answer.status_code == 202
        settled(talk)
        assert told(leanplum) == [{}, {}]
        assert leanplum.arrived()[1]["userAttributes"] == {"city": "(detect)"}


@pytest.mark.parametrize(
    ("language", "locale"),
    [
        ("en-US", "en_US"),
        ("de", "de"),
        ("fr;q=0.2, pt-br;q=0.9, *;q=0.1", "pt_BR"),
        ("zh-Hans-CN", "zh_CN"),
        ("es-419", "es_419"),
        ("en;q=0", None),
        ("*", None),
        ("", None),
        ("en_US", None),
        ("x" * 10_000, None),
        ("en;q=nan, de;q=0.1", "de"),
    ],
)
def test_the_preferred_language_is_the_locale(language: str, locale: str | None) -> None:
    assert preferred_locale(language) == locale


@pytest.mark.parametrize(
    ("address", "known"),
    [
        (USER, True), ("2001:db8::1", True), ("8.8.8.8", True), ("10.0.0.1", False), ("::1", False), ("::", False),
        ("::ffff:10.0.0.1", False), ("fd00::1", False), ("192.168.1.1", False), ("unix", False), (None, False),
    ],
)  # fmt: skip
def test_only_an_address_on_the_internet_tells_a_place(address: str | None, known: bool) -> None:
    assert is_public_address(address) == known


def test_a_header_that_is_none_is_not_sent() -> None:
    assert end_user_headers("no address", "en\r\nX-Evil: 1") == {}
    assert end_user_headers(None, " ") == {}


def test_a_proxy_that_names_nobody_is_not_the_sender() -> None:
    proxies = TrustedProxies([ip_network("10.0.0.0/8")])

    def sender(peer: str, *forwarded: str) -> str | None:
        return proxies.origin(
            peer, [(b"x-forwarded-for", line.encode()) for line in forwarded]
        ).sender

    assert sender("10.0.0.1") is None
    assert sender("10.0.0.1", "10.0.0.2") is None
    assert sender("10.0.0.1", USER) == USER
    assert sender("198.51.100.9", USER) == "198.51.100.9"
