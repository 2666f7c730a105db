"""What came of an attempt, written down; and what a crash left open."""

import asyncio
import json
from pathlib import Path

import pytest

from app.model import Item, Postponed, Receipt, Settled, Status, Verdict
from app.outbox.recovery import Recover

from .opened import Opened, track, with_outbox

SAID = {"success": False, "error": "HTTP 500"}


async def settled(at: Opened, verdict: Verdict) -> tuple[Item, Receipt]:
    """An item after one attempt with this verdict: as it was in the queue, and its receipt."""
    await at.accept(track("ann", item_id="a"))
    (item,) = await at.outbox.waiting(0, 10)
    await at.outbox.begin("t-1", "default", [item])
    at.now += 500
    await at.outbox.settle("t-1", "default", [(item.seq, verdict)], 200)
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
def test_a_final_verdict_takes_the_item_out_of_the_queue(path: Path, verdict: Settled, keeps_body: bool) -> None:
    async def body(at: Opened) -> None:
        item, receipt = await settled(at, verdict)
        assert await at.outbox.waiting(0, 10) == []
        assert (receipt.status, receipt.leanplum, receipt.attempts) == (verdict.status, verdict.leanplum, 1)
        assert (receipt.settled_at, receipt.next_attempt_at) == (at.now, None)
        assert at.one("SELECT body FROM items") == (item.body if keeps_body else None)

    with_outbox(path, body)


@pytest.mark.parametrize(
    ("verdict", "attempts"),
    [
        (Postponed(Status.RETRYING, 2.5, SAID), 1),
        (Postponed(Status.RETRYING, 2.5, SAID, counts=False), 0),
        (Postponed(Status.HELD, 15, SAID, counts=False), 0),
    ],
)
def test_a_postponed_item_stays_in_the_queue_with_its_next_time(path: Path, verdict: Postponed, attempts: int) -> None:
    async def body(at: Opened) -> None:
        item, receipt = await settled(at, verdict)
        due = at.now + int(verdict.wait * 1000)
        assert await at.outbox.waiting(0, 10) == [item._replace(attempts=attempts, next_attempt_at=due)]
        assert (receipt.status, receipt.attempts) == (verdict.status, attempts)
        assert (receipt.next_attempt_at, receipt.settled_at) == (due, None)

    with_outbox(path, body)


def test_an_attempt_is_on_disk_before_it_is_sent_and_closed_with_its_outcome(path: Path) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann"), track("bob"))
        waiting = await at.outbox.waiting(0, 10)
        await at.outbox.begin("t-1", "default", waiting)
        assert at.one("SELECT count(*) FROM attempts WHERE finished_at IS NULL") == 1
        verdicts = [(waiting[0].seq, Settled(Status.DELIVERED)), (waiting[1].seq, Settled(Status.REJECTED, SAID))]
        await at.outbox.settle("t-1", "default", verdicts, 200)
        assert at.one("SELECT count(*) FROM attempts WHERE finished_at IS NULL") == 0
        assert json.loads(str(at.one("SELECT outcome FROM attempts"))) == {"delivered": 1, "rejected": 1}

    with_outbox(path, body)


def test_each_call_in_and_each_call_to_leanplum_has_its_audit_record_without_any_body(path: Path) -> None:
    async def body(at: Opened) -> None:
        await settled(at, Settled(Status.REJECTED, SAID))
        with at.engine.connect() as connection:
            found = [row[0] for row in connection.exec_driver_sql("SELECT record FROM audit_records ORDER BY seq")]
        assert [json.loads(record)["api"]["operation"] for record in found] == ["POST /v1/events", "leanplum multi"]
        assert {json.loads(record)["class_uid"] for record in found} == {6003}
        assert not [record for record in found if "Open" in record or "ann" in record]

    with_outbox(path, body)


def test_after_a_crash_the_lost_attempt_is_counted_once_and_the_item_still_waits(path: Path) -> None:
    async def crash(at: Opened) -> None:
        await at.accept(track("ann"), track("bob"))
        waiting = await at.outbox.waiting(0, 10)
        await at.outbox.begin("t-1", "default", waiting[:1])

    async def restart(at: Opened) -> None:
        assert await at.writer.write(Recover(at.now)) == 1
        assert await at.writer.write(Recover(at.now)) == 0
        assert [item.attempts for item in await at.outbox.waiting(0, 10)] == [1, 0]

    with_outbox(path, crash)
    with_outbox(path, restart)


def test_waiting_for_a_receipt_ends_as_soon_as_it_is_final(path: Path) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        (item,) = await at.outbox.waiting(0, 10)
        watched = asyncio.create_task(at.outbox.settled_receipt("default", "a", 20))
        await at.outbox.settle("t", "default", [(item.seq, Settled(Status.DELIVERED))], 200)
        receipt = await asyncio.wait_for(watched, 5)
        assert receipt is not None
        assert receipt.status is Status.DELIVERED

    with_outbox(path, body)


def test_waiting_for_a_receipt_ends_with_it_as_it_is_when_the_time_is_over(path: Path) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        receipt = await at.outbox.settled_receipt("default", "a", 0.1)
        assert receipt is not None
        assert receipt.status is Status.ACCEPTED

    with_outbox(path, body)
