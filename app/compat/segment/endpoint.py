"""The door itself: who calls, what was sent, what is accepted; and an answer in the protocol's
words.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice

import structlog
from starlette.types import Receive, Scope, Send

from app.api import writes
from app.audit.records import MOST_USERS
from app.bootstrap import Gateway
from app.clock import now_ms
from app.compat.body_credentials import charge, identify
from app.compat.json_values import Fits
from app.compat.limited_body import read_within_limit
from app.compat.segment import classify, request, response
from app.compat.segment.classify import Judge, Verdict
from app.compat.segment.message import unguarded
from app.compat.segment.request import PATHS, Call
from app.errors import (
    Erased,
    GatewayError,
    KeyNotConfigured,
    Malformed,
    Overloaded,
    Refusal,
    TooLarge,
)
from app.http import authentication, credentials, json_body, problems, rate_limiting
from app.http import body as receiving
from app.http.request import Context
from app.model import Caller, KeyKind, NewItem
from app.telemetry import describe

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


async def answer(
    gateway: Gateway, context: Context, scope: Scope, receive: Receive, send: Send
) -> int:
    """Answer one request; the status. Nothing is raised: whatever goes wrong is told in the
    protocol's words.
    """
    kind = PATHS[context.path]
    context.operation = f"{context.method} /segment/v1/{kind}"
    if context.method == "OPTIONS" and context.faulty is None:
        asked = context.headers.get(b"access-control-request-headers", b"*")
        return await _send(
            context, send, 204, b"", [*PREFLIGHT, (b"access-control-allow-headers", asked)]
        )
    try:
        if context.faulty is not None:
            raise await authentication.charged(
                gateway, context, Malformed(context.faulty.detail).at(context.faulty)
            )
        if (leaked := await authentication.leaked(gateway, context, scope)) is not None:
            raise leaked
        if context.method != "POST":
            await authentication.charge(gateway, context)
            return await _send(context, send, 405, NOT_POST, [(b"allow", b"POST, OPTIONS")])
        status, body = await _take(gateway, context, receive, kind)
    except GatewayError as error:
        return await _send(
            context, send, response.status_of(error), response.failed(error), _retry(error)
        )
    except Exception as error:
        # the outermost place of a request: told in the log, answered without its text
        log.error(
            "request.failed",
            request_id=context.request_id,
            operation=context.operation,
            **describe(error),
        )
        return await _send(context, send, 500, FAILED, [])
    except asyncio.CancelledError:
        stopping = problems.stopping()
        return await _send(context, send, 503, response.failed(stopping), _retry(stopping))
    return await _send(context, send, status, body, [])


async def _take(
    gateway: Gateway, context: Context, receive: Receive, kind: str
) -> tuple[int, bytes]:
    """Accept what can be accepted; status and body."""
    key = credentials.in_headers(context)
    caller = await _caller(gateway, context, key) if key else None
    try:
        call = await _call(
            gateway, context, await _entered(gateway, context, caller, receive), kind
        )
    except Refusal as refusal:
        await charge(gateway, context, refusal)
        raise
    except Overloaded:
        await rate_limiting.charge_unread(gateway, context)
        raise
    caller = caller or await _caller(gateway, context, call.key)
    try:
        app = authentication.choose_app(gateway, context, caller)
    finally:
        await rate_limiting.take(gateway, context, caller, len(call.messages) or 1, lends=True)
    try:
        authentication.require_key(app, KeyKind.PRODUCTION)
        judged = await _judged(gateway, context, caller, call)
        _tell_refused(gateway, context, caller, call, judged)
        verdicts = await _accepted(gateway, context, caller, judged)
    except GatewayError as error:
        await rate_limiting.give_back(gateway, context, caller, len(call.messages), error)
        raise
    _tell(gateway, context, call, verdicts)
    return _answered(
        call, {index: one for index, one in enumerate(verdicts) if isinstance(one, GatewayError)}
    )


async def _accepted(
    gateway: Gateway, context: Context, caller: Caller, verdicts: Sequence[Verdict]
) -> Sequence[Verdict]:
    """The same, when all that can be is durable; with a refusal for each item of a user who was
    erased.
    """
    items = [one for one in verdicts if isinstance(one, NewItem)]
    if not items:
        context.subjects = context.refused_subjects
        context.refused = sum(isinstance(one, GatewayError) for one in verdicts)
        return verdicts
    context.subjects = {one.subject for one in items}
    refused = sum(isinstance(one, GatewayError) for one in verdicts)
    taken = await writes.accept(gateway, context, caller, now_ms(), items, refused, batch=True)
    gateway.metrics.accepted.inc(sum(kind == "accepted" for _, kind in taken))
    kinds = iter([kind for _, kind in taken])
    return [
        Erased() if isinstance(one, NewItem) and next(kinds) == "erased" else one
        for one in verdicts
    ]


def _answered(call: Call, refused: Mapping[int, GatewayError]) -> tuple[int, bytes]:
    if not refused:
        return 200, response.DONE
    if not call.batch:
        return response.status_of(refused[0]), response.failed(refused[0])
    status = response.status_of_refused(refused) if len(refused) == len(call.messages) else 200
    return status, response.partly(call.messages, refused)


# --- who calls --------------------------------------------------------------------------------------------------------


async def _caller(gateway: Gateway, context: Context, key: str) -> Caller:
    """The caller, by the key in a header or in the body; without one the headers are told what they
    lack. Raises Unauthorized, RateLimited.
    """
    if key:
        credentials.use(context, key)
    return await authentication.authenticate(gateway, context)


async def _entered(
    gateway: Gateway, context: Context, caller: Caller | None, receive: Receive
) -> Receive:
    """The body of a caller who may send one; where no key is in a header, of whoever's key is in
    the body.
    """
    limit = gateway.settings.gateway_max_body_bytes
    receiving.refuse_declared(context, limit)
    if caller is None:
        encoding = context.header(b"content-encoding")
        return await identify(gateway, context, receive, limit=limit, encoding=encoding)
    await rate_limiting.refuse_spent(gateway, context, caller, ask=not receiving.is_small(context))
    return receive


# --- what was sent ----------------------------------------------------------------------------------------------------


async def _call(gateway: Gateway, context: Context, receive: Receive, kind: str) -> Call:
    body = await receiving.read_body(gateway, context, receive)
    most = gateway.settings.gateway_max_batch_items
    call = await read_within_limit(gateway, context, partial(_read, kind, body, most), len(body))
    if len(call.messages) > most:
        raise TooLarge(
            f"The batch has {len(call.messages)} messages; at most {most} are taken at once."
        )
    return call


def _read(kind: str, body: bytes, most: int, fits: Fits) -> Call:
    json_body.refuse_crowded(body, writes.MANY_OF_EACH * most)
    return request.call(kind, body, fits)


async def _judged(gateway: Gateway, context: Context, caller: Caller, call: Call) -> list[Verdict]:
    """What becomes of each message; no one's fault harms its neighbour."""
    alone = gateway.enrichment.refiner(context.app_name, caller.key_id, now_ms())
    refiner = writes.refiner_for(gateway, context, caller)
    judge = Judge(
        caller.scopes, alone.segment, refiner, alone.privacy if alone.ruled else unguarded
    )
    verdicts = list[Verdict]()
    for index, message in enumerate(call.messages):
        base = f"/{request.BATCH}/{index}" if call.batch else ""
        verdicts.append(judge.of(message, call.common, base))
        if len(verdicts) % AT_ONCE == 0:
            await asyncio.sleep(0)  # others have their turn
    return verdicts


