"""Synchronous calls to Leanplum: one call while its users are locked, and its answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
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
from app.leanplum import http_response, mapping, outcomes, replies
from app.leanplum.actions import ACTIONS, Action
from app.leanplum.call_outcomes import outcome_of_status
from app.leanplum.client import (
    NO_HEADERS,
    Download,
    FilePart,
    LeanplumClient,
    LeanplumResponse,
    Unreachable,
)
from app.model import App, KeyKind
from app.relay.answers import AnswerCache, CachedAnswer, DailyQuotas, Repeats
from app.telemetry import Metrics, describe

# Seconds before each new try while Leanplum answers that the user has another call in progress
THROTTLE_PAUSES = (0.1, 0.2, 0.4, 0.8)
PATIENCE_SECONDS = 2.0  # how long a call waits for earlier items of its users
MAX_QUOTED = 500  # characters of a text of Leanplum's
RETRY_SECONDS = 5.0
STOPPED = (
    "The gateway shut down before Leanplum answered; a call that was sent may have taken effect."
)
EXPORT_USER = "exportUser"  # the one action that is allowed for erased users
HIDDEN_FIELDS = outcomes.HOSTS | {"success", "reqId"}

log = structlog.get_logger("relay")
T = TypeVar("T")


class UserLock(Protocol):
    """A lock of users that is held (`delivery/user_locks.py`)."""

    @property
    def recorded(self) -> bool:
        """Return whether the audit record of the call is on disk."""
        ...

    def obstacle(self, seconds: float) -> str | None:
        """Return why a call that takes up to `seconds` must not begin; None if it may."""
        ...


class UserLocker(Protocol):
    """The service that keeps calls for one user apart (`delivery/user_locks.py`)."""

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
    ) -> AbstractAsyncContextManager[UserLock]:
        """Lock the subjects. Raises Erased, UpstreamUnavailable, StorageUnavailable."""
        ...


class CallRecorder(Protocol):
    """The service that records calls for the audit."""

    def begun(self, app: str, action: str, subjects: Collection[str]) -> tuple[int, str]:
        """Return the record of a call about to be sent: its time in milliseconds, its text."""
        ...

    async def begin(self, app: str, action: str, subjects: Collection[str]) -> None:
        """Write the record of a call about to be sent to disk."""
        ...

    def end(self, app: str, action: str, subjects: Collection[str], status: int | None) -> None:
        """Record the HTTP status of the answer (None: no answer came)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedCall:
    """One call to relay. `headers` are those about the end user."""

    app: App
    action: str
    body: bytes
    subjects: Collection[str] = ()
    read_only: bool = False
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)


@dataclass(slots=True)
class _ObservedCall:
    """A call in progress, with the HTTP status of its answer once that came.

    `sent`: Leanplum may have received it.
    """

    status: int | None = None
    sent: bool = True


