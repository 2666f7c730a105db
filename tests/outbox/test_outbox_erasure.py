"""Erasing a user from the outbox: what is removed, what stays, who is refused, whatever else goes
on at once.
"""

import asyncio

import orjson
import pytest

from app.clock import instant
from app.model import Erasure, NewItem, Postponed, Removed, Settled, Status
from app.outbox import search_index
from app.outbox.dead_letters import DeadLetterFilter
from app.outbox.liveness_lock import KnownProcess
from app.outbox.retention import RetentionLimits

from .harness import Opened, gone, settle, track, with_outbox

TABLES = ("items", "item_ids", "acceptances", "attempts", "erasures")


async def of_every_kind(at: Opened) -> None:
    """Of ann two receipts, a dead letter, an item that is being sent, and two that wait; and one of
    bob that waits.
    """
    await at.accept(track(item_id="r1"), track())
    await settle(at, await at.waiting())
    await at.accept(track(item_id="d1"))
    await settle(at, await at.waiting(), Status.REJECTED)
    await at.accept(track(item_id="f1"))
    await at.begin("flying", await at.waiting())
    await at.accept(track(item_id="w1"), track("bob"), track())


def rows(at: Opened) -> str:
    """All that the tables have, as text."""
    with at.engine.connect() as connection:
        found = [connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in TABLES]
    return repr(found)


def test_everything_of_the_user_goes_but_the_item_that_erases(database: str) -> None:
    async def body(at: Opened) -> None:
        await of_every_kind(at)
        (taken, erasures) = await at.outbox.erase(at.call(gone(item_id="e1")))
        assert taken == [("e1", "accepted")]
        removed = Removed(waiting=2, in_flight=1, dead_letters=1, receipts=2, ids=4)
        newest = at.one("SELECT max(seq) FROM audit_records")
        assert isinstance(newest, int)
        assert erasures == {"uann": Erasure(removed, newest)}
        record = orjson.loads(str(at.one(f"SELECT record FROM audit_records WHERE seq = {newest}")))
        (stated,) = record["unmapped"]["erasures"]
        assert stated["removed"] == removed.document()
        assert stated["refusedUntil"] == instant(at.now + 1_000)
        receipt = await at.outbox.receipt("default", "e1")
        assert receipt is not None
        assert receipt.notes == {"erasureRecord": newest}
        assert [(item.subject, item.action) for item in await at.waiting()] == [
            ("ubob", "track"),
            ("uann", "deleteUser"),
        ]
        assert [await at.outbox.receipt("default", one) for one in ("r1", "d1", "f1", "w1")] == [
            None
        ] * 4
        assert await at.outbox.dead_letters.find("default", DeadLetterFilter()) == []
        assert at.one("SELECT count(*) FROM items") == 2
        assert at.one("SELECT count(*) FROM acceptances") == 2
        assert at.outbox.queued == 3  # bob's, the one that erases, and the one that is being sent

    with_outbox(database, body, erased_ms=1_000)


def test_once_leanplum_has_done_it_no_row_names_the_user_and_the_receipt_is_still_there(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("canary-user"), track("canary-user", item_id="w1"))
        assert "canary-user" in rows(at)
        await at.accept(gone("canary-user", "e1"))
        await settle(at, await at.waiting())
        assert "canary-user" not in rows(at)
        receipt = await at.outbox.receipt("default", "e1")
        assert receipt is not None
        assert (receipt.status, receipt.subject[0]) == (Status.DELIVERED, "e")

    with_outbox(database, body, erased_ms=1_000)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("done", [True, False])
def test_an_erasure_that_is_repeated_under_its_id_is_a_duplicate(
    database: str, own: bool, done: bool
) -> None:
    async def body(at: Opened) -> None:
        ((item_id, _),) = await at.accept(gone(item_id="e1" if own else None))
        if done:
            await settle(at, await at.waiting())
        assert await at.accept(gone(item_id=item_id)) == [(item_id, "duplicate")]
        assert await at.accept(gone("bob", item_id=item_id)) == [(item_id, "conflict")]

    with_outbox(database, body, erased_ms=1_000)


