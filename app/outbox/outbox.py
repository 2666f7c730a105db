"""The outbox: the durable queue's interface for callers, deliverers and operators."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine, func, select

from app.audit.records import AuditMacs
from app.clock import now_ms
from app.database.driver import (
    CALLER_SECONDS,
    LONG_SECONDS,
    in_background,
    in_time,
    late_answer,
)
from app.database.engine import reading, scrub
from app.database.tables import deliverers, items, sequence, user_locks
from app.database.writer import Writer
from app.encryption import NO_ENCRYPTION, BodyCipher
from app.errors import CommitUnknown, Erased, QueueFull, StorageUnavailable
from app.model import (
    ERASES,
    Acceptance,
    Backlog,
    CallRecord,
    Erasure,
    Item,
    Lease,
    NewItem,
    ReadRequest,
    ReadResult,
    Receipt,
    Settled,
    Status,
    Taken,
    Verdict,
)
from app.outbox import (
    delivery_states,
    erasure,
    logins,
    minute_counts,
    receipts,
    retention,
    search_index,
    waiting_items,
)
from app.outbox.accept import Accept, Erase
from app.outbox.dead_letters import DeadLetterService
from app.outbox.delivery_states import DeliveryState
from app.outbox.feed import Feed, FeedStep
from app.outbox.leases import Pseudonymize, ReleaseLeases, RenewLeases
from app.outbox.liveness_lock import KnownProcess
from app.outbox.search import ReceiptPage, ReceiptSearch, search
from app.outbox.settle import Begin, Settle
from app.outbox.user_lock_rows import NOBODY, Denied, Lock, LockRequest, LockResult, Unlock
from app.telemetry import traces

log = structlog.get_logger("outbox")
T = TypeVar("T")
MAY_BE_TAKEN = (
    "The outcome of the database commit is unknown: the items may have been accepted. "
    "Send them again with the same ids; none is accepted twice."
)
SEARCHES = 2  # of all that waits, for callers, at once
LOOK_AGAIN_SECONDS = 1.0  # for what another process settled
FIRST_COUNT = 200_000  # items that are counted at the start
FEW_QUEUED = 5_000  # items that are looked through in a few milliseconds


class Outbox:
    """The durable queue.

    Methods that write return after the commit, or raise StorageUnavailable.
    """

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        *,
        dedup_ms: int,
        max_queued: int,
        macs: AuditMacs,
        erased_ms: int = 0,
        cipher: BodyCipher = NO_ENCRYPTION,
        clock: Callable[[], int] = now_ms,
        since: Callable[[int], int] | None = None,
    ) -> None:
        """Create the queue on a started writer's database.

        `dedup_ms`: how long item ids are remembered. `erased_ms`: how long items of erased subjects
        are refused. `since` returns the time below which everything stored is older than so many
        milliseconds, however the clock was set; the default subtracts from `clock`.
        """
        self._engine, self._writer, self._cipher, self._macs = engine, writer, cipher, macs
        self._dedup_ms, self._max_queued, self._clock = dedup_ms, max_queued, clock
        self._since = since or (lambda span: self._clock() - span)
        self._erasures = erasure.ActiveErasures(cipher, self._least_now)
        self._erased_ms = erased_ms
        self._erasure_lock = asyncio.Lock()  # one search for the items of erased subjects at a time
        self._to_scrub = True  # a former process may have ended before it did so
        # By sequence number: events of callers that wait for the item to settle
        self._awaited: dict[int, list[asyncio.Event]] = {}
        self._searches = asyncio.Semaphore(SEARCHES)
        self._waiting_is_over = False  # set at shutdown: nobody waits for an item to settle
        self._index_pace = search_index.IndexPace()
        self._logins_examined = 0  # the number up to which housekeeping has looked at logins
        self.queued = 0
        self._accepting = 0  # of these, items whose commit is pending
        self.on_accepted: Callable[[], None] = lambda: None
        # Called with an app, and how many of its items have settled by status
        self.on_settled: Callable[[str, Mapping[str, int]], None] = lambda app, counts: None
        # Called with an app, and how many of its items an erasure has removed from the queue
        self.on_erased: Callable[[str, int], None] = lambda app, count: None
        # Called with items that have settled, since callers may wait for them in other processes
        self.publish_settled: Callable[[Sequence[int]], None] | None = None
        self.dead_letters = DeadLetterService(
            engine,
            writer,
            macs=macs,
            cipher=cipher,
            clock=clock,
            on_replayed=self._queued_again,
            on_discarded=self._discarded,
        )

    def count_queued(self) -> None:
        """Count waiting items in the database, at most `FIRST_COUNT`, so that the start is fast.

        `recount_queued` counts all soon; in between, the count is kept in memory.
        """
        self.queued = self._query(_count_some)

    async def recount_queued(self) -> None:
        """Count again while others accept and settle, since memory misses other processes.

        The count is off by what changes meanwhile, until the next time. Items that are being
        accepted count as waiting, also if their commit comes after they were counted.
        """
        accepting = self._accepting
        counted = await self._walk(_count)
        self.queued = counted + max(accepting, self._accepting)

    async def accept(self, acceptance: Acceptance, seconds: float | None = None) -> list[Taken]:
        """Commit the items of one call; return a decision for each, in order.

        `seconds`: wait no longer than this, if that is less than for other writes; ignored if an
        item erases a user. Raises QueueFull before anything is written, and CommitUnknown with the
        items' ids if they may have been accepted.
        """
        if ERASES in [item.action for item in acceptance.items]:
            return (await self.erase(acceptance))[0]
        coming = self._require_space(acceptance)
        # Counted before the commit, so that many at once can't overfill the queue together
        self.queued += coming
        self._accepting += coming
        accepted = 0
        try:
            write = self._writer.write(self._accept(acceptance), seconds=seconds)
            taken = await _traced(acceptance, _with_ids(write, lambda taken: taken))
            accepted = [kind for _, kind in taken].count("accepted")
        finally:
            self.queued -= coming - accepted
            self._accepting -= coming
        _log_accepted(acceptance, taken)
        self.on_accepted()
        return taken

    def _require_space(self, acceptance: Acceptance) -> int:
        """Return how many items a call would add to the queue. Raises QueueFull."""
        coming = len(acceptance.items)
        if self.queued + coming > self._max_queued:
            raise QueueFull(
                f"The queue is full: {self._max_queued} items are waiting "
                "(GATEWAY_MAX_QUEUED_ITEMS).",
                retry_after=10,
            )
        return coming

    def _accept(self, acceptance: Acceptance, *, erasing: bool = False) -> Accept:
        since = self._since(self._dedup_ms)
        return Accept(acceptance, since, self._cipher, self._erasures, self._macs, erasing)

    async def erase(self, acceptance: Acceptance) -> tuple[list[Taken], dict[str, Erasure]]:
        """Commit items of which some erase their subjects.

        The subjects' stored items are removed, and their new items are refused for a while. Return
        the decisions, and the erasures by subject.
        """
        self._require_space(acceptance)
        erased = {item.subject for item in acceptance.items if item.action == ERASES}
        subjects = {each for subject in erased for each in erasure.both_subjects(subject)}
        found = await self._find_items(acceptance.app, sorted(subjects))
        until = acceptance.accepted_at + self._erased_ms
        erase = Erase(self._accept(acceptance, erasing=self._erased_ms > 0), found, until)
        write = self._writer.write(erase)
        taken, erasures = await _traced(acceptance, _with_ids(write, lambda result: result[0]))
        self.queued += [kind for _, kind in taken].count("accepted")
        self._to_scrub = True
        for removed, record_id in erasures.values():
            self.queued -= removed.waiting
            self.on_erased(acceptance.app, removed.waiting)
            log.info(
                "subject.erased",
                app=acceptance.app,
                request_id=acceptance.request_id,
                record_id=record_id,
                **removed._asdict(),
            )
        _log_accepted(acceptance, taken)
        self.on_accepted()
        return taken, erasures

    async def _find_items(self, app: str, subjects: Sequence[str]) -> erasure.SubjectItems:
        """Find all items of the subjects.

        That may take seconds: it runs one at a time, and no other call waits for it. A caller waits
        no longer than usual for a silent database.
        """
        try:
            async with asyncio.timeout(CALLER_SECONDS):
                await self._read(_last)  # whether the database answers
                await self._erasure_lock.acquire()
        except TimeoutError:
            raise StorageUnavailable(
                "Another erasure is in progress; nothing was changed."
            ) from None
        try:
            return await self._walk(partial(erasure.find_items, app=app, subjects=subjects))
        finally:
            self._erasure_lock.release()

    async def erased(self, app: str, subjects: Collection[str]) -> dict[str, int]:
        """Return which of the subjects are erased, so that nothing may be sent for them now.

        For each, the time until which that applies (milliseconds).
        """

        def find(connection: Connection) -> dict[str, int]:
            self._erasures.refresh(connection)
            return self._erasures.find_ends(app, subjects, self._clock())

        return await self._read(find)

    async def refusals(self, app: str, items: Sequence[NewItem]) -> list[Erased]:
        """Return the error for each item that was refused because a user was erased.

        It names the time until which that applies. Only then is that time read: a call without such
        items does not pay for it.
        """
        subjects = [erasure.subjects_of(item) for item in items]
        ends: Mapping[str, int] = {}
        with suppress(StorageUnavailable):  # the refusal is decided, and stays one
            ends = await self.erased(app, set[str]().union(*subjects))
        return [erasure.refusal(map(ends.get, named)) for named in subjects]

    async def find_erasure_ends(self, app: str) -> Callable[[str], int | None] | None:
        """Return a function that finds the end of a subject's erasure; None if nobody is erased."""

        def make_finder(connection: Connection) -> Callable[[str], int | None] | None:
            self._erasures.refresh(connection)
            return self._erasures.end_finder(app, self._clock())

        return await self._read(make_finder)

    def _least_now(self) -> int:
        """Return the time by which the end of an erasure's refusals is judged."""
        return self._since(self._erased_ms) + self._erased_ms

    async def newest(self) -> int:
        """Return the time of the last audit record, which every write has; 0 if there is none."""
        last = "SELECT time FROM audit_records ORDER BY seq DESC LIMIT 1"
        time = await self._read(lambda connection: connection.exec_driver_sql(last).scalar())
        return time or 0

    # --- for a deliverer ---

    async def renew(
        self,
        owner: str,
        lease_ms: int,
        dead: Sequence[KnownProcess],
        unknown: Collection[str],
        pseudonymize: Pseudonymize = lambda app, subjects: (),
        *,
        liveness: str | None = None,
        forget: Sequence[str] = (),
        latest: int | None = None,
        states: Mapping[str, DeliveryState] = MappingProxyType({}),
    ) -> Lease:
        """Renew the leases of deliverer `owner` for `lease_ms`; recover attempts of dead ones.

        `dead`: processes that are known to have ended. `pseudonymize` hashes users for the audit;
        without it no user is named. `liveness`: the identity of its liveness lock. `forget`:
        attempts that may be recorded and were not sent. `latest`: the latest time by which others'
        leases are judged. `states`: those of its delivery, by app.
        """
        renew = RenewLeases(
            owner=owner,
            lease_ms=lease_ms,
            now=self._clock(),
            dead=dead,
            unknown=unknown,
            macs=self._macs,
            pseudonymize=pseudonymize,
            liveness=liveness,
            forget=forget,
            latest=latest,
            states=delivery_states.render(states),
        )
        lease = await self._writer.write(renew)
        self.queued -= lease.settled
        for app, count in lease.unknown.items():
            self.on_settled(app, {Status.UNKNOWN.value: count})
        return lease

    async def processes(self) -> set[KnownProcess]:
        """Return the processes that deliver or hold user locks."""
        deliver = select(deliverers.c.id, deliverers.c.lock)
        lock = select(user_locks.c.holder, user_locks.c.lock).where(user_locks.c.holder != NOBODY)
        known = deliver.union(lock)
        return await self._read(
            lambda connection: {KnownProcess(*row) for row in connection.execute(known)}
        )

    async def release(
        self,
        owner: str,
        shards: Sequence[int],
        *,
        leaving: bool = False,
        forget: Sequence[str] = (),
    ) -> None:
        """Give the shards to others. `forget`: attempts that may be recorded and were not sent."""
        await self._writer.write(ReleaseLeases(owner, shards, leaving, forget))

    async def look(self, wanted: ReadRequest) -> ReadResult:
        """Read what a deliverer requests of the queue."""
        if wanted.fresh:
            return await self._look_first(wanted)
        return await self._read(
            partial(waiting_items.read_waiting_items, wanted=wanted, cipher=self._cipher)
        )

    async def _look_first(self, wanted: ReadRequest) -> ReadResult:
        """Read the end of the queue, and then all callers with waiting items, part by part."""
        found = await self._read(partial(waiting_items.read_end, wanted=wanted))
        callers, after = dict[int, Backlog](), 0
        while True:
            read = partial(waiting_items.read_callers, after=after, upto=found.last)
            part = await self._walk(read)
            callers = part.callers | callers  # the first number of each counts
            if part.after is None:
                return replace(found, callers=callers)
            after = part.after

    async def begin(
        self,
        attempt: str,
        owner: str,
        sent: Sequence[Item],
        call_ms: int = 0,
        *,
        liveness: str | None = None,
        forget: Sequence[str] = (),
    ) -> dict[int, int] | None:
        """Record an attempt before it is sent.

        Return None, and record nothing, if `owner` doesn't hold the items' lanes for `call_ms` from
        now, its leases name another liveness lock, or an item's subject was erased. Otherwise
        return by lane after which sequence number its items are left out: 0 if the user is locked,
        a login's number if later items wait for it. `liveness`, `forget`: as in `renew`.
        """
        begin = Begin(
            attempt=attempt,
            owner=owner,
            items=[(item.seq, item.lane) for item in sent],
            started_at=self._clock(),
            call_ms=call_ms,
            liveness=liveness,
            forget=forget,
        )
        return await self._writer.write(begin)

    async def settle(
        self,
        attempt: str,
        app: str,
        verdicts: Sequence[tuple[int, Verdict]],
        calls: Sequence[CallRecord] = (),
        erased: Sequence[tuple[int, str]] = (),
        *,
        again: bool = False,
    ) -> bool:
        """Record the outcome of an attempt, with a verdict for each item by sequence number.

        Return False, and change no item, if another deliverer has taken the attempt for lost.
        `calls`: the calls made, for the audit. `erased`: the items that have erased their subjects.
        `again`: it was tried before, and may have succeeded.
        """
        settle = Settle(
            attempt=attempt,
            app=app,
            verdicts=verdicts,
            finished_at=self._clock(),
            calls=calls,
            cipher=self._cipher,
            macs=self._macs,
            erased=erased,
            again=again,
        )
        counts = await self._writer.write(settle)
        if counts is None:
            return False
        self.on_settled(app, counts)
        self._to_scrub |= bool(erased)
        self.queued -= settle.settled
        if self._awaited or self.publish_settled is not None:
            settled = [seq for seq, verdict in verdicts if isinstance(verdict, Settled)]
            self.wake_waiters(settled)
            if self.publish_settled is not None:
                self.publish_settled(settled)
        return True

    def wake_waiters(self, seqs: Iterable[int]) -> None:
        """Let callers look at items for whose outcome they wait."""
        for seq in seqs:
            for event in self._awaited.get(seq, ()):
                event.set()

    # --- for calls that a caller waits for ---

    async def find_clear_upto(self, lanes: Collection[int]) -> int | None:
        """Return the number up to which these lanes are known to be clear.

        It is a sequence number. 0: not checked, since the queue is short; `lock` checks. None: an
        item waits.
        """
        if self.queued < FEW_QUEUED:
            return 0
        waiting = (
            select(items.c.seq)
            .where(items.c.settled_at.is_(None), items.c.lane.in_(lanes))
            .limit(1)
        )

        def find(connection: Connection) -> int | None:
            last: int = connection.execute(select(sequence.c.last)).scalar_one()
            if connection.execute(waiting).first() is not None or logins.wait(connection, lanes):
                return None
            return last

        return await self._search(find)

    async def waiting_lanes(self, lanes: Collection[int]) -> set[int]:
        """Return those of the lanes for which an item waits."""
        waiting = (
            select(items.c.lane)
            .where(items.c.settled_at.is_(None), items.c.lane.in_(lanes))
            .distinct()
        )

        def find(connection: Connection) -> set[int]:
            busy = set(connection.execute(waiting).scalars())
            others = [lane for lane in lanes if lane not in busy]
            return busy.union(lane for lane in others if logins.wait(connection, [lane]))

        return await self._search(find)

    async def waits_to_erase(self, lanes: Collection[int]) -> bool:
        """Return whether an erasure of a subject of these lanes waits."""
        erases = select(items.c.seq).where(
            items.c.settled_at.is_(None), items.c.lane.in_(lanes), items.c.action == ERASES
        )
        return await self._search(
            lambda connection: connection.execute(erases.limit(1)).first() is not None
        )

    async def lock(
        self,
        request: LockRequest,
        *,
        liveness: str | None,
        clear_upto: int | None,
        dead: Sequence[KnownProcess] = (),
    ) -> LockResult | Denied:
        """Lock the users of a call.

        `clear_upto`: the result of `find_clear_upto`; nothing is locked if an item waits by now.
        None: waiting items don't matter any more, and a denied request stays in line until it is
        granted or unlocked. `liveness`: the identity of the caller's liveness lock. `dead`:
        processes that are known to have ended.
        """
        lock = Lock(
            request=request,
            now=self._clock(),
            liveness=liveness,
            clear_upto=clear_upto,
            dead=dead,
            erasures=self._erasures,
            macs=self._macs,
        )
        return await self._writer.write(lock)

    async def unlock(self, id: str, *, outlived: bool = False) -> None:
        """Release a lock, granted or not.

        `outlived`: its call was given up, and may still be running for a while.
        """
        await self._writer.write(Unlock(id, self._clock(), outlived))

    # --- for callers and operators ---

    async def receipt(self, app: str, item_id: str) -> Receipt | None:
        """Return the receipt of an item of `app`, or None."""
        return await self._read(
            partial(receipts.find, app=app, item_id=item_id, cipher=self._cipher)
        )

    async def waiting_for(
        self, app: str, waiting: Collection[Receipt]
    ) -> Mapping[int, receipts.Waits]:
        """Return what items of `app` wait for, by number, as far as the database tells."""
        return await self._read(partial(receipts.find_waits, app=app, receipts=waiting))

    async def origin(self, receipt: Receipt) -> receipts.Origin | None:
        """Return where an item came from; None if it was removed meanwhile."""
        return await self._read(partial(receipts.find_origin, receipt=receipt, cipher=self._cipher))

    async def search_receipts(self, wanted: ReceiptSearch) -> ReceiptPage:
        """Return a page of receipts, newest first. Raises StorageUnavailable."""
        return await self._read(partial(search, wanted=wanted, cipher=self._cipher))

    async def read_feed(self, feed: Feed, history: int = 0) -> FeedStep:
        """Return what is new in a feed, as `Feed.step` does. Raises StorageUnavailable."""
        return await in_background(partial(self._query, partial(feed.step, history=history)))

    async def settled_receipt(self, app: str, item_id: str, timeout: float) -> Receipt | None:
        """Return the receipt as soon as it is final, or as it is after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        receipt = await self.receipt(app, item_id)
        while receipt is not None and not receipt.settled and not self._waiting_is_over:
            left = deadline - loop.time()
            if left <= 0:
                break
            settled, seq = asyncio.Event(), receipt.seq
            events = self._awaited.setdefault(seq, [])
            events.append(settled)
            try:
                # It may have settled before the event was there
                receipt = await self.receipt(app, item_id)
                if receipt is not None and not receipt.settled:
                    await _within(min(left, LOOK_AGAIN_SECONDS), settled)
                    receipt = await self.receipt(app, item_id)
            finally:
                events.remove(settled)
                if not events:
                    self._awaited.pop(seq, None)
        return receipt

    def answer_waiters(self) -> None:
        """Let nobody wait for an item to settle from now on."""
        self._waiting_is_over = True
        self.wake_waiters(self._awaited)

    def _queued_again(self, item_ids: Sequence[str]) -> None:
        self.queued += len(item_ids)
        self.on_accepted()

    def _discarded(self, item_ids: Sequence[str]) -> None:
        self._to_scrub |= bool(item_ids)

    async def sweep(self, limits: retention.RetentionLimits) -> int:
        """Remove some of what is past its time; return how much, 0 if nothing is left."""
        now = self._least_now()
        # Where the clock was set forward within a span, that span is so much longer.
        limits = retention.RetentionLimits(
            receipts=now - self._since(limits.receipts),
            dead_letters=now - self._since(limits.dead_letters),
        )
        expired = await self._walk(partial(retention.find_expired, now=now, limits=limits))
        over = await self._walk(
            partial(logins.over, after=self._logins_examined, limit=retention.STEP)
        )
        self._logins_examined = over.after
        remove = retention.RemoveExpired(expired, now, limits, over.rows)
        removed = await self._writer.write(remove) + len(over.rows)
        return removed + await self._end_erasures(now) + await self._remove_old_counts()

    async def _end_erasures(self, now: int) -> int:
        upto = await self._walk(partial(retention.last_over, now=now))
        if upto is None:
            return 0
        return await self._writer.write(retention.EndErasures(upto, self._macs))

    async def _remove_old_counts(self) -> int:
        before = self._since(minute_counts.RETENTION_MS)
        if not await self._walk(partial(minute_counts.any_old, before=before)):
            return 0
        return await self._writer.write(minute_counts.RemoveOldCounts(before))

    async def index_block(self) -> bool:
        """Add a block to the search index, or remove some of an emptied one.

        Return whether there was something to do.
        """
        progress = await self._walk(search_index.progress)
        if self._index_pace.permits(progress):
            await self._writer.write(search_index.IndexBlock(progress.block))
            return True
        emptied = await self._walk(search_index.find_emptied)
        if emptied is not None:
            await self._writer.write(search_index.RemoveKeys(emptied))
        return emptied is not None

    async def scrub(self) -> bool:
        """Remove erased content from the database's files, if there is any.

        Return whether there was something to do and it is done.
        """
        if not self._to_scrub:
            return False
        self._to_scrub = False  # first: content erased meanwhile is for the next time
        self._to_scrub = not await asyncio.to_thread(scrub, self._engine) or self._to_scrub
        return not self._to_scrub

    async def _read(self, query: Callable[[Connection], T]) -> T:
        """Read for a caller who waits. Raises StorageUnavailable."""
        return await in_time(partial(self._query, query))

    async def _search(self, query: Callable[[Connection], T]) -> T:
        """Search all that waits, for a caller who waits for that. Raises StorageUnavailable.

        Of a long queue it may take a second, so two at a time: other work needs threads as well.
        """
        try:
            async with asyncio.timeout(CALLER_SECONDS):
                await self._searches.acquire()
        except TimeoutError:
            raise late_answer() from None
        try:
            return await in_background(partial(self._query, query))
        finally:
            self._searches.release()

    async def _walk(self, query: Callable[[Connection], T]) -> T:
        """Read what may take long, apart from callers who wait. Raises StorageUnavailable."""
        return await in_background(partial(self._query, query), LONG_SECONDS)

    def _query(self, query: Callable[[Connection], T]) -> T:
        with reading(self._engine) as connection:
            return query(connection)


def _log_accepted(acceptance: Acceptance, taken: Sequence[Taken]) -> None:
    """Log the id of each item of a call, and the decision on it."""
    log.debug("items.accepted", app=acceptance.app, request_id=acceptance.request_id, taken=taken)


async def _traced(acceptance: Acceptance, commit: Awaitable[T]) -> T:
    """Wait for a commit, in a span of its own if the call is traced."""
    if acceptance.traceparent is None:
        return await commit
    with traces.committing(len(acceptance.items)):
        return await commit


async def _with_ids(writing: Awaitable[T], taken: Callable[[Any], Sequence[Taken]]) -> T:
    """Wait for a write.

    Raises CommitUnknown with the ids that the items were to have, which `taken` finds in the
    result.
    """
    try:
        return await writing
    except CommitUnknown as error:
        ids = [item_id or None for item_id, _ in taken(error.result)]
        raise CommitUnknown(MAY_BE_TAKEN, ids=ids) from error


def _last(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT last FROM sequence").scalar_one())


def _count_some(connection: Connection) -> int:
    some = select(items.c.seq).where(items.c.settled_at.is_(None)).limit(FIRST_COUNT).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one()


def _count(connection: Connection) -> int:
    waiting = select(func.count()).select_from(items).where(items.c.settled_at.is_(None))
    return connection.execute(waiting).scalar_one()


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
