"""A key in an address is refused, with a word about why, and is not in the log
(docs/security.md).
"""

import json
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.support.gateway import CANARY, EVENT, Talk, problem

Start = Callable[..., Talk]
NAMES = [
    "key",
    "api_key",
    "apikey",
    "API-Key",
    "x-api-key",
    "access_token",
    "token",
    "Authorization",
    "clientKey",
    "k%65y",
]
PLACES = [
    "/v1/messages",
    "/v1/receipts/x",
    "/v1/events",
    "/readyz",
    "/docs",
    "/nothing",
    "/problems/validation",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_is_called_like_a_key_is_refused(gateway: Talk, name: str) -> None:
    found = problem(gateway.get(f"/v1/messages?recent=true&{name}={CANARY}"), 400, "key-in-url")
    assert "Authorization: Bearer KEY" in found["detail"]
    assert "rotate" in found["detail"]
    assert CANARY not in json.dumps(found)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", [None, ""], ids=["no header", "good header"])
def test_what_has_the_form_of_a_key_is_refused_under_any_name_at_any_place(
    gateway: Talk, place: str, key: str | None
) -> None:
    for url in (f"{place}?q={gateway.key}", f"{place}?{gateway.key}", f"{place}?q=Bearer%20{gateway.key}",
                f"{place}?q={quote(gateway.key).replace('_', '%5F')}", f"{place}/{gateway.key}"):  # fmt: skip
        answer = gateway.get(url, key=key)
        problem(answer, 400, "key-in-url")
        assert gateway.key not in answer.text


def test_a_write_with_a_key_in_its_address_takes_nothing(gateway: Talk) -> None:
    before = gateway.items()
    problem(gateway.post(f"/v1/events?api_key={gateway.key}", EVENT), 400, "key-in-url")
    assert gateway.items() == before


@pytest.mark.parametrize(
    "query", ["", "key=", "keyword=x", "monkey=1", "q=token", "cursor=lpgw_short", "recent=true"]
)
def test_what_is_no_key_passes(gateway: Talk, query: str) -> None:
    assert gateway.get(f"/readyz?{query}").status_code == 200


def test_leanplum_s_own_protocol_has_its_key_in_the_query(gateway: Talk) -> None:
    answer = gateway.get(
        f"/api?appId=app_tests&clientKey={gateway.key}&action=track&userId=u&event=E", key=None
    )
    assert answer.json()["response"] == [{"success": True}]


def test_the_log_says_whose_key_it_is_and_neither_the_key_nor_the_query(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    talk = start()
    talk.get(f"/v1/messages?q={talk.key}&more={CANARY}")
    talk.get(f"/v1/messages?token={CANARY}")
    talk.get(f"/v1/receipts/x?cursor={CANARY}")
    talk.get(f"/api?clientKey={talk.key}&appId={CANARY}&action={CANARY}")
    ((key_id,),) = talk.rows("SELECT id FROM caller_keys")
    said = "".join(capfd.readouterr())
    assert said.count("key.leaked") == 2
    assert f"key_id={key_id}" in said or f'"gateway.key_id":"{key_id}"' in said
    assert CANARY not in said
    assert talk.key not in said
