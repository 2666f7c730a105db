"""The simulated processes: the gateway's real parts, put together as `app/server/bootstrap.py` does it.

Everything that knows how the parts are made is in `Process`; change it when they change.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
import structlog
from pydantic import SecretStr
from sqlalchemy import make_url

from app import ids
from app.audit.records import AuditMacs
from app.database.writer import DatabaseWrite, Writer
from app.delivery.attempt import DeliveryOptions
from app.delivery.deliverer import LEASE_SECONDS, Deliverer
from app.delivery.user_locks import UserLocks
from app.delivery.verdicts import RetryPolicy
from app.leanplum.actions import ACTIONS, BACKGROUND_ACTIONS
from app.leanplum.client import LeanplumClient
from app.model import Acceptance, App, KeyKind, NewItem, Taken
from app.outbox import liveness_lock
from app.outbox.dead_letters import DeadLetterFilter
from app.outbox.liveness_lock import LivenessLock
from app.outbox.outbox import Outbox
from app.outbox.retention import Housekeeper, RetentionLimits
from app.outbox.session_lock import LOOK_SECONDS, SessionLock
from app.relay.service import Relay
from app.telemetry import Metrics

from .clockwork import RUNNING, Runner, VirtualLoop, pauses
from .leanplum import ASKED, Leanplum
from .seam import Database, Seam
from .sessions import Sessions

T = TypeVar("T")
APP = "default"
KEYS = {
    KeyKind.PRODUCTION: SecretStr("prod_simulation"),
    KeyKind.DEVELOPMENT: SecretStr("dev_simulation"),
    KeyKind.DATA_EXPORT: SecretStr("export_simulation"),
}
LEANPLUM_APP = App(APP, "app_simulation", KEYS, "http://leanplum.invalid/api")
EPOCH_MS = 1_800_000_000_000
CALL_SECONDS = 6.0
RELAY_SECONDS = 7.0
DEDUP_MS = 60_000
ERASED_MS = 3_600_000
DRAIN_SECONDS = 20.0  # that requests in flight have to end, as at a real stop
STOP_SECONDS = 90.0  # a stop that takes longer hangs
KILLED = "killed"


@dataclass(frozen=True)
class Sizes:
    """What a history chooses once: how many processes, what is kept for how long, and the
    policy.
    """

    processes: int
    api_only: bool  # whether the last process delivers nothing
    hold: bool
    receipts_ms: int
    dead_letters_ms: int
    slow_database: float


@dataclass
class Kill:
    """The end of a process by force, and which items had an attempt open then."""

    process: str
    at: float
    open: frozenset[int]


class World:
    """All that a history happens to."""

    def __init__(self, loop: VirtualLoop, database: Database, seed: int, sizes: Sizes) -> None:
        self.loop, self.database, self.sizes = loop, database, sizes
        self.chance = random.Random(f"{seed} world")
        self.lines: list[str] = []
        self.leanplum = Leanplum(random.Random(f"{seed} leanplum"), self.trace)
        self.kills: list[Kill] = []
        self.stepped = False  # whether a wall clock was ever set
        self.faulty = False  # whether the database ever failed
        self.faults: list[str] = []  # promises that were seen broken on the way
        self.sessions = Sessions(loop.time)
        self.processes = [Process(self, slot) for slot in range(sizes.processes)]

    def trace(self, text: str) -> None:
        """Tell what happens."""
        runner = RUNNING.get()
        name = runner.name if runner is not None else "-"
        self.lines.append(f"{self.loop.now - 1_000:9.3f} {name:6} {text}")

    def server_ms(self) -> int:
        """True time."""
        return EPOCH_MS + int(self.loop.now * 1000)

    @contextmanager
    def logging(self) -> Any:
        """Have the gateway's log in the trace, and nowhere else."""
        before = structlog.get_config()["processors"]
        structlog.configure(processors=[self._log])
        try:
            yield
        finally:
            structlog.configure(processors=before)

    def _log(self, _: Any, name: str, entry: MutableMapping[str, Any]) -> Any:
        entry = {key: value for key, value in entry.items() if key not in {"attempt", "duration"}}
        told = " ".join(f"{key}={value}" for key, value in entry.items() if key != "event")
        self.trace(f"  log {entry.get('event')} {told}"[:200])
        raise structlog.DropEvent

    def waiting(self) -> list[tuple[Any, ...]]:
        """(number, subject, status) of all items that wait."""
        return self.database.sql(
            "SELECT seq, subject, status FROM items WHERE settled_at IS NULL ORDER BY seq"
        )

    def remove_locks(self) -> None:
        """Remove the file of the liveness locks, where there is one."""
        if self.database.kind == "sqlite":
            name = str(make_url(self.database.url).database)
            Path(f"{name}-deliverers").unlink(missing_ok=True)
            self.trace("the locks' file is removed")

    def open_items(self, owner: str) -> frozenset[int]:
        """The items of the attempts that are open of a deliverer."""
        rows = self.database.sql("SELECT items FROM attempts WHERE owner = ?", owner)
        return frozenset(seq for (items,) in rows for seq in orjson.loads(items))


