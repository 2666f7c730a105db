"""Accepting: durable, one commit for many, each with its own result."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app import ids
from app.errors import QueueFull
from app.model import NewItem, Settled, Status

from .harness import Opened, track, with_outbox

BROKEN = NewItem("uann", "track", '{"event":"\ud800"}')  # no text that SQLite could store


def test_what_is_accepted_is_on_disk_when_the_answer_comes(path: Path) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann"), track("bob"))
        with closing(sqlite3.connect(path)) as other:
            found = other.execute("SELECT subject, status FROM items ORDER BY seq").fetchall()
        assert found == [("uann", "accepted"), ("ubob", "accepted")]

    with_outbox(f"sqlite:///{path}", body)


@pytest.mark.parametrize("own", [None, "order:1"])
def test_an_item_is_found_by_its_own_id_or_the_one_that_it_was_given(
    database: str, own: str | None
) -> None:
    async def body(at: Opened) -> None:
        ((item_id, kind),) = await at.accept(track("ann", item_id=own))
        receipt = await at.outbox.receipt("default", item_id)
        assert kind == "accepted"
        assert own in {None, item_id}
        assert receipt is not None
        assert (receipt.id, receipt.action, receipt.subject) == (item_id, "track", "uann")
        assert (receipt.status, receipt.accepted_at, receipt.attempts) == (
            Status.ACCEPTED,
            at.now,
            0,
        )
        assert not receipt.settled

    with_outbox(database, body)


def test_a_receipt_is_nobody_elses(database: str) -> None:
    async def body(at: Opened) -> None:
        for item_id, _ in await at.accept(track("ann"), track("ann", item_id="order:1")):
            assert await at.outbox.receipt("other", item_id) is None

    with_outbox(database, body)


@pytest.mark.parametrize(
    "item_id", ["", "order:1", "x" * 5000, "00000000-0000-7000-8000-000000000001", "'; DROP"]
)
def test_an_unknown_id_has_no_receipt(database: str, item_id: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track())
        assert await at.outbox.receipt("default", item_id) is None

    with_outbox(database, body)


def test_a_guessed_sequence_number_under_another_prefix_has_no_receipt(database: str) -> None:
    async def body(at: Opened) -> None:
        ((item_id, _),) = await at.accept(track())
        _, seq = ids.parse(item_id) or ("", 0)
        assert await at.outbox.receipt("default", ids.made(ids.new_prefix(at.now + 1), seq)) is None

    with_outbox(database, body)


def test_the_queue_gives_back_items_in_the_order_of_acceptance_in_pages(database: str) -> None:
    async def body(at: Opened) -> None:
        for number in range(5):
            await at.accept(
                track("ann", f"e{number}"), track("bob", f"e{number}", item_id=f"own{number}")
            )
        first = await at.waiting(0, 4)
        found = first + await at.waiting(first[-1].seq, 100)
        assert len(first) == 4
        assert [item.seq for item in found] == sorted(item.seq for item in found)
        assert [item.body for item in found if item.subject == "uann"] == [
            track("ann", f"e{n}").body for n in range(5)
        ]
        assert [item.id for item in found if item.subject == "ubob"] == [
            f"own{number}" for number in range(5)
        ]

    with_outbox(database, body)


def test_a_full_queue_refuses_before_anything_is_written(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track(), track())
        with pytest.raises(QueueFull):
            await at.accept(track(), track())
        assert at.one("SELECT count(*) FROM items") == 2
        assert await at.accept(track())

    with_outbox(database, body, max_queued=3)


def test_a_full_queue_is_full_for_calls_that_come_at_once_too(database: str) -> None:
    async def body(at: Opened) -> None:
        await asyncio.gather(*(at.accept(track()) for _ in range(50)), return_exceptions=True)
        assert at.one("SELECT count(*) FROM items") == 10

    with_outbox(database, body, max_queued=10)


def test_the_count_of_the_queue_follows_what_is_accepted_and_settled_and_survives_a_restart(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track(item_id="a"), track(item_id="b"), track(item_id="a"))
        assert at.outbox.queued == 2
        waiting = await at.waiting(0, 10)
        await at.begin("t", waiting[:1])
        await at.outbox.settle("t", "default", [(waiting[0].seq, Settled(Status.DELIVERED))])
        assert at.outbox.queued == 1

    async def again(at: Opened) -> None:
        assert at.outbox.queued == 1

    with_outbox(database, body)
    with_outbox(database, again)


def test_many_calls_at_once_share_few_commits_and_each_gets_its_own_results(path: Path) -> None:
    async def body(at: Opened) -> None:
        before = commits(path)
        results = await asyncio.gather(
            *(
                at.accept(*(track(f"user{n}", f"e{k}") for k in range(1 + n % 3)))
                for n in range(200)
            )
        )
        assert 0 < commits(path) - before <= 20
        assert [len(result) for result in results] == [1 + n % 3 for n in range(200)]
        given = [item_id for result in results for item_id, _ in result]
        assert len(set(given)) == len(given)
        for number in (0, 1, 99, 199):
            receipt = await at.outbox.receipt("default", results[number][-1][0])
            assert receipt is not None
            assert receipt.subject == f"uuser{number}"

    with_outbox(f"sqlite:///{path}", body)


def commits(path: Path) -> int:
    """How many commits the write-ahead log has: of each, one frame's header says how large the
    database became.
    """
    log = path.with_name(path.name + "-wal").read_bytes()
    if len(log) < 32:
        return 0
    frame = 24 + int.from_bytes(log[8:12], "big")
    return sum(log[at + 4 : at + 8] != b"\0\0\0\0" for at in range(32, len(log) - 24, frame))


def test_an_item_that_cannot_be_written_does_not_take_its_neighbours_with_it(database: str) -> None:
    async def body(at: Opened) -> None:
        calls = [
            at.accept(BROKEN if number == 7 else track(f"user{number}")) for number in range(12)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(result, BaseException) for result in results] == [
            number == 7 for number in range(12)
        ]
        assert at.one("SELECT count(*) FROM items") == 11

    with_outbox(database, body)


def test_a_write_that_failed_leaves_no_lock_behind_even_while_somebody_holds_its_error(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        with pytest.raises(UnicodeEncodeError) as held:
            await at.accept(BROKEN)
        assert await at.accept(track())
        assert held.type is UnicodeEncodeError

    with_outbox(database, body)


def test_a_call_is_taken_as_a_whole_or_not_at_all(database: str) -> None:
    async def body(at: Opened) -> None:
        with pytest.raises(UnicodeEncodeError):
            await at.accept(track(), BROKEN, track())
        assert [
            at.one(f"SELECT count(*) FROM {table}")
            for table in ("items", "acceptances", "audit_records")
        ] == [0] * 3

    with_outbox(database, body)


def test_a_waiter_that_gave_up_harms_nobody(database: str) -> None:
    async def body(at: Opened) -> None:
        impatient = asyncio.ensure_future(at.accept(track("ann")))
        patient = asyncio.ensure_future(at.accept(track("bob")))
        await asyncio.sleep(0)
        impatient.cancel()
        assert len(await patient) == 1

    with_outbox(database, body)


def test_what_is_being_accepted_is_not_forgotten_when_the_queue_is_counted_anew(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        for _ in range(5):
            items = [NewItem("uann", "track", f'{{"event":"e{number}"}}') for number in range(300)]
            accepting = asyncio.create_task(at.accept(*items))
            await asyncio.sleep(0)
            await at.outbox.recount_queued()
            assert at.outbox.queued >= 300
            await accepting
        await at.outbox.recount_queued()
        assert at.outbox.queued == 1_500

    with_outbox(database, body)
