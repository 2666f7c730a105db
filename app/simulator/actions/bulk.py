"""The multi as a CSV job: `multi` with createJob, getMultiResults (fact sheet §3.6, §3.7)."""

import csv
import io
import json
from typing import Any

from app.simulator.actions.handler import Extra, Refused, Turn
from app.simulator.encoding import CSV_BODY
from app.simulator.export_files import json_lines
from app.simulator.jobs import Job
from app.simulator.shelf import StoredFile
from app.simulator.values import number


def create_job(turn: Turn) -> Extra:
    """Do every row at once, in order, and keep the answers for whoever asks (I).

    The rows are the body, or the object `file` of the public bucket `gcsBucket` (fact sheet §12.4).
    A job whose object isn't there fails (I). The file that the job offers holds the answers, one to
    a line (I).
    """
    jobs = turn.world.jobs
    content = _content(turn)
    if content is None:
        job_id = jobs.new_id("multi")
        jobs.multis[job_id] = Job(job_id, {}, failed=True)
        return {"jobId": job_id}
    default = turn.text("defaultAction")
    entries = [turn.row({"action": default, **row}) for row in _rows(turn, content)]
    done = sum(entry["success"] for entry in entries)
    job_id = jobs.new_id("multi")
    file = turn.world.shelf.offer(StoredFile(f"{job_id}.json", json_lines(entries)))
    jobs.multis[job_id] = Job(
        job_id, {"successesCount": done, "failuresCount": len(entries) - done}, [file]
    )
    return {"jobId": job_id}


def _content(turn: Turn) -> bytes | None:
    """Return the CSV text: the body, else the object that is named; None where the bucket has no
    such object.
    """
    body = turn.around.files.get(CSV_BODY)
    if body is not None:
        return body.content
    for name in ("file", "gcsBucket"):
        if not turn.given(name):
            raise turn.missing(name)
        if name in turn.around.files:  # the argument is a name, not the file itself
            raise turn.invalid(name)
    return turn.world.shelf.objects.get((turn.text("gcsBucket"), turn.text("file")))


def get_multi_results(turn: Turn) -> Extra:
    """Pending, running, finished, one step each time that it is asked for."""
    job = turn.world.jobs.multis.get(turn.needed("jobId"))
    if job is None:
        raise Refused(turn.texts.job_not_found, 404)
    state = job.next_state(turn.world.config.job_states)
    if state == "FINISHED" and job.failed:
        return {"state": "FAILED"}
    if state != "FINISHED":
        return {"state": state}
    return {"state": state, "data": {**job.result, "files": job.urls(turn.around.origin)}}


def _rows(turn: Turn, content: bytes) -> list[dict[str, Any]]:
    try:
        reader = csv.DictReader(
            io.StringIO(content.decode("utf-8-sig"), newline=""), restkey="", strict=True
        )
        rows = [_item(row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise turn.invalid("file") from error
    if not reader.fieldnames:
        raise turn.invalid("file")
    return rows


def _item(row: dict[str, Any]) -> dict[str, Any]:
    """An action: a dot in a column's name nests, and an empty cell is absent (I)."""
    item: dict[str, Any] = {}
    for column, value in row.items():
        if not column or value in (None, ""):
            continue
        *outer, name = column.split(".")
        _inner(item, outer)[name] = _cell(value) if outer else value
    return item


def _inner(item: dict[str, Any], path: list[str]) -> dict[str, Any]:
    for name in path:
        if not isinstance(item.get(name), dict):
            item[name] = {}
        item = item[name]
    return item


def _cell(value: str) -> Any:
    """In a nested column numbers, booleans, lists and objects are what they look like (I)."""
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, bool | list | dict) or number(found) is not None else value
