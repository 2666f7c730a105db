"""Erasing a user while their items are in a deliverer's memory, or on their way."""

import pytest

from app.model import Status

from .harness import Delivering, Leanplum, deliver, erase


def actions(leanplum: Leanplum, user: str) -> list[str]:
    """What Leanplum was told of the user, in order."""
    told = [call["args"] for call in leanplum.calls()]
    found = [
        one for args in told for one in (args["data"] if args["action"] == "multi" else [args])
    ]
    return [one["action"] for one in found if one["userId"] == user]


def test_what_a_deliverer_has_in_memory_of_an_erased_user_is_not_sent_and_others_go_on(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await at.step()
        await at.accept_mixed([("ann", 0), ("bob", 0), ("ann", 1)])
        at.deliverer.notify()
        await at.deliverer._read()
        assert at.deliverer.window.count == 3
        await erase(at, "ann")
        await at.finish()
        assert actions(leanplum, "ann") == ["deleteUser"]
        assert leanplum.values("bob") == [0]
        assert (await at.receipt("erase-ann")).status in {Status.DELIVERED, Status.SKIPPED}

    deliver(database, leanplum, body)


@pytest.mark.parametrize("mode", ["slow", "500-html"])
def test_what_is_being_sent_is_finished_once_and_the_user_is_deleted_after_it(
    database: str, leanplum: Leanplum, mode: str
) -> None:
    async def body(at: Delivering) -> None:
        leanplum.plan({"mode": mode, "delay": 0.3, "times": 1})
        await at.accept("ann", 0)
        assert await at.deliverer.step() == 1
        await at.accept("ann", 1)
        await erase(at, "ann")
        while not (await at.receipt("erase-ann")).settled:
            await at.step()
        assert actions(leanplum, "ann") == ["track", "deleteUser"]
        await at.outbox.recount_queued()
        assert at.outbox.queued == 0

    deliver(database, leanplum, body)


def test_a_deliverer_without_the_key_holds_what_is_sealed_by_it_and_delivers_the_rest(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await at.accept("ann", 0, 1)
        await at.accept("bob", 0)
        with at.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE items SET body = '~new.AAAA' WHERE id = 'ann-0'")
        while (await at.receipt("bob-0")).status != Status.DELIVERED or (
            await at.receipt("ann-0")
        ).attempts:
            await at.step()
        assert leanplum.values("ann") == []
        for _ in range(3):
            await at.step()
        held = await at.receipt("ann-0")
        assert (held.status, held.settled) == (Status.HELD, False)
        assert 'the data key "new"' in str(held.leanplum)
        assert leanplum.values("ann") == []

    deliver(database, leanplum, body)


def test_a_body_that_was_changed_in_the_database_becomes_a_dead_letter(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await at.accept("ann", 0, 1)
        with at.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE items SET body = '~' WHERE id = 'ann-0'")
        await at.finish()
        assert (await at.receipt("ann-0")).status == Status.REJECTED
        assert leanplum.values("ann") == [1]

    deliver(database, leanplum, body)
