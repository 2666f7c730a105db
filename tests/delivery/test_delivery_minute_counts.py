"""What delivery counts by minute and app: settled and postponed items, and calls."""

from .harness import Delivering, Leanplum, deliver

MISSING = "User not found; request skipped."


def test_items_and_calls_are_counted_by_app_and_kind(database: str, leanplum: Leanplum) -> None:
    leanplum.plan(
        {"mode": "503", "userId": "ann", "times": 2},
        {"mode": "warning", "userId": "bob", "message": MISSING},
    )

    async def body(at: Delivering) -> None:
        at.outbox.on_settled = at.metrics.count_settled
        await at.accept("ann", 0)
        await at.finish()
        await at.accept("bob", 0)
        await at.finish()
        counts: dict[tuple[str, str], int] = {}
        for row in at.metrics.minutes.pending():  # of one minute or two
            counts[row.app, row.kind] = counts.get((row.app, row.kind), 0) + row.total
        assert counts == {
            ("default", "retrying"): 2,
            ("default", "delivered"): 1,
            ("default", "skipped"): 1,
            ("default", "calls"): 4,
            ("default", "failed-calls"): 2,
        }

    deliver(database, leanplum, body)
