"""Items that an operator sends again while calls of their users are in flight."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from sqlalchemy import Connection

from app import ids
from app.clock import now_ms
from app.encryption import NO_ENCRYPTION
from app.model import ReadResult, Status
from app.outbox import waiting_items
from app.outbox.dead_letters import DeadLetterFilter
from tests.support.wait import until_async

from .harness import Delivering, Leanplum, deliver

pytestmark = pytest.mark.slow


async def replay(at: Delivering) -> int:
    """Send all dead letters again; returns how many."""
    _, count = await at.outbox.dead_letters.replay(
        "default", DeadLetterFilter(), lambda _: (0, "{}")
    )
    return count


async def refuse_first(at: Delivering, leanplum: Leanplum, user: str) -> None:
    """Make a dead letter of the user's first item."""
    leanplum.plan({"mode": "success-false", "userId": user, "message": "Bad."})
    await at.accept(user, 0)
    await at.finish()
    assert (await at.receipt(f"{user}-0")).status is Status.REJECTED


def test_a_replay_is_delivered_though_a_later_item_of_its_user_is_in_flight(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await refuse_first(at, leanplum, "ann")
        await at.accept("ann", 1, 2)
        leanplum.hold_a_call()
        at.deliverer.notify()
        assert await at.deliverer.step() == 1
        assert await replay(at) == 1
        for _ in range(4):  # it reads, while the call is in flight
            at.deliverer.notify()
            assert await at.deliverer.step() == 0
        leanplum.unplan()
        await at.finish()
        assert await at.told("ann", 3) == [("delivered", 1)] * 3

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [1, 2, 0]
    assert leanplum.stats()["overlaps"] == 0


def test_a_replay_is_delivered_though_its_shard_is_gained_while_its_users_call_is_in_flight(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await refuse_first(at, leanplum, "ann")
        other = ids.shard(ids.lane("default", "ubob"))
        assert other != ids.shard(ids.lane("default", "uann"))
        at.deliverer.window.assign(at.deliverer.window.shards - {other})
        await at.accept("ann", 1)
        leanplum.hold_a_call()
        at.deliverer.notify()
        assert await at.deliverer.step() == 1
        assert await replay(at) == 1
        at.deliverer._renewed_at = 0.0  # it renews, and has all shards again
        for _ in range(4):
            at.deliverer.notify()
            assert await at.deliverer.step() == 0
        leanplum.unplan()
        await at.finish()
        assert await at.told("ann", 2) == [("delivered", 1)] * 2

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [1, 0]


def test_an_item_accepted_after_a_replay_does_not_overtake_it(
    database: str, leanplum: Leanplum
) -> None:
    """The replay commits once the deliverer has read how many there were, and before it reads what
    is new.
    """

    async def body(at: Delivering) -> None:
        await refuse_first(at, leanplum, "ann")
        wanted = at.deliverer.window.next_request(changed=True)
        assert wanted is not None
        loop = asyncio.get_running_loop()

        async def meanwhile() -> None:
            await replay(at)
            await at.accept("ann", 1)

        def look(connection: Connection) -> ReadResult:
            interrupted: Any = Interrupted(connection, loop, meanwhile())
            return waiting_items.read_waiting_items(interrupted, wanted, NO_ENCRYPTION)

        at.deliverer.window.take_result(await at.outbox._read(look), now_ms())
        await at.finish()

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [0, 1]


class Interrupted:
    """A connection by whose first statement something else happens, once that was read."""

    def __init__(
        self,
        connection: Connection,
        loop: asyncio.AbstractEventLoop,
        meanwhile: Coroutine[Any, Any, None],
    ) -> None:
        self._connection, self._loop = connection, loop
        self._meanwhile: Coroutine[Any, Any, None] | None = meanwhile
        self.dialect = connection.dialect

    def exec_driver_sql(self, *statement: Any) -> Any:
        """Run a statement."""
        found = self._connection.exec_driver_sql(*statement)
        if self._meanwhile is None:
            return found
        rows, meanwhile, self._meanwhile = found.freeze(), self._meanwhile, None
        asyncio.run_coroutine_threadsafe(meanwhile, self._loop).result(10)
        return rows()


def test_many_replays_of_users_with_steady_traffic_are_all_delivered_in_order(
    database: str, leanplum: Leanplum
) -> None:
    users = [f"user{number}" for number in range(200)]

    async def body(at: Delivering) -> None:
        leanplum.plan(
            {"mode": "success-false", "message": "Bad.", "times": None, "action": "track"}
        )
        await at.accept_many(users, value=0)
        await at.accept_many(users, value=1)
        await at.finish(20)
        leanplum.unplan()
        async with at.running():
            steady = asyncio.create_task(keep_coming(at))
            assert await replay(at) == 400
            await steady
            await until_async(lambda: at.outbox.queued == 0, 20)

    async def keep_coming(at: Delivering) -> None:
        for value in range(2, 12):
            await at.accept_many(users, value=value)

    deliver(database, leanplum, body)
    for user in users:
        values = leanplum.values(user)
        assert sorted(values) == list(range(12))
        steady = [value for value in values if value >= 2]
        assert steady == sorted(steady)
        assert values.index(0) < values.index(1)
    assert leanplum.stats()["overlaps"] == 0
