"""Imports of CSV, as the fact sheet (§12.4) describes them: a file in a bucket, or the rows as the
body.
"""

import gzip
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from app.model import Scope
from tests.support.gateway import WIDE, Talk, make_settings, pointers, problem
from tests.support.simulator import KEYS, Leanplum, delivering_to, simulated

ROWS = b"userId,event\nann,Imported\nbob,Imported\n"
BUCKET = {"gcsBucket": "public-bucket", "file": "path/rows 1.csv"}
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def talk(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("imports")

    def settings(**given: Any) -> Any:
        return make_settings(folder, migrated, WIDE | given)

    with delivering_to(leanplum, settings, folder / "g.db") as found:
        yield found


@pytest.fixture(autouse=True)
def anew(leanplum: Leanplum) -> None:
    leanplum.forget()


def put(leanplum: Leanplum, rows: bytes = ROWS) -> None:
    """Put the rows where BUCKET says that they are."""
    url = f"{leanplum.url}/_simulator/buckets/{BUCKET['gcsBucket']}/{BUCKET['file']}"
    httpx.put(url, content=rows, trust_env=False).raise_for_status()


def csv(
    talk: Talk, rows: bytes, query: str = "?defaultAction=track", **headers: str
) -> httpx.Response:
    return talk.call(
        "POST", f"/v1/imports{query}", content=rows, headers={"Content-Type": "text/csv"} | headers
    )


def endpoint(
    talk: Talk, method: str = "POST", body: bytes = b"", media: str = "", /, **query: Any
) -> httpx.Response:
    """A `multi` at the SDK-compatible endpoint, with everything in the query but the body."""
    args = {"appId": "app_sandbox", "clientKey": talk.key, "action": "multi", **query}
    headers = {"Content-Type": media} if media else {}
    return talk.call(method, "/api?" + urlencode(args), key=None, content=body, headers=headers)


def finished(talk: Talk, job: str) -> dict[str, Any]:
    """The job's state the third time it is asked for."""
    states = [talk.get(f"/v1/imports/{job}").json() for _ in range(3)]
    found: dict[str, Any] = states[-1]
    return found


def imported(leanplum: Leanplum) -> list[int]:
    return [leanplum.user(user)["events"]["Imported"]["count"] for user in ("ann", "bob")]


def the_import(leanplum: Leanplum) -> dict[str, Any]:
    """The one call that arrived, which took the development key."""
    (call,) = leanplum.calls()
    args: dict[str, Any] = call["args"]
    assert (args["action"], args["clientKey"]) == ("multi", KEYS["leanplum_development_key"])
    assert str(args["createJob"]).lower() == "true"
    return call


def test_a_file_in_a_bucket_is_named_to_leanplum_and_not_uploaded(
    talk: Talk, leanplum: Leanplum
) -> None:
    put(leanplum)
    answer = talk.post("/v1/imports", {**BUCKET, "defaultAction": "track"})
    assert answer.status_code == 200, answer.text
    call = the_import(leanplum)
    assert {name: call["args"][name] for name in BUCKET} == BUCKET
    assert (call["args"]["defaultAction"], call["files"]) == ("track", {})
    state = finished(talk, answer.json()["jobId"])
    assert (state["state"], state["data"]["successesCount"]) == ("FINISHED", 2)
    assert imported(leanplum) == [1, 1]


def test_a_file_that_is_not_in_the_bucket_ends_as_a_failed_job(talk: Talk) -> None:
    job = talk.post("/v1/imports", BUCKET).json()["jobId"]
    assert finished(talk, job)["state"] == "FAILED"


def test_rows_arrive_as_the_body_with_the_arguments_in_the_query(
    talk: Talk, leanplum: Leanplum
) -> None:
    answer = csv(talk, ROWS)
    assert answer.status_code == 200, answer.text
    call = the_import(leanplum)
    assert (call["headers"]["content-type"], call["body"]) == ("text/csv", ROWS.decode())
    assert "defaultAction=track" in call["query"]
    assert finished(talk, answer.json()["jobId"])["data"]["successesCount"] == 2
    assert imported(leanplum) == [1, 1]


@pytest.mark.parametrize(
    ("rows", "query", "headers"),
    [
        (gzip.compress(ROWS, mtime=0), "?defaultAction=track", {"Content-Encoding": "gzip"}),
        (ROWS, "?defaultAction=track", {"Content-Type": "text/csv; charset=utf-8"}),
        (b"\xef\xbb\xbf" + ROWS.replace(b"\n", b"\r\n"), "?defaultAction=track", {}),
        (b"action,userId,event\ntrack,ann,Imported\ntrack,bob,Imported", "", {}),
    ],
)
def test_rows_may_be_packed_and_name_their_own_actions(
    talk: Talk, leanplum: Leanplum, rows: bytes, query: str, headers: dict[str, str]
) -> None:
    assert csv(talk, rows, query, **headers).status_code == 200
    assert imported(leanplum) == [1, 1]


def test_a_form_carries_the_rows_or_names_the_file(talk: Talk, leanplum: Leanplum) -> None:
    sent = talk.call(
        "POST", "/v1/imports", data={"defaultAction": "track"}, files={"file": ("rows.csv", ROWS)}
    )
    assert sent.status_code == 200, sent.text
    assert the_import(leanplum)["body"] == ROWS.decode()
    leanplum.forget()
    put(leanplum)
    fields = {name: (None, value) for name, value in {**BUCKET, "defaultAction": "track"}.items()}
    assert talk.call("POST", "/v1/imports", files=fields).status_code == 200
    assert the_import(leanplum)["files"] == {}
    assert imported(leanplum) == [1, 1]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, {"/file": "required", "/gcsBucket": "required"}),
        ({"file": "a.csv"}, {"/gcsBucket": "required"}),
        ({"gcsBucket": "b"}, {"/file": "required"}),
        ({"file": "", "gcsBucket": "b"}, {"/file": "length"}),
        ({**BUCKET, "data": []}, {"/data": "unknown"}),
    ],
)
def test_an_import_that_lacks_something_is_invalid(
    talk: Talk, leanplum: Leanplum, body: dict[str, Any], found: dict[str, str]
) -> None:
    assert (
        pointers(problem(talk.post("/v1/imports", body), 422, "validation")).keys() == found.keys()
    )
    assert leanplum.calls() == []