class Relay:
    """Calls Leanplum for callers who wait, at most `concurrency` calls at once.

    All methods that call raise: KeyNotConfigured; UpstreamUnavailable where Leanplum cannot be
    reached, fails or asks for fewer calls; UpstreamTimeout where no answer came within `timeout`
    seconds.
    """

    def __init__(
        self,
        client: LeanplumClient,
        locks: UserLocker,
        metrics: Metrics,
        *,
        timeout: float,
        concurrency: int,
        cache_seconds: float,
        recorder: CallRecorder | None = None,
        migration: replies.MigrateStates | None = None,
    ) -> None:
        self.client, self._locks, self._metrics, self._recorder = client, locks, metrics, recorder
        self._timeout, self._slots = timeout, asyncio.Semaphore(concurrency)
        self.migration = migration or replies.MigrateStates()
        self._cache, self._quotas = AnswerCache(cache_seconds), DailyQuotas()
        self.repeats = Repeats(time.monotonic)
        self._tasks = set[asyncio.Task[Any]]()
        self._timeouts = set[asyncio.Timeout]()  # of the calls that callers wait for
        self._given_up = False

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that goes on whether or not a caller still waits for it.

        A caller that repeats a call must get the answer to the first one.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work.failed", **describe(error))

    async def close(self, seconds: float) -> None:
        """Wait at most `seconds` until all work that was begun has ended, then cancel it."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def give_up(self) -> None:
        """End every call that a caller waits for, and make no more: the process ends."""
        self._given_up = True
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(0)

    @asynccontextmanager
    async def _unless_given_up(self) -> AsyncIterator[None]:
        """Raise UpstreamUnavailable where the call inside is given up."""
        try:
            async with asyncio.timeout(0 if self._given_up else None) as timeout:
                self._timeouts.add(timeout)
                try:
                    yield
                finally:
                    self._timeouts.discard(timeout)
        except TimeoutError:
            if not self._given_up:
                raise
            raise UpstreamUnavailable(STOPPED, RETRY_SECONDS) from None

    async def request(
        self, app: App, action: Action, args: Mapping[str, Any], subject: str | None = None
    ) -> dict[str, Any]:
        """Return the fields of Leanplum's answer to one action.

        Raises RateLimited where the action's daily limit is reached, NotFound where Leanplum finds
        nothing, UpstreamRejected where it refuses.
        """
        self._check_quota(app, action)
        key = self.key(app, _key_kind(action, args))
        call = RelayedCall(
            app=app,
            action=action.name,
            body=mapping.body_for(app, action.name, args, key, now_ms() / 1000),
            subjects=[subject] if subject else [],
            read_only=action.read_only,
        )
        fields = fields_of(await self.exchange(call), action, app)
        self._quotas.count(app.name, action.name, time.time())
        return fields

    async def request_cached(
        self, app: App, action: Action, args: Mapping[str, Any]
    ) -> CachedAnswer:
        """Return the answer to an action as JSON, which may be as old as the cache keeps it.

        Raises what `request` does.
        """
        sorted_args = orjson.dumps(args, option=orjson.OPT_SORT_KEYS).decode()
        name = (app.name, action.name, sorted_args)
        cached = self._cache.get(name, time.monotonic())
        if cached is None:
            body = orjson.dumps(await self.request(app, action, args))
            cached = self._cache.put(name, body, time.monotonic())
        return cached

    @property
    def cache_seconds(self) -> float:
        """The age that a cached answer may reach."""
        return self._cache.seconds

    def _check_quota(self, app: App, action: Action) -> None:
        if action.per_day is None:
            return
        wait = self._quotas.wait(app.name, action.name, action.per_day, time.time())
        if wait > 0:
            raise RateLimited(
                f"Leanplum's limit of {action.per_day} {action.name} calls per day is reached.",
                wait,
            )

    async def exchange(
        self, call: RelayedCall, *, in_order: bool = False, patience: float = PATIENCE_SECONDS
    ) -> LeanplumResponse:
        """Make one call while its users are locked.

        `in_order`: the call never overtakes earlier items of its users. `patience`: the seconds
        that it waits for those. While Leanplum answers that a user has another call in progress,
        the call is tried again for a short while, unless Leanplum asks for a longer wait. Raises
        Erased where a user was erased, unless the action is `EXPORT_USER`: any other call could
        create the user anew.
        """
        app = call.app
        record = None
        if self._recorder is not None and not call.read_only and not self._slots.locked():
            record = self._recorder.begun(app.name, call.action, call.subjects)
        locking = self._locks.hold(
            app.name,
            call.subjects,
            patience=patience,
            timeout=self._timeout,
            unless_erased=call.action != EXPORT_USER,
            record=record,
            in_order=in_order,
        )
        async with self._unless_given_up(), locking as lock, self._slot():
            response = await self._call(call, lock, recorded=lock.recorded)
            for pause in THROTTLE_PAUSES:
                if response.status not in replies.THROTTLES:
                    break
                if http_response.retry_after_seconds(response.retry_after) > pause:
                    break
                if lock.obstacle(pause + self._timeout) is not None:
                    break
                await asyncio.sleep(pause)
                response = await self._call(call, lock)
        self.migration.note(app.name, response.body)
        self._count_warnings(app.name, response.body)
        return response

    def _count_warnings(self, app: str, body: bytes) -> None:
        if b'"warning"' in body or b'"ignored"' in body:
            labels = map(outcomes.label_of_entry, replies.parse_entries(body) or ())
            self._metrics.count_warnings(app, (label for label in labels if label is not None))

    async def upload(
        self, app: App, action: Action, fields: Mapping[str, str], files: list[FilePart]
    ) -> dict[str, Any]:
        """Upload files, which are read as they go out, and return the fields of the answer.

        Raises what `request` does.
        """
        keys = mapping.credentials(app, self.key(app, action.key))
        async with self._unless_given_up(), self._slot(), self._observe(app, action.name) as call:
            response = await self.client.upload(app.api_url, action.name, {**keys, **fields}, files)
            call.status = response.status
        return fields_of(response, action, app)

    async def import_csv(
        self, app: App, action: Action, args: Mapping[str, str], content: bytes
    ) -> dict[str, Any]:
        """Begin an import whose rows are the body, and return the fields of the answer.

        Raises what `request` does.
        """
        keys = mapping.credentials(app, self.key(app, action.key))
        async with self._unless_given_up(), self._slot(), self._observe(app, action.name) as call:
            response = await self.client.send_csv(
                app.api_url, action.name, {**args, **keys}, content
            )
            call.status = response.status
        return fields_of(response, action, app)

    @asynccontextmanager
    async def download(
        self, app: App, args: Mapping[str, Any], kind: KeyKind = KeyKind.PRODUCTION
    ) -> AsyncIterator[Download]:
        """Yield a file as it comes, requested with this kind of key.

        Raises NotFound, UpstreamRejected.
        """
        action = ACTIONS["downloadFile"]
        body = mapping.body_for(app, action.name, args, self.key(app, kind), now_ms() / 1000)
        async with AsyncExitStack() as stack:
            async with self._unless_given_up():
                await stack.enter_async_context(self._slot())
                observing = self._observe(app, action.name, recorded=True)
                call = await stack.enter_async_context(observing)
                downloading = self.client.download(app.api_url, action.name, body)
                download = await stack.enter_async_context(downloading)
            call.status = download.status
            if download.chunks is None:
                fields_of(LeanplumResponse(download.status, download.body, None), action, app)
                raise UpstreamRejected("Leanplum's answer contains no file.")
            yield download

    def key(self, app: App, kind: KeyKind) -> str:
        """Return the app's key of this kind. Raises KeyNotConfigured."""
        if kind not in app.keys:
            raise KeyNotConfigured(
                f"Leanplum's {kind.value} key is required: {app.setting(kind)} is not set."
            )
        return app.keys[kind].get_secret_value()

    async def _call(
        self, call: RelayedCall, lock: UserLock, *, recorded: bool = False
    ) -> LeanplumResponse:
        recorder = self._recorder
        if recorder is not None and not (recorded or call.read_only):
            await recorder.begin(call.app.name, call.action, call.subjects)
            recorded = True
        if (obstacle := lock.obstacle(self._timeout)) is not None:
            if recorder is not None and recorded:
                recorder.end(call.app.name, call.action, call.subjects, None)
            raise UpstreamUnavailable(obstacle, RETRY_SECONDS)
        observing = self._observe(call.app, call.action, call.subjects, recorded=True)
        async with observing as observed:
            response = await self.client.call(
                call.app.api_url, call.action, call.body, call.headers
            )
            observed.status = response.status
        return response

    @asynccontextmanager
    async def _observe(
        self, app: App, action: str, subjects: Collection[str] = (), *, recorded: bool = False
    ) -> AsyncIterator[_ObservedCall]:
        """Report the call inside to metrics, log and audit, and translate its errors.

        A call that changes something is recorded before it is sent, so that it is known whatever
        becomes of this process. `recorded`: that is done, or not needed.
        """
        if self._recorder is not None and not recorded:
            await self._recorder.begin(app.name, action, subjects)
        started, call = time.perf_counter(), _ObservedCall()
        failure = dict[str, str]()
        try:
            yield call
        except Unreachable as error:
            failure["reason"] = str(error)
            call.sent = error.sent
            if error.sent:
                raise UpstreamTimeout(
                    f"Leanplum's answer is missing or incomplete: {error}."
                ) from None
            raise UpstreamUnavailable(
                f"Leanplum cannot be reached: {error}.", RETRY_SECONDS
            ) from None
        finally:
            seconds = time.perf_counter() - started
            outcome = outcome_of_status(call.status, sent=call.sent)
            self._metrics.count_call(app.name, call.status, seconds, outcome)
            if self._recorder is not None:
                self._recorder.end(app.name, action, subjects, call.status)
            log.info(
                "call.relayed",
                app=app.name,
                action=action,
                status=call.status,
                duration=round(seconds * 1e9),
                **failure,
            )

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise UpstreamUnavailable(
                "Too many calls are waiting for Leanplum.", RETRY_SECONDS
            ) from None
        try:
            yield
        finally:
            self._slots.release()


