"""Replay and discard beside others: what is no longer what was chosen is left alone; the audit has
what was done.
"""

import json

import pytest
from sqlalchemy import text

from app.model import Settled, Status
from app.outbox.dead_letters import DeadLetterFilter, Discard, Replay

from .harness import Opened, track, with_outbox
from .interrupted import interrupted

SAID = {"success": False, "error": "Bad."}


async def end(at: Opened, attempt: str, status: Status) -> None:
    """End all that waits."""
    waiting = await at.waiting()
    assert await at.begin(attempt, waiting)
    verdicts = [(item.seq, Settled(status, SAID)) for item in waiting]
    assert await at.outbox.settle(attempt, "default", verdicts)


async def replay_and_expire(at: Opened) -> None:
    """Replay one of them, which becomes another dead letter a minute later."""
    chosen = DeadLetterFilter(item_ids=("busy",))
    assert await at.outbox.dead_letters.replay("default", chosen, lambda count: (at.now, "{}")) == (
        1,
        1,
    )
    at.now += 60_000
    await end(at, "again", Status.EXPIRED)


@pytest.mark.parametrize("kind", [Replay, Discard])
@pytest.mark.parametrize("by", ["status", "until"])
def test_what_became_another_dead_letter_since_it_was_chosen_is_left_alone(
    database: str, kind: type[Replay | Discard], by: str
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="busy"), track("bob", item_id="idle"))
        await end(at, "first", Status.REJECTED)
        chosen = (
            DeadLetterFilter(status=Status.REJECTED)
            if by == "status"
            else DeadLetterFilter(until=at.now + 1)
        )
        async with interrupted(at, kind, replay_and_expire) as outbox:
            act = outbox.dead_letters.replay if kind is Replay else outbox.dead_letters.discard
            done = await act(
                "default", chosen, lambda count: (at.now, json.dumps({"count": count}))
            )
        assert done == (2, 1)
        left = await at.outbox.dead_letters.find("default", DeadLetterFilter())
        assert [(one.id, one.status) for one in left] == [("busy", Status.EXPIRED)]
        with at.engine.connect() as connection:
            query = text("SELECT record FROM audit_records ORDER BY seq DESC LIMIT 1")
            record = json.loads(connection.execute(query).scalar_one())
        assert record["count"] == 1

    with_outbox(database, body)
