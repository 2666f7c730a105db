"""Locks users for a call that a caller waits for, and keeps clear of the delivery and of other such
calls.

What was accepted for a user should arrive before what is asked about them afterwards. So a call
waits until nothing of its users waits, but for a bounded time only: a user with a long backlog, or
one whose items Leanplum doesn't take now, is not cut off. It never goes beside another call of
theirs, whichever process made that, and never before a deletion.
"""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import structlog

from app import ids
from app.errors import CommitUnknown, Erased, StorageUnavailable, UpstreamUnavailable
from app.outbox.liveness_lock import LivenessLock
from app.outbox.outbox import Outbox
from app.outbox.user_lock_rows import Denied, LockRequest, LockResult
from app.telemetry import describe

LOOK_AGAIN_SECONDS = 0.05  # for what other processes do
UNLOCK_PAUSE_SECONDS = 1.0
RETRY_SECONDS = 5.0
NOT_YET = "Earlier items of this user have not been delivered yet; nothing was sent or stored."

log = structlog.get_logger("relay")
Asking = asyncio.Task[LockResult | Denied]


class Locked(NamedTuple):
    """Users are locked until `until`, by the monotonic clock. `recorded`: whether the record of the
    call is written.
    """

    until: float = math.inf
    recorded: bool = False


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
        """A call has ended: whoever waits for a lock tries again."""
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
    ) -> AsyncIterator[Locked]:
        """Lock the subjects, after waiting at most `patience` seconds for what was accepted for
        them before.

        A call that is cancelled may be at work at Leanplum, so its subjects stay locked for a
        while.

        `record`: the audit record of the call, written together with the lock. `in_order`: nothing
        that waits is overtaken. Raises Erased where a subject was erased and `unless_erased`;
        UpstreamUnavailable where other calls of the subjects don't end for `timeout` seconds, or
        where `in_order` and something waits still.
        """
        if not subjects:
            yield Locked()
            return
        lease_ms = int(self._lease_seconds * 1000)
        request = LockRequest(
            str(uuid.uuid4()), app, list(subjects), self._owner, lease_ms, unless_erased, record
        )
        asked: list[Asking] = []
        outlived = False
        try:
            until = await self._locked(request, patience, timeout, asked, in_order=in_order)
            outlived = True
            yield Locked(until, record is not None)
            outlived = False
        except Exception:
            outlived = False  # what went wrong with a call is known once it has ended
            raise
        finally:
            if asked:
                unlocking = asyncio.create_task(self._unlock(request.id, asked, outlived))
                self._unlocking.add(unlocking)
                unlocking.add_done_callback(self._unlocking.discard)

    async def close(self, seconds: float) -> None:
        """Wait until what was locked is free again, at most so long."""
        if self._unlocking:
            _, late = await asyncio.wait(self._unlocking, timeout=seconds)
            for unlocking in late:
                unlocking.cancel()

    async def _locked(
        self,
        request: LockRequest,
        patience: float,
        timeout: float,
        asked: list[Asking],
        *,
        in_order: bool,
    ) -> float:
        """Ask until the lock is granted; until when it lasts."""
        lanes = {ids.lane(request.app, subject) for subject in request.subjects}
        patient_until = time.monotonic() + patience
        changed = asyncio.Event()
        self._waiters.add(changed)
        dead: Sequence[str] = ()
        try:
            while (now := time.monotonic()) < patient_until + timeout:
                changed.clear()
                patient = in_order or now < patient_until
                clear_upto = await self._outbox.waits(lanes) if patient else None
                deleted = not patient and await self._is_deleted(request, lanes, asked)
                items_wait = clear_upto is None
                if not deleted and (clear_upto is not None or not patient):
                    answer = await self._ask(request, clear_upto, dead, asked)
                    if answer is LockResult.GRANTED:
                        return now + self._lease_seconds
                    if answer is LockResult.ERASED:
                        raise Erased
                    dead = self._liveness.gone(answer.holders)
                    items_wait = not answer.holders
                if in_order and items_wait and now >= patient_until:
                    raise UpstreamUnavailable(NOT_YET, RETRY_SECONDS, await self._waiting(request))
                await _within(LOOK_AGAIN_SECONDS, changed)
        finally:
            self._waiters.discard(changed)
        raise UpstreamUnavailable("Other calls for this user are in progress.", RETRY_SECONDS)

    async def _waiting(self, request: LockRequest) -> list[str]:
        """Return the subjects of a request for whom something waits."""
        lanes = {subject: ids.lane(request.app, subject) for subject in request.subjects}
        waiting = await self._outbox.waiting_lanes(set(lanes.values()))
        return [subject for subject, lane in lanes.items() if lane in waiting]

    async def _is_deleted(
        self, request: LockRequest, lanes: Collection[int], asked: list[Asking]
    ) -> bool:
        """Whether a deletion of the users waits, which this call must let pass. Raises Erased."""
        if not (request.unless_erased and await self._outbox.waits_to_erase(lanes)):
            return False
        if await self._outbox.erased(request.app, request.subjects):
            raise Erased
        if asked:  # it may stand in line, and so in the deletion's way
            await self._outbox.unlock(request.id)
            asked.clear()
        return True

    async def _ask(
        self, request: LockRequest, clear_upto: int | None, dead: Sequence[str], asked: list[Asking]
    ) -> LockResult | Denied:
        """Ask once. Whoever gives up meanwhile leaves a question behind whose answer must be known
        before unlocking.
        """
        liveness = self._liveness.identity()
        asking = asyncio.ensure_future(
            self._outbox.lock(request, liveness=liveness, clear_upto=clear_upto, dead=dead)
        )
        asked[:] = [asking]
        try:
            return await asyncio.shield(asking)
        except CommitUnknown as error:
            raise StorageUnavailable(
                "The database cannot commit now; nothing was sent to Leanplum."
            ) from error

    async def _unlock(self, id: str, asked: Sequence[Asking], outlived: bool) -> None:
        """Try until it is written: what stays locked is sent to nobody."""
        await asyncio.gather(*asked, return_exceptions=True)
        while True:
            try:
                await self._outbox.unlock(id, outlived=outlived)
                break
            except Exception as error:  # the outermost place of this task
                reason = error.detail if isinstance(error, StorageUnavailable) else describe(error)
                log.error("unlock.failed", reason=reason)
                await asyncio.sleep(UNLOCK_PAUSE_SECONDS)
        self.look_again()
        self.on_unlocked()


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