class PacedWriter(Writer):
    """The real writer; what is asked of it takes virtual time before it is done and before it is
    told.
    """

    def __init__(self, engine: Any, loop: VirtualLoop, runner: Runner, seam: Seam) -> None:
        super().__init__(engine)
        self._virtual, self._runner, self._seam = loop, runner, seam
        self._coming: list[tuple[Callable[[], asyncio.Future[Any]], asyncio.Future[Any]]] = []
        self._told_at = 0.0

    def write(self, write: DatabaseWrite[T], **options: Any) -> "asyncio.Future[T]":
        told: asyncio.Future[T] = self._virtual.create_future()
        options.pop("along", None)  # its own pause; the pauses here are enough
        self._coming.append((partial(super().write, write, **options), told))
        if len(self._coming) == 1:
            # A lock that is held is waited for, as SQLite's busy timeout and PostgreSQL's have it.
            wait = min(self._seam.lasts("begin"), 5.0)
            self._virtual.call_later(wait + self._runner.pause(), self._issue)
        return told

    def _issue(self) -> None:
        if self._runner.dead:
            return
        coming, self._coming = self._coming, []
        asked = [(begin(), told) for begin, told in coming if not told.cancelled()]
        self._virtual.await_threads(lambda: all(done.done() for done, _ in asked))
        self._told_at = max(self._told_at, self._virtual.time() + self._runner.pause())
        self._virtual.call_at(self._told_at, _pass_on, asked)


def _pass_on(asked: Sequence[tuple["asyncio.Future[Any]", "asyncio.Future[Any]"]]) -> None:
    for done, told in asked:
        error = done.exception()
        if told.cancelled():
            continue
        if error is not None:
            told.set_exception(error)
        else:
            told.set_result(done.result())