@pytest.mark.parametrize("rows", [b"", b" \n\n", b"userId,event", b"userId,event\r\n \r\n"])
def test_csv_without_rows_is_invalid(talk: Talk, leanplum: Leanplum, rows: bytes) -> None:
    problem(csv(talk, rows), 422, "validation")
    form = talk.call("POST", "/v1/imports", files={"file": ("rows.csv", rows)})
    problem(form, 422, "validation")
    assert endpoint(talk, "POST", rows, "text/csv").status_code == 400
    assert leanplum.calls() == []


def test_other_media_and_unknown_arguments_are_refused(talk: Talk) -> None:
    problem(csv(talk, ROWS, **{"Content-Type": "text/plain"}), 415, "unsupported-media-type")
    problem(csv(talk, ROWS, "?defaultActoin=track"), 422, "validation")


# --- at the SDK-compatible endpoint -----------------------------------------------------------------------------------

JOB = {"createJob": "true", "defaultAction": "track", **BUCKET}


@pytest.mark.parametrize(
    ("method", "body", "media", "query"),
    [
        ("GET", b"", "", JOB),
        ("POST", b"", "", JOB),
        ("POST", json.dumps({**JOB, "createJob": True}).encode(), "application/json", {}),
        ("POST", urlencode(JOB).encode(), FORM, {}),
        ("POST", urlencode(BUCKET).encode(), FORM, {"defaultAction": "track"}),
        ("POST", ROWS, "text/csv", {"defaultAction": "track"}),
        ("POST", ROWS, "text/csv;charset=UTF-8", {"createJob": "true", "defaultAction": "track"}),
        ("POST", ROWS, "text/plain", {"createJob": "true", "defaultAction": "track"}),
        ("POST", ROWS, "", {"createJob": "true", "defaultAction": "track"}),
    ],
)
def test_both_forms_work_as_a_multi(
    talk: Talk, leanplum: Leanplum, method: str, body: bytes, media: str, query: dict[str, Any]
) -> None:
    put(leanplum)
    answer = endpoint(talk, method, body, media, **query)
    (entry,) = answer.json()["response"]
    assert (answer.status_code, entry["success"]) == (200, True), answer.text
    the_import(leanplum)
    assert finished(talk, entry["jobId"])["data"]["successesCount"] == 2
    assert imported(leanplum) == [1, 1]
    assert talk.key not in json.dumps(leanplum.calls())


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"data": ""},
        {"data": "[]"},
        {"data": '{"data":[]}'},
        {"createJob": "true"},
        {"createJob": "true", "file": "a.csv"},
        {"createJob": "true", "gcsBucket": "b"},
        {"file": "a.csv"},
        {"createJob": "true", "data": '[{"action":"track","userId":"ann","event":"E"}]'},
    ],
)
def test_an_empty_multi_is_an_error(talk: Talk, leanplum: Leanplum, query: dict[str, str]) -> None:
    form = urlencode(query).encode()
    for answer in (
        endpoint(talk, "GET", **query),
        endpoint(talk, "POST", form, FORM),
        endpoint(talk, "POST", b" ", **query),
    ):
        (entry,) = answer.json()["response"]
        assert (answer.status_code, entry["success"]) == (400, False)
        assert entry["error"]["message"]
    assert leanplum.calls() == []


def test_an_empty_multi_is_an_error_for_the_simulator_too(leanplum: Leanplum) -> None:
    keys = {"appId": "app_sandbox", "clientKey": "prod_sandbox", "action": "multi", "time": 1}
    lacking: list[dict[str, Any]] = [{}, {"data": []}, {"data": None}]
    for data in lacking:
        answer = httpx.post(f"{leanplum.url}/api", json={**keys, **data}, trust_env=False)
        assert (answer.status_code, answer.json()["response"][0]["success"]) == (400, False)


def test_an_import_needs_its_scope(talk: Talk, leanplum: Leanplum) -> None:
    _, key = talk.create_key(Scope.SDK)
    for answer in (
        endpoint(talk, "POST", ROWS, "text/csv", clientKey=key, defaultAction="track"),
        endpoint(talk, "GET", clientKey=key, **JOB),
    ):
        (entry,) = answer.json()["response"]
        assert entry["success"] is False
        assert "exports:run" in entry["error"]["message"]
    assert leanplum.calls() == []


def test_a_byte_order_mark_is_no_part_of_the_first_column_s_name(
    talk: Talk, leanplum: Leanplum
) -> None:
    marked = b"\xef\xbb\xbf" + ROWS
    jobs = [csv(talk, marked).json()["jobId"]]
    form = {"file": ("rows.csv", marked, "text/csv")}
    jobs.append(
        talk.call("POST", "/v1/imports", data={"defaultAction": "track"}, files=form).json()[
            "jobId"
        ]
    )
    query = {"createJob": "true", "defaultAction": "track"}
    assert endpoint(talk, "POST", marked, "text/csv", **query).json()["response"][0]["success"]
    assert all(finished(talk, job) for job in jobs)
    assert imported(leanplum) == [3, 3]
    assert problem(csv(talk, ROWS.decode().encode("utf-16")), 400, "malformed")["detail"].endswith(
        "in UTF-8."
    )
