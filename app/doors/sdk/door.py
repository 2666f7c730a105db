"""The door itself: who calls, what was sent, what is accepted, what is asked; and an answer in Leanplum's words."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from app.api import auth, problems, writes
from app.api.context import Context
from app.clock import now_ms
from app.doors.sdk import answering, reading, sorting
from app.doors.sdk.answering import Entry
from app.doors.sdk.reading import Call
from app.doors.sdk.sorting import No, Now
from app.errors import Forbidden, GatewayError, KeyNotConfigured, Malformed, TooLarge, Unauthorized, UpstreamRejected
from app.leanplum import replies
from app.leanplum.actions import ACTIONS
from app.leanplum.client import Answer, Part
from app.model import Caller, NewItem, Taken
from app.model import Scope as KeyScope
from app.telemetry import describe
from app.wiring import Gateway

PATHS = ("/api", reading.BATCH_PATH)
METHODS = ("GET", "POST")
CORS = [(b"access-control-allow-origin", b"*")]
JSON = [(b"content-type", b"application/json;charset=utf-8"), (b"cache-control", b"private")]
PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-max-age", b"86400"),
]
MAX_ENTRIES = 10_000
IN_A_THREAD = 256 * 1024  # bytes from which reading would keep others waiting
RUN_ACTIONS, RUN_USERS = 500, 50  # of one call to Leanplum

log = structlog.get_logger("sdk")


@dataclass(slots=True)
class Reply:
    """What was found out so far: an answer for each entry, and what stands beside them."""

    entries: list[Entry | None]
    status: int = 200
    beside: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None

    def tell(self, at: Sequence[int], found: Sequence[Entry]) -> None:
        """The answers of the entries at these places."""
        for index, entry in zip(at, found, strict=True):
            self.entries[index] = entry


async def answer(gateway: Gateway, context: Context, scope: Scope, receive: Receive, send: Send) -> int:
    """Answer one request; the status. Nothing is raised: whatever goes wrong is told in Leanplum's envelope."""
    context.operation = f"{context.method} {context.path}"
    if context.method == "OPTIONS":
        asked = context.headers.get(b"access-control-request-headers", b"*")
        return await _send(context, send, 204, [*PREFLIGHT, (b"access-control-allow-headers", asked)], b"")
    call: Call | None = None
    files = list[Part]()
    try:
        if context.method not in METHODS:
            return await _send_error(context, send, 405, "Send GET or POST.", call, [(b"allow", b"GET, POST, OPTIONS")])
        call = await _read(gateway, context, scope, receive, files)
        caller = _enter(gateway, context, call)
        if call.action in {"uploadFile", "multi"} and not call.batch:
            return await _upload(gateway, context, call, files, caller, send)
        if call.action == "downloadFile" and not call.batch:
            return await _download(gateway, context, call, caller, send)
        reply = await _reply(gateway, context, caller, call)
    except GatewayError as error:
        return await _send_error(context, send, _status(error), error.detail, call, _retry(error))
    except Exception as error:  # the outermost place of a request: told in the log, answered without its text
        log.error("request.failed", request_id=context.request_id, operation=context.operation, **describe(error))
        # 503, not 500: Unity gives a batch up at any other status than 408, 429, 502, 503, 504.
        return await _send_error(context, send, 503, "The gateway failed on this request.", call)
    finally:
        for _, (_, file, _) in files:
            file.close()
    entries = [entry if entry is not None else answering.failed(answering.UNTOLD) for entry in reply.entries]
    after = [] if reply.retry_after is None else [(b"retry-after", b"%d" % math.ceil(reply.retry_after))]
    return await _send(context, send, reply.status, [*JSON, *after], answering.envelope(entries, reply.beside))


# --- in ---------------------------------------------------------------------------------------------------------------


async def _read(gateway: Gateway, context: Context, scope: Scope, receive: Receive, files: list[Part]) -> Call:
    """The call; `files` gets those that came along, which are the caller's to close."""
    query = reading.from_query(scope["query_string"])
    if context.header(b"content-type").partition(";")[0].strip().lower() == "multipart/form-data":
        return _counted(reading.call(context.path, query, await _form(gateway, scope, receive, files)))
    body = await writes.read_body(gateway, context, receive, gateway.settings.gateway_sdk_max_body_bytes)
    if len(body) > IN_A_THREAD:
        return _counted(await asyncio.to_thread(_call, context.path, query, body))
    return _counted(_call(context.path, query, body))


def _call(path: str, query: reading.Args, body: bytes) -> Call:
    return reading.call(path, query, reading.from_body(body))


def _counted(call: Call) -> Call:
    if len(call.entries) > MAX_ENTRIES:
        raise TooLarge(f"The batch has {len(call.entries)} actions; at most {MAX_ENTRIES} are taken at once.")
    return call


