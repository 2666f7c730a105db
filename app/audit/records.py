"""Audit records in the shape of OCSF's API Activity (class 6003), one for each fact.

A record holds who, what, when, from where, with what outcome; never a body, a secret or an
attribute value, and of a user the keyed hash (`pseudonyms.py`). Its number, which it says itself,
is its place in the tree that it is sealed in. Source of the shape: OCSF schema 1.4, class API
Activity; activity ids 1 create, 2 read, 3 update, 4 delete, 99 other.
"""

import hashlib
import os
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import orjson

from app.audit.record_macs import Marks
from app.database.driver import Cursor
from app.database.writer import insert_rows

OTHER = 99
ACTIVITIES = {"POST": 1, "GET": 2, "PATCH": 3, "PUT": 3, "DELETE": 4}
SUCCESS, FAILURE = 1, 2
METADATA = {
    "product": {"name": "leanplum-gateway", "vendor_name": "leanplum-gateway"},
    "version": "1.4.0",
}
HEAD = f'{{"metadata":{orjson.dumps(METADATA).decode()[:-1]},"sequence":'
GATEWAY = {"user": {"uid": "gateway"}}
DETAIL = '"status_detail":"'  # before what `detailed` adds
DETAIL_OF_SET = re.compile(r"([a-z]{1,20}) ([0-9]{1,18})")
MOST_NAMED = 50  # items that a record names one by one
MISSING = "audit.missing"  # stands in the place of a record that was gone before it was sealed
# As HTTP's "processing": of a call that is about to be sent, what comes of it has a record of its
# own
BEGUN = 102
MOST_USERS = 50  # that a call to Leanplum names: what one call may be about
INSERT = "INSERT INTO audit_records (seq, time, record, mark)"


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
    resources: Sequence[str] = (),
) -> str:
    """The record of one authenticated call: `operation` is `METHOD path-template`, `status` the
    HTTP status, `resource` the id of what it was done to, `resources` the ids of several such.
    """
    named = [*([resource] if resource else ()), *resources]
    return _record(
        time,
        ACTIVITIES.get(operation.partition(" ")[0], OTHER),
        status,
        actor={"user": {"uid": key_id}},
        api={"operation": operation, "request": {"uid": request_id}},
        src_endpoint={"ip": address},
        unmapped={"app": app, **details},
        **({"resources": [{"uid": one} for one in named]} if named else {}),
    )


def repeated_refusals(
    *,
    time: int,
    operation: str,
    key_id: str,
    app: str,
    address: str,
    request_id: str,
    status: int,
    count: int,
    since: int,
    until: int,
    resources: Sequence[str],
    details: dict[str, Any],
) -> str:
    """The record of `count` refusals of one kind, of calls between two times; address and request
    id are those of the last one. OCSF has these names for events of one logical group.
    """
    return _record(
        time,
        ACTIVITIES.get(operation.partition(" ")[0], OTHER),
        status,
        count=count,
        start_time=since,
        end_time=until,
        actor={"user": {"uid": key_id}},
        api={"operation": operation, "request": {"uid": request_id}},
        src_endpoint={"ip": address},
        unmapped={"app": app, **details},
        **({"resources": [{"uid": one} for one in resources]} if resources else {}),
    )


def leanplum_call(
    *,
    time: int,
    app: str,
    attempt: str,
    status: int | None,
    outcome: Mapping[str, int],
    action: str = "multi",
    about: Mapping[str, Any] | None = None,
) -> str:
    """The record of one call to Leanplum: which attempt, what HTTP status came back (None: none),
    items by what became of them, whom and what it was about (`about_items`).
    """
    request = {"request": {"uid": attempt}} if attempt else {}
    return _record(
        time,
        OTHER,
        599 if status is None else status,
        actor=GATEWAY,
        api={"operation": f"leanplum {action}", **request},
        src_endpoint={"name": "gateway"},
        unmapped={"app": app, **({"items": outcome} if outcome else {}), **(about or {})},
    )


def counts(accepted: int, duplicates: int, rejected: int) -> dict[str, Any]:
    """What became of a call's items."""
    return {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}


def refused_actions(actions: Mapping[str, int]) -> dict[str, Any]:
    """Return which of Leanplum's actions were refused, and how often."""
    return {"refusedActions": dict(actions)} if actions else {}


def about_users(users: Sequence[str]) -> dict[str, Any]:
    """Whom a call was about, by their keyed hashes."""
    return {"user": users[0]} if len(users) == 1 else {"users": users} if users else {}


def named_items(item_ids: Sequence[str]) -> tuple[Sequence[str], dict[str, Any]]:
    """Return how a record names items: a few by their ids, more by a hash over all of them
    (`itemsHash`).
    """
    if len(item_ids) <= MOST_NAMED:
        return item_ids, {}
    return (), {"itemsHash": items_hash(item_ids)}