class Process:
    """One gateway process, which may be started, stopped and killed again and again."""

    def __init__(self, world: World, slot: int) -> None:
        self._world, self._slot, self._generation = world, slot, 0
        last = slot > 0 and slot == world.sizes.processes - 1
        self.delivers = not (last and world.sizes.api_only)
        self.offset_ms = 0  # of its wall clock from true time
        self.seam = Seam(world.loop.time, world.server_ms)
        world.database.holders[slot]["now"] = self.seam
        self._runner: Runner | None = None
        self._requests = set[asyncio.Task[Any]]()
        self.owner = ""
        self._ending = False

    @property
    def up(self) -> bool:
        """Whether it takes requests."""
        return self._runner is not None

    @property
    def down(self) -> bool:
        """Whether it is gone altogether, and may be started."""
        return self._runner is None and not self._ending

    def wall(self) -> int:
        """Its wall clock."""
        return self._world.server_ms() + self.offset_ms

    # --- as `app/server/bootstrap.py` does it ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Open everything and begin to deliver."""
        self._generation += 1
        self.owner = name = f"p{self._slot}.{self._generation}"
        self._chance = random.Random(f"{self._world.chance.random()} {name}")
        self._metrics = Metrics()
        runner = Runner(name, pauses(self._chance, self._world.sizes.slow_database))
        self._context = Context()
        self._context.run(RUNNING.set, runner)
        self._stack = ExitStack()
        self._open_outbox(runner)
        liveness = self._hold_liveness(name)
        self._locks = UserLocks(self.outbox, liveness, name, 2 * RELAY_SECONDS + LEASE_SECONDS)
        if self.delivers:
            self._begin_delivery(liveness)
        self._open_relay()
        self._runner = runner
        self._world.trace(f"{name} starts")

    def _hold_liveness(self, name: str) -> LivenessLock:
        """Hold a lock of the file that there is, or one of a simulated session."""
        world = self._world
        if world.database.kind == "sqlite":
            return self._stack.enter_context(liveness_lock.held(world.database.url, name))
        lock = SessionLock(partial(world.sessions.connect, name), name, world.loop.time)
        self._stack.callback(lock.close)
        self._context.run(asyncio.create_task, self._keep(lock))
        self._context.run(asyncio.create_task, liveness_lock.act_at_lapses(lock, self._lapse))
        return lock

    async def _keep(self, lock: SessionLock) -> None:
        """Do what the lock's thread does."""
        while lock.step():  # noqa: ASYNC110 - it waits for time, not for an event
            await asyncio.sleep(LOOK_SECONDS)

    def _lapse(self) -> None:
        """End all calls: others may have taken this process for dead."""
        world = self._world
        world.kills.append(Kill(self.owner, world.loop.now, world.open_items(self.owner)))
        world.trace(f"{self.owner} may have been taken for dead")
        self._relayer.end_calls()
        if self.delivers:
            self._client.end_calls()

    def _open_outbox(self, runner: Runner) -> None:
        world, sizes = self._world, self._world.sizes
        engine = world.database.engines[self._slot]
        self._writer = PacedWriter(engine, world.loop, runner, self.seam)
        self._writer.start()
        self.outbox = Outbox(
            engine,
            self._writer,
            dedup_ms=DEDUP_MS,
            max_queued=10**6,
            macs=AuditMacs(bytes(32)),
            erased_ms=ERASED_MS,
            clock=self.wall,
        )
        limits = RetentionLimits(sizes.receipts_ms, sizes.dead_letters_ms)
        self._housekeeper = Housekeeper(self.outbox, limits, world.loop.time)

    def _begin_delivery(self, liveness: LivenessLock) -> None:
        self._client = self._leanplum(CALL_SECONDS)
        not_twice = frozenset(BACKGROUND_ACTIONS if self._world.sizes.hold else ())
        self._deliverer = Deliverer(
            self.outbox,
            self._client,
            {APP: LEANPLUM_APP},
            self._metrics,
            DeliveryOptions(
                owner=self.owner,
                liveness=liveness,
                call_seconds=CALL_SECONDS,
                drain_seconds=DRAIN_SECONDS,
                concurrency=4,
                policy=RetryPolicy(
                    window=100_000.0, least=0.5, most=4.0, held=2.0, not_twice=not_twice
                ),
                clock=self.wall,
                chance=self._chance.random,
                ticks=self._world.loop.time,
            ),
        )
        self.outbox.on_accepted = self._deliverer.notify
        self._locks.on_unlocked = self._deliverer.look_again
        self._deliverer.on_call_ended = self._locks.look_again
        self._running = self._context.run(asyncio.create_task, self._deliverer.run())

    def _open_relay(self) -> None:
        self._relayer = self._leanplum(RELAY_SECONDS)
        self._relay = Relay(
            self._relayer,
            self._locks,
            self._metrics,
            timeout=RELAY_SECONDS,
            concurrency=16,
            cache_seconds=0.0,
        )

    def _leanplum(self, timeout: float) -> LeanplumClient:
        transport = self._world.leanplum.transport()
        return LeanplumClient(timeout=timeout, connections=4, transport=transport)

    async def _end(self) -> None:
        await self._relayer.__aexit__()
        if self.delivers:
            self._deliverer.stop()
            await self._running
            await self._client.__aexit__()
        await self._locks.close(DRAIN_SECONDS)

    # --- its life --------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """End as on SIGTERM: finish requests, then calls; settle; give everything back."""
        if (runner := self._runner) is None:
            return
        self._runner, self._ending = None, True
        self._world.trace(f"{runner.name} stops")
        if self._requests:
            _, late = await asyncio.wait(self._requests, timeout=DRAIN_SECONDS)
            for request in late:
                request.cancel()
        ending = self._context.run(asyncio.create_task, self._end())
        done, _ = await asyncio.wait([ending], timeout=STOP_SECONDS)
        if not done:
            self._world.faults.append(f"{runner.name} did not stop within {STOP_SECONDS:.0f} s")
        elif (error := ending.exception()) is not None:
            self._world.faults.append(f"{runner.name} did not stop as it should: {error!r}")
        await self._close(runner)
        self._world.trace(f"{runner.name} is stopped")

    async def kill(self) -> None:
        """End at once: nothing of it happens any more, but calls at Leanplum go on there."""
        if (runner := self._runner) is None:
            return
        self._runner, self._ending, runner.dead = None, True, True
        world = self._world
        world.kills.append(Kill(runner.name, world.loop.now, world.open_items(runner.name)))
        world.trace(f"{runner.name} is killed; open: {sorted(world.kills[-1].open)}")
        await self._close(runner)

    async def _close(self, runner: Runner) -> None:
        runner.dead = True
        await runner.cancel()
        self._stack.close()
        await self._writer.stop()
        self._world.database.engines[self._slot].dispose()
        self._ending = False

    # --- what callers and operators ask of it --------------------------------------------------------------

    async def request(self, doing: Coroutine[Any, Any, T]) -> T:
        """Do something in this process. Raises GatewayError, or ConnectionError where it is killed
        or down.
        """
        if self._runner is None:
            doing.close()
            raise ConnectionError("refused")

        async def run() -> T:
            return await doing

        task = self._context.run(asyncio.create_task, run())
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        await asyncio.wait([task])
        if task.cancelled():
            raise ConnectionError(KILLED)
        return task.result()

    async def accept(self, items: Sequence[NewItem], ahead_ms: int = 0) -> list[Taken]:
        """Take items in one call; `ahead_ms`: how far in the future its clock says that it is."""
        now = self.wall() + ahead_ms
        chance = self._world.chance.getrandbits(26)
        acceptance = Acceptance(
            APP, "k", "r", "POST /v1/batch", "::1", now, ids.new_prefix(now, chance), list(items)
        )
        return await self.request(self.outbox.accept(acceptance))

    async def relay(self, action: str, user: str, arguments: Mapping[str, Any]) -> None:
        """Make a call while the caller waits."""

        async def ask() -> None:
            ASKED.set(self._world.loop.now)
            await self._relay.request(
                LEANPLUM_APP, ACTIONS[action], {"userId": user, **arguments}, f"u{user}"
            )

        await self.request(ask())

    async def dead_letters(self) -> list[str]:
        """The ids of all dead letters."""
        found = await self.request(self.outbox.dead_letters.find(APP, DeadLetterFilter(), 0, 1_000))
        return [receipt.id for receipt in found]

    async def replay(self, only: Sequence[str] | None = None) -> int:
        """Send dead letters again; how many went."""
        which = DeadLetterFilter(item_ids=None if only is None else tuple(only))
        return (await self.request(self.outbox.dead_letters.replay(APP, which, self._record)))[1]

    async def discard(self, only: Sequence[str]) -> int:
        """Give dead letters up; how many went."""
        which = DeadLetterFilter(item_ids=tuple(only))
        return (await self.request(self.outbox.dead_letters.discard(APP, which, self._record)))[1]

    def _record(self, _count: int) -> tuple[int, str]:
        return self.wall(), "{}"

    async def sweep(self) -> None:
        """Remove what is past its time, all of it."""

        async def steps() -> None:
            more = True
            while more:
                await asyncio.sleep(0.02)
                more = await self._housekeeper.step()

        await self.request(steps())

    async def status(self, item_id: str) -> str | None:
        """The status of an item's receipt."""
        found = await self.request(self.outbox.receipt(APP, item_id))
        return None if found is None else found.status.value
