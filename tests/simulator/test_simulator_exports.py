"""Exports as jobs: their ids, their states, their files and their limits (fact sheet §3.6, §5)."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.simulator.app_state import pacific_day

from .client import Json, Talk, event, message
from .simulated_app import NOW, App

DAY = 86_400.0


def day(days_ago: float = 0) -> str:
    """A day of the test's clock as exports name it."""
    return f"{pacific_day(NOW - days_ago * DAY):%Y%m%d}"


def today() -> str:
    return f"{pacific_day(time.time()):%Y%m%d}"


def finished(leanplum: Talk, job_id: str) -> Json:
    """The job's third answer, with which it has finished."""
    return [leanplum.entry("getExportResults", "exp", jobId=job_id) for _ in range(3)][-1]


@pytest.mark.parametrize(
    ("action", "args", "form"),
    [
        ("exportData", {"startDate": day()}, r"export_\d+_\d+"),
        ("exportUsers", {"audienceName": "all"}, r"export_users_\d+_\d+"),
        (
            "exportReport",
            {"startDate": day(), "dataType": "UserActivity"},
            r"export_report_\d+_\d+",
        ),
    ],
)
def test_an_export_is_answered_with_the_id_of_a_job(
    app: App, action: str, args: Json, form: str
) -> None:
    first, second = app.do(action, **args), app.do(action, **args)
    assert re.fullmatch(form, first["jobId"])
    assert first["jobId"] != second["jobId"]


def test_a_job_is_pending_then_running_then_finished_and_stays_so(app: App) -> None:
    job_id = app.do("exportUsers")["jobId"]
    told = [app.do("getExportResults", jobId=job_id) for _ in range(4)]
    assert [entry["state"] for entry in told] == ["PENDING", "RUNNING", "FINISHED", "FINISHED"]
    assert told[0] == {"success": True, "state": "PENDING", "jobId": job_id}
    assert set(told[2]) == {"success", "state", "jobId", "files", "numSessions", "numBytes"}


def test_the_states_of_a_job_can_be_chosen(configured: Callable[..., Talk]) -> None:
    leanplum = configured(job_states=("RUNNING", "FAILED"))
    job_id = leanplum.entry("exportUsers", "exp")["jobId"]
    assert finished(leanplum, job_id)["state"] == "FAILED"


def test_an_unknown_job_is_404(leanplum: Talk) -> None:
    answer = leanplum.call("getExportResults", "exp", jobId="export_1_1")
    assert answer.status_code == 404
    assert message(answer.json()["response"][0], "error") == "Job not found."


def test_a_finished_export_of_data_offers_lines_of_json(leanplum: Talk) -> None:
    leanplum.call("start", userId="ann")
    leanplum.track("ann", "Buy", value=2)
    told = finished(leanplum, leanplum.entry("exportData", "exp", startDate=today())["jobId"])
    (url,) = told["files"]
    content = leanplum.http.get(url).content
    assert (told["numSessions"], told["numBytes"]) == (1, len(content))
    line = json.loads(content)
    assert (line["userId"], line["events"]["Buy"]["value"]) == ("ann", 2.0)


def test_an_export_of_data_can_be_csv(leanplum: Talk) -> None:
    leanplum.track("ann", "Buy", value=2)
    asked = leanplum.entry("exportData", "exp", startDate=today(), exportFormat="csv")
    (url,) = finished(leanplum, asked["jobId"])["files"]
    assert leanplum.http.get(url).text.splitlines() == ["userId,event,count,value", "ann,Buy,1,2.0"]


def test_a_copy_to_s3_has_a_status_of_its_own(app: App) -> None:
    job_id = app.do("exportData", startDate=day(), s3BucketName="ours")["jobId"]
    told = [app.do("getExportResults", jobId=job_id) for _ in range(3)][-1]
    assert told["s3CopyStatus"] == "FINISHED"


def test_a_finished_export_of_users_offers_their_attributes(leanplum: Talk) -> None:
    leanplum.call("setUserAttributes", userId="ann", userAttributes={"age": 29})
    (url,) = finished(leanplum, leanplum.entry("exportUsers", "exp")["jobId"])["files"]
    assert json.loads(leanplum.http.get(url).content)["userAttributes"] == {"age": 29}


