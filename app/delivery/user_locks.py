"""Locks of users for synchronous calls, which keep them apart from the delivery and each other.

Items accepted for a user should arrive before a later synchronous call about the user. So a call
waits until no item of its users waits, but for a limited time only: a user with a long backlog, or
one whose items Leanplum doesn't take now, is not cut off. The call is never made beside another
call of the users, whichever process made that, and never before a deletion.
"""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from app import ids
from app.errors import CommitUnknown, StorageUnavailable, UpstreamUnavailable
from app.outbox import erasure
from app.outbox.liveness_lock import KnownProcess, LivenessLock
from app.outbox.outbox import Outbox
from app.outbox.user_lock_rows import Denied, LockRequest, LockResult
from app.telemetry import explain

POLL_SECONDS = 0.05  # between looks for changes by other processes
UNLOCK_PAUSE_SECONDS = 1.0
RETRY_SECONDS = 5.0
LAPSED = "The gateway lost its connection to the database, so the call was not made."
TOO_LATE = "Too many calls are waiting for Leanplum."
NOT_YET = "Earlier items of this user have not been delivered yet; nothing was sent or stored."

log = structlog.get_logger("relay")
LockTask = asyncio.Task[LockResult | Denied]


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock that is held until `until`, by the monotonic clock.

    `recorded`: the audit record of the call is written. `lapsed`: whether this process may have
    been taken for dead since it asked for the lock.
    """

    until: float = math.inf
    recorded: bool = False
    lapsed: Callable[[], bool] = lambda: False

    def obstacle(self, seconds: float) -> str | None:
        """Return why a call that takes up to `seconds` must not begin; None if it may."""
        if self.lapsed():
            return LAPSED
        return TOO_LATE if time.monotonic() + seconds > self.until else None


class UserLocks:
    """The locks of one process, `owner`; each lasts `lease_seconds` at most."""

    def __init__(
        self, outbox: Outbox, liveness: LivenessLock, owner: str, lease_seconds: float
    ) -> None:
        self._outbox, self._liveness, self._owner = outbox, liveness, owner
        self._lease_seconds = lease_seconds
        self._waiters: set[asyncio.Event] = set()
        self._unlocking: set[asyncio.Task[None]] = set()
        self.on_unlocked: Callable[[], None] = lambda: None

    def look_again(self) -> None:
        """Try all waiting locks again, since a call has ended."""
        for waiter in self._waiters:
            waiter.set()

    @asynccontextmanager
    async def hold(
        self,
        app: str,
        subjects: Collection[str],
        *,
        patience: float,
        timeout: float,
        unless_erased: bool = True,
        record: tuple[int, str] | None = None,
        in_order: bool = False,
    ) -> AsyncIterator[HeldLock]:
        """Lock the subjects, after waiting for their earlier items for at most `patience` seconds.

        `record`: the audit record of the call, written together with the lock. `in_order`: the call
        never overtakes items that wait. A cancelled call may still be in progress at Leanplum, so
        its subjects stay locked for a while.

        Raises Erased where a subject was erased and `unless_erased`; UpstreamUnavailable where
        other calls of the subjects don't end for `timeout` seconds, or where `in_order` and an item
        still waits then.
        """
        if not subjects:
            yield HeldLock()
            return
        lease_ms = int(self._lease_seconds * 1000)
        request = LockRequest(
            str(uuid.uuid4()), app, list(subjects), self._owner, lease_ms, unless_erased, record
        )
        tasks: list[LockTask] = []
        outlived = False
        lapses = self._liveness.lapses()

        def lapsed() -> bool:
            return self._liveness.lapses() != lapses

        try:
            until = await self._locked(request, patience, timeout, tasks, in_order=in_order)
            if lapsed():
                raise UpstreamUnavailable(LAPSED, RETRY_SECONDS)
            outlived = True
            yield HeldLock(until, record is not None, lapsed)
            outlived = False
        except Exception:
            # A call that raised an error has ended, unless a lapse has ended it early
            outlived = outlived and lapsed()
            raise
        finally:
            if tasks:
                unlocking = asyncio.create_task(self._unlock(request.id, tasks, outlived))
                self._unlocking.add(unlocking)
                unlocking.add_done_callback(self._unlocking.discard)

    async def close(self, seconds: float) -> None:
        """Wait at most `seconds` until all locks are released."""
        if self._unlocking:
            _, late = await asyncio.wait(self._unlocking, timeout=seconds)
            for unlocking in late:
                unlocking.cancel()

    async def _locked(
        self,
        request: LockRequest,
        patience: float,
        timeout: float,
        tasks: list[LockTask],
        *,
        in_order: bool,
    ) -> float:
        """Request the lock until it is granted, and return until when it lasts."""
        lanes = {ids.lane(request.app, subject) for subject in request.subjects}
        patient_until = time.monotonic() + patience
        changed = asyncio.Event()
        self._waiters.add(changed)
        dead: Sequence[KnownProcess] = ()
        try:
            while (now := time.monotonic()) < patient_until + timeout:
                changed.clear()
                patient = in_order or now < patient_until
                clear_upto = await self._outbox.find_clear_upto(lanes) if patient else None
                deleted = not patient and await self._is_deleted(request, lanes, tasks)
                took = time.monotonic() - now
                items_wait = clear_upto is None
                if not deleted and (clear_upto is not None or not patient):
                    answer = await self._request(request, clear_upto, dead, tasks)
                    if answer is LockResult.GRANTED:
                        return now + self._lease_seconds
                    if answer is LockResult.ERASED:
                        ends = await self._outbox.erased(request.app, request.subjects)
                        raise erasure.refusal(ends.values())
                    dead = self._liveness.gone(answer.holders)
                    items_wait = not answer.holders
                if in_order and items_wait and now >= patient_until:
                    raise UpstreamUnavailable(NOT_YET, RETRY_SECONDS, await self._waiting(request))
                if took <= POLL_SECONDS:
                    await _within(POLL_SECONDS, changed)
                else:  # the queue is long: not each call that ends is a reason to look
                    patience_left = math.inf if in_order else patient_until - time.monotonic()
                    await asyncio.sleep(min(took, max(POLL_SECONDS, patience_left)))
        finally:
            self._waiters.discard(changed)
        raise UpstreamUnavailable("Other calls for this user are in progress.", RETRY_SECONDS)

    async def _waiting(self, request: LockRequest) -> list[str]:
        """Return the subjects of a request for whom something waits."""
        lanes = {subject: ids.lane(request.app, subject) for subject in request.subjects}
        waiting = await self._outbox.waiting_lanes(set(lanes.values()))
        return [subject for subject, lane in lanes.items() if lane in waiting]

    async def _is_deleted(
        self, request: LockRequest, lanes: Collection[int], tasks: list[LockTask]
    ) -> bool:
        """Return whether a deletion of the users waits, which must go first. Raises Erased."""
        if not (request.unless_erased and await self._outbox.waits_to_erase(lanes)):
            return False
        if ends := await self._outbox.erased(request.app, request.subjects):
            raise erasure.refusal(ends.values())
        if tasks:  # the request may be queued before the deletion, and block it
            await self._outbox.unlock(request.id)
            tasks.clear()
        return True

    async def _request(
        self,
        request: LockRequest,
        clear_upto: int | None,
        dead: Sequence[KnownProcess],
        tasks: list[LockTask],
    ) -> LockResult | Denied:
        """Request the lock once.

        A caller that gives up meanwhile leaves a task whose result must be known before unlocking.
        """
        liveness = self._liveness.identity()
        task = asyncio.ensure_future(
            self._outbox.lock(request, liveness=liveness, clear_upto=clear_upto, dead=dead)
        )
        tasks[:] = [task]
        try:
            return await asyncio.shield(task)
        except CommitUnknown as error:
            raise StorageUnavailable(
                "The database cannot commit now; nothing was sent to Leanplum."
            ) from error

    async def _unlock(self, id: str, tasks: Sequence[LockTask], outlived: bool) -> None:
        """Unlock, and try until that is written: the items of locked users are not sent."""
        await asyncio.gather(*tasks, return_exceptions=True)
        while True:
            try:
                await self._outbox.unlock(id, outlived=outlived)
                break
            except Exception as error:  # whatever is wrong, the users must be unlocked
                log.error("unlock.failed", **explain(error))
                await asyncio.sleep(UNLOCK_PAUSE_SECONDS)
        self.look_again()
        self.on_unlocked()


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
