"""`Prefer: wait=N` (RFC 7240) where nothing is delivered: the answer comes after the wait, the
receipt as it is.
"""

import time

import pytest

from app.api.events import preferred_wait
from tests.support.gateway import EVENT, Talk

PREFER = {
    "wait=0": "wait=0",
    "respond-async, wait=0": "wait=0",
    'wait="0"': "wait=0",
    "WAIT=0; x=y": "wait=0",
    "wait=0.5": None,
    "wait=-1": None,
    "wait=abc": None,
    "wait=10s": None,
    "wait": None,
    "wait=": None,
    "": None,
    "return=minimal": None,
    "wait=²": None,
}


@pytest.mark.parametrize(("prefer", "applied"), PREFER.items())
def test_a_preference_is_followed_where_it_can_be_read_and_never_fails_a_request(
    gateway: Talk, prefer: str, applied: str | None
) -> None:
    answer = gateway.event(headers={"Prefer": prefer.encode("latin-1")})
    assert answer.status_code == 202
    assert answer.headers.get("preference-applied") == applied
    assert answer.json()["status"] == "accepted"


@pytest.mark.parametrize(("asked", "applied"), [(29, 29), (30, 30), (31, 30), (10**30, 30)])
def test_more_than_30_seconds_count_as_30(asked: int, applied: int) -> None:
    assert preferred_wait(f"respond-async, wait={asked}") == applied


def test_a_wait_of_5000_digits_never_fails_what_was_accepted(gateway: Talk) -> None:
    """It is on disk by then: 500 would make its sender send it again."""
    answer = gateway.event(headers={"Prefer": "wait=" + "0" * 5_000})
    assert answer.status_code == 202


def test_a_wait_ends_after_its_seconds_with_the_receipt_as_it_is(gateway: Talk) -> None:
    began = time.monotonic()
    answer = gateway.event(EVENT, headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - began < 3
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")