def test_a_finished_report_is_in_the_answer_itself(app: App) -> None:
    app.ann("track", event="Buy")
    app.ann("track", event="Open")
    asked = {
        "startDate": day(1),
        "endDate": day(),
        "dataType": "UserActivity",
        "eventNames": '["Buy"]',
    }
    job_id = app.do("exportReport", **asked)["jobId"]
    told = [app.do("getExportResults", jobId=job_id) for _ in range(3)][-1]
    days = {"startDate": day(1), "endDate": day()}
    assert told["report"] == {
        "dataType": "UserActivity",
        **days,
        "rows": [{"event": "Buy", "count": 1}],
    }
    assert "files" not in told


@pytest.mark.parametrize("action", ["exportData", "exportReport"])
@pytest.mark.parametrize(
    ("dates", "text"),
    [
        ({"startDate": ""}, "startDate"),
        ({"startDate": "2027-01-01"}, "startDate"),
        ({"startDate": "20271301"}, "startDate"),
        ({"startDate": "yesterda"}, "startDate"),
        ({"startDate": day(), "endDate": "soon"}, "endDate"),
        ({"startDate": day(), "endDate": day(1)}, "endDate"),
        ({"startDate": day(61)}, "You cannot export data older than 60 days"),
        ({"startDate": day(-1)}, "No matching data found."),
    ],
)
def test_an_export_of_days_that_cannot_be_is_refused(
    app: App, action: str, dates: Json, text: str
) -> None:
    assert text in message(app.do(action, dataType="UserActivity", **dates), "error")


def test_sixty_days_back_can_be_exported(app: App) -> None:
    assert app.do("exportData", startDate=int(day(60)))["success"] is True


def test_data_that_is_too_old_is_refused_at_200(leanplum: Talk) -> None:
    answer = leanplum.call("exportData", "exp", startDate="20200101")
    assert (answer.status_code, answer.json()["response"][0]["success"]) == (200, False)


@pytest.mark.parametrize(
    ("action", "args"),
    [
        ("exportData", {"startDate": day(), "exportFormat": "xml"}),
        ("exportReport", {"startDate": day(), "dataType": "Gossip"}),
        ("exportReport", {"startDate": day()}),
    ],
)
def test_a_form_or_report_that_does_not_exist_is_refused(app: App, action: str, args: Json) -> None:
    assert app.do(action, **args)["success"] is False


@pytest.mark.parametrize(
    ("action", "args", "limit"),
    [
        ("exportData", {"startDate": day(1)}, 24),
        ("exportUsers", {}, 40),
        ("exportReport", {"startDate": day(1), "dataType": "UserActivity"}, 100),
    ],
)
def test_a_day_has_a_limit_of_exports_and_the_next_day_its_own(
    app: App, action: str, args: Any, limit: int
) -> None:
    assert all(app.do(action, **args)["success"] for _ in range(limit))
    assert "Daily limit" in message(app.do(action, **args), "error")
    app.now += DAY
    assert app.do(action, **args)["success"] is True


def test_exports_that_are_refused_do_not_count(configured: Callable[..., Talk]) -> None:
    leanplum = configured(exports_per_day={"exportData": 1}, quota_status=429)
    statuses = [
        leanplum.call("exportData", "exp", startDate=start).status_code
        for start in ("x", today(), today())
    ]
    assert statuses == [400, 200, 429]


def test_blocked_users_are_not_exported(leanplum: Talk) -> None:
    leanplum.multi(event("ann"), event("bob"))
    leanplum.call("block", userId="ann")
    (url,) = finished(leanplum, leanplum.entry("exportUsers", "exp")["jobId"])["files"]
    assert json.loads(leanplum.http.get(url).content)["userId"] == "bob"


@pytest.mark.parametrize("kind", ["prod", "dev", "cro"])
@pytest.mark.parametrize(
    "action", ["exportData", "exportUsers", "exportReport", "getExportResults"]
)
def test_exports_take_the_export_key(leanplum: Talk, action: str, kind: str) -> None:
    args = {"startDate": today(), "dataType": "UserActivity", "jobId": "export_1_1"}
    assert leanplum.call(action, kind, **args).status_code == 403
