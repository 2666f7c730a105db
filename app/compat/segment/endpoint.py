"""The endpoint of Segment's protocol: authenticate, read, execute and respond."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial

import structlog
from starlette.types import Receive, Scope, Send

from app.compat.admission import BodyCredentials, read_within_limit
from app.compat.body_formats import Fits
from app.compat.segment import response
from app.compat.segment.execute import MessageExecutor
from app.compat.segment.request import PATHS, SegmentCall, parse_call
from app.errors import (
    GatewayError,
    KeyNotConfigured,
    Malformed,
    Overloaded,
    Refusal,
    TooLarge,
)
from app.http import (
    MEMBERS_PER_ITEM,
    Authenticator,
    BodyReader,
    RateLimiter,
    RequestContext,
    is_small,
    key_in_headers,
    log_failure,
    problems,
    refuse_crowded,
    refuse_declared,
    require_leanplum_key,
)
from app.model import Caller, KeyKind

CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"Retry-After, X-Request-ID"),
    (b"x-content-type-options", b"nosniff"),
]
PREFLIGHT = [
    (b"access-control-allow-methods", b"POST, OPTIONS"),
    (b"access-control-max-age", b"86400"),
]
FAILED = b'{"success":false,"code":"internal","message":"The gateway failed on this request."}'
NOT_POST = b'{"success":false,"code":"method-not-allowed","message":"Send POST."}'
Headers = Sequence[tuple[bytes, bytes]]

log = structlog.get_logger("segment")


class SegmentEndpoint:
    """Answer calls in Segment's protocol, as its libraries make them."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: RateLimiter,
        reader: "MessageReader",
        executor: MessageExecutor,
    ) -> None:
        self._authenticator, self._limiter = authenticator, limiter
        self._reader, self._executor = reader, executor

    async def answer(
        self, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> int:
        """Answer one request; return the status.

        No error is raised: each is answered in the protocol's terms.
        """
        kind = PATHS[context.path]
        context.operation = f"{context.method} /segment/v1/{kind}"
        if context.method == "OPTIONS" and context.faulty is None:
            requested = context.headers.get(b"access-control-request-headers", b"*")
            headers = [*PREFLIGHT, (b"access-control-allow-headers", requested)]
            return await _send(context, send, 204, b"", headers)
        try:
            if context.faulty is not None:
                error = Malformed(context.faulty.detail).at(context.faulty)
                raise await self._authenticator.charged(context, error)
            leaked = await self._authenticator.refusal_of_leak(context, scope)
            if leaked is not None:
                raise leaked
            if context.method != "POST":
                await self._authenticator.charge(context)
                return await _send(context, send, 405, NOT_POST, [(b"allow", b"POST, OPTIONS")])
            status, body = await self._execute(context, receive, kind)
        except GatewayError as error:
            status, body = response.status_of(error), response.render_failure(error)
            return await _send(context, send, status, body, _retry_headers(error))
        except Exception as error:
            # No caller handles errors of a request: log this one, and answer without its text.
            log_failure(log, context, error)
            return await _send(context, send, 500, FAILED, [])
        except asyncio.CancelledError:
            stopping = problems.stopping()
            return await _send(
                context, send, 503, response.render_failure(stopping), _retry_headers(stopping)
            )
        return await _send(context, send, status, body, [])

    async def _execute(
        self, context: RequestContext, receive: Receive, kind: str
    ) -> tuple[int, bytes]:
        """Execute a call; return the status and the body of the response."""
        authenticator, limiter = self._authenticator, self._limiter
        key = key_in_headers(context)
        caller = await self._authenticate(context, key) if key else None
        call = await self._reader.read(context, caller, receive, kind)
        if caller is None:
            caller = await self._authenticate(context, call.key)
        try:
            app = authenticator.choose_app(context, caller)
        finally:
            await limiter.take(context, caller, len(call.messages) or 1, lends=True)
        try:
            require_leanplum_key(app, KeyKind.PRODUCTION)
            outcomes = await self._executor.execute(
                context, app, caller, call, lambda: authenticator.confirm(context, caller)
            )
        except GatewayError as error:
            await limiter.give_back(context, caller, len(call.messages), error)
            raise
        refused = {
            index: outcome
            for index, outcome in enumerate(outcomes)
            if isinstance(outcome, GatewayError)
        }
        return _render_outcome(call, refused)

    async def _authenticate(self, context: RequestContext, key: str) -> Caller:
        """Return the caller of a key, which was in a header or in the body.

        Without a key the error says what the headers lack. Raises Unauthorized, RateLimited.
        """
        if key:
            context.use_key(key)
        return await self._authenticator.authenticate(context)


class MessageReader:
    """Read calls of Segment's protocol within the limits of size and rate."""

    def __init__(
        self,
        limiter: RateLimiter,
        bodies: BodyReader,
        credentials: BodyCredentials,
        *,
        max_body_bytes: int,
        max_messages: int,
    ) -> None:
        self._limiter, self._bodies, self._credentials = limiter, bodies, credentials
        self._max_body_bytes, self._max_messages = max_body_bytes, max_messages

    async def read(
        self, context: RequestContext, caller: Caller | None, receive: Receive, kind: str
    ) -> SegmentCall:
        """Return the call; `caller` is known when a header has the key.

        A call that cannot be read counts against the limits, too.
        """
        try:
            receive = await self._identify(context, caller, receive)
            body = await self._bodies.read(context, receive)
            most = self._max_messages
            read = partial(_parse, kind, body, most)
            call = await read_within_limit(self._limiter, context, read, len(body))
            count = len(call.messages)
            if count > most:
                raise TooLarge(f"The batch has {count} messages; the limit is {most}.")
            return call
        except Refusal as refusal:
            await self._credentials.charge(context, refusal)
            raise
        except Overloaded:
            await self._limiter.charge_unread(context)
            raise

    async def _identify(
        self, context: RequestContext, caller: Caller | None, receive: Receive
    ) -> Receive:
        """Return a `receive` for the body of a caller who may send one.

        When no header has the key, the body is searched for it.
        """
        limit = self._max_body_bytes
        refuse_declared(context, limit)
        if caller is None:
            encoding = context.header(b"content-encoding")
            return await self._credentials.identify(
                context, receive, limit=limit, encoding=encoding
            )
        await self._limiter.refuse_spent(context, caller, ask=not is_small(context))
        return receive


def _render_outcome(call: SegmentCall, refused: Mapping[int, GatewayError]) -> tuple[int, bytes]:
    if not refused:
        return 200, response.SUCCESS
    if not call.batch:
        return response.status_of(refused[0]), response.render_failure(refused[0])
    status = response.status_of_refused(refused) if len(refused) == len(call.messages) else 200
    return status, response.render_partial(call.messages, refused)


def _parse(kind: str, body: bytes, most: int, fits: Fits) -> SegmentCall:
    refuse_crowded(body, MEMBERS_PER_ITEM * most)
    return parse_call(kind, body, fits)


def _retry_headers(error: GatewayError) -> Headers:
    after = getattr(error, "retry_after", None)
    if after is None and isinstance(error, KeyNotConfigured):
        after = 60.0
    return [] if after is None else [(b"retry-after", b"%d" % max(1, math.ceil(after)))]


async def _send(
    context: RequestContext, send: Send, status: int, body: bytes, headers: Headers
) -> int:
    common = [*CORS, (b"x-request-id", context.request_id.encode()), *context.rate_headers]
    if status != 204:
        common += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *common]})
    await send({"type": "http.response.body", "body": body})
    return status