async def _form(gateway: Gateway, scope: Scope, receive: Receive, files: list[Part]) -> reading.Args:
    """A form's fields; large files are in temporary files."""
    limit = gateway.settings.gateway_max_upload_bytes
    request = Request(scope, writes.limited(receive, limit))
    try:
        form = await request.form(max_files=100, max_fields=1000, max_part_size=limit)
    except MultiPartException as error:
        raise Malformed(f"The form can't be read: {error.message}") from None
    fields = reading.Args()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.append((name, (value.filename or name, value.file, value.content_type or "application/octet-stream")))
        else:
            fields[name] = value
    return fields


def _enter(gateway: Gateway, context: Context, call: Call) -> Caller:
    """The caller, by the key that stands where Leanplum's would."""
    if call.key:
        context.headers.pop(b"authorization", None)
        context.headers[b"x-api-key"] = call.key.encode("latin-1", "replace")
    caller = auth.authenticate(gateway, context)
    auth.permit(caller, KeyScope.SDK)
    if call.app_id not in {"", gateway.app.app_id}:
        raise Forbidden("This gateway does not serve the app with this appId.")
    auth.limit(gateway, context, caller, min(len(call.entries) or 1, gateway.settings.gateway_rate_burst))
    return caller


# --- what is done -----------------------------------------------------------------------------------------------------


async def _reply(gateway: Gateway, context: Context, caller: Caller, call: Call) -> Reply:
    """Entry by entry in their order, those of a kind together: what was accepted before something is asked for the same
    user reaches Leanplum before it, and what comes after it, after."""
    reply = Reply([None] * len(call.entries))
    judged = [sorting.sort(one, gateway.app, caller.scopes, in_batch=call.batch) for one in call.entries]
    index = 0
    while index < len(judged):
        run = _run(judged, index)
        await _do(gateway, context, caller, call, reply, range(index, index + len(run)), run)
        index += len(run)
    return reply


def _run(judged: Sequence[sorting.Sorted], start: int) -> Sequence[sorting.Sorted]:
    """The entries from `start` that are done together."""
    first = judged[start]
    if isinstance(first, No):
        return judged[start : start + 1]
    end, users = start, set[str | None]()
    while end < len(judged) and type(one := judged[end]) is type(first):
        if isinstance(one, Now) and isinstance(first, Now):
            users.add(one.subject)
            apart = one.alone or first.alone or one.key is not first.key
            if end > start and (apart or end - start >= RUN_ACTIONS or len(users) > RUN_USERS):
                break
        end += 1
    return judged[start:end]


async def _do(
    gateway: Gateway,
    context: Context,
    caller: Caller,
    call: Call,
    reply: Reply,
    at: Sequence[int],
    run: Sequence[sorting.Sorted],
) -> None:
    sent = [call.entries[index] for index in at]
    if isinstance(run[0], No):
        reply.tell(at, [answering.failed(run[0].reason, sent[0])])
        if not call.batch:
            reply.status = 400
    elif isinstance(run[0], Now):
        await _ask(gateway, call, reply, at, [one for one in run if isinstance(one, Now)])
    else:
        await _accept(gateway, context, caller, [one for one in run if isinstance(one, NewItem)])
        reply.tell(at, [answering.done(one) for one in sent])


async def _accept(gateway: Gateway, context: Context, caller: Caller, items: list[NewItem]) -> None:
    """On disk when this returns. A repeat is known by its reqId and uuid; two contents with the same are two items."""
    taken: Sequence[Taken] = await writes.accept(gateway, context, caller, now_ms(), items, batch=True)
    gateway.metrics.accepted.inc(sum(kind == "accepted" for _, kind in taken))
    again = [item._replace(id=None) for item, (_, kind) in zip(items, taken, strict=True) if kind == "conflict"]
    if again:
        await writes.accept(gateway, context, caller, now_ms(), again, batch=True)
        gateway.metrics.accepted.inc(len(again))


async def _ask(gateway: Gateway, call: Call, reply: Reply, at: Sequence[int], run: Sequence[Now]) -> None:
    sent = [one.entry for one in run]
    if reply.status in {429, 503, 504}:  # Leanplum has just failed; asking on would take longer than the SDK waits
        reply.tell(at, [answering.failed("Not asked, since Leanplum failed before.", one) for one in sent])
        return
    subjects = {one.subject for one in run if one.subject is not None}
    try:
        action, body = _outgoing(gateway, call, run)
        found = await gateway.relay.exchange(gateway.app, action, body, subjects)
    except GatewayError as error:
        if not (call.batch and isinstance(error, KeyNotConfigured)):  # sending the batch again would change nothing
            reply.status, reply.retry_after = _status(error), getattr(error, "retry_after", None)
        reply.tell(at, [answering.failed(error.detail, one) for one in sent])
        return
    _take(reply, at, sent, found, call)


