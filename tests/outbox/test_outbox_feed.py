"""The feed of items that are accepted and settle, as the console and `tail` follow it."""

from collections.abc import Sequence

import pytest

from app.database.engine import reading
from app.model import NewItem, Status
from app.outbox import feed as feed_module
from app.outbox.dead_letters import EVERY
from app.outbox.feed import Feed, FeedStep
from app.outbox.item_filter import ItemFilter
from tests.outbox.harness import Opened, settle, track, with_outbox


def told(step: FeedStep) -> list[tuple[str, bool, str]]:
    """The id, the kind and the status of each entry."""
    return [(entry.id, entry.settled, entry.status.value) for entry in step.entries]


def read(at: Opened, feed: Feed, history: int = 0) -> FeedStep:
    with reading(at.engine) as connection:
        return feed.step(connection, history)


def test_the_feed_has_each_item_once_when_it_is_accepted_and_once_when_it_settles(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        feed = Feed()
        await at.accept(track(item_id="before"))
        assert told(read(at, feed)) == []
        await at.accept(track(item_id="one"), track("bob", item_id="two"))
        assert told(read(at, feed)) == [("one", False, "accepted"), ("two", False, "accepted")]
        assert told(read(at, feed)) == []
        at.now += 1
        before, one, two = await at.waiting()
        await settle(at, [before, one])
        at.now += 1
        await settle(at, [two], Status.REJECTED)
        assert told(read(at, feed)) == [
            ("before", True, "delivered"),
            ("one", True, "delivered"),
            ("two", True, "rejected"),
        ]
        assert told(read(at, feed)) == []

    with_outbox(database, body)


def test_an_outcome_that_is_committed_late_is_in_the_feed(database: str) -> None:
    async def body(at: Opened) -> None:
        feed = Feed()
        await at.accept(track(item_id="late"), track("bob", item_id="early"))
        late, early = await at.waiting()
        read(at, feed)
        at.now += feed_module.OVERLAP_MS
        await settle(at, [early])
        assert told(read(at, feed)) == [("early", True, "delivered")]
        at.now -= feed_module.OVERLAP_MS  # another process took the time before
        await settle(at, [late])
        assert told(read(at, feed)) == [("late", True, "delivered")]

    with_outbox(database, body)


def test_a_dead_letter_that_is_replayed_is_in_the_feed_when_it_settles_again(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        feed = Feed()
        await at.accept(track(item_id="again"))
        await settle(at, await at.waiting(), Status.REJECTED)
        read(at, feed)
        await at.outbox.dead_letters.replay("default", EVERY, lambda count: (at.now, "{}"))
        assert told(read(at, feed)) == []
        at.now += 1
        await settle(at, await at.waiting())
        assert told(read(at, feed)) == [("again", True, "delivered")]

    with_outbox(database, body)


def test_an_entry_names_the_event_and_nothing_that_was_sent_or_said(database: str) -> None:
    async def body(at: Opened) -> None:
        feed = Feed()
        read(at, feed)
        secret = '{"event":"Buy","params":{"card":"canary"},"userId":"ann"}'
        await at.accept(NewItem("uann", "track", secret, "1", event="Buy"))
        await settle(at, await at.waiting(), Status.REJECTED)
        step = read(at, feed)
        assert [entry.event for entry in step.entries] == ["Buy", "Buy"]
        assert "canary" not in repr(step)
        assert not any(hasattr(entry, name) for entry in step.entries for name in ("body", "notes"))

    with_outbox(database, body)


def test_the_last_entries_are_read_first_if_that_is_wanted(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(*(track(item_id=str(number)) for number in range(5)))
        await settle(at, (await at.waiting())[:3])
        first = read(at, Feed(), history=2)
        accepted = [entry.id for entry in first.entries if not entry.settled]
        assert accepted == ["3", "4"]
        assert len(first.entries) == 4
        assert not first.truncated

    with_outbox(database, body)


@pytest.mark.parametrize("limit", [2, 100])
def test_a_step_is_bounded_and_says_so_if_it_leaves_new_entries_out(
    database: str, limit: int
) -> None:
    async def body(at: Opened) -> None:
        feed = Feed(limit=limit, scanned=6)
        read(at, feed)
        await at.accept(*(track(item_id=str(number)) for number in range(10)))
        step = read(at, feed)
        assert [entry.id for entry in step.entries] == [str(n) for n in range(10)][-min(limit, 6) :]
        assert step.truncated
        at.now += 1
        await settle(at, await at.waiting())
        step = read(at, feed)
        assert len(step.entries) == min(limit, 6)
        assert step.truncated
        assert read(at, feed) == ([], False)

    with_outbox(database, body)


FILTERS: Sequence[tuple[ItemFilter, set[str]]] = [
    (ItemFilter(apps={"other"}), {"4"}),
    (ItemFilter(apps={"other", "default"}, subject="uann"), {"1", "4"}),
    (ItemFilter(event="Buy"), {"2"}),
    (ItemFilter(action="setUserAttributes"), {"3"}),
    (ItemFilter(apps=set()), set()),
]


@pytest.mark.parametrize(("which", "expected"), FILTERS)
def test_a_feed_has_only_what_its_filter_chooses(
    database: str, which: ItemFilter, expected: set[str]
) -> None:
    async def body(at: Opened) -> None:
        feed = Feed(which)
        read(at, feed)
        await at.accept(
            track(item_id="1"),
            NewItem("ubob", "track", '{"event":"Buy","userId":"bob"}', "2", event="Buy"),
            NewItem("ubob", "setUserAttributes", "{}", "3"),
        )
        await at.accept(track(item_id="4"), app="other")
        assert {entry.id for entry in read(at, feed).entries} == expected
        at.now += 1
        await settle(at, await at.waiting())
        assert {entry.id for entry in read(at, feed).entries} == expected

    with_outbox(database, body)
