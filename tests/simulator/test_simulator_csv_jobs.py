"""The multi as a job of a CSV file (fact sheet §3.6, §3.7)."""

import json
from typing import Any

import httpx
import pytest

from .client import Json, Talk, message

ROWS = "action,userId,event,params.sku\ntrack,ann,Buy,a\ntrack,bob,Buy,\n"


def job(
    leanplum: Talk, content: str | bytes = ROWS, kind: str = "dev", **args: Any
) -> httpx.Response:
    """A multi that makes a job of the object in a bucket that is named."""
    body = content.encode() if isinstance(content, str) else content
    leanplum.http.put("/_simulator/buckets/ours/a/rows.csv", content=body)
    given = {**leanplum.keys(kind), "action": "multi", "createJob": "true", "gcsBucket": "ours"}
    return leanplum.http.post("/api", json={**given, "file": "a/rows.csv", **args})


def results(leanplum: Talk, started: httpx.Response) -> Json:
    """What the job answers when it is asked for the third time."""
    job_id = started.json()["response"][0]["jobId"]
    return [leanplum.entry("getMultiResults", "dev", jobId=job_id) for _ in range(3)][-1]


def test_the_rows_of_a_file_are_performed(leanplum: Talk) -> None:
    (entry,) = job(leanplum).json()["response"]
    assert (entry["success"], entry["jobId"].startswith("multi_")) == (True, True)
    assert (leanplum.count("ann", "Buy"), leanplum.count("bob", "Buy")) == (1, 1)


def test_the_body_may_be_the_file_with_the_arguments_in_the_query(leanplum: Talk) -> None:
    query = {**leanplum.keys("dev"), "action": "multi"}
    headers = {"Content-Type": "text/csv"}
    started = leanplum.http.post("/api", params=query, headers=headers, content=ROWS)
    assert results(leanplum, started)["data"]["successesCount"] == 2
    assert leanplum.requests()[0]["files"] == {"(body)": {"filename": "body", "bytes": len(ROWS)}}


def test_a_dot_in_a_column_nests_and_an_empty_cell_is_absent(leanplum: Talk) -> None:
    rows = 'userId,userAttributes.age,userAttributes.plan,userAttributes.tags\n007,29,,"[""a""]"\n008,,pro,\n'
    job(leanplum, rows, defaultAction="setUserAttributes")
    assert leanplum.user("007")["attributes"] == {"age": 29, "tags": ["a"]}
    assert leanplum.user("008")["attributes"] == {"plan": "pro"}


def test_the_default_action_is_for_rows_without_their_own(leanplum: Talk) -> None:
    job(
        leanplum,
        "action,userId,event\n,ann,Open\ndeleteUser,bob,\ntrack,bob,Open\n",
        defaultAction="track",
    )
    assert (leanplum.count("ann", "Open"), leanplum.count("bob", "Open")) == (1, 1)


def test_a_job_is_pending_then_running_then_finished(leanplum: Talk) -> None:
    job_id = job(leanplum).json()["response"][0]["jobId"]
    told = [leanplum.entry("getMultiResults", "dev", jobId=job_id) for _ in range(3)]
    assert told[:2] == [
        {"success": True, "state": "PENDING"},
        {"success": True, "state": "RUNNING"},
    ]
    assert (told[2]["state"], set(told[2]["data"])) == (
        "FINISHED",
        {"successesCount", "failuresCount", "files"},
    )


def test_the_results_count_successes_and_failures_and_offer_the_answers(leanplum: Talk) -> None:
    rows = "action,userId,event\ntrack,ann,Open\ntrack,,Open\nlevitate,ann,\nexportUser,ann,\n"
    data = results(leanplum, job(leanplum, rows))["data"]
    assert (data["successesCount"], data["failuresCount"]) == (1, 3)
    lines = leanplum.http.get(data["files"][0]).text.splitlines()
    assert [json.loads(line)["success"] for line in lines] == [True, False, False, False]


def test_what_must_be_alone_is_no_row(leanplum: Talk) -> None:
    data = results(leanplum, job(leanplum, "action,filename\ndownloadFile,a\nmulti,b\n"))["data"]
    assert data["failuresCount"] == 2


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b'a,b\n"oops'])
def test_a_file_that_is_no_csv_is_refused(leanplum: Talk, content: bytes) -> None:
    answer = job(leanplum, content)
    assert answer.status_code == 400
    assert "file" in message(answer.json()["response"][0], "error")


@pytest.mark.parametrize("left_out", ["gcsBucket", "file"])
def test_a_job_without_its_arguments_is_refused(leanplum: Talk, left_out: str) -> None:
    args = {
        **leanplum.keys("dev"),
        "action": "multi",
        "createJob": True,
        "gcsBucket": "ours",
        "file": "a",
    }
    answer = leanplum.http.post(
        "/api", json={name: value for name, value in args.items() if name != left_out}
    )
    assert answer.status_code == 400
    assert left_out in message(answer.json()["response"][0], "error")


def test_a_file_is_named_and_not_uploaded(leanplum: Talk) -> None:
    fields = {**leanplum.keys("dev"), "action": "multi", "createJob": "true", "gcsBucket": "ours"}
    answer = leanplum.http.post("/api", data=fields, files={"file": ("rows.csv", ROWS.encode())})
    assert answer.status_code == 400
    assert leanplum.count("ann", "Buy") == 0


@pytest.mark.parametrize("place", [{"file": "b"}, {"gcsBucket": "theirs"}])
def test_a_job_whose_object_is_not_there_fails(leanplum: Talk, place: Json) -> None:
    data = results(leanplum, job(leanplum, **place))
    assert data == {"success": True, "state": "FAILED"}


@pytest.mark.parametrize("kind", ["prod", "exp", "cro"])
def test_a_job_takes_the_development_key(leanplum: Talk, kind: str) -> None:
    assert job(leanplum, kind=kind).status_code == 403
    assert leanplum.stats()["users"] == 0


def test_the_job_of_a_multi_is_no_export(leanplum: Talk) -> None:
    job_id = job(leanplum).json()["response"][0]["jobId"]
    assert leanplum.call("getExportResults", "exp", jobId=job_id).status_code == 404
    assert leanplum.call("getMultiResults", "dev", jobId="multi_1_9").status_code == 404


def test_the_page_of_the_app_shows_its_jobs(leanplum: Talk) -> None:
    job(leanplum)
    (shown,) = leanplum.http.get("/_simulator/app").json()["jobs"]
    assert (shown["asked"], shown["result"]) == (0, {"successesCount": 2, "failuresCount": 0})
