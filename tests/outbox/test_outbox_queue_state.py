"""The queue by app, as `status` shows it."""

import pytest

from app.database.engine import reading
from app.model import Status
from app.outbox import outbox
from app.outbox.app_names import app_names, apps_of_id
from app.outbox.queue_state import AppQueue, QueueState, read_queue
from app.outbox.retention import Housekeeper, RetentionLimits
from tests.outbox.harness import Opened, settle, track, with_outbox


def read(at: Opened, examined: int = 100) -> QueueState:
    with reading(at.engine) as connection:
        return read_queue(connection, at.now, examined)


def test_waiting_items_and_dead_letters_are_counted_by_app(database: str) -> None:
    async def body(at: Opened) -> None:
        assert read(at) == QueueState([], 0, more_waiting=False, more_dead=False)
        first = at.now
        await at.accept(track(), track("bob"))
        at.now += 1_000
        await at.accept(track(item_id="x"), app="shop")
        await at.accept(track("cid", item_id="y"), app="shop")
        _, _, rejected, _ = await at.waiting()
        await settle(at, [rejected], Status.REJECTED)
        assert read(at) == QueueState(
            [
                AppQueue("default", waiting=2, oldest=first),
                AppQueue("shop", waiting=1, oldest=at.now, dead_letters=1),
            ],
            1,  # which `settle` was
            more_waiting=False,
            more_dead=False,
        )

    with_outbox(database, body)


def test_counts_that_may_be_higher_say_so(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(*(track(f"u{number}") for number in range(3)))
        assert read(at, 3) == QueueState(
            [AppQueue("default", waiting=3, oldest=at.now)], 0, more_waiting=True, more_dead=False
        )
        found = read(at, 2)
        assert (found.apps[0].waiting, found.more_waiting) == (2, True)
        await settle(at, await at.waiting(), Status.REJECTED)
        found = read(at, 2)
        assert (found.apps[0].dead_letters, found.more_dead, found.more_waiting) == (2, True, False)

    with_outbox(database, body)


def test_the_apps_that_may_have_an_id_are_found(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track(item_id="x"), app="one")
        await at.accept(track(item_id="x"), app="two")
        ((generated, _),) = await at.accept(track(), app="three")
        with reading(at.engine) as connection:
            assert app_names(connection) == ["one", "three", "two"]
            assert apps_of_id(connection, "x") == ["one", "two"]
            assert apps_of_id(connection, generated) == ["one", "two", "three"]

    with_outbox(database, body)


def test_the_start_counts_some_of_a_long_queue_and_housekeeping_counts_all_at_once(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_COUNT", 3)

    async def body(at: Opened) -> None:
        await at.accept(*(track(f"user{number}") for number in range(5)))
        at.outbox.count_queued()
        assert at.outbox.queued == 3
        await Housekeeper(at.outbox, RetentionLimits(60_000, 60_000)).step()
        assert at.outbox.queued == 5

    with_outbox(database, body)
