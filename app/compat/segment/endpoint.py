"""The endpoint of Segment's protocol: authenticate, read, accept, answer in its words."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice

import structlog
from starlette.types import Receive, Scope, Send

from app.audit.records import MOST_USERS
from app.clock import now_ms
from app.compat.admission import BodyCredentials, read_within_limit
from app.compat.json_values import Fits
from app.compat.segment import classify, request, response
from app.compat.segment.classify import Judge, Verdict
from app.compat.segment.message import unguarded
from app.compat.segment.request import PATHS, Call
from app.enrichment.service import EnrichmentService
from app.errors import (
    Erased,
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
    require_scope,
)
from app.ingest import validate
from app.ingest.service import Checker, Ingest
from app.model import App, Caller, KeyKind, NewItem
from app.telemetry import Metrics

CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"Retry-After, X-Request-ID"),
    (b"x-content-type-options", b"nosniff"),
]
PREFLIGHT = [
    (b"access-control-allow-methods", b"POST, OPTIONS"),
    (b"access-control-max-age", b"86400"),
]
AT_ONCE = 50  # messages that are judged before others have a turn
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
        messages: "MessageReader",
        ingest: "MessageIngest",
    ) -> None:
        self._authenticator, self._limiter = authenticator, limiter
        self._messages, self._ingest = messages, ingest

    async def answer(
        self, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> int:
        """Answer one request; return the status.

        Nothing is raised: whatever goes wrong is answered in the protocol's words.
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
            status, body = await self._accept(context, receive, kind)
        except GatewayError as error:
            status, body = response.status_of(error), response.failed(error)
            return await _send(context, send, status, body, _retry(error))
        except Exception as error:
            # The outermost place of a request: logged, and answered without its text.
            log_failure(log, context, error)
            return await _send(context, send, 500, FAILED, [])
        except asyncio.CancelledError:
            stopping = problems.stopping()
            return await _send(context, send, 503, response.failed(stopping), _retry(stopping))
        return await _send(context, send, status, body, [])

    async def _accept(
        self, context: RequestContext, receive: Receive, kind: str
    ) -> tuple[int, bytes]:
        """Accept what can be accepted; return the status and the body."""
        authenticator, limiter = self._authenticator, self._limiter
        key = key_in_headers(context)
        caller = await self._authenticated(context, key) if key else None
        call = await self._messages.read(context, caller, receive, kind)
        if caller is None:
            caller = await self._authenticated(context, call.key)
        try:
            app = authenticator.choose_app(context, caller)
        finally:
            await limiter.take(context, caller, len(call.messages) or 1, lends=True)
        try:
            require_leanplum_key(app, KeyKind.PRODUCTION)
            verdicts = await self._ingest.accept(
                context, app, caller, call, lambda: authenticator.confirm(context, caller)
            )
        except GatewayError as error:
            await limiter.give_back(context, caller, len(call.messages), error)
            raise
        refused = {
            index: verdict
            for index, verdict in enumerate(verdicts)
            if isinstance(verdict, GatewayError)
        }
        return _answered(call, refused)

    async def _authenticated(self, context: RequestContext, key: str) -> Caller:
        """Return the caller, by the key in a header or in the body.

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
    ) -> Call:
        """Return the call; `caller` is known when a header has the key.

        A call that can't be read counts for the limits all the same.
        """
        try:
            receive = await self._identified(context, caller, receive)
            body = await self._bodies.read(context, receive)
            most = self._max_messages
            read = partial(_read, kind, body, most)
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

    async def _identified(
        self, context: RequestContext, caller: Caller | None, receive: Receive
    ) -> Receive:
        """Return the body of a caller who may send one.

        When no header has the key, it is looked for in the body.
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


