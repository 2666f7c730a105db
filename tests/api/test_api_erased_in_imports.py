"""The rows of an import don't make whoever was erased anew."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.api.erasure_gateway import APP, Gateway, gateway
from tests.support.gateway import make_settings
from tests.support.simulator import Leanplum, simulated

X = "ERX"
CSV = {"Content-Type": "text/csv"}
Send = Callable[[Gateway, str], httpx.Response]
WAYS: dict[str, tuple[int, Send]] = {
    "csv": (422, lambda at, rows: at.call("POST", "/v1/imports", content=rows, headers=CSV)),
    "form": (
        422,
        lambda at, rows: at.call(
            "POST", "/v1/imports", files={"file": ("a.csv", rows, "text/csv")}
        ),
    ),
    "sdk": (
        400,
        lambda at, rows: at.call(
            "POST",
            "/api",
            content=rows,
            headers=CSV,
            params={**APP, "clientKey": at.key, "action": "multi", "createJob": "true"},
        ),
    ),
    "sdk's form": (
        400,
        lambda at, rows: at.call(
            "POST",
            "/api",
            data={**APP, "clientKey": at.key, "action": "multi", "createJob": "true"},
            files={"file": ("a.csv", rows, "text/csv")},
        ),
    ),
}
ROWS = {
    "newUserId": f"action,userId,newUserId\nsetUserAttributes,o1,o2\nsetUserAttributes,o11,{X}\n",
    "userId": f'action,userId\nsetUserAttributes,o1\nsetUserAttributes," {X} "\n',
    "deviceId": f"\ufeffaction, deviceId \r\ntrack,o1\r\ntrack,{X}\r\n",
}


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def at(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("imports")

    def settings(**given: Any) -> Any:
        return make_settings(directory, migrated, given)

    with gateway(settings, f"sqlite:///{directory / 'g.db'}", leanplum) as found:
        found.erase(X, wait=10)
        yield found


@pytest.mark.parametrize("column", ROWS)
@pytest.mark.parametrize("way", WAYS)
def test_rows_that_name_whoever_was_erased_are_refused(
    at: Gateway, leanplum: Leanplum, way: str, column: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before, (status, send) = len(leanplum.calls()), WAYS[way]
    answer = send(at, ROWS[column])
    assert (answer.status_code, "row 2" in answer.text, X in answer.text) == (status, True, False)
    assert len(leanplum.calls()) == before
    assert X not in "".join(capfd.readouterr())


@pytest.mark.parametrize("rows", [f"action;userId\ntrack;{X}\n", f'action,userId\ntrack,"{X}" x\n'])
def test_rows_that_can_t_be_read_are_refused(at: Gateway, leanplum: Leanplum, rows: str) -> None:
    before = len(leanplum.calls())
    assert WAYS["csv"][1](at, rows).status_code == 422
    assert len(leanplum.calls()) == before


@pytest.mark.parametrize("way", WAYS)
def test_other_rows_are_sent_on(at: Gateway, leanplum: Leanplum, way: str) -> None:
    before = len(leanplum.calls())
    rows = f"action,userId,any name\nsetUserAttributes,o1,{X}\nsetUserAttributes,{X}2,\n"
    assert WAYS[way][1](at, rows).status_code in {200, 202}
    assert len(leanplum.calls()) == before + 1
