"""The counts of settled items: each that settles is counted once, and nothing else is."""

from collections import Counter

from app.model import CallRecord, Postponed, Settled, Status, Verdict
from app.outbox.liveness_lock import KnownProcess

from .harness import Opened, track, with_outbox

DELIVERED, WAITS = Settled(Status.DELIVERED), Postponed(Status.RETRYING, 5.0, {"error": "HTTP 503"})
REJECTED = Settled(Status.REJECTED, {"error": "no"})


def counted(at: Opened) -> Counter[str]:
    """Count what settles from now on."""
    counts = Counter[str]()
    at.outbox.on_settled = lambda app, settled: counts.update(settled)
    return counts


async def begun(at: Opened, *users: str) -> list[int]:
    """Begin an attempt with one event of each user; their numbers."""
    await at.accept(*(track(user) for user in users))
    waiting = await at.waiting()
    assert await at.begin("t-1", waiting)
    return [item.seq for item in waiting]


def test_what_waits_on_is_not_counted_as_settled(database: str) -> None:
    async def body(at: Opened) -> None:
        counts = counted(at)
        ann, bob, cem = await begun(at, "ann", "bob", "cem")
        held = Postponed(Status.HELD, 5.0, {"error": "key"}, counts=False)
        verdicts: list[tuple[int, Verdict]] = [(ann, WAITS), (bob, held), (cem, DELIVERED)]
        assert await at.outbox.settle("t-1", "default", verdicts)
        assert counts == {"delivered": 1}

    with_outbox(database, body)


def test_a_settlement_whose_answer_was_lost_is_counted_once_with_its_repeat(database: str) -> None:
    async def body(at: Opened) -> None:
        ann, bob, cem = await begun(at, "ann", "bob", "cem")
        verdicts: list[tuple[int, Verdict]] = [(ann, DELIVERED), (bob, REJECTED), (cem, WAITS)]
        calls = [CallRecord(200, [ann, bob, cem], {})]
        await at.outbox.settle("t-1", "default", verdicts, calls)  # committed, and nobody hears it
        counts, at.outbox.queued = counted(at), 3
        assert await at.outbox.settle("t-1", "default", verdicts, calls, again=True)
        assert (counts, at.outbox.queued) == ({"delivered": 1, "rejected": 1}, 1)

    with_outbox(database, body)


def test_what_another_deliverer_has_recovered_is_counted_where_it_settles_and_only_there(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        counts = counted(at)
        ann, bob = await begun(at, "ann", "bob")
        await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], {"track"})
        assert counts == {"unknown": 2}
        for again in (False, True):
            verdicts: list[tuple[int, Verdict]] = [(ann, DELIVERED), (bob, REJECTED)]
            assert not await at.outbox.settle("t-1", "default", verdicts, again=again)
        assert counts == {"unknown": 2}

    with_outbox(database, body)


def test_an_item_that_was_erased_while_it_was_sent_is_not_counted(database: str) -> None:
    async def body(at: Opened) -> None:
        counts = counted(at)
        ann, bob, cem = await begun(at, "ann", "bob", "cem")
        with at.engine.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM items WHERE seq IN ({ann}, {bob})")
        verdicts: list[tuple[int, Verdict]] = [(ann, DELIVERED), (bob, REJECTED), (cem, DELIVERED)]
        assert await at.outbox.settle("t-1", "default", verdicts)
        assert counts == {"delivered": 1}

    with_outbox(database, body)