def test_another_erasure_of_the_same_user_leaves_the_first_one_to_be_delivered(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(gone(item_id="e1"))
        await at.accept(gone(item_id="e2"))
        assert [item.id for item in await at.waiting()] == ["e1", "e2"]

    with_outbox(database, body, erased_ms=1_000)


def test_items_of_the_user_are_refused_until_the_time_is_over_and_only_of_that_user_and_app(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(gone())
        assert await at.accept(track(), track("bob", item_id="b"), track(item_id="a")) == [
            ("", "erased"),
            ("b", "accepted"),
            ("a", "erased"),
        ]
        assert [kind for _, kind in await at.accept(track(), app="other")] == ["accepted"]
        assert await at.outbox.erased("default", {"uann", "ubob"}) == {"uann": at.now + 1_000}
        at.now += 999
        assert await at.accept(track(item_id="a")) == [("a", "erased")]
        at.now += 1
        assert await at.accept(track(item_id="a")) == [("a", "accepted")]
        assert await at.outbox.erased("default", {"uann"}) == {}
        await at.outbox.sweep(RetentionLimits(0, 0))
        assert at.one("SELECT count(*) FROM erasures") == 0

    with_outbox(database, body, erased_ms=1_000)


def test_a_refusal_names_the_time_until_which_it_applies_the_later_one_of_two_users(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        first = instant(at.now + 1_000)
        await at.accept(gone())
        at.now += 500
        second = instant(at.now + 1_000)
        await at.accept(gone("bob"))
        login = NewItem("ubob", "setUserAttributes", '{"newUserId":"ann","userId":"bob"}')
        refusals = await at.outbox.refusals("default", [track(), track("bob"), login])
        for refusal, until in zip(refusals, (first, second, second), strict=True):
            assert f"refused until {until} (" in refusal.detail
        at.now += 1_000
        (over,) = await at.outbox.refusals("default", [track()])
        assert "refused for a while" in over.detail

    with_outbox(database, body, erased_ms=1_000)


def test_a_refusal_stays_one_while_the_time_cannot_be_read(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(gone())
        with at.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE sequence RENAME TO moved")
        (refusal,) = await at.outbox.refusals("default", [track()])
        assert "refused for a while" in refusal.detail
        with at.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE moved RENAME TO sequence")

    with_outbox(database, body, erased_ms=1_000)


def test_refused_items_are_counted_in_the_call_s_record_and_leave_no_other_trace(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(gone())
        before = at.one("SELECT count(*) FROM items"), at.one("SELECT count(*) FROM acceptances")
        await at.accept(track(), track(item_id="a"))
        assert (
            at.one("SELECT count(*) FROM items"),
            at.one("SELECT count(*) FROM acceptances"),
        ) == before
        assert '"rejected":2' in str(
            at.one("SELECT record FROM audit_records ORDER BY seq DESC LIMIT 1")
        )
        assert at.outbox.queued == 1

    with_outbox(database, body, erased_ms=1_000)


def test_a_batch_is_done_in_its_order_what_is_before_the_erasure_is_removed_and_what_is_after_refused(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        taken = await at.accept(
            track(item_id="1"), track("bob"), gone(item_id="2"), track(item_id="3")
        )
        assert [kind for _, kind in taken] == ["accepted", "accepted", "accepted", "erased"]
        assert [(item.subject, item.action) for item in await at.waiting()] == [
            ("ubob", "track"),
            ("uann", "deleteUser"),
        ]
        assert await at.outbox.receipt("default", "1") is None
        assert at.outbox.queued == 2

    with_outbox(database, body, erased_ms=1_000)


def test_where_no_time_is_set_what_comes_after_the_erasure_is_taken_even_in_the_same_batch(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        taken = await at.accept(track(item_id="1"), gone(item_id="2"), track(item_id="3"))
        assert [kind for _, kind in taken] == ["accepted"] * 3
        await at.accept(track(item_id="4"))
        assert [item.id for item in await at.waiting()] == ["2", "3", "4"]

    with_outbox(database, body)


def test_what_another_process_erased_is_refused_here_by_the_very_next_call(database: str) -> None:
    async def body(at: Opened) -> None:
        async with another(database) as other:
            assert [kind for _, kind in await at.accept(track())] == ["accepted"]
            await other.accept(gone())
            assert [kind for _, kind in await at.accept(track())] == ["erased"]
            assert await at.outbox.erased("default", {"uann"}) == {"uann": other.now + 60_000}

    with_outbox(database, body, erased_ms=60_000)


def test_whatever_two_processes_accept_while_one_erases_nothing_of_the_user_waits_behind_the_erasure(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        async with another(database) as other:
            for turn in range(6):
                user = f"user{turn}"
                calls = [
                    side.accept(track(user), track("bob"))
                    for side in (at, other)
                    for _ in range(10)
                ]
                erasing = asyncio.ensure_future(other.accept(gone(user)))
                await asyncio.gather(*calls, erasing)
                waiting = [item.action for item in await at.waiting() if item.subject == f"u{user}"]
                assert waiting == ["deleteUser"]

    with_outbox(database, body, erased_ms=60_000)


def test_an_attempt_with_an_item_that_was_erased_meanwhile_is_refused_as_a_whole(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track(), track("bob"))
        in_memory = await at.waiting()
        await at.accept(gone())
        assert not await at.begin("late", in_memory)
        assert at.one("SELECT count(*) FROM attempts") == 0
        assert await at.begin("without", [item for item in in_memory if item.subject == "ubob"])

    with_outbox(database, body, erased_ms=1_000)


@pytest.mark.parametrize(
    "verdict",
    [
        Settled(Status.DELIVERED),
        Settled(Status.REJECTED, {"error": "x"}),
        Postponed(Status.RETRYING, 1, {"error": "x"}),
    ],
)
def test_whatever_comes_of_what_was_being_sent_nothing_is_left_of_it(
    database: str, verdict: Settled | Postponed
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track())
        (sent,) = await at.waiting()
        await at.begin("flying", [sent])
        await at.accept(gone())
        assert await at.outbox.settle("flying", "default", [(sent.seq, verdict)])
        assert [item.action for item in await at.waiting()] == ["deleteUser"]
        assert at.one("SELECT count(*) FROM items") == 1

    with_outbox(database, body, erased_ms=1_000)


def test_after_a_crash_the_erasure_waits_for_the_call_that_may_have_outlived_its_process(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track())
        await at.begin("flying", await at.waiting(), "one")
        await at.accept(gone())
        await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], ())
        (left,) = await at.waiting()
        assert await at.outbox.begin("early", "two", [left]) == {left.lane: 0}
        assert at.one("SELECT count(*) FROM attempts") == 0
        # By the database's clock, which goes on
        until = int(str(at.one("SELECT expires_at FROM user_locks")))
        assert at.now + 5_000 <= until <= at.now + 60_000

    with_outbox(database, body, erased_ms=1_000)


def test_a_device_s_items_are_erased_by_its_own_deletion_and_not_by_its_user_s(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        of_device = NewItem("dphone", "setDeviceAttributes", '{"deviceId":"phone"}')
        await at.accept(of_device, track())
        await at.accept(gone())
        assert [item.subject for item in await at.waiting()] == ["dphone", "uann"]
        await at.accept(NewItem("dphone", "deleteUser", '{"deviceId":"phone"}'))
        assert [item.action for item in await at.waiting()] == ["deleteUser"] * 2

    with_outbox(database, body, erased_ms=1_000)


def test_an_erasure_that_can_t_be_written_removes_nothing_and_refuses_nobody(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track())
        broken = NewItem("ubob", "track", '{"event":"\ud800"}')
        with pytest.raises(UnicodeEncodeError):
            await at.accept(gone(), broken)
        assert [kind for _, kind in await at.accept(track())] == ["accepted"]
        assert [item.action for item in await at.waiting()] == ["track", "track"]

    with_outbox(database, body, erased_ms=1_000)


def another(database: str) -> Opened:
    """What another process has on the same database."""
    return Opened(database, 1_000_000, erased_ms=60_000)


def test_an_erasure_finds_items_in_all_blocks_of_the_search_index_and_behind_them(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BLOCK", 8), ("LISTED", 3), ("SEEKS", 2)):
        monkeypatch.setattr(search_index, name, value)

    async def body(at: Opened) -> None:
        users = ["ann", "bob", "ann", "cid"]
        await at.accept(*(track(users[number % 4]) for number in range(50)))
        while await at.outbox.index_block():
            pass
        assert at.one("SELECT max(block) FROM search_blocks") == 5
        await at.accept(track("ann"), track("bob"))
        await at.accept(gone("ann"))
        assert at.one("SELECT count(*) FROM items WHERE subject = 'uann'") == 1, "the deletion"
        assert at.one("SELECT count(*) FROM items WHERE subject = 'ubob'") == 14

    with_outbox(database, body)
