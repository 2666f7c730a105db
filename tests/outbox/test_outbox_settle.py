"""What came of an attempt, written down; and what a crash left open."""

import asyncio
import json

import pytest

from app.model import CallRecord, Item, Postponed, Receipt, Settled, Status, Verdict
from app.outbox.liveness_lock import KnownProcess

from .harness import Opened, track, with_outbox

SAID = {"success": False, "error": "HTTP 500"}


async def settled(at: Opened, verdict: Verdict) -> tuple[Item, Receipt]:
    """An item after one attempt with this verdict: as it was in the queue, and its receipt."""
    await at.accept(track("ann", item_id="a"))
    (item,) = await at.waiting(0, 10)
    await at.begin("t-1", [item])
    at.now += 500
    await at.outbox.settle(
        "t-1", "default", [(item.seq, verdict)], [CallRecord(200, [item.seq], {})]
    )
    receipt = await at.outbox.receipt("default", "a")
    assert receipt is not None
    return item, receipt


@pytest.mark.parametrize(
    ("verdict", "keeps_body"),
    [
        (Settled(Status.DELIVERED), False),
        (Settled(Status.DELIVERED, {"success": True, "warning": "w"}), False),
        (Settled(Status.SKIPPED, {"success": True, "warning": "w"}), False),
        (Settled(Status.REJECTED, SAID), True),
        (Settled(Status.EXPIRED, SAID), True),
    ],
)
def test_a_final_verdict_takes_the_item_out_of_the_queue(
    database: str, verdict: Settled, keeps_body: bool
) -> None:
    async def body(at: Opened) -> None:
        item, receipt = await settled(at, verdict)
        assert await at.waiting(0, 10) == []
        assert (receipt.status, receipt.leanplum, receipt.attempts) == (
            verdict.status,
            verdict.leanplum,
            1,
        )
        assert (receipt.settled_at, receipt.next_attempt_at) == (at.now, None)
        assert at.one("SELECT body FROM items") == (item.body if keeps_body else None)

    with_outbox(database, body)


@pytest.mark.parametrize(
    ("verdict", "attempts"),
    [
        (Postponed(Status.RETRYING, 2.5, SAID), 1),
        (Postponed(Status.RETRYING, 2.5, SAID, counts=False), 0),
        (Postponed(Status.HELD, 15, SAID, counts=False), 0),
    ],
)
def test_a_postponed_item_stays_in_the_queue_with_its_next_time(
    database: str, verdict: Postponed, attempts: int
) -> None:
    async def body(at: Opened) -> None:
        item, receipt = await settled(at, verdict)
        due = at.now + int(verdict.wait * 1000)
        assert await at.waiting(0, 10) == [item._replace(attempts=attempts, next_attempt_at=due)]
        assert (receipt.status, receipt.attempts) == (verdict.status, attempts)
        assert (receipt.next_attempt_at, receipt.settled_at) == (due, None)

    with_outbox(database, body)


def test_an_attempt_is_on_disk_before_it_is_sent_and_closed_with_its_outcome(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann"), track("bob"))
        waiting = await at.waiting(0, 10)
        await at.begin("t-1", waiting)
        assert at.one("SELECT count(*) FROM attempts") == 1
        verdicts = [
            (waiting[0].seq, Settled(Status.DELIVERED)),
            (waiting[1].seq, Settled(Status.REJECTED, SAID)),
        ]
        await at.outbox.settle(
            "t-1", "default", verdicts, [CallRecord(200, [one.seq for one in waiting], {})]
        )
        assert at.one("SELECT count(*) FROM attempts") == 0
        record = json.loads(
            str(at.one("SELECT record FROM audit_records ORDER BY seq DESC LIMIT 1"))
        )
        assert record["unmapped"]["items"] == {"delivered": 1, "rejected": 1}

    with_outbox(database, body)


def test_each_call_in_and_each_call_to_leanplum_has_its_audit_record_without_any_body(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await settled(at, Settled(Status.REJECTED, SAID))
        with at.engine.connect() as connection:
            found = [
                row[0]
                for row in connection.exec_driver_sql(
                    "SELECT record FROM audit_records ORDER BY seq"
                )
            ]
        assert [json.loads(record)["api"]["operation"] for record in found] == [
            "POST /v1/events",
            "leanplum multi",
        ]
        assert {json.loads(record)["class_uid"] for record in found} == {6003}
        assert not [record for record in found if "Open" in record or "ann" in record]

    with_outbox(database, body)


def test_after_a_crash_the_lost_attempt_is_counted_once_and_the_item_still_waits(
    database: str,
) -> None:
    async def crash(at: Opened) -> None:
        await at.accept(track("ann"), track("bob"))
        waiting = await at.waiting(0, 10)
        await at.begin("t-1", waiting[:1])

    async def restart(at: Opened) -> None:
        assert (await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], ())).lost == 1
        assert (await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], ())).lost == 0
        waiting = await at.waiting(0, 10)
        assert [item.attempts for item in waiting] == [1, 0]
        assert [item.next_attempt_at > 0 for item in waiting] == [True, False]

    with_outbox(database, crash)
    with_outbox(database, restart)


