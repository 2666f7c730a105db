"""In front of the router: every request passes here once, on its way in and out.

It makes the request's context, answers the two hot writes itself (the router and its layers cost as
much as the rest of the work), turns errors into problem documents, adds the headers of every
answer, and tells metrics, log and audit.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import unquote_to_bytes

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import name_claims, writes
from app.api.writes import BATCH, EVENTS
from app.audit import records
from app.audit.folded_refusals import FOLDED, Refused
from app.bootstrap import Gateway
from app.callers.key_format import PREFIX
from app.clock import now_ms
from app.errors import Fault, GatewayError, Malformed
from app.http import authentication, problems
from app.http.body import ROOM
from app.http.client_address import TrustedProxies
from app.http.path_prefix import Prefixes
from app.http.problems import Answer
from app.http.rate_limiting import network
from app.http.request import CONTEXT, Context
from app.http.response_headers import CACHE, NO_STORE, PAGE_HEADERS, POLICY, SNIFF, STRICT
from app.telemetry import Metrics, describe

log = structlog.get_logger("request")
Hot = Callable[[Gateway, Context, Receive], Awaitable[Answer]]
# A foreign protocol; the status it answered
Door = Callable[[Gateway, Context, Scope, Receive, Send], Awaitable[int]]


async def _event(gateway: Gateway, context: Context, receive: Receive) -> Answer:
    return await writes.post_single(gateway, context, receive, "track")


HOT: dict[tuple[str, str], Hot] = {("POST", EVENTS): _event, ("POST", BATCH): writes.post_batch}
QUIET = frozenset({"/livez", "/readyz", "/metrics"})


class Front:
    """Pure ASGI middleware; the outermost."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        doors: Mapping[str, Door],
        proxies: TrustedProxies,
        root: str,
    ) -> None:
        self._app, self._metrics, self._doors = app, metrics, doors
        self._proxies = proxies or None  # to ask for None costs less than to ask a list
        self._prefixes = Prefixes(root, proxies) or None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = scope[CONTEXT] = Context(scope)
        gateway: Gateway = scope["app"].state.gateway
        if self._prefixes is not None:
            context.prefix = self._prefixes.enter(context.address, scope, context.headers)
            context.path = scope["path"]
        if self._proxies is not None:
            context.trace(self._proxies, scope["headers"])
        try:
            status = await self._answered(gateway, context, scope, receive, send)
        finally:
            if context.held:
                ROOM.give(context)
        if not context.recorded:  # nobody was there any more to be answered
            await _record(gateway, context, status)
        self._tell(gateway, context, status)

    async def _answered(
        self, gateway: Gateway, context: Context, scope: Scope, receive: Receive, send: Send
    ) -> int:
        # Each sees to its keys itself: Leanplum's own protocol has them in the query
        if context.path in self._doors:
            return await self._doors[context.path](
                gateway, context, scope, receive, _recording(gateway, context, send)
            )
        if context.faulty is not None:
            faulty = await authentication.charged(
                gateway, context, Malformed(context.faulty.detail).at(context.faulty)
            )
            return await _refuse(faulty, gateway, context, send)
        asks = scope["query_string"] or PREFIX in context.path
        if asks and (leaked := await authentication.leaked(gateway, context, scope)):
            return await _refuse(leaked, gateway, context, send)
        hot = HOT.get((context.method, context.path))
        if hot is None or scope["query_string"]:
            return await self._route(
                gateway, scope, context, receive, _recording(gateway, context, send)
            )
        context.operation = f"{context.method} {context.path}"
        return await self._answer(hot, gateway, context, receive, send)

    async def _answer(
        self, hot: Hot, gateway: Gateway, context: Context, receive: Receive, send: Send
    ) -> int:
        try:
            answer = await hot(gateway, context, receive)
        except GatewayError as error:
            answer = problems.answer(error, context.request_id, context.prefix)
        except Exception as error:
            # the outermost place of a request: told in the log, answered without its text
            answer = _failed(error, context)
        except asyncio.CancelledError:
            answer = problems.answer(problems.stopping(), context.request_id, context.prefix)
        if not context.recorded:
            await _record(gateway, context, answer.status)
        await send_answer(answer, context, send)
        return answer.status

    async def _route(
        self, gateway: Gateway, scope: Scope, context: Context, receive: Receive, send: Send
    ) -> int:
        status = 0

        head = scope["method"] == "HEAD"
        if head:  # RFC 9110: as GET, without the body
            scope = {**scope, "method": "GET"}

        async def told(message: Message) -> None:
            nonlocal status
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *_guarded(context, message.get("headers", ())),
                    *_common(context),
                ]
            await send(message)

        try:
            await self._app({**scope, "path": _routable(scope)}, receive, told)
        except Malformed as error:
            answer = problems.answer(
                await authentication.charged(gateway, context, error),
                context.request_id,
                context.prefix,
            )
            await send_answer(answer, context, send)
            status = answer.status
        except Exception as error:
            # the outermost place of a request: told in the log, answered without its text
            answer = _failed(error, context)
            if not status:
                await send_answer(answer, context, send)
            status = answer.status
        except asyncio.CancelledError:
            if status:  # too late for another answer: that it ends before its end tells the caller
                raise
            answer = problems.answer(problems.stopping(), context.request_id, context.prefix)
            await send_answer(answer, context, send)
            status = answer.status
        return status

    def _tell(self, gateway: Gateway, context: Context, status: int) -> None:
        seconds = time.perf_counter() - context.started
        self._metrics.requests.add(context.operation, status, seconds)
        name_claims.tell(gateway, context)
        if context.path not in QUIET:
            self._log(context, status, seconds)

    def _log(self, context: Context, status: int, seconds: float) -> None:
        log.info(
            "request.answered",
            request_id=context.request_id,
            operation=context.operation,
            status=status,
            ms=round(seconds * 1000, 2),
            key_id=context.caller.key_id if context.caller else None,
            trace_id=context.trace_id,
        )


