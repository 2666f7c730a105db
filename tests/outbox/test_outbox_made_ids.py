"""Ids in the form of those that the gateway makes: whatever their number, they are looked up by one
statement.
"""

import uuid
from typing import Any

import pytest

from app import ids
from app.audit.records import AuditMacs
from app.database.driver import Cursor
from app.database.engine import dialect, reading
from app.encryption import NO_ENCRYPTION
from app.model import Settled, Status, Taken
from app.outbox.accept import Accept
from app.outbox.erasure import ActiveErasures

from .harness import Opened, track, with_outbox


class Watched(Cursor):
    """A cursor that remembers which statements it ran."""

    __slots__ = ("statements",)

    def __init__(self, cursor: Any, of: Any) -> None:
        super().__init__(cursor, of)
        self.statements: list[str] = []

    def execute(self, statement: str, parameters: Any = ()) -> None:
        self.statements.append(statement.strip())
        super().execute(statement, parameters)


def accepted(at: Opened, *calls: list[str]) -> tuple[list[list[Taken]], int]:
    """Accept calls as one group, each with these ids; what became of them, and how many questions
    were asked.
    """
    erased, macs = ActiveErasures(NO_ENCRYPTION), AuditMacs(bytes(32))
    acceptances = [at.call(*(track(item_id=one) for one in call)) for call in calls]
    writes = [Accept(one, 0, NO_ENCRYPTION, erased, macs) for one in acceptances]
    with reading(at.engine) as connection:
        cursor = Watched(connection.connection.cursor(), dialect(at.engine))
        cursor.execute(cursor.dialect.begin)
        cursor.statements.clear()
        taken = Accept.run_all(cursor, writes)
        connection.connection.commit()
    return taken, sum(one.startswith("SELECT") for one in cursor.statements)


def foreign(count: int) -> list[str]:
    """UUIDv7s of another program: 48 bits of time, the rest of chance."""
    return [
        str(
            uuid.UUID(
                int=(0x019A << 112) | (7 << 76) | (2 << 62) | (uuid.uuid4().int & ((1 << 60) - 1))
            )
        )
        for _ in range(count)
    ]


def test_many_ids_cost_no_more_questions_than_few(database: str) -> None:
    async def body(at: Opened) -> None:
        made = [item_id for item_id, _ in await at.accept(*[track()] * 600)]
        assert all(ids.parse(one) for one in foreign(10))
        few, of_few = accepted(at, [made[0], *foreign(1)], [made[1]], foreign(1))
        many, of_many = accepted(at, made[:300] + foreign(300), made[300:], foreign(300))
        assert of_few == of_many
        assert [[kind for _, kind in one] for one in few] == [
            ["duplicate", "accepted"],
            ["duplicate"],
            ["accepted"],
        ]
        assert [[kind for _, kind in one] for one in many] == [
            ["duplicate"] * 300 + ["accepted"] * 300,
            ["duplicate"] * 300,
            ["accepted"] * 300,
        ]

    with_outbox(database, body)


@pytest.mark.parametrize("delivered", [False, True])
def test_each_of_many_is_told_from_another_content_another_app_and_another_call(
    database: str, delivered: bool
) -> None:
    async def body(at: Opened) -> None:
        made = [item_id for item_id, _ in await at.accept(track("ann"), track("bob"), track("cid"))]
        if delivered:
            waiting = await at.waiting()
            await at.begin("t", waiting)
            ends = [(item.seq, Settled(Status.DELIVERED)) for item in waiting]
            assert await at.outbox.settle("t", "default", ends)
        repeated = [track("ann", item_id=made[0]), track("ann", item_id=made[1])]
        other_call = ids.made(ids.new_prefix(at.now + 1, 1), 3)
        assert await at.accept(*repeated, track("cid", item_id=other_call)) == [
            (made[0], "duplicate"),
            (made[1], "conflict"),
            (other_call, "accepted"),
        ]
        assert await at.accept(track("cid", item_id=made[2]), app="other") == [
            (made[2], "accepted")
        ]

    with_outbox(database, body)