def test_what_is_settled_again_since_nobody_heard_that_it_was_is_recorded_once(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann"))
        (item,) = await at.waiting()
        await at.begin("t-1", [item])
        verdicts, calls = [(item.seq, Settled(Status.DELIVERED))], [CallRecord(200, [item.seq], {})]
        for again in (False, True):
            assert await at.outbox.settle("t-1", "default", verdicts, calls, again=again)
        assert at.one("SELECT count(*) FROM audit_records") == 2, (
            "one of the call in, one of the call out"
        )

    with_outbox(database, body)


def test_a_call_that_a_crash_left_open_has_a_record_of_which_nobody_knows_the_outcome(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann"), track("bob"), track("cem"))
        waiting = await at.waiting()
        await at.begin("t-1", waiting[:2])
        await at.outbox.renew(
            "two",
            60_000,
            [KnownProcess("one", None)],
            (),
            lambda app, subjects: [f"{app}/{one}" for one in subjects],
        )
        with at.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT record FROM audit_records ORDER BY seq").all()
        record = json.loads(rows[-1][0])
        assert record["api"] == {"operation": "leanplum multi", "request": {"uid": "t-1"}}
        assert (record["status_code"], record["status_id"]) == ("599", 2)
        assert record["unmapped"] == {
            "app": "default",
            "items": {"retrying": 2},
            "actions": {"track": 2},
            "users": ["default/uann", "default/ubob"],
        }

    with_outbox(database, body)


def test_what_was_perhaps_sent_ends_as_unknown_where_the_policy_says_not_to_send_it_twice(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"), track("bob", item_id="b"))
        waiting = await at.waiting()
        await at.begin("t-1", waiting[:1])
        lease = await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], {"track"})
        assert (lease.lost, lease.settled, at.outbox.queued) == (1, 1, 1)
        receipt = await at.outbox.receipt("default", "a")
        assert receipt is not None
        assert (receipt.status, receipt.attempts, receipt.settled) == (Status.UNKNOWN, 1, True)
        assert [item.id for item in await at.waiting()] == ["b"]

    with_outbox(database, body)


def test_an_attempt_that_was_taken_for_lost_changes_nothing_when_its_answer_comes_after_all(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        (item,) = await at.waiting()
        await at.begin("t-1", [item])
        await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], ())
        assert not await at.outbox.settle("t-1", "default", [(item.seq, Settled(Status.DELIVERED))])
        receipt = await at.outbox.receipt("default", "a")
        assert receipt is not None
        assert receipt.status is Status.RETRYING
        assert at.outbox.queued == 1

    with_outbox(database, body)


def test_waiting_for_a_receipt_ends_as_soon_as_it_is_final(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        (item,) = await at.waiting(0, 10)
        await at.begin("t", [item])
        watched = asyncio.create_task(at.outbox.settled_receipt("default", "a", 20))
        await at.outbox.settle("t", "default", [(item.seq, Settled(Status.DELIVERED))])
        receipt = await asyncio.wait_for(watched, 5)
        assert receipt is not None
        assert receipt.status is Status.DELIVERED

    with_outbox(database, body)


def test_waiting_for_a_receipt_ends_with_it_as_it_is_when_the_time_is_over(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        receipt = await at.outbox.settled_receipt("default", "a", 0.1)
        assert receipt is not None
        assert receipt.status is Status.ACCEPTED

    with_outbox(database, body)