# --- out --------------------------------------------------------------------------------------------------------------


def _tell(gateway: Gateway, context: Context, call: Call, verdicts: Sequence[Verdict]) -> None:
    """Metrics; and what was refused is told in the log: nobody may ever read the answer."""
    told = Counter(
        (classify.kind_of(message), classify.outcome(one))
        for message, one in zip(call.messages, verdicts, strict=True)
    )
    for (kind, outcome), count in told.items():
        gateway.metrics.segment.labels(kind, outcome).inc(count)
    refused = [one for one in verdicts if isinstance(one, GatewayError)]
    if refused:
        log.warning(
            "segment.refused",
            request_id=context.request_id,
            key_id=context.caller.key_id if context.caller else None,
            refused=len(refused),
            messages=len(verdicts),
            codes=sorted({code for error in refused for code in response.codes(error)}),
        )


def _tell_refused(
    gateway: Gateway, context: Context, caller: Caller, call: Call, verdicts: Sequence[Verdict]
) -> None:
    """Have the audit's record of the call say of which types the refused messages are, and some of
    whom they were about."""
    pairs = zip(call.messages, verdicts, strict=True)
    refused = [message for message, one in pairs if isinstance(one, GatewayError)]
    if not refused:
        return
    rules = gateway.enrichment.refiner(context.app_name, caller.key_id, now_ms()).segment
    subjects = (classify.subject_of(message, call.common, rules) for message in refused)
    context.refused_actions = Counter(map(classify.kind_of, refused))
    context.refused_subjects = dict.fromkeys(islice(filter(None, subjects), MOST_USERS))


def _retry(error: GatewayError) -> Headers:
    after = getattr(error, "retry_after", None)
    if after is None and isinstance(error, KeyNotConfigured):
        after = 60.0
    return [] if after is None else [(b"retry-after", b"%d" % max(1, math.ceil(after)))]


async def _send(context: Context, send: Send, status: int, body: bytes, headers: Headers) -> int:
    common = [*CORS, (b"x-request-id", context.request_id.encode()), *context.rate_headers]
    if status != 204:
        common += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *common]})
    await send({"type": "http.response.body", "body": body})
    return status
