"""Audit records: their text, the keyed hashes that name users in them, their MACs, their storage.

A record is one event in the shape of OCSF's API Activity (class 6003, schema 1.4; activity ids:
1 create, 2 read, 3 update, 4 delete, 99 other). It holds who, what, when, from where and with what
outcome; never a body, a secret, an attribute value or a user id. Its number is part of its text and
is its position in the Merkle tree. A MAC is stored beside each record, from the transaction that
writes it on; the sealer puts no record into the tree whose MAC is wrong, so nobody without the key
can have a forged record sealed.

One module, since every accepted call needs all of it, in the transaction that accepts it.
"""

import asyncio
import hashlib
import hmac
import os
import pwd
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import orjson

from app.audit.key_derivation import derive_key
from app.audit.row_macs import RowMacs
from app.database.driver import Cursor
from app.database.writer import insert_rows

OTHER = 99
ACTIVITIES = {"POST": 1, "GET": 2, "PATCH": 3, "PUT": 3, "DELETE": 4}
SUCCESS, FAILURE = 1, 2
METADATA = {
    "product": {"name": "leanplum-gateway", "vendor_name": "leanplum-gateway"},
    "version": "1.4.0",
}
NUMBERED_START = f'{{"metadata":{orjson.dumps(METADATA).decode()[:-1]},"sequence":'
GATEWAY = {"user": {"uid": "gateway"}}
MAX_NAMED_ITEMS = 50  # items that a record names by their ids
MISSING = "audit.missing"  # operation of the record that replaces one lost before it was sealed
# As HTTP's "processing": the record of a call that is about to be sent. Its outcome has a record of
# its own.
BEGUN = 102
MOST_USERS = (
    50  # users that the record of a call to Leanplum names, which is as many as it may hold
)
INSERT = "INSERT INTO audit_records (seq, time, record, mark)"

RECORD_MAC_KEY = b"leanplum-gateway audit marks"  # names of derived keys: never change them
USER_HASH_KEY = b"leanplum-gateway users"
HASH_BYTES = 10  # two of 100 million users share a hash with a probability of 1 in 10^8
MAX_CACHED_HASHES = 20_000  # about 5 MB; then the cache is emptied
# The cache is emptied this often, so that an erased user is soon in no memory either
CACHE_SECONDS = 60.0


