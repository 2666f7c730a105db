"""Audit records in the shape of OCSF's API Activity (class 6003), one for each fact.

A record holds who, what, when, from where, with what outcome; never a body, a secret or an attribute value.
Source of the shape: OCSF schema 1.x, class API Activity; activity ids 1 create, 2 read, 3 update, 99 other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.database.dialect import Cursor
from app.database.writer import insert_rows

OTHER = 99
ACTIVITIES = {"POST": 1, "GET": 2, "PATCH": 3, "PUT": 3, "DELETE": 4}
SUCCESS, FAILURE = 1, 2
METADATA = {"product": {"name": "leanplum-gateway", "vendor_name": "leanplum-gateway"}, "version": "1.4.0"}
GATEWAY = {"user": {"uid": "gateway"}}
OPERATOR = {"user": {"uid": "operator"}}


def api_call(
    *,
    time: int,
    operation: str,
    key_id: str,
    app: str,
    address: str,
    request_id: str,
    status: int,
    details: dict[str, Any],
    resource: str | None = None,
) -> str:
    """The record of one authenticated call: `operation` is `METHOD path-template`, `status` the HTTP status, `resource`
    the id of what it was done to."""
    return _record(
        time,
        ACTIVITIES.get(operation.partition(" ")[0], OTHER),
        status,
        actor={"user": {"uid": key_id}},
        api={"operation": operation, "request": {"uid": request_id}},
        src_endpoint={"ip": address},
        unmapped={"app": app, **details},
        **({"resources": [{"uid": resource}]} if resource else {}),
    )


def leanplum_call(
    *, time: int, app: str, attempt: str, status: int | None, outcome: dict[str, int], action: str = "multi"
) -> str:
    """The record of one call to Leanplum: which attempt, what HTTP status came back (None: none), items by what became
    of them."""
    return _record(
        time,
        OTHER,
        599 if status is None else status,
        actor=GATEWAY,
        api={"operation": f"leanplum {action}", "request": {"uid": attempt}},
        unmapped={"app": app, "items": outcome},
    )


def administrative_act(*, time: int, act: str, subject: str) -> str:
    """The record of an operator's command: `act` is `noun.verb`, `subject` the id of what it was done to."""
    return _record(time, OTHER, 0, actor=OPERATOR, api={"operation": act}, resources=[{"uid": subject}])


def _record(time: int, activity: int, status: int, **facts: Any) -> str:
    """The frame that all records share. `status` is an HTTP status; 0 where there was no call."""
    return orjson.dumps(
        {
            "class_uid": 6003,
            "category_uid": 6,
            "activity_id": activity,
            "type_uid": 600300 + activity,
            "severity_id": 1,
            "time": time,
            "status_id": SUCCESS if status < 400 else FAILURE,
            "status_code": str(status),
            "metadata": METADATA,
            **facts,
        }
    ).decode()


def insert(cursor: Cursor, records: Sequence[tuple[int, str]]) -> None:
    """Append records, given as (time in ms, record), in the transaction that is open."""
    insert_rows(cursor, "INSERT INTO audit_records (time, record)", 2, [value for row in records for value in row])


@dataclass(frozen=True, slots=True)
class Record:
    """A write that is only a record: a call that was refused or that only read, an administrative act."""

    time: int
    text: str
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Record"]) -> Sequence[None]:
        """Append them."""
        insert(cursor, [(write.time, write.text) for write in writes])
        return [None] * len(writes)
