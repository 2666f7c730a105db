"""Calls at /api that only read, and those with files, don't name whoever was erased to Leanplum
either.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.erasure_gateway import APP, Gateway, gateway
from tests.support.gateway import make_settings
from tests.support.simulator import Leanplum, simulated

X = "ERX"
READS = ("getVars", "getNewsfeedMessages", "exportUser", "downloadFile")


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def at(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("reads")

    def settings(**given: Any) -> Any:
        return make_settings(directory, migrated, given)

    with gateway(settings, f"sqlite:///{directory / 'g.db'}", leanplum) as found:
        found.erase(X, wait=10)
        yield found


def upload(at: Gateway, **fields: str) -> httpx.Response:
    form = {**APP, "clientKey": at.key, **fields}
    return at.call("POST", "/api", data=form, files={"file": ("a.txt", b"text")})


def sent(leanplum: Leanplum) -> list[dict[str, Any]]:
    return [one for one in leanplum.calls() if X in str(one) and "deleteUser" not in str(one)]


@pytest.mark.parametrize("action", READS)
def test_a_read_that_names_an_erased_user_as_the_new_one_is_refused(
    at: Gateway, leanplum: Leanplum, action: str
) -> None:
    answer = at.sdk(action=action, userId="o6", newUserId=X, filename="f")
    assert (answer.status_code, "erased" in answer.text) == (451, True)
    if action != "downloadFile":
        entry = {"action": action, "userId": "o6", "newUserId": X}
        answer = at.sdk(action="multi", data=[entry, {"action": "getVars", "userId": "o7"}])
        first, second = answer.json()["response"]
        assert ("erased" in str(first), second["success"]) == (True, True)
    assert sent(leanplum) == []


def test_a_file_is_not_fetched_for_an_erased_user(at: Gateway, leanplum: Leanplum) -> None:
    for whom in ("userId", "deviceId"):
        assert at.sdk(action="downloadFile", filename="f", **{whom: X}).status_code == 451
    assert sent(leanplum) == []


def test_files_that_name_an_erased_user_are_not_sent_on(at: Gateway, leanplum: Leanplum) -> None:
    for whom in ({"userId": X}, {"userId": "o8", "newUserId": X}, {"deviceId": X}):
        answer = upload(at, action="uploadFile", **whom)
        assert (answer.status_code, "erased" in answer.text) == (451, True)
    assert sent(leanplum) == []
    upload(at, action="uploadFile", userId="o8")
    assert "o8" in str(leanplum.calls())


def test_a_deletion_with_a_file_is_refused(at: Gateway, leanplum: Leanplum) -> None:
    before = len(leanplum.calls())
    assert upload(at, action="deleteUser", userId="o9").status_code == 400
    assert len(leanplum.calls()) == before


@pytest.mark.parametrize("action", READS[:2])
def test_others_read_as_before(at: Gateway, action: str) -> None:
    answer = at.sdk(action=action, userId="o10", newUserId="o11")
    assert answer.json()["response"][0]["success"]