# --- The texts of records ---


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
    """Return the record of one authenticated call.

    `operation` is `METHOD path-template`, `status` the HTTP status, `resource` and `resources` the
    ids of what it acted on.
    """
    named = [*([resource] if resource else ()), *resources]
    return compose(
        time,
        ACTIVITIES.get(operation.partition(" ")[0], OTHER),
        status,
        actor={"user": {"uid": key_id}},
        api={"operation": operation, "request": {"uid": request_id}},
        src_endpoint={"ip": address},
        unmapped={"app": app, **details},
        **resource_list(named),
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
    """Return the record of one call to Leanplum.

    `attempt` is the attempt's id, `status` the HTTP status of the answer (None: no answer),
    `outcome` the number of items by result, `about` whom and what the call was about.
    """
    request = {"request": {"uid": attempt}} if attempt else {}
    counts = {"items": outcome} if outcome else {}
    return compose(
        time,
        OTHER,
        599 if status is None else status,
        actor=GATEWAY,
        api={"operation": f"leanplum {action}", **request},
        src_endpoint={"name": "gateway"},
        unmapped={"app": app, **counts, **(about or {})},
    )


def administrative_act(
    *,
    time: int,
    act: str,
    subject: str,
    app: str = "",
    details: Mapping[str, Any] | None = None,
    resources: Sequence[str] = (),
) -> str:
    """Return the record of an operator's command.

    `act` is `noun.verb`, `subject` the id of what it acted on, `resources` the ids of more, `app`
    the app concerned, where there is one.
    """
    facts = {**({"app": app} if app else {}), **(details or {})}
    return compose(
        time,
        OTHER,
        0,
        actor={"user": {"uid": "operator", "name": _login()}},
        api={"operation": act},
        src_endpoint={"name": "command"},
        **resource_list((subject, *resources)),
        **({"unmapped": facts} if facts else {}),
    )


@cache
def _login() -> str:
    """Return the login of whoever runs this process; in a container that may be only a number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def app_changed(*, time: int, app: str, how: str) -> str:
    """Return the record of a changed app in the apps file: `how` is added, changed or removed."""
    return compose(
        time,
        OTHER,
        0,
        actor=GATEWAY,
        api={"operation": f"app.{how}"},
        src_endpoint={"name": "gateway"},
        unmapped={"app": app},
        **resource_list((app,)),
    )


def missing(time: int) -> str:
    """Return the record that replaces one that was gone before it was sealed."""
    return compose(
        time,
        OTHER,
        599,
        actor=GATEWAY,
        api={"operation": MISSING},
        src_endpoint={"name": "gateway"},
    )


def compose(time: int, activity: int, status: int, **facts: Any) -> str:
    """Return a record with the fields that all share, except `metadata`.

    `status` is an HTTP status; 0 where there was no call.
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


def resource_list(ids: Iterable[str]) -> dict[str, Any]:
    """Return the field `resources` with these ids; no field where there are none."""
    resources = [{"uid": resource_id} for resource_id in ids]
    return {"resources": resources} if resources else {}


def counts(accepted: int, duplicates: int, rejected: int) -> dict[str, Any]:
    """Return the detail that counts a call's items by result."""
    return {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}


def refused_actions(actions: Mapping[str, int]) -> dict[str, Any]:
    """Return the detail that counts refused items by Leanplum action."""
    return {"refusedActions": dict(actions)} if actions else {}


def about_users(user_hashes: Sequence[str]) -> dict[str, Any]:
    """Return the detail that names users, given by their keyed hashes."""
    if not user_hashes:
        return {}
    return {"user": user_hashes[0]} if len(user_hashes) == 1 else {"users": user_hashes}


def named_items(item_ids: Sequence[str]) -> tuple[Sequence[str], dict[str, Any]]:
    """Return resources and details that name items: by their ids, or by one hash over many ids."""
    if len(item_ids) <= MAX_NAMED_ITEMS:
        return item_ids, {}
    return (), {"itemsHash": items_hash(item_ids)}


def add_items(record: str, item_ids: Sequence[str]) -> str:
    """Return a record that names items (`named_items`) besides what it names already."""
    if not item_ids:
        return record
    fields = orjson.loads(record)
    named, details = named_items(item_ids)
    if named:
        more = [{"uid": item_id} for item_id in named]
        fields["resources"] = [*fields.get("resources", ()), *more]
    if details:
        fields["unmapped"] = {**fields.get("unmapped", {}), **details}
    return orjson.dumps(fields).decode()


def add_erasures(record: str, erasures: Sequence[Mapping[str, Any]]) -> str:
    """Return a record that says what was erased, with an entry for each subject."""
    fields = orjson.loads(record)
    fields["unmapped"] = {**fields["unmapped"], "erasures": erasures}
    return orjson.dumps(fields).decode()


def items_hash(item_ids: Sequence[str]) -> str:
    """Return the SHA-256 over the ids of items, in their order, joined by newlines."""
    return hashlib.sha256("\n".join(item_ids).encode()).hexdigest()


def add_detail(record: str, detail: str) -> str:
    """Return a record with a `status_detail` (`row_macs.change_detail`); "" adds nothing."""
    return f'{record[:-1]},"status_detail":"{detail}"}}' if detail else record


def add_number(seq: int, record: str) -> str:
    """Return a record as it is stored, with its number."""
    return f"{NUMBERED_START}{seq}}},{record[1:]}"


# --- Keyed hashes of users ---


@dataclass(frozen=True, slots=True)
class _AppHashes:
    """The hash state that all hashes of an app start from, and the hashes made lately."""

    initial: hashlib.blake2s
    by_subject: dict[str, str] = field(default_factory=dict)


class UserPseudonyms:
    """Keyed hashes of users and devices, the same for the same root key.

    Two records about one user can be told to be so; who it is cannot be told. Hashes are cached for
    a minute, since a user is seen often: when accepted and when delivered.
    """

    def __init__(self, root_key: bytes) -> None:
        key = derive_key(root_key, USER_HASH_KEY)
        self._initial = hashlib.blake2s(key=key, digest_size=HASH_BYTES)
        self._apps: dict[str, _AppHashes] = {}
        self._cached = 0

    def of(self, app: str, subject: str) -> str:
        """Return the keyed hash of a subject of an app, 20 hexadecimal digits.

        A subject is `u` + user id or `d` + device id.
        """
        return self.of_all(app, (subject,))[0]

    def of_all(self, app: str, subjects: Iterable[str]) -> list[str]:
        """Return the keyed hashes of several subjects of an app, in their order."""
        of_app = self._apps.get(app) or self._add_app(app)
        by_subject, hashes = of_app.by_subject, list[str]()
        for subject in subjects:
            user_hash = by_subject.get(subject)
            if user_hash is None:
                state = of_app.initial.copy()
                state.update(subject.encode())
                user_hash = by_subject[subject] = state.hexdigest()
                self._cached += 1
            hashes.append(user_hash)
        if self._cached > MAX_CACHED_HASHES:
            self.forget()
        return hashes

    async def run(self) -> None:
        """Empty the cache again and again, until cancelled."""
        while True:
            await asyncio.sleep(CACHE_SECONDS)
            self.forget()

    def forget(self) -> None:
        """Empty the cache."""
        self._apps.clear()
        self._cached = 0

    def _add_app(self, app: str) -> _AppHashes:
        initial = self._initial.copy()
        initial.update(f"{app}\0".encode())
        self._cached += 1
        of_app = self._apps[app] = _AppHashes(initial)
        return of_app


# --- MACs, and storage ---


class AuditMacs:
    """MACs of audit records and, in `rows`, of other rows; the same for the same root key."""

    def __init__(self, root_key: bytes) -> None:
        # Copied for each record, which takes a quarter less time than `hmac.digest`: that looks
        # SHA-256 up in OpenSSL each time
        self._keyed = hmac.new(derive_key(root_key, RECORD_MAC_KEY), digestmod="sha256")
        self.rows = RowMacs(root_key)

    def of_record(self, seq: int, text: bytes) -> bytes:
        """Return the MAC of record `seq`, 32 bytes.

        It is the HMAC-SHA256 (RFC 2104) over the number, a zero byte and the text.
        """
        mac = self._keyed.copy()
        mac.update(b"%d\0%b" % (seq, text))
        return mac.digest()

    def is_valid(self, seq: int, text: bytes, mac: bytes) -> bool:
        """Return whether a MAC is that of this record under this number."""
        return hmac.compare_digest(self.of_record(seq, text), mac)


def insert(cursor: Cursor, macs: AuditMacs, records: Sequence[tuple[int, str]]) -> int:
    """Append records, given as (time in ms, record), each with its MAC, in the open transaction.

    Return the number of the last; 0 where there is none. Transactions that write take turns, so the
    numbers have no gap.
    """
    if not records:
        return 0
    cursor.execute("UPDATE sequence SET records = records + ? RETURNING records", (len(records),))
    seq = cursor.fetchone()[0] - len(records)
    rows = []
    for time, record in records:
        seq += 1
        text = add_number(seq, record)
        rows.append((seq, time, text, macs.of_record(seq, text.encode())))
    insert_rows(cursor, INSERT, rows)
    return int(seq)
