"""Asynchronous jobs: exports, and a multi as a CSV job (fact sheet §3.6, §3.7, §5).

The form of exported files is inferred: small, with what the simulated world holds (I).
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any

from app.simulator.actions.context import ActionContext, EntryFields, Refused
from app.simulator.app_state import CSV_BODY, AsyncJob, StoredFile, pacific_day
from app.simulator.arguments import number
from app.simulator.profiles import User

OLDEST_DAYS = 60
DATA_TYPES = ("UserActivity", "AbTestResults", "MessageResults", "BookmarkedReport")


def export_data(context: ActionContext) -> EntryFields:
    """Export every user, whatever the dates (I), without calling `callbackUrl` or writing to S3."""
    _check_days(context)
    form = "json"
    if context.has("exportFormat"):
        form = context.choice("exportFormat", ("json", "csv"))
    _count_export(context, "exportData")
    users = _users(context)
    content = _data_csv(users) if form == "csv" else _json_lines(map(_data_line, users))
    result = {"s3CopyStatus": "FINISHED"} if context.has("s3BucketName") else {}
    return _add_export_file(context, "export", form, content, result)


def export_users(context: ActionContext) -> EntryFields:
    """Export every user, whatever audience, A/B test or attribute is named (I)."""
    _count_export(context, "exportUsers")
    content = _json_lines(map(_user_line, _users(context)))
    return _add_export_file(context, "export_users", "json", content, {})


def export_report(context: ActionContext) -> EntryFields:
    """Export a report; the form of its jobId and of the report itself is inferred (I)."""
    days = _check_days(context)
    data_type = context.choice("dataType", DATA_TYPES)
    names = context.texts_of("eventNames") if context.has("eventNames") else []
    _count_export(context, "exportReport")
    report = {"dataType": data_type, **days, "rows": _report_rows(_users(context), names)}
    job_id = context.world.jobs.new_id("export_report")
    return _add_export(context, AsyncJob(job_id, {"report": report}))


def get_export_results(context: ActionContext) -> EntryFields:
    """Return the state of an export, and its result once finished."""
    job = context.world.jobs.exports.get(context.required_text("jobId"))
    if job is None:
        raise Refused(context.texts.job_not_found, 404)
    state = job.next_state(context.world.config.job_states)
    entry = {"state": state, "jobId": job.job_id}
    if state != "FINISHED":
        return entry
    files = {"files": job.urls(context.call.origin)} if job.files else {}
    return {**entry, **job.result, **files}


def _add_export(context: ActionContext, job: AsyncJob) -> EntryFields:
    context.world.jobs.exports[job.job_id] = job
    return {"jobId": job.job_id}


def _add_export_file(
    context: ActionContext, prefix: str, form: str, content: bytes, result: dict[str, Any]
) -> EntryFields:
    job_id = context.world.jobs.new_id(prefix)
    file = context.world.files.publish(StoredFile(f"{job_id}.{form}", content))
    sessions = sum(len(user.sessions) for user in _users(context))
    figures = {"numSessions": sessions, "numBytes": len(content)}
    return _add_export(context, AsyncJob(job_id, {**figures, **result}, [file]))


def _users(context: ActionContext) -> list[User]:
    """Return the users with data; those of blocked users are erased."""
    return [user for user in context.world.users.values() if not user.blocked]


def _count_export(context: ActionContext, action: str) -> None:
    """Count a valid export; status and text beyond the limit are not documented (I)."""
    config = context.world.config
    limit = config.exports_per_day[action]
    if not context.world.jobs.count_export(action, pacific_day(context.now), limit):
        message = context.texts.quota_exceeded.format(action=action, limit=limit)
        raise Refused(message, config.quota_status)


def _check_days(context: ActionContext) -> dict[str, str]:
    """Return the days as given; future days have no data (I)."""
    today = pacific_day(context.now)
    start = _parse_day(context, "startDate")
    end = _parse_day(context, "endDate") if context.has("endDate") else start
    if end < start:
        raise context.invalid("endDate")
    if start < today - timedelta(days=OLDEST_DAYS):
        raise Refused(context.texts.export_too_old, 200)
    if start > today:
        raise Refused(context.texts.no_matching_data, 404)
    return {"startDate": f"{start:%Y%m%d}", "endDate": f"{end:%Y%m%d}"}


def _parse_day(context: ActionContext, name: str) -> date:
    value = context.text(name)
    if len(value) != 8 or not (value.isascii() and value.isdecimal()):
        raise context.invalid(name)
    try:
        return datetime.strptime(value, "%Y%m%d").date()
    except ValueError as error:
        raise context.invalid(name) from error


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row, separators=(',', ':'))}\n" for row in rows).encode()


def _data_line(user: User) -> dict[str, Any]:
    """Return a user with all counters and sessions."""
    events = {name: tally.summary() for name, tally in user.events.items()}
    states = {name: tally.summary() for name, tally in user.states.items()}
    sessions = [session.as_json() for session in user.sessions]
    return {**_user_line(user), "events": events, "states": states, "sessions": sessions}


def _user_line(user: User) -> dict[str, Any]:
    attributes = user.attributes | user.sets
    return {"userId": user.user_id, "created": user.created, "userAttributes": attributes}


def _data_csv(users: Iterable[User]) -> bytes:
    """Return CSV with one row for each event of each user."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(("userId", "event", "count", "value"))
    for user in users:
        for name, tally in user.events.items():
            rows.writerow((user.user_id, name, tally.count, tally.value))
    return out.getvalue().encode()


