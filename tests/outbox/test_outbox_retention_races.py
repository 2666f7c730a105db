"""Retention beside others: what changes between choosing and removing, and clocks that were
wrong.
"""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.model import NewItem, Settled, Status
from app.outbox.dead_letters import DeadLetterFilter
from app.outbox.retention import STEP, Housekeeper, RemoveExpired, RetentionLimits, find_expired

from .harness import Opened, track, with_outbox
from .interrupted import Happening, interrupted

HOUR = 3_600_000
LIMITS = RetentionLimits(receipts=HOUR, dead_letters=5 * HOUR)
REFUSED = Settled(Status.REJECTED, {"success": False, "error": "Bad."})


async def settle(at: Opened, verdict: Settled, attempt: str = "t") -> None:
    """Settle all that waits."""
    waiting = await at.waiting(0, 20_000)
    assert await at.begin(attempt, waiting)
    verdicts = [(item.seq, verdict) for item in waiting]
    assert await at.outbox.settle(attempt, "default", verdicts)


async def replay(at: Opened) -> None:
    chosen = DeadLetterFilter(item_ids=("replayed",))
    assert await at.outbox.dead_letters.replay("default", chosen, lambda count: (at.now, "{}")) == (
        1,
        1,
    )


async def replay_and_refuse_again(at: Opened) -> None:
    await replay(at)
    await settle(at, REFUSED, "again")


async def sweep_while(at: Opened, happening: Happening) -> None:
    """One step of retention, with something else between its reading and its writing."""
    async with interrupted(at, RemoveExpired, happening) as outbox:
        await Housekeeper(outbox, LIMITS).step()


def stored(at: Opened, table: str) -> list[str]:
    """The ids in a table."""
    with at.engine.connect() as connection:
        return list(connection.execute(text(f"SELECT id FROM {table} ORDER BY id")).scalars())


@pytest.mark.parametrize("happening", [replay, replay_and_refuse_again])
def test_a_dead_letter_that_is_replayed_while_it_is_to_be_removed_stays_with_its_id(
    database: str, happening: Happening
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="replayed"), track("bob", item_id="old"))
        await settle(at, REFUSED)
        at.now += 5 * HOUR
        await sweep_while(at, happening)
        assert stored(at, "items") == stored(at, "item_ids") == ["replayed"]
        receipt = await at.outbox.receipt("default", "replayed")
        assert receipt is not None
        assert receipt.settled == (happening is replay_and_refuse_again)

    with_outbox(database, body)


def test_what_retention_says_it_removed_is_what_it_removed(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="replayed"), track("bob"), track("cid"))
        await settle(at, REFUSED)
        at.now += 5 * HOUR
        await replay(at)
        assert await at.writer.write(RemoveExpired([1, 2, 2, 99], at.now, LIMITS)) == 1
        assert await at.writer.write(RemoveExpired([3], at.now - 1, LIMITS)) == 0
        assert at.one("SELECT count(*) FROM items") == 2

    with_outbox(database, body)


def test_an_item_from_a_clock_that_was_ahead_stops_no_retention_behind_it(database: str) -> None:
    async def body(at: Opened) -> None:
        true = at.now
        at.now = true + 1_000 * HOUR
        await at.accept(track("ann", item_id="ahead"))
        at.now = true
        await at.accept(*(track(f"user{number}") for number in range(2 * STEP + 10)))
        await settle(at, Settled(Status.DELIVERED))
        at.now += 2 * HOUR
        keeper = Housekeeper(at.outbox, LIMITS)
        steps = 1
        while await keeper.step():
            steps += 1
        assert stored(at, "items") == stored(at, "item_ids") == ["ahead"]
        assert steps <= 4
        at.now = true + 1_001 * HOUR
        await keeper.step()
        assert (stored(at, "items"), stored(at, "item_ids")) == ([], [])

    with_outbox(database, body)


def test_more_items_from_a_clock_that_was_ahead_than_a_step_takes_stop_nothing_either(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        true = at.now
        at.now = true + 1_000 * HOUR
        await at.accept(*(ahead(number) for number in range(STEP + 10)))
        at.now = true
        await settle(at, Settled(Status.DELIVERED), "first")
        await at.accept(track("old"))
        await settle(at, Settled(Status.DELIVERED))
        at.now += 2 * HOUR
        await Housekeeper(at.outbox, LIMITS).step()
        assert at.one("SELECT count(*) FROM items WHERE subject = 'uold'") == 0
        assert at.one("SELECT count(*) FROM items") == STEP + 10

    with_outbox(database, body)


def ahead(number: int) -> NewItem:
    return track(f"user{number}")


def test_what_is_too_young_is_not_looked_at(path: Path) -> None:
    async def body(at: Opened) -> None:
        await at.accept(*(track(f"user{number}") for number in range(3_000)))
        await settle(at, Settled(Status.DELIVERED))
        instructions = list[int]()
        with at.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(lambda: instructions.append(1), 1)
            try:
                assert find_expired(connection, at.now, LIMITS) == []
            finally:
                driver.set_progress_handler(None, 0)
        assert 0 < len(instructions) < 500

    with_outbox(f"sqlite:///{path}", body)
