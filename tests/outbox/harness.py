"""An outbox on a real database, for the tests of this folder."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import Engine, event, text

from app import ids
from app.audit.records import AuditMacs
from app.clock import now_ms
from app.database.engine import connect
from app.database.writer import Writer
from app.encryption import NO_ENCRYPTION, BodyCipher
from app.model import Acceptance, Item, NewItem, ReadRequest, Settled, Status
from app.outbox.liveness_lock import KnownProcess, LivenessLock
from app.outbox.outbox import Outbox

T = TypeVar("T")


class Opened:
    """An outbox with what is under it."""

    def __init__(
        self, database: str, max_queued: int, cipher: BodyCipher = NO_ENCRYPTION, erased_ms: int = 0
    ) -> None:
        self.now = now_ms()
        self.database = database
        self.engine: Engine = connect(database)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _impatient)
            self.engine.dispose()
        self.writer = Writer(self.engine)
        self.outbox = Outbox(
            self.engine,
            self.writer,
            dedup_ms=60_000,
            max_queued=max_queued,
            macs=AuditMacs(bytes(32)),
            erased_ms=erased_ms,
            cipher=cipher,
            clock=lambda: self.now,
        )

    async def __aenter__(self) -> "Opened":
        self.writer.start()
        self.outbox.count_queued()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.writer.stop()
        self.engine.dispose()

    def call(self, *items: NewItem, app: str = "default") -> Acceptance:
        """One call with these items."""
        prefix = ids.new_prefix(self.now)
        return Acceptance(
            app, "key_1", "req_1", "POST /v1/events", "127.0.0.1", self.now, prefix, list(items), 0
        )

    async def accept(self, *items: NewItem, app: str = "default") -> list[tuple[str, str]]:
        """What became of each item of one call."""
        return [
            (item_id, kind)
            for item_id, kind in await self.outbox.accept(self.call(*items, app=app))
        ]

    async def waiting(self, after: int = 0, limit: int = 1_000) -> list[Item]:
        """At most `limit` items that wait, after a sequence number."""
        found = await self.outbox.look(ReadRequest(tail=after, limit=limit))
        assert found.tail is not None
        return found.tail.items

    async def begin(self, attempt: str, sent: list[Item], owner: str = "one") -> bool:
        """Begin an attempt as a deliverer that holds what it can get."""
        await self.outbox.renew(owner, 60_000, [], ())
        return await self.outbox.begin(attempt, owner, sent) is not None

    def one(self, sql: str) -> object:
        """The first value of the first row."""
        with self.engine.connect() as connection:
            return connection.execute(text(sql)).scalar()


def _impatient(connection: Any, _: object) -> None:
    """A lock that is not given up is told in a fifth of a second, not in five."""
    connection.execute("PRAGMA busy_timeout=200")


def with_outbox(
    database: str,
    body: Callable[[Opened], Awaitable[T]],
    max_queued: int = 1_000_000,
    cipher: BodyCipher = NO_ENCRYPTION,
    erased_ms: int = 0,
) -> T:
    """Run `body` with an outbox on `database`."""

    async def run() -> T:
        async with Opened(database, max_queued, cipher, erased_ms) as found:
            return await body(found)

    return asyncio.run(run())


def track(user: str = "ann", name: str = "Open", item_id: str | None = None) -> NewItem:
    """An event."""
    return NewItem(f"u{user}", "track", f'{{"event":"{name}","userId":"{user}"}}', item_id)


def gone_ids(lock: LivenessLock, others: Mapping[str, str | None]) -> list[str]:
    """Which of the processes have ended."""
    return [ended.id for ended in lock.gone([KnownProcess(*other) for other in others.items()])]


def gone(user: str = "ann", item_id: str | None = None) -> NewItem:
    """The item that erases a user."""
    return NewItem(f"u{user}", "deleteUser", f'{{"userId":"{user}"}}', item_id)


async def settle(at: Opened, sent: list[Item], status: Status = Status.DELIVERED) -> None:
    await at.begin("t", sent)
    erased = [(item.seq, item.subject) for item in sent if item.action == "deleteUser"]
    verdicts = [
        (item.seq, Settled(status, None if status == Status.DELIVERED else {"error": "no"}))
        for item in sent
    ]
    assert await at.outbox.settle("t", "default", verdicts, erased=erased)