def _report_rows(users: Iterable[User], names: list[str]) -> list[dict[str, Any]]:
    """Return the count of each event over all users; only of these names if there are any."""
    counts: Counter[str] = Counter()
    for user in users:
        for name, tally in user.events.items():
            counts[name] += tally.count
    return [
        {"event": name, "count": count}
        for name, count in counts.items()
        if not names or name in names
    ]


def create_csv_job(context: ActionContext) -> EntryFields:
    """Execute every row at once, in order, and keep the entries as the job's result (I).

    The rows are the body, or the object `file` of the public bucket `gcsBucket` (fact sheet §12.4).
    A job whose object does not exist fails (I). The job's file has one entry a line (I).
    """
    jobs = context.world.jobs
    content = _csv_content(context)
    if content is None:
        job_id = jobs.new_id("multi")
        jobs.multis[job_id] = AsyncJob(job_id, {}, failed=True)
        return {"jobId": job_id}
    default = context.text("defaultAction")
    rows = _parse_rows(context, content)
    entries = [context.execute_row({"action": default, **row}) for row in rows]
    successes = sum(entry["success"] for entry in entries)
    result = {"successesCount": successes, "failuresCount": len(entries) - successes}
    job_id = jobs.new_id("multi")
    file = context.world.files.publish(StoredFile(f"{job_id}.json", _json_lines(entries)))
    jobs.multis[job_id] = AsyncJob(job_id, result, [file])
    return {"jobId": job_id}


def get_multi_results(context: ActionContext) -> EntryFields:
    """Return the state of a CSV job, and its result once finished."""
    job = context.world.jobs.multis.get(context.required_text("jobId"))
    if job is None:
        raise Refused(context.texts.job_not_found, 404)
    state = job.next_state(context.world.config.job_states)
    if state == "FINISHED" and job.failed:
        return {"state": "FAILED"}
    if state != "FINISHED":
        return {"state": state}
    return {"state": state, "data": {**job.result, "files": job.urls(context.call.origin)}}


def _csv_content(context: ActionContext) -> bytes | None:
    """Return the CSV of the body, or of the named object; None if that does not exist."""
    body = context.call.files.get(CSV_BODY)
    if body is not None:
        return body.content
    for name in ("file", "gcsBucket"):
        if not context.has(name):
            raise context.missing(name)
        # The argument must be a name, not an uploaded file.
        if name in context.call.files:
            raise context.invalid(name)
    return context.world.files.objects.get((context.text("gcsBucket"), context.text("file")))


def _parse_rows(context: ActionContext, content: bytes) -> list[dict[str, Any]]:
    try:
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
        reader = csv.DictReader(lines, restkey="", strict=True)
        rows = [_row_to_action(row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise context.invalid("file") from error
    if not reader.fieldnames:
        raise context.invalid("file")
    return rows


def _row_to_action(row: dict[str, Any]) -> dict[str, Any]:
    """Return the action of a row: a dot in a column name nests, an empty cell is absent (I)."""
    item: dict[str, Any] = {}
    for column, value in row.items():
        if not column or value in (None, ""):
            continue
        *path, name = column.split(".")
        _nested(item, path)[name] = _parse_cell(value) if path else value
    return item


def _nested(item: dict[str, Any], path: list[str]) -> dict[str, Any]:
    for name in path:
        if not isinstance(item.get(name), dict):
            item[name] = {}
        item = item[name]
    return item


def _parse_cell(value: str) -> Any:
    """Parse a nested cell: numbers, booleans, lists and objects as JSON, others as text (I)."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    if isinstance(parsed, bool | list | dict) or number(parsed) is not None:
        return parsed
    return value
