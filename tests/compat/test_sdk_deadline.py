"""When the answer is due, and how much of that time is waiting: through the real server."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.compat.leanplum_sdk import execute
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

from .phones import Gateway, answers, arrived, entry, gateway, ids

Entry = dict[str, Any]
BOUNDARY = "of-the-form"


@pytest.fixture(scope="module")
def fast() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def endpoint(
    fast: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Gateway]:
    with gateway(fast, tmp_path_factory.mktemp("deadline"), migrated) as found:
        yield found


@pytest.fixture
def leanplum(endpoint: Gateway, fast: Leanplum) -> Leanplum:
    fast.mend()
    endpoint.settled()
    fast.forget()
    return fast


def form(key: str, sent: list[Entry]) -> bytes:
    fields = {"appId": "app_sandbox", "clientKey": key, "action": "multi", "data": json.dumps(sent)}
    parts = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    return f"{''.join(parts)}--{BOUNDARY}--\r\n".encode()


def slowly(body: bytes, seconds: float) -> Iterator[bytes]:
    step = len(body) // 10 + 1
    for begin in range(0, len(body), step):
        yield body[begin : begin + step]
        time.sleep(seconds / 10)


def test_a_form_that_comes_slowly_has_as_much_time_as_any(
    endpoint: Gateway, leanplum: Leanplum, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "ANSWER_SECONDS", 2.0)
    sent = [entry("track", "u1", "d1", event="e"), entry("start", "u1", "d1")]
    with httpx.Client(trust_env=False, timeout=10) as client:
        answer = client.post(
            f"{endpoint.url}/api",
            content=slowly(form(endpoint.key, sent), 3.5),
            headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
        )
    assert answer.status_code == 200, answer.text
    assert "vars" in answers(answer)[1]
    assert arrived(leanplum) == ids(sent)


def test_waiting_for_items_leaves_time_for_the_question(
    endpoint: Gateway, leanplum: Leanplum, monkeypatch: pytest.MonkeyPatch
) -> None:
    leanplum.fault(mode="500-html", action="advance", times=300)
    endpoint.android([entry("advance", "u1", "d1", state="S", createDisposition="CreateIfNeeded")])
    until(lambda: "advance" in [one["action"] for one in leanplum.arrived()])
    monkeypatch.setattr(execute, "ANSWER_SECONDS", 2.5)
    leanplum.fault(mode="slow", delay=0.8, action="start", times=1)
    answer = endpoint.android([entry("start", "u1", "d1")])
    assert (answer.status_code, "vars" in answers(answer)[0]) == (200, True)


def test_the_session_of_a_device_with_many_users_comes_after_what_it_has_of_all_of_them(
    endpoint: Gateway, leanplum: Leanplum
) -> None:
    sent = [entry("track", f"user-{number}", "d1", event="e") for number in range(120)]
    sent.append(entry("start", "last", "d1"))
    leanplum.fault(mode="slow", delay=0.5, action="track", times=3)
    began = time.monotonic()
    answer = endpoint.android(sent)
    assert (answer.status_code, "vars" in answers(answer)[-1]) == (200, True)
    assert time.monotonic() - began >= 0.5  # not beside them either
    endpoint.settled()
    found = arrived(leanplum)
    assert sorted(found) == sorted(ids(sent))
    assert found[-1] == sent[-1]["reqId"]
