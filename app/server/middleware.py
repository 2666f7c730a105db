"""The outermost middleware, through which every request passes.

It creates the context of the request, converts errors to problem documents, adds the headers of
every response, and records the request in metrics, log and audit. It passes the two hot writes to
their handlers directly, since the router and its layers cost as much as the rest of the work.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.callers.key_format import PREFIX
from app.errors import Fault, GatewayError, Malformed
from app.http import (
    CACHE_HEADER,
    CONTEXT,
    NO_SNIFF,
    NO_STORE,
    PAGE_HEADERS,
    POLICY_HEADER,
    STRICT_POLICY,
    Answer,
    AuditTrail,
    Authenticator,
    BodyReader,
    Prefixes,
    RequestContext,
    TrustedProxies,
    is_address,
    log_failure,
    problems,
)
from app.http.problem_types import INTERNAL
from app.telemetry import Metrics, traces

log = structlog.get_logger("request")
# The handler of one method and path.
HotHandler = Callable[[RequestContext, Receive], Awaitable[Answer]]
# The handler of all requests of a path in a foreign protocol; returns the status.
CompatEndpoint = Callable[[RequestContext, Scope, Receive, Send], Awaitable[int]]
QUIET = frozenset({"/livez", "/readyz", "/metrics"})
AccessLog = Literal["on", "off", "slow"]
SLOW_SECONDS = 1.0  # a request that takes so long is slow
FAILED = 400  # the least status of a request that fails


class Targets(NamedTuple):
    """The targets of requests: handlers by method and path, endpoints by path, and the router."""

    hot_handlers: Mapping[tuple[str, str], HotHandler]
    compat_endpoints: Mapping[str, CompatEndpoint]
    router: ASGIApp


class Middleware:
    """The ASGI middleware that passes requests to their handlers or to the router."""

    def __init__(
        self,
        targets: Targets,
        authenticator: Authenticator,
        bodies: BodyReader,
        audit_trail: AuditTrail,
        metrics: Metrics,
        *,
        proxies: TrustedProxies,
        root_path: str,
        access_log: AccessLog,
        traced: bool,
    ) -> None:
        self._router, self._authenticator, self._bodies = targets.router, authenticator, bodies
        self._audit_trail, self._metrics = audit_trail, metrics
        self._logs_all, self._logs_none = access_log == "on", access_log == "off"
        self._traced = traced
        self._hot_handlers = targets.hot_handlers
        self._compat_endpoints = targets.compat_endpoints
        # None if nothing is configured: comparing with None costs less than calling `__bool__`.
        self._proxies = proxies or None
        self._prefixes = Prefixes(root_path, proxies) or None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        context = scope[CONTEXT] = RequestContext(scope)
        if self._traced and (current := traces.current_trace()) is not None:
            context.trace_id, context.traceparent = current
        if self._prefixes is not None:
            context.prefix = self._prefixes.enter(context.address, scope, context.headers)
            context.path = scope["path"]
        if self._proxies is not None:
            context.trace(self._proxies, scope["headers"])
        try:
            status = await self._answer(context, scope, receive, send)
        finally:
            if context.held:
                self._bodies.release(context)
        if not context.recorded:  # the client has gone, so no response was sent
            await self._audit_trail.record(context, status)
        self._report(context, status)

    async def _answer(
        self, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> int:
        """Answer a request by the target for its path; return the status."""
        endpoint = self._compat_endpoints.get(context.path)
        if endpoint is not None:
            # It authenticates callers itself: in the SDK protocol, keys are in the query.
            return await endpoint(context, scope, receive, self._recording(context, send))
        if context.faulty is not None:
            error = Malformed(context.faulty.detail).at(context.faulty)
            return await self._refuse(
                await self._authenticator.charged(context, error), context, send
            )
        if scope["query_string"] or PREFIX in context.path:
            leaked = await self._authenticator.refusal_of_leak(context, scope)
            if leaked is not None:
                return await self._refuse(leaked, context, send)
        handler = self._hot_handlers.get((context.method, context.path))
        if handler is None or scope["query_string"]:
            return await self._route(context, scope, receive, self._recording(context, send))
        context.operation = f"{context.method} {context.path}"
        return await self._answer_hot(handler, context, receive, send)

    async def _answer_hot(
        self, handler: HotHandler, context: RequestContext, receive: Receive, send: Send
    ) -> int:
        try:
            answer = await handler(context, receive)
        except GatewayError as error:
            answer = problems.answer(error, context.request_id, context.prefix)
        except Exception as error:
            # The last resort: log the exception, and respond without its text.
            answer = _failure(error, context)
        except asyncio.CancelledError:
            answer = problems.answer(problems.stopping(), context.request_id, context.prefix)
        if not context.recorded:
            await self._audit_trail.record(context, answer.status)
        await _send(answer, context, send)
        return answer.status

    async def _route(
        self, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> int:
        """Answer a request by the router; return the status."""
        status = 0
        head = scope["method"] == "HEAD"
        if head:  # RFC 9110: like GET, without the body
            scope = {**scope, "method": "GET"}

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.get("headers", ())
                message["headers"] = [*_guarded(context, headers), *_common_headers(context)]
            await send(message)

        try:
            await self._router({**scope, "path": _routable_path(scope)}, receive, send_with_headers)
            return status
        except Malformed as error:
            refusal = await self._authenticator.charged(context, error)
            answer = problems.answer(refusal, context.request_id, context.prefix)
        except Exception as error:
            # The last resort: log the exception, and respond without its text.
            answer = _failure(error, context)
            if status:
                return answer.status
        except asyncio.CancelledError:
            if status:  # too late for another answer; the response ends early
                raise
            answer = problems.answer(problems.stopping(), context.request_id, context.prefix)
        await _send(answer, context, send)
        return answer.status

    async def _refuse(self, error: GatewayError, context: RequestContext, send: Send) -> int:
        """Refuse a request because of its headers or its URL; return the status."""
        answer = problems.answer(error, context.request_id, context.prefix)
        await self._audit_trail.record(context, answer.status)
        await _send(answer, context, send)
        return answer.status

    def _recording(self, context: RequestContext, send: Send) -> Send:
        """Return a `send` that sends no response before its audit record is written."""

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._audit_trail.record(context, message["status"])
            await send(message)

        return send_recorded

    def _report(self, context: RequestContext, status: int) -> None:
        """Count and log a request that was answered."""
        seconds = time.perf_counter() - context.started
        self._metrics.requests.add(context.operation, status, seconds)
        key_id = context.caller.key_id if context.caller else None
        if context.item_steps is not None:
            context.item_steps.count_findings(key_id or "")
        is_notable = self._logs_all or status >= FAILED or seconds >= SLOW_SECONDS
        if self._logs_none or not is_notable or context.path in QUIET:
            return
        log.info(
            "request.answered",
            request_id=context.request_id,
            method=context.method,
            operation=context.operation,
            status=status,
            duration=int(seconds * 1e9),
            address=context.address if is_address(context.address) else None,
            key_id=key_id,
            app=context.app.name if context.app is not None else None,
            items=context.accepted,
            items_refused=context.refused,
            trace_id=context.trace_id,
        )


async def _send(answer: Answer, context: RequestContext, send: Send) -> None:
    """Send a complete answer, with the headers that every response has."""
    headers = [
        *answer.headers,
        (b"content-length", b"%d" % len(answer.body)),
        *_common_headers(context),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _routable_path(scope: Scope) -> str:
    """Return the path for the router, with the slashes of each segment still escaped.

    Raises Malformed.
    """
    raw: bytes = scope["raw_path"].partition(b"?")[0]
    try:
        return "/".join(
            unquote_to_bytes(segment).decode().replace("/", "%2F") for segment in raw.split(b"/")
        )
    except UnicodeDecodeError:
        error = Malformed("The path is not valid percent-encoded UTF-8.")
        raise error.at(Fault("path", error.detail, "parameter", "parameter")) from None


def _failure(error: Exception, context: RequestContext) -> Answer:
    """Log an unexpected exception; return an answer without its text."""
    log_failure(log, context, error)
    return problems.plain("internal", INTERNAL, context.request_id, context.prefix)


def _guarded(
    context: RequestContext, headers: Sequence[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Return headers, and those that prevent framing, running and caching the response."""
    names = {name for name, _ in headers}
    guarded = [*headers, *(header for header in PAGE_HEADERS if header[0] not in names)]
    if POLICY_HEADER not in names:
        guarded.append(STRICT_POLICY)
    if CACHE_HEADER not in names and context.path.startswith("/v1/"):
        guarded.append(NO_STORE)
    return guarded


def _common_headers(context: RequestContext) -> list[tuple[bytes, bytes]]:
    return [(b"x-request-id", context.request_id.encode()), NO_SNIFF, *context.rate_headers]
