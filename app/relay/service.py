"""Asking Leanplum while a caller waits: one call while its users are locked, and what is made of
the answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

import orjson
import structlog

from app.clock import now_ms
from app.errors import (
    KeyNotConfigured,
    NotFound,
    RateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from app.leanplum import mapping, replies
from app.leanplum.actions import ACTIONS, Action
from app.leanplum.client import (
    NO_HEADERS,
    Download,
    FilePart,
    LeanplumClient,
    LeanplumResponse,
    Unreachable,
)
from app.leanplum.http_response import retry_after_seconds
from app.leanplum.outcomes import HOSTS, is_config, is_missing, label_of_entry, message_of
from app.leanplum.replies import MigrateStates
from app.model import App, KeyKind
from app.relay.cache import Cache, Kept
from app.relay.quotas import Quotas
from app.relay.repeats import Repeats
from app.telemetry import Metrics, describe

# Seconds between tries while Leanplum says that the user is busy
THROTTLE_PAUSES = (0.1, 0.2, 0.4, 0.8)
PATIENCE_SECONDS = 2.0  # how long a call waits for what was accepted for its users before
RETRY_SECONDS = 5.0
STOPPED = (
    "The gateway shut down before Leanplum answered; a call that was sent may have taken effect."
)
LOOKS = "exportUser"
NOT_PASSED_ON = HOSTS | {"success", "reqId"}

log = structlog.get_logger("relay")
T = TypeVar("T")


class Locked(Protocol):
    """A lock: until when it lasts, by the monotonic clock, and whether the call's record is
    written.
    """

    @property
    def until(self) -> float:
        """Until when no other call is made for the users."""
        ...

    @property
    def recorded(self) -> bool:
        """Whether it is on disk that the call is about to be sent."""
        ...


class UserLocks(Protocol):
    """Whoever keeps calls for one user apart (`delivery/user_locks.py`)."""

    def hold(
        self,
        app: str,
        subjects: Collection[str],
        *,
        patience: float,
        timeout: float,
        unless_erased: bool,
        record: tuple[int, str] | None,
        in_order: bool,
    ) -> AbstractAsyncContextManager[Locked]:
        """Lock the subjects. Raises Erased, UpstreamUnavailable, StorageUnavailable."""
        ...


class CallRecorder(Protocol):
    """Whoever records calls for the audit."""

    def begun(self, app: str, action: str, subjects: Collection[str]) -> tuple[int, str]:
        """The record of a call that is about to be sent: its time in milliseconds, its text."""
        ...

    async def begin(self, app: str, action: str, subjects: Collection[str]) -> None:
        """Have it on disk that a call is about to be sent."""
        ...

    def end(self, app: str, action: str, subjects: Collection[str], status: int | None) -> None:
        """Record what HTTP status came back (None: no answer came)."""
        ...


class Relay:
    """Calls Leanplum for callers who wait, at most `concurrency` at once.

    Raises everywhere: KeyNotConfigured; UpstreamUnavailable where Leanplum can't be reached, fails
    or asks for fewer calls; UpstreamTimeout where no answer came within `timeout` retry_after_seconds.
    """

    def __init__(
        self,
        client: LeanplumClient,
        locks: UserLocks,
        metrics: Metrics,
        *,
        timeout: float,
        concurrency: int,
        cache_seconds: float,
        recorder: CallRecorder | None = None,
        migration: MigrateStates | None = None,
    ) -> None:
        self.client, self._locks, self._metrics, self._recorder = client, locks, metrics, recorder
        self._timeout, self._room = timeout, asyncio.Semaphore(concurrency)
        self.migration = migration or MigrateStates()
        self._cache, self._quotas = Cache(cache_seconds), Quotas()
        self.repeats = Repeats(time.monotonic)
        self._going = set[asyncio.Task[Any]]()
        self._open = set[asyncio.Timeout]()  # of the calls that callers wait for
        self._given_up = False

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do work that goes on whether or not somebody still waits for it: what Leanplum was asked
        must become known to whoever asks again."""
        task = asyncio.create_task(work)
        self._going.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._going.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work.failed", **describe(error))

    async def close(self, retry_after_seconds: float) -> None:
        """Wait until what was begun has ended, at most so long."""
        if self._going:
            _, late = await asyncio.wait(self._going, timeout=retry_after_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def give_up(self) -> None:
        """End every call that a caller waits for, and make no more: the process ends."""
        self._given_up = True
        for timeout in self._open:
            if not timeout.expired():
                timeout.reschedule(0)

    @asynccontextmanager
    async def _unless_given_up(self) -> AsyncIterator[None]:
        """Raises UpstreamUnavailable where the call inside is given up."""
        try:
            async with asyncio.timeout(0 if self._given_up else None) as timeout:
                self._open.add(timeout)
                try:
                    yield
                finally:
                    self._open.discard(timeout)
        except TimeoutError:
            if not self._given_up:
                raise
            raise UpstreamUnavailable(STOPPED, RETRY_SECONDS) from None

    async def ask(
        self, app: App, action: Action, args: Mapping[str, Any], subject: str | None = None
    ) -> dict[str, Any]:
        """Leanplum's answer to one action, less `success`. Raises RateLimited where the day's
        number is spent, NotFound where Leanplum doesn't know what was asked for, UpstreamRejected
        where it refuses.
        """
        self._afford(app, action)
        body = mapping.body_for(
            app, action.name, args, self.key(app, _kind(action, args)), now_ms() / 1000
        )
        answer = await self.exchange(
            app, action.name, body, [subject] if subject else [], looks=action.looks
        )
        told = read(answer, action, app)
        self._quotas.count(app.name, action.name, time.time())
        return told

    async def ask_seldom(self, app: App, action: Action, args: Mapping[str, Any]) -> Kept:
        """The same, as bytes, of what may be a little old."""
        name = (app.name, action.name, orjson.dumps(args, option=orjson.OPT_SORT_KEYS).decode())
        if (kept := self._cache.get(name, time.monotonic())) is not None:
            return kept
        return self._cache.put(
            name, orjson.dumps(await self.ask(app, action, args)), time.monotonic()
        )

    @property
    def cache_seconds(self) -> float:
        """How old an answer may be."""
        return self._cache.seconds

    def _afford(self, app: App, action: Action) -> None:
        if action.a_day is None:
            return
        if (wait := self._quotas.spent(app.name, action.name, action.a_day, time.time())) > 0:
            raise RateLimited(
                f"Leanplum's limit of {action.a_day} {action.name} calls per day is reached.", wait
            )

    async def exchange(
        self,
        app: App,
        action: str,
        body: bytes,
        subjects: Collection[str],
        *,
        looks: bool = False,
        headers: Mapping[str, str] = NO_HEADERS,
        in_order: bool = False,
        patience: float = PATIENCE_SECONDS,
    ) -> LeanplumResponse:
        """One call while its users are locked; `looks`: whether it changes nothing; `headers` tell
        of the end user; `in_order`: whether it never overtakes what was accepted for its users
        before; `patience`: how many retry_after_seconds it waits for that. While Leanplum says that the users
        are busy it is tried again, for a short while, unless it asks for a longer wait. Raises
        Erased: whoever was erased could be there again by it, but not by looking.
        """
        record = None
        if self._recorder is not None and not looks and not self._room.locked():
            record = self._recorder.begun(app.name, action, subjects)
        locking = self._locks.hold(
            app.name,
            subjects,
            patience=patience,
            timeout=self._timeout,
            unless_erased=action != LOOKS,
            record=record,
            in_order=in_order,
        )
        async with self._unless_given_up(), locking as locked, self._slot():
            if not self._in_time(locked):
                raise UpstreamUnavailable("Too many calls are waiting for Leanplum.", RETRY_SECONDS)
            answer = await self._call(
                app, action, body, subjects, looks, headers, recorded=locked.recorded
            )
            for pause in THROTTLE_PAUSES:
                if (
                    answer.status not in replies.THROTTLES
                    or retry_after_seconds(answer.retry_after) > pause
                ):
                    break
                if not self._in_time(locked, pause):
                    break
                await asyncio.sleep(pause)
                answer = await self._call(app, action, body, subjects, looks, headers)
        self.migration.note(app.name, answer.body)
        self._count_warnings(app.name, answer.body)
        return answer

    def _count_warnings(self, app: str, body: bytes) -> None:
        if b'"warning"' in body or b'"ignored"' in body:
            labels = map(label_of_entry, replies.parse_entries(body) or ())
            self._metrics.count_warnings(app, (label for label in labels if label is not None))

    def _in_time(self, locked: Locked, pause: float = 0.0) -> bool:
        """Whether a call that is begun after a pause is over before the lock is."""
        return time.monotonic() + pause + self._timeout <= locked.until

    async def upload(
        self, app: App, action: Action, fields: Mapping[str, str], files: list[FilePart]
    ) -> dict[str, Any]:
        """The same as `ask`, with files, which are read as they go out."""
        keys = mapping.credentials(app, self.key(app, action.key))
        async with self._unless_given_up(), self._slot(), self._told(app, action.name) as heard:
            answer = await self.client.upload(app.api_url, action.name, {**keys, **fields}, files)
            heard.append(answer.status)
        return read(answer, action, app)

    async def import_csv(
        self, app: App, action: Action, args: Mapping[str, str], content: bytes
    ) -> dict[str, Any]:
        """Begin an import whose rows are the body, and return Leanplum's answer as `ask` does."""
        keys = mapping.credentials(app, self.key(app, action.key))
        async with self._unless_given_up(), self._slot(), self._told(app, action.name) as heard:
            answer = await self.client.send_csv(app.api_url, action.name, {**args, **keys}, content)
            heard.append(answer.status)
        return read(answer, action, app)

    @asynccontextmanager
    async def download(
        self, app: App, args: Mapping[str, Any], kind: KeyKind = KeyKind.PRODUCTION
    ) -> AsyncIterator[Download]:
        """A file, as it comes, asked for with this kind of key. Raises NotFound,
        UpstreamRejected.
        """
        action = ACTIONS["downloadFile"]
        body = mapping.body_for(app, action.name, args, self.key(app, kind), now_ms() / 1000)
        async with AsyncExitStack() as stack:
            async with self._unless_given_up():
                await stack.enter_async_context(self._slot())
                heard = await stack.enter_async_context(self._told(app, action.name, recorded=True))
                asking = self.client.download(app.api_url, action.name, body)
                found = await stack.enter_async_context(asking)
            heard.append(found.status)
            if found.chunks is None:
                read(LeanplumResponse(found.status, found.body, None), action, app)
                raise UpstreamRejected("Leanplum's answer contains no file.")
            yield found

    def key(self, app: App, kind: KeyKind) -> str:
        """The app's key of this kind."""
        if kind not in app.keys:
            raise KeyNotConfigured(
                f"Leanplum's {kind.value} key is required: {app.setting(kind)} is not set."
            )
        return app.keys[kind].get_secret_value()

    async def _call(
        self,
        app: App,
        action: str,
        body: bytes,
        subjects: Collection[str],
        looks: bool,
        headers: Mapping[str, str],
        *,
        recorded: bool = False,
    ) -> LeanplumResponse:
        async with self._told(app, action, subjects, recorded=recorded or looks) as heard:
            answer = await self.client.call(app.api_url, action, body, headers)
            heard.append(answer.status)
        return answer

    @asynccontextmanager
    async def _told(
        self, app: App, action: str, subjects: Collection[str] = (), *, recorded: bool = False
    ) -> AsyncIterator[list[int]]:
        """Tell metrics, log and audit what came of a call, whatever it was; its errors in our
        words. One that changes something is on record before it is sent: whatever becomes of this
        process, somebody may ask what it did. `recorded`: that is done, or not needed.
        """
        if self._recorder is not None and not recorded:
            await self._recorder.begin(app.name, action, subjects)
        started, heard = time.perf_counter(), list[int]()
        why = dict[str, str]()
        try:
            yield heard
        except Unreachable as error:
            why["reason"] = str(error)
            if error.sent:
                raise UpstreamTimeout(
                    f"Leanplum's answer is missing or incomplete: {error}."
                ) from None
            raise UpstreamUnavailable(
                f"Leanplum cannot be reached: {error}.", RETRY_SECONDS
            ) from None
        finally:
            retry_after_seconds, status = time.perf_counter() - started, heard[0] if heard else None
            self._metrics.calls.labels(str(status or "none")).inc()
            self._metrics.call_seconds.observe(retry_after_seconds)
            if self._recorder is not None:
                self._recorder.end(app.name, action, subjects, status)
            log.info(
                "call.relayed",
                app=app.name,
                action=action,
                status=status,
                ms=round(retry_after_seconds * 1000, 1),
                **why,
            )

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                await self._room.acquire()
        except TimeoutError:
            raise UpstreamUnavailable(
                "Too many calls are waiting for Leanplum.", RETRY_SECONDS
            ) from None
        try:
            yield
        finally:
            self._room.release()


def _kind(action: Action, args: Mapping[str, Any]) -> KeyKind:
    """The kind of key for a call: development traffic takes the development key."""
    developing = action.key is KeyKind.PRODUCTION and args.get("devMode") is True
    return KeyKind.DEVELOPMENT if developing else action.key


def read(answer: LeanplumResponse, action: Action, app: App) -> dict[str, Any]:
    """What Leanplum says, in an answer about one action, less `success` and `reqId`. Raises what
    `Relay.ask` does.
    """
    entries = replies.parse_entries(answer.body)
    said = message_of(entries[0], "error") if entries else None
    if answer.status in replies.THROTTLES or answer.status >= 500:
        wait = retry_after_seconds(answer.retry_after) or RETRY_SECONDS
        raise UpstreamUnavailable(f"Leanplum answered {answer.status}{_said(said)}.", wait)
    if not entries:
        raise UpstreamRejected(
            f"Leanplum answered {answer.status} in an unknown format; check LEANPLUM_API_URL."
        )
    entry = entries[0]
    if is_config(said) or "apiHost" in entry:
        raise UpstreamRejected(
            f"Leanplum rejects the app id or {app.setting(action.key)}{_said(said)}."
        )
    warned = message_of(entry, "warning")
    if said is not None or entry.get("success") is not True:
        if answer.status == 404 or is_missing(said):
            raise NotFound(f"Leanplum found nothing{_said(said)}.")
        raise UpstreamRejected(f"Leanplum rejected the request{_said(said or warned)}.")
    if is_missing(warned):
        raise NotFound(f"Leanplum did nothing{_said(warned)}.")
    return {name: value for name, value in entry.items() if name not in NOT_PASSED_ON}


def _said(text: str | None) -> str:
    return f": {text.rstrip('.')}" if text else ""