class MessageIngest:
    """Make items of messages, and accept them."""

    def __init__(self, ingest: Ingest, enrichment: EnrichmentService, metrics: Metrics) -> None:
        self._ingest, self._enrichment, self._metrics = ingest, enrichment, metrics

    async def accept(
        self,
        context: RequestContext,
        app: App,
        caller: Caller,
        call: Call,
        confirm: Callable[[], Caller],
    ) -> Sequence[Verdict]:
        """Accept what can be accepted; return what became of each message.

        `confirm` returns the caller as the key is now, or raises.
        """
        checker = self._ingest.checker(app, caller, now_ms(), context.origin.named)
        context.checker = checker
        verdicts = await self._judged(app, caller, call, checker)
        self._note_refused(context, app, caller, call, verdicts)
        items = [verdict for verdict in verdicts if isinstance(verdict, NewItem)]
        refused = sum(isinstance(verdict, GatewayError) for verdict in verdicts)
        if not items:
            context.subjects = context.refused_subjects
            context.refused = refused
        else:
            context.subjects = {item.subject for item in items}
            taken = await self._ingest.accept(
                context,
                app,
                _confirmed(confirm, caller, items),
                items,
                now=now_ms(),
                checker=checker,
                refused=refused,
                batch=True,
            )
            kinds = iter([kind for _, kind in taken])
            verdicts = [
                Erased() if isinstance(verdict, NewItem) and next(kinds) == "erased" else verdict
                for verdict in verdicts
            ]
        self._report(context, call, verdicts)
        return verdicts

    async def _judged(
        self, app: App, caller: Caller, call: Call, checker: Checker
    ) -> list[Verdict]:
        """Return what becomes of each message; no one's fault harms its neighbor."""
        rules = self._enrichment.enricher(app.name, caller.key_id, now_ms())
        guard = rules.apply_privacy if rules.has_privacy_rules else unguarded
        judge = Judge(caller.scopes, rules.segment, checker, guard)
        verdicts = list[Verdict]()
        for index, message in enumerate(call.messages):
            base = f"/{request.BATCH}/{index}" if call.batch else ""
            verdicts.append(judge.of(message, call.common, base))
            if len(verdicts) % AT_ONCE == 0:
                await asyncio.sleep(0)  # other requests are served
        return verdicts

    def _note_refused(
        self,
        context: RequestContext,
        app: App,
        caller: Caller,
        call: Call,
        verdicts: Sequence[Verdict],
    ) -> None:
        """Let the audit record name the types of the refused messages, and some of their users."""
        refused = [
            message
            for message, verdict in zip(call.messages, verdicts, strict=True)
            if isinstance(verdict, GatewayError)
        ]
        if not refused:
            return
        rules = self._enrichment.enricher(app.name, caller.key_id, now_ms()).segment
        subjects = (classify.subject_of(message, call.common, rules) for message in refused)
        context.refused_actions = Counter(map(classify.kind_of, refused))
        context.refused_subjects = dict.fromkeys(islice(filter(None, subjects), MOST_USERS))

    def _report(self, context: RequestContext, call: Call, verdicts: Sequence[Verdict]) -> None:
        """Count the messages, and log the refused ones: nobody may ever read the answer."""
        outcomes = Counter(
            (classify.kind_of(message), classify.outcome(verdict))
            for message, verdict in zip(call.messages, verdicts, strict=True)
        )
        for (kind, outcome), count in outcomes.items():
            self._metrics.segment.labels(kind, outcome).inc(count)
        refused = [verdict for verdict in verdicts if isinstance(verdict, GatewayError)]
        if refused:
            codes = {code for error in refused for code in response.codes(error)}
            log.warning(
                "segment.refused",
                request_id=context.request_id,
                key_id=context.caller.key_id if context.caller else None,
                refused=len(refused),
                messages=len(verdicts),
                codes=sorted(codes),
            )


def _confirmed(confirm: Callable[[], Caller], caller: Caller, items: Sequence[NewItem]) -> Caller:
    """Return the caller as the key is now. Raises Unauthorized; Forbidden when it lacks a scope."""
    current = confirm()
    if current is not caller:
        for action in {item.action for item in items}:
            require_scope(current, validate.ACTIONS[action].scope)
    return current


def _answered(call: Call, refused: Mapping[int, GatewayError]) -> tuple[int, bytes]:
    if not refused:
        return 200, response.DONE
    if not call.batch:
        return response.status_of(refused[0]), response.failed(refused[0])
    status = response.status_of_refused(refused) if len(refused) == len(call.messages) else 200
    return status, response.partly(call.messages, refused)


def _read(kind: str, body: bytes, most: int, fits: Fits) -> Call:
    refuse_crowded(body, MEMBERS_PER_ITEM * most)
    return request.call(kind, body, fits)


def _retry(error: GatewayError) -> Headers:
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