def _outgoing(gateway: Gateway, call: Call, run: Sequence[Now]) -> tuple[str, bytes]:
    """What goes to Leanplum: as it came, with the real keys wherever one stood."""
    app, kind = gateway.app, run[0].key
    keys = {"appId": app.app_id, "clientKey": gateway.relay.key(app, kind)}
    if not call.batch:
        return call.action, orjson.dumps({**call.args, **keys})
    data = [_with_key(one.entry, keys) for one in run]
    if run[0].alone:  # it takes a key that a batch does not
        return str(run[0].entry["action"]), orjson.dumps({**data[0], **keys})
    args = {"time": now_ms() / 1000, **call.args, **keys, "action": "multi", "data": data}
    return "multi", orjson.dumps(args)


def _with_key(entry: Entry, keys: dict[str, str]) -> Entry:
    return {**entry, **{name: value for name, value in keys.items() if name in entry}}


def _take(reply: Reply, at: Sequence[int], sent: Sequence[Entry], found: Answer, call: Call) -> None:
    """Leanplum's answer, into its places."""
    entries = replies.entries(found.body)
    if found.status in replies.THROTTLES or found.status >= 500 or not entries:
        reply.status = 429 if found.status in replies.THROTTLES else 503
        reply.retry_after = 5.0
        reply.tell(at, [answering.failed(f"Leanplum answered {found.status}.", one) for one in sent])
        return
    places = answering.matched(entries, sent)
    if len(entries) == 1 and entries[0].get("success") is False:
        places = [entries[0]] * len(sent)  # a refusal of the whole call
    told = [answering.cleaned(one, of) if one is not None else None for one, of in zip(places, sent, strict=True)]
    reply.tell(
        at,
        [one[0] if one else answering.failed(answering.UNTOLD, of) for one, of in zip(told, sent, strict=True)],
    )
    if any(one is not None and one[1] for one in told):
        reply.status, reply.retry_after = 503, 60.0
    elif found.status >= 400 and not call.batch:
        reply.status = found.status
    whole = orjson.loads(found.body)
    reply.beside |= {name: value for name, value in whole.items() if name not in {"response", *answering.LEADING_AWAY}}


# --- files ------------------------------------------------------------------------------------------------------------


async def _upload(gateway: Gateway, context: Context, call: Call, files: list[Part], caller: Caller, send: Send) -> int:
    """Files go on as they are read; a CSV job is one too."""
    judged = sorting.sort(call.args, gateway.app, caller.scopes, in_batch=False)
    if isinstance(judged, No):
        raise Forbidden(judged.reason)
    if not files:
        raise Malformed("There is no file: send it as multipart/form-data.")
    fields = {name: reading.text(value) for name, value in call.args.items() if name not in sorting.OF_THE_CALL}
    told = await gateway.relay.upload(gateway.app, ACTIONS[call.action], fields, files)
    entry = answering.echoed(call.args, {"success": True, **told})
    return await _send(context, send, 200, JSON, answering.envelope([entry]))


async def _download(gateway: Gateway, context: Context, call: Call, caller: Caller, send: Send) -> int:
    judged = sorting.sort(call.args, gateway.app, caller.scopes, in_batch=False)
    if isinstance(judged, No):
        raise Forbidden(judged.reason)
    args = {name: value for name, value in call.args.items() if name not in sorting.OF_THE_CALL}
    async with gateway.relay.download(gateway.app, args) as found:
        assert found.chunks is not None
        media = found.headers.get("content-type", "application/octet-stream").encode("latin-1")
        headers = [(b"content-type", media), *CORS, (b"x-request-id", context.request_id.encode())]
        if "content-length" in found.headers and "content-encoding" not in found.headers:
            headers.append((b"content-length", found.headers["content-length"].encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for chunk in found.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    return 200


# --- out --------------------------------------------------------------------------------------------------------------


def _status(error: GatewayError) -> int:
    """403 for a bad key; trouble upstream is 5xx, and Leanplum's own refusal is told by its entry."""
    if isinstance(error, Unauthorized | Forbidden):
        return 403
    if isinstance(error, UpstreamRejected):
        return 502
    return problems.PROBLEMS[problems.SLUGS[type(error)]].status


def _retry(error: GatewayError) -> list[tuple[bytes, bytes]]:
    after = getattr(error, "retry_after", None)
    return [] if after is None else [(b"retry-after", b"%d" % max(1, math.ceil(after)))]


async def _send_error(
    context: Context,
    send: Send,
    status: int,
    reason: str,
    call: Call | None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> int:
    """The same failure for each entry."""
    sent = call.entries if call is not None and call.entries else [None]
    body = answering.envelope([answering.failed(reason, one) for one in sent])
    return await _send(context, send, status, [*JSON, *headers], body)


async def _send(context: Context, send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> int:
    common = [*CORS, (b"x-request-id", context.request_id.encode()), *context.rate_headers]
    if status != 204:
        common.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *common]})
    await send({"type": "http.response.body", "body": body})
    return status
