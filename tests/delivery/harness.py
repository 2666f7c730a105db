"""A deliverer on a real database against a real simulator, driven step by step or let run."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import orjson
from pydantic import SecretStr
from sqlalchemy import Engine, event
from sqlalchemy.pool import QueuePool

from app import ids
from app.audit.records import AuditMacs
from app.clock import now_ms
from app.database.engine import connect
from app.database.writer import Writer
from app.delivery.attempt import DeliveryOptions
from app.delivery.deliverer import LEASE_SECONDS, Deliverer
from app.delivery.user_locks import UserLocks
from app.delivery.verdicts import RetryPolicy
from app.leanplum.client import LeanplumClient
from app.model import Acceptance, App, KeyKind, Lease, NewItem, ReadRequest, ReadResult, Receipt
from app.outbox import liveness_lock
from app.outbox.outbox import Outbox
from app.telemetry import Metrics
from tests.support.wait import until_async

T = TypeVar("T")
CALL_SECONDS = 5.0
QUICK = RetryPolicy(window=60.0, least=0.02, most=0.04, held=0.05)


class Leanplum:
    """The simulator as the tests see it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, trust_env=False)
        self.reset()

    def reset(self) -> None:
        self._http.post("/_simulator/reset").raise_for_status()

    def plan(self, *faults: dict[str, Any]) -> None:
        self._http.post("/_simulator/faults", json={"faults": list(faults)}).raise_for_status()

    def hold_a_call(self) -> None:
        """Keep the next call waiting until `unplan`, or nearly for as long as its caller waits."""
        self.plan({"mode": "slow", "delay": CALL_SECONDS - 0.5, "times": 1})

    def unplan(self) -> None:
        self._http.delete("/_simulator/faults").raise_for_status()

    def values(self, user: str) -> list[float]:
        """The values of the user's events in the order in which they were applied."""
        seen = self._http.get(f"/_simulator/users/{user}")
        if seen.status_code == 404:
            return []
        return [
            one["value"]
            for one in seen.json()["events"].get("E", {"occurrences": []})["occurrences"]
        ]

    def stats(self) -> dict[str, int]:
        found: dict[str, int] = self._http.get("/_simulator/stats").json()
        return found

    def calls(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._http.get("/_simulator/requests").json()["requests"]
        return found

    def close(self) -> None:
        self._http.close()


def impatient(connection: Any, _: object) -> None:
    """A lock that is not given up is told in a fifth of a second, not in five."""
    connection.execute("PRAGMA busy_timeout=200")


def _event(user: str, value: int, **more: Any) -> str:
    return orjson.dumps({"userId": user, "event": "E", "value": value, **more}).decode()


class CountingOutbox(Outbox):
    """An outbox that counts how often its queue is read, and how often leases are renewed."""

    reads = renewals = 0
    read_gate: asyncio.Event | None = None  # reads end only once it is set

    async def look(self, wanted: ReadRequest) -> ReadResult:
        self.reads += 1
        result = await super().look(wanted)
        if self.read_gate is not None:
            await self.read_gate.wait()
        return result

    async def renew(self, *args: Any, **options: Any) -> Lease:
        self.renewals += 1
        return await super().renew(*args, **options)


class Delivering:
    """What a test needs of a running delivery."""

    def __init__(
        self, database: str, client: LeanplumClient, url: str, options: dict[str, Any]
    ) -> None:
        self.engine = connect(database)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", impatient)
            self.engine.dispose()
        self.writer = Writer(self.engine)
        self.outbox = CountingOutbox(
            self.engine, self.writer, dedup_ms=60_000, max_queued=10**6, macs=AuditMacs(bytes(32))
        )
        self.metrics = Metrics()
        app = App(
            "default",
            "app_sandbox",
            {
                KeyKind.PRODUCTION: SecretStr("prod_sandbox"),
                KeyKind.DEVELOPMENT: SecretStr("dev_sandbox"),
            },
            f"{url}/api",
        )
        chosen: dict[str, Any] = {"policy": QUICK, "chance": lambda: 0.5} | options
        self.apps = {"default": app}
        self._client, self.options = client, DeliveryOptions(**chosen)
        self.deliverer = self.another()
        self.outbox.on_accepted = self.deliverer.notify
        self.writer.start()
        self.outbox.count_queued()

    async def accept(self, user: str, *values: int, now: int | None = None, key: str = "k") -> None:
        """One event for each value, in one call of the caller `key`; their ids are `user-value`."""
        bodies = [
            (value, orjson.dumps({"userId": user, "event": "E", "value": value}).decode())
            for value in values
        ]
        items = [NewItem(f"u{user}", "track", body, f"{user}-{value}") for value, body in bodies]
        now = now_ms() if now is None else now
        call = Acceptance(
            "default", key, "r", "POST /v1/batch", "::1", now, ids.new_prefix(now), items, 0
        )
        await self.outbox.accept(call)

    async def accept_marked(self, users: list[str], value: int, now: int | None = None) -> None:
        """One event of each user, in one call, whose parameter says `user-value`, as its id
        does.
        """
        items = [
            NewItem(
                f"u{user}",
                "track",
                _event(user, value, params={"mark": f"{user}-{value}"}),
                f"{user}-{value}",
            )
            for user in users
        ]
        now = now_ms() if now is None else now
        await self.outbox.accept(
            Acceptance(
                "default", "k", "r", "POST /v1/batch", "::1", now, ids.new_prefix(now), items
            )
        )

    def another(self) -> Deliverer:
        """One more deliverer on the same database."""
        return Deliverer(self.outbox, self._client, self.apps, self.metrics, self.options)

    async def accept_mixed(self, events: list[tuple[str, int]]) -> None:
        """Events of several users, given as (user, value), in one call."""
        items = [
            NewItem(f"u{user}", "track", f'{{"userId":"{user}","event":"E","value":{value}}}')
            for user, value in events
        ]
        now = now_ms()
        await self.outbox.accept(
            Acceptance(
                "default", "k", "r", "POST /v1/batch", "::1", now, ids.new_prefix(now), items
            )
        )

    async def accept_many(self, users: list[str], *, value: int = 0, key: str = "k") -> None:
        """One event of each user, in one call of the caller `key`; their ids are `user-value`."""
        items = [
            NewItem(
                f"u{user}",
                "track",
                f'{{"userId":"{user}","event":"E","value":{value}}}',
                f"{user}-{value}",
            )
            for user in users
        ]
        now = now_ms()
        await self.outbox.accept(
            Acceptance(
                "default", key, "r", "POST /v1/batch", "::1", now, ids.new_prefix(now), items
            )
        )

    async def receipt(self, item_id: str) -> Receipt:
        found = await self.outbox.receipt("default", item_id)
        assert found is not None
        return found

    async def told(self, user: str, count: int) -> list[tuple[str, int]]:
        """(status, attempts) of the user's first `count` items."""
        receipts = [await self.receipt(f"{user}-{value}") for value in range(count)]
        return [(receipt.status.value, receipt.attempts) for receipt in receipts]

    async def step(self) -> int:
        """One step, and what it began is finished; how many calls that were."""
        begun = await self.deliverer.step()
        await self.deliverer.drain()
        return begun

    def records(self) -> list[dict[str, Any]]:
        """The audit records of calls to Leanplum, oldest first."""
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT record FROM audit_records ORDER BY seq").all()
        return [
            one
            for (record,) in rows
            if (one := orjson.loads(record))["api"]["operation"] == "leanplum multi"
        ]

    async def finish(self, seconds: float = 60.0) -> None:
        """Step until nothing waits."""
        deadline = time.monotonic() + seconds
        while self.outbox.queued:
            assert time.monotonic() < deadline, f"{self.outbox.queued} items wait still"
            await self.step()
            await asyncio.sleep(0.005)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the deliverer run by itself."""
        task = asyncio.create_task(self.deliverer.run())
        try:
            yield
        finally:
            self.deliverer.stop()
            await task


def deliver(
    database: str, leanplum: Leanplum, body: Callable[[Delivering], Awaitable[T]], **options: Any
) -> T:
    """Run `body` with a delivery from the database to the simulator."""

    async def run() -> T:
        async with LeanplumClient(timeout=CALL_SECONDS, connections=16) as client:
            at = Delivering(database, client, leanplum.url, options)
            try:
                return await body(at)
            finally:
                await at.deliverer.drain()
                await at.deliverer.leave()
                await at.writer.stop()
                await dispose(at.engine)

    return asyncio.run(run())


async def dispose(engine: Engine) -> None:
    """Close all connections, once a read that nobody waits for any more has given its own back."""
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    await until_async(lambda: pool.checkedout() == 0)
    engine.dispose()


async def erase(at: Delivering, user: str) -> None:
    """The user is to be deleted."""
    now = now_ms()
    item = NewItem(f"u{user}", "deleteUser", f'{{"userId":"{user}"}}', f"erase-{user}")
    call = Acceptance(
        "default", "k", "r", "DELETE /v1/users/{userId}", "::1", now, ids.new_prefix(now), [item]
    )
    await at.outbox.erase(call)


@asynccontextmanager
async def other_process(
    at: Delivering, database: str, name: str = "other", erased_ms: int = 60_000
) -> AsyncIterator[UserLocks]:
    """Locks as another process has them: an outbox of its own on the same database."""
    engine = connect(database)
    writer = Writer(engine)
    macs = AuditMacs(bytes(32))
    outbox = Outbox(
        engine, writer, dedup_ms=60_000, max_queued=10**6, macs=macs, erased_ms=erased_ms
    )
    writer.start()
    with liveness_lock.held(database, name) as liveness:
        locks = UserLocks(outbox, liveness, name, LEASE_SECONDS)
        try:
            yield locks
        finally:
            await locks.close(10)
            await writer.stop()
            await dispose(engine)