async def _refuse(error: GatewayError, gateway: Gateway, context: Context, send: Send) -> int:
    """Refuse a request for what its head says; the status."""
    answer = problems.answer(error, context.request_id, context.prefix)
    await _record(gateway, context, answer.status)
    await send_answer(answer, context, send)
    return answer.status


def _routable(scope: Scope) -> str:
    """The path for the router, in which a segment's own slashes are still escaped. Raises
    Malformed.
    """
    raw: bytes = scope["raw_path"].partition(b"?")[0]
    try:
        return "/".join(
            unquote_to_bytes(segment).decode().replace("/", "%2F") for segment in raw.split(b"/")
        )
    except UnicodeDecodeError:
        error = Malformed("The path is not UTF-8, percent-encoded.")
        raise error.at(Fault("path", error.detail, "parameter", "parameter")) from None


def _failed(error: Exception, context: Context) -> Answer:
    log.error(
        "request.failed",
        request_id=context.request_id,
        operation=context.operation,
        **describe(error),
    )
    detail = "The gateway failed on this request; it is in the log."
    return problems.plain("internal", detail, context.request_id, context.prefix)


def _guarded(context: Context, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a routed answer, with those that guard whoever gets it in a browser or through
    a shared cache.
    """
    names = {name for name, _ in headers}
    made = [*headers, *PAGE_HEADERS]
    if POLICY not in names:
        made.append(STRICT)
    if CACHE not in names and context.path.startswith("/v1/"):
        made.append(NO_STORE)
    return made


def _common(context: Context) -> list[tuple[bytes, bytes]]:
    return [(b"x-request-id", context.request_id.encode()), SNIFF, *context.rate_headers]


async def send_answer(answer: Answer, context: Context, send: Send) -> None:
    """Send a whole answer, with the headers that every answer has."""
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body)), *_common(context)]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _recording(gateway: Gateway, context: Context, send: Send) -> Send:
    """The same, which sends no answer before its record is written."""

    async def recorded(message: Message) -> None:
        if message["type"] == "http.response.start":
            await _record(gateway, context, message["status"])
        await send(message)

    return recorded


async def _record(gateway: Gateway, context: Context, status: int) -> None:
    """Record a call that was refused or only read, where that is not done yet. An answer goes out
    before its record is on disk only where the database takes nothing just now.
    """
    if context.recorded:
        return
    # Or seen to: of a call without a key that is known there is nothing to record
    context.recorded = True
    key_id = context.caller.key_id if context.caller is not None else context.shown
    if key_id is None:
        return
    now, app = now_ms(), context.app_name
    about = gateway.pseudonyms.of_all(app, context.subjects) if app else []
    if (status in FOLDED or context.overloaded) and gateway.folding.counted(
        Refused(
            now, context.operation, key_id, app, context.address, context.request_id, status, context.resource,
            about, context.refused, context.refused_actions,
        ),
        network(context.address),
    ):  # fmt: skip
        return
    text = records.api_call(
        time=now,
        operation=context.operation,
        key_id=key_id,
        app=app,
        address=context.address,
        request_id=context.request_id,
        status=status,
        resource=context.resource,
        resources=context.resources,
        details={
            **(records.counts(0, 0, context.refused) if context.refused else {}),
            **records.refused_actions(context.refused_actions),
            **records.about_users(about),
            **context.details,
        },
    )
    # Who shows a key that was revoked must not see by the time that it was one
    if context.caller is None:
        gateway.recorder.soon(now, text)
    else:
        await gateway.recorder.record(now, text)
