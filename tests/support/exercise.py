"""Every kind of read and write of a gateway, through its own interfaces, for tests of statements."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from app import encryption, ids
from app.api.dead_letters import DISCARD, LIST, REPLAY
from app.audit import evidence, key_derivation, seal_state, sealer, tree
from app.callers import store
from app.clock import instant, now_ms
from app.console import sessions
from app.database.driver import Cursor
from app.database.engine import dialect, reading, snapshot
from app.database.size import database_bytes
from app.database.writer import insert_rows
from app.encryption import BodyCipher
from app.model import ReadRequest, Scope
from app.outbox import (
    accept,
    dead_letter_runs,
    dead_letters,
    leases,
    logins,
    minute_counts,
    retention,
    run_choices,
    search_index,
    settle,
    waiting_items,
)
from app.outbox.liveness_lock import KnownProcess
from app.outbox.queue_state import read_queue
from app.outbox.retention import RetentionLimits
from app.outbox.search import ReceiptSearch
from app.tracking import violations
from tests.console.visitor import signed_in
from tests.support.gateway import Talk
from tests.support.sdk import Sdk
from tests.support.segment import basic
from tests.support.simulator import Leanplum
from tests.support.wait import until

DAY_MS = 86_400_000
SHARDS = frozenset(range(ids.SHARDS))


def exercise(talk: Talk, leanplum: Leanplum) -> None:
    """Use everything of a delivering gateway."""
    for step in STEPS:
        step(talk, leanplum)


def _accept(talk: Talk, leanplum: Leanplum) -> None:
    event: dict[str, Any] = {"userId": "ann", "event": "Purchase", "params": {"sku": "A-1"}}
    made = talk.event(event).json()["id"]
    for body in (event | {"id": "own"}, event | {"id": "own"}, event | {"id": made}):
        assert talk.event(body).status_code in {200, 202}
    talk.batch([{"action": "track", "userId": f"u{n}", "event": f"E{n}"} for n in range(40)])
    talk.batch([
        {"action": "setUserAttributes", "userId": "ann", "newUserId": "anna", "id": "login"},
        {"action": "setUserAttributes", "deviceId": "d", "userAttributes": {"age": 3}},
        {"action": "advance", "userId": "ann", "state": "Level 2"},
    ])  # fmt: skip
    talk.event(event, headers={"Prefer": "wait=5"})
    talk.until_nothing_waits()
    _index(talk)


def _index(talk: Talk) -> None:
    """Write the blocks of the search index, and remove emptied ones."""
    while talk.do(talk.app.services.outbox.index_block):
        pass


def _fail(talk: Talk, leanplum: Leanplum) -> None:
    """Let items be rejected and retried, some behind a login."""
    leanplum.fault(mode="success-false", contains="Refuse", times=None)
    leanplum.fault(mode="429", contains="Later", times=None)  # 503 would open the circuit
    talk.batch([
        {"action": "track", "userId": f"bad{n}", "event": "Refuse", "id": f"bad{n}"}
        for n in range(12)
    ])  # fmt: skip
    talk.batch([
        {"action": "setUserAttributes", "userId": "eve", "newUserId": "eva",
         "userAttributes": {"note": "Later"}, "id": "later"},
        {"action": "track", "userId": "eva", "event": "Behind", "id": "behind"},
    ])  # fmt: skip
    _until_status(talk, "bad11", "rejected")
    _until_status(talk, "later", "retrying")


def _until_status(talk: Talk, item_id: str, status: str) -> None:
    until(lambda: talk.get(f"/v1/receipts/{item_id}").json()["status"] == status)


def _search_receipts(talk: Talk, leanplum: Leanplum) -> None:
    since, until_ = instant(now_ms() - DAY_MS), instant(now_ms() + DAY_MS)
    request_id = talk.event({"userId": "req", "event": "E"}).headers["x-request-id"]
    queries: list[Mapping[str, Any]] = [
        {},
        {"userId": "ann"},
        {"userId": "ann", "since": since, "until": until_},
        {"deviceId": "d"},
        {"action": "track"},
        {"event": "Purchase"},
        {"requestId": request_id},  # in the search index, or in the items after it
        *({"status": status} for status in ("accepted", "retrying", "rejected", "delivered")),
    ]
    for query in queries:
        found = talk.get("/v1/receipts", params={**query, "limit": 2})
        assert found.status_code == 200, found.text
        cursor = found.json().get("nextCursor")
        if cursor:
            talk.get("/v1/receipts", params={**query, "limit": 2, "cursor": cursor})
    talk.event({"userId": "req", "event": "E"})
    talk.get("/v1/receipts", params={"requestId": request_id})
    for item_id in ("own", "later", "behind", "missing", ids.made(ids.new_prefix(0), 3)):
        talk.get(f"/v1/receipts/{item_id}")


def _use_dead_letters(talk: Talk, leanplum: Leanplum) -> None:
    filters: list[dict[str, Any]] = [
        {},
        {"userId": "bad1"},
        {"event": "Refuse"},
        {"action": "track"},
        {"status": "rejected"},
        {"since": instant(now_ms() - DAY_MS), "until": instant(now_ms() + DAY_MS)},
    ]
    for one in filters:
        assert talk.get(LIST, params={**one, "limit": 2}).status_code == 200
        assert talk.post(REPLAY, {"filter": one, "dryRun": True}).status_code == 200
    assert talk.post(DISCARD, {"ids": ["bad0"]}).status_code == 200
    assert talk.post(DISCARD, {"filter": {"userId": "bad1"}}).status_code == 200
    assert talk.post(REPLAY, {"ids": ["bad2"]}).status_code == 200
    assert talk.post(REPLAY, {"filter": {"userId": "bad3", "status": "rejected"}}).is_success
    _until_status(talk, "bad2", "rejected")


def _use_console(talk: Talk, leanplum: Leanplum) -> None:
    visitor = signed_in(talk)
    record = talk.get("/v1/audit").json()["records"][0]["recordId"]
    for path in (
        *("", "/find?q=ann", "/find?q=own", "/find?user=ann&status=rejected", "/live"),
        *("/dead-letters", "/dead-letters/selection?app=default", "/keys", "/keys/new"),
        *("/tracking-plan", "/audit", f"/audit/{record}", "/preview"),
        "/find/receipt?app=default&id=own",
    ):
        assert visitor.get(path).status_code in {200, 303}, path
    visitor.get("/dead-letters/selection?app=default&user=bad4")
    for kind in ("replay", "discard"):
        visitor.post(f"/dead-letters/{kind}", {"app": "default", "user": "bad4"})
    visitor.get("/dead-letters")
    visitor.post("/sign-out")


def _use_keys(talk: Talk, leanplum: Leanplum) -> None:
    key_id, key = talk.create_key(Scope.EVENTS_WRITE)
    talk.get("/v1/apps", key=key)
    talk.get("/v1/keys")
    talk.get("/v1/keys", params={"limit": 1})
    talk.get(f"/v1/keys/{key_id}")
    talk.post(f"/v1/keys/{key_id}", {"name": "other"}, method="PATCH")
    talk.post(f"/v1/keys/{key_id}/rotate", {"overlapSeconds": 0}, headers={"Idempotency-Key": "k"})
    talk.call("DELETE", f"/v1/keys/{key_id}")
    services = talk.app.services
    talk.do(services.directory.tell_used)
    services.directory.refresh()


def _read_audit(talk: Talk, leanplum: Leanplum) -> None:
    talk.do(talk.app.services.sealer.attempt)
    uid = talk.get("/v1/audit").json()["records"][-1]["recordId"]
    since, until_ = instant(now_ms() - DAY_MS), instant(now_ms() + DAY_MS)
    for query in ({}, {"since": since, "until": until_}, {"userId": "ann"}, {"limit": 1}):
        assert talk.get("/v1/audit", params=query).status_code == 200
    talk.get(f"/v1/audit/{uid}/proof")
    talk.get("/v1/audit/checkpoint")
    talk.get("/v1/audit/consistency", params={"from": 1, "to": 2})
    services = talk.app.services
    with snapshot(services.engine) as connection:
        public = services.signer.public
        found = evidence.read_evidence(connection, public, now_ms() - DAY_MS, now_ms())
        list(found.rows())
        list(found.blocks())
        assert found.above is not None
        list(found.above(8, 0))


def _track(talk: Talk, leanplum: Leanplum) -> None:
    for path in ("/v1/taxonomy", "/v1/tracking-plan", "/v1/tracking-plan/violations"):
        assert talk.get(path).status_code == 200
    talk.call("DELETE", "/v1/taxonomy/events/E1")
    talk.do(talk.app.services.tracking.violations.flush)


def _relay(talk: Talk, leanplum: Leanplum) -> None:
    talk.get("/v1/users/ann/variables")
    talk.post("/v1/users/ann/sessions", {})
    sdk = Sdk(talk)
    sdk.get(action="start", userId="ann", deviceId="phone")
    sdk.multi({"action": "track", "userId": "ann", "event": "Sdk", "reqId": "r-1", "uuid": "x"})
    sdk.multi({"action": "track", "userId": "ann", "event": "Sdk", "reqId": "r-1", "uuid": "x"})
    talk.post("/segment/v1/alias", {"previousId": "ann", "userId": "a2"}, key=None,
              headers=basic(talk.key))  # fmt: skip
    for path in ("/readyz", "/metrics"):
        talk.get(path, key=None)
    outbox = talk.app.services.outbox
    talk.do(lambda: outbox.find_clear_upto([1, 2]))
    outbox.queued += 10_000  # as if the queue were long
    talk.get("/v1/users/bob/variables")
    talk.do(lambda: outbox.waiting_lanes([1, 2]))
    talk.do(lambda: outbox.waits_to_erase([1, 2]))
    outbox.queued -= 10_000


def _erase(talk: Talk, leanplum: Leanplum) -> None:
    assert talk.call("DELETE", "/v1/users/ann", params={"fullErasure": "true"}).is_success
    assert talk.call("DELETE", "/v1/users/eva", params={"fullErasure": "true"}).is_success
    talk.event({"userId": "ann", "event": "Again"})
    leanplum.mend()
    leanplum.fault(mode="success-false", contains="Refuse", times=None)


def _deliver(talk: Talk, leanplum: Leanplum) -> None:
    """Read what waits in every way that deliverers do."""
    outbox = talk.app.services.outbox
    for wanted in (
        ReadRequest(fresh=True),
        ReadRequest(tail=0, leave_out=frozenset({1}), shards=SHARDS, unread_after={"default": 0}),
        ReadRequest(
            backlogs=((1, 0, 10),),
            shards=SHARDS,
            contended=frozenset({"default"}),
            unread_after={"default": 0},
        ),
        ReadRequest(lanes=frozenset({1, 2}), lanes_upto=9, shards=SHARDS),
    ):
        talk.do(partial(outbox.look, wanted))
    talk.do(lambda: outbox.renew("gone", 0, [], ()))
    talk.do(
        lambda: outbox.renew("other", 60_000, [KnownProcess("gone", None)], (), forget=["none"])
    )
    talk.do(lambda: outbox.release("other", [1, 2], leaving=True))
    talk.do(outbox.processes)


def _keep_house(talk: Talk, leanplum: Leanplum) -> None:
    services = talk.app.services
    until(lambda: talk.get("/v1/receipts/later").json().get("status") != "retrying", 30)
    outbox = services.outbox
    talk.do(outbox.recount_queued)
    _index(talk)
    talk.do(lambda: outbox.search_receipts(ReceiptSearch("default", own_ids=("sdk:a", "sdk:b"))))
    talk.do(services.minute_counts.flush)
    talk.do(services.sealer.attempt)
    with reading(services.engine) as connection:
        read_queue(connection, now_ms())
        database_bytes(connection)
    talk.do(lambda: outbox.sweep(RetentionLimits(-DAY_MS, -DAY_MS)))
    _index(talk)


def _execute_rare(talk: Talk, leanplum: Leanplum) -> None:
    """Execute what takes a race, a crash or long waiting to be needed, and roll it back."""
    engine = talk.app.services.engine
    with reading(engine) as connection:
        cursor = Cursor(connection.connection.cursor(), dialect(engine))
        cursor.execute(cursor.dialect.begin)
        for run in RARE_WRITES:
            run(cursor)
        for statement, values in RARE:
            numbers = cursor.dialect.values("bigint")
            rows = cursor.dialect.rows(seq="bigint", said="text")
            text = statement.format(seqs=numbers, rows=rows)
            cursor.execute(text, values)
        connection.connection.rollback()


def _change_data_keys(cursor: Cursor) -> None:
    """Begin to use a data key, and remove it."""
    encryption._register_keys(cursor, BodyCipher({"a": bytes(32)}, "a"))
    encryption._register_keys(cursor, BodyCipher({}, None))


RARE_WRITES: list[Callable[[Cursor], object]] = [
    _change_data_keys,
    lambda cursor: logins.joined(cursor, [1, 2]),
    lambda cursor: logins.deletions(cursor, [1, 2]),
    lambda cursor: logins.marked(cursor, [1, 2]),
    lambda cursor: logins.waits(cursor, [1, 2], 0),
    lambda cursor: logins.remove(cursor, [(1, 2)]),
    lambda cursor: settle._gone(cursor, {1, 2}),
    lambda cursor: search_index.RemoveKeys(0)._run(cursor),
    lambda cursor: minute_counts.RemoveOldCounts.run_all(
        cursor, [minute_counts.RemoveOldCounts(1)]
    ),
    lambda cursor: sealer.TrimRecords(0, 600, "statement")._run(cursor),
    lambda cursor: insert_rows(cursor, sealer.INSERT_NODES, [(8, 0, b"", b"")]),
    lambda cursor: insert_rows(
        cursor,
        violations.INSERT,
        [("default", "events", "E", "type", "key", 1, 1, 1, "/event")],
        violations.ADD_TO_EXISTING,
    ),
    lambda cursor: insert_rows(
        cursor, accept.INSERT_ITEMS, [(10**12, 1, "uann", "track", "{}", 1, 1, "E", "id", "[]")]
    ),
]
RARE: list[tuple[str, tuple[Any, ...]]] = [
    (key_derivation.DELETE, ("name", b"")),
    (seal_state.FIRST_UNSEALED, (1,)),
    (tree.NODE, (8, 0)),
    (store.STANDING, (b"hash",)),
    (f"{sessions.PRESENT} (?)", (0, b"hash")),
    (sessions.TOUCH, (1, 1, b"hash")),
    (sessions.SWEEP, (1,)),
    (encryption.UPDATE_HASH_KEY, (b"key", "name")),
    (dead_letters.UPDATE_ANSWER, ("{}", 1)),
    (leases.SENT, ("[1,2]",)),
    (logins.GIVE_UP, ('[[1,"{}"]]',)),
    (retention.END_ERASURES, (1,)),
    (run_choices.UPDATE, ("{}", "run")),
    (settle.AS_IT_IS, ("[1,2]",)),
    (violations.EXPIRE, (1,)),
    (dead_letter_runs.EXPIRE, (1,)),
    (waiting_items.PART_END, (0, 10**9, 1)),
]
STEPS = (
    _accept,
    _fail,
    _search_receipts,
    _use_dead_letters,
    _use_console,
    _use_keys,
    _read_audit,
    _track,
    _relay,
    _deliver,
    _erase,
    _keep_house,
    _execute_rare,
)
