"""`Retry-After` in each form that a server may say it in, and in none."""

import asyncio
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.leanplum.client import LeanplumClient, LeanplumResponse
from app.leanplum.http_response import (
    MAX_RETRY_AFTER_SECONDS,
    resolve_retry_after,
    retry_after_seconds,
)

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
NOW = NOON.timestamp()


def waited(header: str | None, *, date: str | None = None, now: float = NOW) -> float:
    return retry_after_seconds(resolve_retry_after(header, date=date, now=now))


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30.0),
        ("Sun Mar  1 12:00:30 2026", 30.0),
        (" Sun, 01 Mar 2026 12:00:30 GMT ", 30.0),
        ("Sun, 01 Mar 2026 12:00:00 GMT", 0.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Mon, 02 Mar 2026 12:00:00 GMT", MAX_RETRY_AFTER_SECONDS),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_SECONDS),
        ("Sun, 32 Mar 2026 12:00:30 GMT", 0.0),
        ("Sun, 01 Mar 2026", 0.0),
        ("tomorrow", 0.0),
        ("", 0.0),
        (None, 0.0),
        ("7", 7.0),
        ("7.25", 7.25),
    ],
)
def test_a_date_is_waited_for_and_nonsense_is_no_wish(header: str | None, wait: float) -> None:
    assert waited(header) == pytest.approx(wait)


@pytest.mark.parametrize("skew", [-86_400, 0, 86_400])
def test_a_date_counts_from_the_answers_own_so_that_a_wrong_clock_here_changes_nothing(
    skew: int,
) -> None:
    date, until = format_datetime(NOON, usegmt=True), "Sun, 01 Mar 2026 12:00:30 GMT"
    assert waited(until, date=date, now=NOW + skew) == pytest.approx(30.0)


def test_where_the_answers_date_is_none_the_clock_here_counts() -> None:
    assert waited("Sun, 01 Mar 2026 12:00:30 GMT", date="today", now=NOW + 10) == pytest.approx(
        20.0
    )


@given(
    header=st.text() | st.text("0123456789.,:+- GMTSunar"),
    date=st.none() | st.text(),
    now=st.floats(0, 1e11),
)
def test_whatever_is_said_the_wait_is_from_nothing_to_an_hour(
    header: str, date: str | None, now: float
) -> None:
    assert 0.0 <= waited(header, date=date, now=now) <= MAX_RETRY_AFTER_SECONDS


@given(st.floats(0, 1e6))
def test_a_fraction_is_read_as_it_is_written(wait: float) -> None:
    assert waited(f"{wait:.3f}") == pytest.approx(min(round(wait, 3), MAX_RETRY_AFTER_SECONDS))


def test_the_client_tells_a_date_in_seconds() -> None:
    headers = {
        "Date": "Sun, 01 Mar 2026 12:00:00 GMT",
        "Retry-After": "Sun, 01 Mar 2026 12:00:30 GMT",
    }

    async def once() -> LeanplumResponse:
        transport = httpx.MockTransport(lambda request: httpx.Response(503, headers=headers))
        async with LeanplumClient(timeout=5, connections=1, transport=transport) as client:
            return await client.call("https://leanplum.test/api", "multi", b"{}")

    assert retry_after_seconds(asyncio.run(once()).retry_after) == 30.0
