"""Through a real server: what a caller is told while Leanplum can't be reached, and what their
items become.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.gateway import running
from tests.support.simulator import KEYS
from tests.support.unreachable import PLACES


@pytest.mark.parametrize("place", PLACES)
def test_a_question_that_was_never_sent_is_503_and_an_item_waits_and_never_becomes_unknown(
    settings: Callable[..., Settings], tmp_path: Path, place: str
) -> None:
    with PLACES[place]() as url:
        given = settings(
            leanplum_app_id="app_sandbox",
            leanplum_api_url=url,
            gateway_relay_timeout_seconds=0.6,
            gateway_upstream_timeout_seconds=0.6,
            gateway_unknown_policy="hold",
            **KEYS,
        )
        with running(given, tmp_path / "g.db", delivery=True) as talk:
            asked = talk.get("/v1/users/u1/variables")
            assert (asked.status_code, asked.json()["type"]) == (
                503,
                "/problems/upstream-unavailable",
            ), asked.text
            assert float(asked.headers["retry-after"]) > 0
            taken = talk.event({"userId": "u1", "event": "E"}).json()
            deadline = time.monotonic() + 10
            while (receipt := talk.get(taken["href"]).json())["status"] == "accepted":
                assert time.monotonic() < deadline, "it was never tried"
                time.sleep(0.02)
            assert receipt["status"] == "retrying", receipt