def _key_kind(action: Action, args: Mapping[str, Any]) -> KeyKind:
    """Return the kind of key for a call: development traffic takes the development key."""
    if action.key is KeyKind.PRODUCTION and args.get("devMode") is True:
        return KeyKind.DEVELOPMENT
    return action.key


def fields_of(response: LeanplumResponse, action: Action, app: App) -> dict[str, Any]:
    """Return the fields of an answer about one action, without `success` and `reqId`.

    Raises UpstreamUnavailable, NotFound, UpstreamRejected.
    """
    entries = replies.parse_entries(response.body)
    error = outcomes.message_of(entries[0], "error") if entries else None
    if response.status in replies.THROTTLES or response.status >= 500:
        wait = http_response.retry_after_seconds(response.retry_after) or RETRY_SECONDS
        raise UpstreamUnavailable(f"Leanplum answered {response.status}{_quoted(error)}.", wait)
    if not entries:
        raise UpstreamRejected(
            f"Leanplum answered {response.status} in an unknown format; check LEANPLUM_API_URL."
        )
    entry = entries[0]
    if outcomes.is_config(error) or "apiHost" in entry:
        raise UpstreamRejected(
            f"Leanplum rejects the app id or {app.setting(action.key)}{_quoted(error)}."
        )
    warning = outcomes.message_of(entry, "warning")
    if error is not None or entry.get("success") is not True:
        if response.status == 404 or outcomes.is_missing(error):
            raise NotFound(f"Leanplum found nothing{_quoted(error)}.")
        raise UpstreamRejected(f"Leanplum rejected the request{_quoted(error or warning)}.")
    if outcomes.is_missing(warning):
        raise NotFound(f"Leanplum did nothing{_quoted(warning)}.")
    return {name: value for name, value in entry.items() if name not in HIDDEN_FIELDS}


def _quoted(message: str | None) -> str:
    return f": {message[:MAX_QUOTED].rstrip('.')}" if message else ""