def naming(record: str, item_ids: Sequence[str]) -> str:
    """A record that names items as `named_items` does, beside what it names already."""
    if not item_ids:
        return record
    told = orjson.loads(record)
    named, hashed = named_items(item_ids)
    if named:
        told["resources"] = [*told.get("resources", ()), *({"uid": one} for one in named)]
    if hashed:
        told["unmapped"] = {**told.get("unmapped", {}), **hashed}
    return orjson.dumps(told).decode()


def items_hash(item_ids: Sequence[str]) -> str:
    """Return the hash over the ids of items, in their order."""
    return hashlib.sha256("\n".join(item_ids).encode()).hexdigest()


def administrative_act(
    *,
    time: int,
    act: str,
    subject: str,
    app: str = "",
    details: Mapping[str, Any] | None = None,
    resources: Sequence[str] = (),
) -> str:
    """The record of an operator's command: `act` is `noun.verb`, `subject` the id of what it was
    done to, `resources` further ones, `app` the app that it was about, where it was about one.
    """
    more = {**({"app": app} if app else {}), **(details or {})}
    return _record(
        time,
        OTHER,
        0,
        actor={"user": {"uid": "operator", "name": _login()}},
        api={"operation": act},
        src_endpoint={"name": "command"},
        resources=[{"uid": one} for one in (subject, *resources)],
        **({"unmapped": more} if more else {}),
    )


@cache
def _login() -> str:
    """Who runs this process, as the system knows it; in a container that may be a number alone."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def configured(*, time: int, app: str, how: str) -> str:
    """The record of a change of the configured apps that a running gateway has found: `how` is
    added, changed or removed.
    """
    return _record(
        time,
        OTHER,
        0,
        actor=GATEWAY,
        api={"operation": f"app.{how}"},
        src_endpoint={"name": "gateway"},
        resources=[{"uid": app}],
        unmapped={"app": app},
    )


def rows_adopted(*, time: int, name: str, count: int) -> str:
    """The record of rows from before there were MACs, which a gateway has given theirs as they
    were.
    """
    return _record(
        time,
        OTHER,
        0,
        actor=GATEWAY,
        api={"operation": "audit.adopt-rows"},
        src_endpoint={"name": "gateway"},
        resources=[{"uid": name}],
        unmapped={"rows": count},
    )


def detailed(record: str, detail: str) -> str:
    """A record that says which change of a set of rows it is about (`row_macs.detail_of`); "" says
    nothing.
    """
    return f'{record[:-1]},{DETAIL}{detail}"}}' if detail else record


def missing(time: int) -> str:
    """What stands in the place of a record that is gone."""
    return _record(
        time,
        OTHER,
        599,
        actor=GATEWAY,
        api={"operation": MISSING},
        src_endpoint={"name": "gateway"},
    )


def _record(time: int, activity: int, status: int, **facts: Any) -> str:
    """The frame that all records share, less `metadata`. `status` is an HTTP status; 0 where there
    was no call.
    """
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
            **facts,
        }
    ).decode()


def numbered(seq: int, record: str) -> str:
    """A record as it is kept, which says its number."""
    return f"{HEAD}{seq}}},{record[1:]}"


def is_served(operation: object) -> bool:
    """Return whether only a gateway that serves or delivers records this operation: an API call, or
    a call to Leanplum. Acts of operators by command have names without a space.
    """
    return isinstance(operation, str) and " " in operation


class Told(NamedTuple):
    """What a record says of itself; None where it says nothing that can be read."""

    seq: object = None
    time: object = None
    operation: object = None
    detail: object = None

    @property
    def change(self) -> tuple[str, int] | None:
        """The set of rows that it changed, and the number of the change."""
        found = DETAIL_OF_SET.fullmatch(self.detail) if isinstance(self.detail, str) else None
        return None if found is None else (found.group(1), int(found.group(2)))


def told_of(raw: bytes) -> Told:
    """The same of any bytes, a record's or not."""
    try:
        read = orjson.loads(raw)
        of_head = read["metadata"]["sequence"], read["time"]
        return Told(*of_head, read["api"]["operation"], read.get("status_detail"))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Told()


def insert(cursor: Cursor, marks: Marks, records: Sequence[tuple[int, str]]) -> None:
    """Append records, given as (time in ms, record), each with its mark, in the transaction that is
    open. Their numbers have no gap, since transactions that write take turns.
    """
    if not records:
        return
    cursor.execute("UPDATE sequence SET records = records + ? RETURNING records", (len(records),))
    seq = cursor.fetchone()[0] - len(records)
    rows = []
    for time, record in records:
        seq += 1
        text = numbered(seq, record)
        rows.append((seq, time, text, marks.of(seq, text.encode())))
    insert_rows(cursor, INSERT, rows)


@dataclass(frozen=True, slots=True)
class Record:
    """A write that is only a record: a call that was refused or that only read, an administrative
    act.
    """

    time: int
    text: str
    marks: Marks
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Record"]) -> Sequence[None]:
        """Append them."""
        insert(cursor, writes[0].marks, [(write.time, write.text) for write in writes])
        return [None] * len(writes)
