"""Exports: exportData, exportUsers, exportReport, getExportResults (fact sheet §3.6, §5)."""

from datetime import date, datetime, timedelta
from typing import Any

from app.simulator.actions.handler import Extra, Refused, Turn
from app.simulator.export_files import data_csv, data_line, json_lines, report_rows, user_line
from app.simulator.jobs import Job, pacific_day
from app.simulator.people import User
from app.simulator.shelf import StoredFile

OLDEST_DAYS = 60
DATA_TYPES = ("UserActivity", "AbTestResults", "MessageResults", "BookmarkedReport")


def export_data(turn: Turn) -> Extra:
    """Every user of the world, whatever the dates (I); `callbackUrl` is never called, S3 never
    written to.
    """
    _check_days(turn)
    form = turn.one_of("exportFormat", ("json", "csv")) if turn.given("exportFormat") else "json"
    _spend(turn, "exportData")
    users = _users(turn)
    content = data_csv(users) if form == "csv" else json_lines(map(data_line, users))
    copied = {"s3CopyStatus": "FINISHED"} if turn.given("s3BucketName") else {}
    return _with_file(turn, "export", form, content, copied)


def export_users(turn: Turn) -> Extra:
    """Every user of the world, whichever audience, A/B test or attribute is named (I)."""
    _spend(turn, "exportUsers")
    return _with_file(turn, "export_users", "json", json_lines(map(user_line, _users(turn))), {})


def export_report(turn: Turn) -> Extra:
    """The form of its jobId and of the report itself is inferred (I)."""
    days = _check_days(turn)
    data_type = turn.one_of("dataType", DATA_TYPES)
    names = turn.names("eventNames") if turn.given("eventNames") else []
    _spend(turn, "exportReport")
    report = {"dataType": data_type, **days, "rows": report_rows(_users(turn), names)}
    return _made(turn, Job(turn.world.jobs.new_id("export_report"), {"report": report}))


def get_export_results(turn: Turn) -> Extra:
    """Pending, running, finished, one step each time that it is asked for."""
    job = turn.world.jobs.exports.get(turn.needed("jobId"))
    if job is None:
        raise Refused(turn.texts.job_not_found, 404)
    state = job.next_state(turn.world.config.job_states)
    told = {"state": state, "jobId": job.job_id}
    if state != "FINISHED":
        return told
    files = {"files": job.urls(turn.around.origin)} if job.files else {}
    return {**told, **job.result, **files}


def _made(turn: Turn, job: Job) -> Extra:
    turn.world.jobs.exports[job.job_id] = job
    return {"jobId": job.job_id}


def _with_file(turn: Turn, prefix: str, form: str, content: bytes, extra: dict[str, Any]) -> Extra:
    job_id = turn.world.jobs.new_id(prefix)
    file = turn.world.shelf.offer(StoredFile(f"{job_id}.{form}", content))
    sessions = sum(len(user.sessions) for user in _users(turn))
    return _made(
        turn, Job(job_id, {"numSessions": sessions, "numBytes": len(content), **extra}, [file])
    )


def _users(turn: Turn) -> list[User]:
    """Blocked users are erased: nothing is left to export."""
    return [user for user in turn.world.users.values() if not user.blocked]


def _spend(turn: Turn, action: str) -> None:
    """Only what is valid counts; status and text of one too many are not documented (I)."""
    config = turn.world.config
    limit = config.exports_per_day[action]
    if not turn.world.jobs.spend(action, pacific_day(turn.now), limit):
        raise Refused(
            turn.texts.quota_exceeded.format(action=action, limit=limit), config.quota_status
        )


def _check_days(turn: Turn) -> dict[str, str]:
    """The days as given; of days to come there is no data (I)."""
    today = pacific_day(turn.now)
    start = _day(turn, "startDate")
    end = _day(turn, "endDate") if turn.given("endDate") else start
    if end < start:
        raise turn.invalid("endDate")
    if start < today - timedelta(days=OLDEST_DAYS):
        raise Refused(turn.texts.export_too_old, 200)
    if start > today:
        raise Refused(turn.texts.no_matching_data, 404)
    return {"startDate": f"{start:%Y%m%d}", "endDate": f"{end:%Y%m%d}"}


def _day(turn: Turn, name: str) -> date:
    given = turn.text(name)
    if len(given) != 8 or not (given.isascii() and given.isdecimal()):
        raise turn.invalid(name)
    try:
        return datetime.strptime(given, "%Y%m%d").date()
    except ValueError as error:
        raise turn.invalid(name) from error
