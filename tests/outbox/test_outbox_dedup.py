"""The caller's own ids: a repeat within the window is a duplicate, another content a conflict."""

import asyncio

import pytest

from app.model import NewItem, Settled, Status

from .harness import Opened, track, with_outbox


def test_a_repeat_is_a_duplicate_and_not_a_second_event(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track(item_id="a"))
        assert await at.accept(track(item_id="a")) == [("a", "duplicate")]
        assert at.one("SELECT count(*) FROM items") == 1

    with_outbox(database, body)


@pytest.mark.parametrize(
    "other",
    [
        track("bob", item_id="a"),
        track(name="Close", item_id="a"),
        track(item_id="a")._replace(action="advance"),
    ],
)
def test_another_content_under_a_known_id_is_a_conflict(database: str, other: NewItem) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track(item_id="a"))
        assert await at.accept(track("bob", item_id="b"), other) == [
            ("b", "accepted"),
            ("a", "conflict"),
        ]

    with_outbox(database, body)


def test_within_one_call_the_first_of_an_id_wins(database: str) -> None:
    async def body(at: Opened) -> None:
        found = await at.accept(
            track(item_id="a"), track(item_id="a"), track(name="Close", item_id="a"), track()
        )
        assert [kind for _, kind in found] == ["accepted", "duplicate", "conflict", "accepted"]

    with_outbox(database, body)


def test_of_many_calls_at_once_with_one_id_exactly_one_is_accepted(database: str) -> None:
    async def body(at: Opened) -> None:
        results = await asyncio.gather(*(at.accept(track(item_id="a")) for _ in range(50)))
        kinds = [result[0][1] for result in results]
        assert (kinds.count("accepted"), kinds.count("duplicate")) == (1, 49)

    with_outbox(database, body)


def test_the_same_id_in_another_app_is_another_item(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track(item_id="a"))
        assert await at.accept(track(item_id="a"), app="other") == [("a", "accepted")]

    with_outbox(database, body)


@pytest.mark.parametrize(("later", "kind"), [(60_000, "duplicate"), (60_001, "accepted")])
def test_the_id_is_known_to_the_end_of_the_window_and_no_longer(
    database: str, later: int, kind: str
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        at.now += later
        assert await at.accept(track("ann", item_id="a")) == [("a", kind)]

    with_outbox(database, body)


def test_after_the_window_the_receipt_is_the_new_items(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        at.now += 60_001
        await at.accept(track("bob", item_id="a"))
        receipt = await at.outbox.receipt("default", "a")
        assert receipt is not None
        assert receipt.subject == "ubob"

    with_outbox(database, body)


@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_a_repeat_is_told_from_another_content_before_and_after_delivery(
    database: str, delivered: bool, own: bool
) -> None:
    """Delivered items keep no body, but enough to tell; also under an id that the
    gateway made.
    """

    async def body(at: Opened) -> None:
        ((item_id, _),) = await at.accept(track(item_id="a" if own else None))
        if delivered:
            await deliver(at)
        assert await at.accept(track(item_id=item_id)) == [(item_id, "duplicate")]
        assert await at.accept(track("bob", "Close", item_id=item_id)) == [(item_id, "conflict")]

    with_outbox(database, body)


async def deliver(at: Opened) -> None:
    """Settle all that waits."""
    waiting = await at.waiting(0, 100)
    await at.begin("t", waiting)
    await at.outbox.settle(
        "t", "default", [(item.seq, Settled(Status.DELIVERED)) for item in waiting]
    )
