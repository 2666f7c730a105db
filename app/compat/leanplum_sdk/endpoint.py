"""The door itself: who calls, what was sent, what is accepted, what is asked; and an answer in
Leanplum's words.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial

import structlog
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from app.api import import_check, job_facts, privacy_guard
from app.bootstrap import Gateway
from app.compat.body_credentials import charge, identify
from app.compat.json_values import Fits
from app.compat.leanplum_sdk import classify, response
from app.compat.leanplum_sdk import request as reading
from app.compat.leanplum_sdk.classify import No, Now, Sorted
from app.compat.leanplum_sdk.execute import reply_to, tell_refused
from app.compat.leanplum_sdk.relayed_entries import status_of
from app.compat.leanplum_sdk.request import Call
from app.compat.limited_body import read_within_limit
from app.errors import (
    Erased,
    Forbidden,
    GatewayError,
    Invalid,
    Malformed,
    Overloaded,
    Refusal,
    TooLarge,
)
from app.http import authentication, credentials, problems, rate_limiting
from app.http import body as receiving
from app.http.json_body import has_rows, without_bom
from app.http.request import Context
from app.http.response_headers import GUARDS, NO_STORE, headers_of_file
from app.leanplum.actions import ACTIONS
from app.leanplum.client import FilePart
from app.model import ERASES, App, Caller, KeyKind
from app.model import Scope as KeyScope
from app.telemetry import describe

PATHS = ("/api", "/api/", reading.BATCH_PATH, f"{reading.BATCH_PATH}/")
METHODS = ("GET", "POST")
CORS = [(b"access-control-allow-origin", b"*"), (b"x-content-type-options", b"nosniff")]
JSON = [
    (b"content-type", b"application/json;charset=utf-8"),
    (b"cache-control", b"private, no-store"),
]
PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-max-age", b"86400"),
]
MAX_ENTRIES = 10_000
FORMS_OF_IMPORT = (
    "Name the file and its public bucket in file and gcsBucket, or send the rows as a text/csv body: "
    "the first line names the arguments, and each further line is one action."
)
EMPTY = f"The batch has no actions: send them in data. For an import: {FORMS_OF_IMPORT}"

log = structlog.get_logger("sdk")


async def answer(
    gateway: Gateway, context: Context, scope: Scope, receive: Receive, send: Send
) -> int:
    """Answer one request; the status. Nothing is raised: whatever goes wrong is told in Leanplum's
    envelope.
    """
    # A client may have the endpoint with a slash at its end
    context.path = context.path.rstrip("/")
    context.operation = f"{context.method} {context.path}"
    if context.method == "OPTIONS" and context.faulty is None:
        asked = context.headers.get(b"access-control-request-headers", b"*")
        return await _send(
            context, send, 204, [*PREFLIGHT, (b"access-control-allow-headers", asked)], b""
        )
    call: Call | None = None
    files = list[FilePart]()
    try:
        if context.faulty is not None:
            named = _show_query(context, scope)
            error = Malformed(context.faulty.detail).at(context.faulty)
            raise await authentication.charged(gateway, context, error, named=named)
        if context.method not in METHODS:
            await authentication.charge(gateway, context, named=_show_query(context, scope))
            return await _send_error(
                context, send, 405, "Send GET or POST.", call, [(b"allow", b"GET, POST, OPTIONS")]
            )
        call = await _known(gateway, context, scope, receive, files)
        caller, app = await _enter(gateway, context, call)
        if call.batch and not call.entries:
            raise Malformed(EMPTY)
        _permit_action(context, call, caller, app)
        if call.imports:
            if (rows := _rows(call, files)) is not None:
                return await _import(gateway, app, context, call, rows, caller, send)
            await import_check.permit(context, app, reading.text(call.args.get("defaultAction")))
            _refuse_bucket(gateway, context, caller)
        if call.action == "uploadFile" or (files and _takes_files(call)):
            return await _upload(gateway, app, context, call, files, caller, send)
        if call.action == "downloadFile" and not call.batch:
            return await _download(gateway, app, context, call, caller, send)
        reply = await reply_to(gateway, app, context, caller, call)
    except GatewayError as error:
        return await _send_error(context, send, status_of(error), error.detail, call, _retry(error))
    except Exception as error:
        # the outermost place of a request: told in the log, answered without its text
        log.error(
            "request.failed",
            request_id=context.request_id,
            operation=context.operation,
            **describe(error),
        )
        # 503, not 500: it says that the request may be sent again, which every SDK but JavaScript's
        # does.
        return await _send_error(context, send, 503, "The gateway failed on this request.", call)
    except asyncio.CancelledError:
        stopping = problems.stopping()
        return await _send_error(
            context, send, status_of(stopping), stopping.detail, call, _retry(stopping)
        )
    finally:
        for _, (_, file, _) in files:
            file.close()
    entries = [
        entry if entry is not None else response.failed(response.UNTOLD) for entry in reply.entries
    ]
    after = (
        []
        if reply.retry_after is None
        else [(b"retry-after", b"%d" % math.ceil(reply.retry_after))]
    )
    return await _send(
        context, send, reply.status, [*JSON, *after], response.envelope(entries, reply.beside)
    )


# --- in ---------------------------------------------------------------------------------------------------------------


async def _known(
    gateway: Gateway, context: Context, scope: Scope, receive: Receive, files: list[FilePart]
) -> Call:
    """The call, which can be read; one that can't counts all the same."""
    try:
        return await _read(gateway, context, scope, receive, files)
    except Refusal as refusal:
        await charge(gateway, context, refusal)
        raise
    except Overloaded:
        await rate_limiting.charge_unread(gateway, context)
        raise


async def _read(
    gateway: Gateway, context: Context, scope: Scope, receive: Receive, files: list[FilePart]
) -> Call:
    """The call; `files` gets those that came along, which are the caller's to close."""
    query = reading.from_query(scope["query_string"])
    media, limit = (
        context.header(b"content-type").lower(),
        gateway.settings.gateway_sdk_max_body_bytes,
    )
    form = media.startswith("multipart/form-data") and "boundary=" in media
    receiving.refuse_declared(context, gateway.settings.gateway_max_upload_bytes if form else limit)
    encoding = "" if form else context.header(b"content-encoding")
    shown = reading.text(query.get("clientKey"))
    receive = await identify(gateway, context, receive, limit=limit, encoding=encoding, shown=shown)
    if form:
        fields = await _form(gateway, context, scope, receive, files)
        context.received = time.perf_counter()
        size = sum(map(len, fields.values()))
        read = partial(reading.call, context.path, query, fields)
        return _counted(await read_within_limit(gateway, context, read, size))
    body = await receiving.read_body(gateway, context, receive, limit)
    context.received = time.perf_counter()
    if reading.is_csv(media, query, body):
        return reading.import_of(context.path, query, body)
    read = partial(_call, context.path, query, body)
    return _counted(await read_within_limit(gateway, context, read, len(body)))


def _call(path: str, query: reading.Args, body: bytes, fits: Fits) -> Call:
    call = reading.call(path, query, reading.from_body(body), fits)
    reading.refuse_crowded(call)
    return call


def _counted(call: Call) -> Call:
    if len(call.entries) > MAX_ENTRIES:
        raise TooLarge(
            f"The batch has {len(call.entries)} actions; at most {MAX_ENTRIES} are taken at once."
        )
    return call


async def _form(
    gateway: Gateway, context: Context, scope: Scope, receive: Receive, files: list[FilePart]
) -> reading.Args:
    """A form's fields; large files are in temporary files."""
    limit = gateway.settings.gateway_max_upload_bytes
    request = Request(scope, receiving.limited(gateway, context, receive, limit))
    try:
        form = await request.form(max_files=100, max_fields=1000, max_part_size=limit)
    except HTTPException as error:  # what starlette makes of a form that it can't read
        raise Malformed(f"The form can't be read: {error.detail}") from None
    fields = reading.Args()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.append(
                (
                    name,
                    (
                        value.filename or name,
                        value.file,
                        value.content_type or "application/octet-stream",
                    ),
                )
            )
        else:
            fields[name] = value
    return fields


async def _enter(gateway: Gateway, context: Context, call: Call) -> tuple[Caller, App]:
    """The caller, by the key that stands where Leanplum's would; and the app, by the id that the
    SDK names.
    """
    _show(context, call.key)
    caller = await authentication.authenticate(gateway, context)
    try:
        app = _app(gateway, context, call, caller)
    finally:
        await rate_limiting.take(gateway, context, caller, len(call.entries) or 1, lends=True)
    authentication.permit(caller, KeyScope.SDK)
    return caller, app


def _show(context: Context, key: str) -> None:
    """Have a key of the call count instead of one in a header."""
    if key:
        credentials.use(context, key)


def _show_query(context: Context, scope: Scope) -> bool:
    """Have the key in the query count; return whether there is one. Raises Malformed."""
    key = reading.text(reading.from_query(scope["query_string"]).get("clientKey"))
    _show(context, key)
    return key != ""


def _app(gateway: Gateway, context: Context, call: Call, caller: Caller) -> App:
    named = next(
        (
            one
            for one in gateway.apps.values()
            if one.app_id == call.app_id and caller.may_use(one.name)
        ),
        None,
    )
    if call.app_id and named is None:
        raise Forbidden(
            "This gateway does not serve the app with this appId, or not with this key."
        )
    if named is not None:
        context.headers[b"x-leanplum-app"] = named.name.encode()
    return authentication.choose_app(gateway, context, caller)


def _permit_action(context: Context, call: Call, caller: Caller, app: App) -> None:
    """Raises Forbidden where a call of one action must not be done; a batch is judged entry by
    entry.
    """
    if call.batch or not call.action:
        return
    if refused := classify.forbids(call.args, caller.scopes, app.sdk_extra):
        tell_refused(context, [call.args])
        context.subjects = context.refused_subjects
        raise Forbidden(refused.reason)


# --- files ------------------------------------------------------------------------------------------------------------


def _takes_files(call: Call) -> bool:
    """Whether a call's files are sent on: those of development actions are. Raises Malformed for
    another's.
    """
    known = ACTIONS.get(call.action)
    if (
        not call.batch
        and known is not None
        and known.key is KeyKind.DEVELOPMENT
        and known.name != ERASES
    ):
        return True
    raise Malformed(
        f"{call.action or 'This call'} takes no files; only development actions do, one a call."
    )


async def _upload(
    gateway: Gateway,
    app: App,
    context: Context,
    call: Call,
    files: list[FilePart],
    caller: Caller,
    send: Send,
) -> int:
    """Files go on as they are read."""
    judged = classify.sort(call.args, caller.scopes, in_batch=False)
    if isinstance(judged, No):
        raise Forbidden(judged.reason)
    if not files:
        raise Malformed("There is no file: send it as multipart/form-data.")
    await _refuse_erased(gateway, app, judged)
    privacy_guard.arguments(gateway, context, caller, call.action, call.args)
    fields = {
        name: reading.text(value)
        for name, value in call.args.items()
        if name not in classify.OF_THE_CALL
    }
    sent = privacy_guard.files(gateway, context, caller, call.action, files)
    told = await gateway.relay.upload(app, ACTIONS[call.action], fields, sent)
    entry = response.echoed(call.args, {"success": True, **told})
    return await _send(context, send, 200, JSON, response.envelope([entry]))


async def _refuse_erased(gateway: Gateway, app: App, judged: Sorted) -> None:
    """Raise Erased where somebody who was erased is named."""
    if isinstance(judged, Now) and await gateway.outbox.erased(app.name, judged.subjects):
        raise Erased


def _rows(call: Call, files: list[FilePart]) -> bytes | None:
    """The CSV text that an import carries; None where it names a file in a bucket instead. Raises
    Malformed.
    """
    if call.rows is not None:
        return call.rows
    if len(files) == 1:
        return without_bom(files[0][1][1].read())
    missing = [name for name in ("file", "gcsBucket") if not reading.text(call.args.get(name))]
    if missing or files:
        raise Malformed(
            f"The import lacks {' and '.join(missing) or 'a single file'}. {FORMS_OF_IMPORT}"
        )
    call.args["createJob"] = call.args.get("createJob") or True
    return None


async def _import(
    gateway: Gateway,
    app: App,
    context: Context,
    call: Call,
    rows: bytes,
    caller: Caller,
    send: Send,
) -> int:
    judged = classify.sort(call.args, caller.scopes, in_batch=False)
    if isinstance(judged, No):
        raise Forbidden(judged.reason)
    if not has_rows(rows):
        raise Malformed(f"The CSV has no rows. {FORMS_OF_IMPORT}")
    default_action = reading.text(call.args.get("defaultAction"))
    await _permit_rows(context, app, rows, default_action)
    privacy_guard.arguments(gateway, context, caller, call.action, call.args)
    rows = await _guarded_rows(gateway, context, caller, rows, default_action)
    fields = {
        name: reading.text(value)
        for name, value in call.args.items()
        if name not in classify.OF_THE_CALL
    }
    fields.setdefault("createJob", "true")
    job_facts.tell_asked(gateway, context, ACTIONS["multi"], fields)
    told = await gateway.relay.import_csv(app, ACTIONS["multi"], fields, rows)
    job_facts.tell_answered(context, told)
    entry = response.echoed(call.args, {"success": True, **told})
    return await _send(context, send, 200, JSON, response.envelope([entry]))


async def _permit_rows(context: Context, app: App, rows: bytes, default_action: str) -> None:
    """Let a caller import these rows. Raises Forbidden, Malformed."""
    try:
        await import_check.permit(context, app, default_action, rows)
    except Invalid as error:
        raise Malformed(f"The CSV {error.faults[0].detail}.") from None


async def _guarded_rows(
    gateway: Gateway, context: Context, caller: Caller, rows: bytes, default_action: str
) -> bytes:
    try:
        return await privacy_guard.rows(gateway, context, caller, rows, default_action)
    except Invalid as error:
        raise Malformed(f"The CSV {error.faults[0].detail}.") from None


def _refuse_bucket(gateway: Gateway, context: Context, caller: Caller) -> None:
    """Raise Malformed where privacy rules could not be applied to what an import brings."""
    try:
        privacy_guard.refuse_bucket(gateway, context, caller)
    except Invalid as error:
        raise Malformed(f"gcsBucket {error.faults[0].detail}.") from None


async def _download(
    gateway: Gateway, app: App, context: Context, call: Call, caller: Caller, send: Send
) -> int:
    judged = classify.sort(call.args, caller.scopes, in_batch=False)
    if isinstance(judged, No):
        raise Forbidden(judged.reason)
    privacy_guard.arguments(gateway, context, caller, call.action, call.args)
    await _refuse_erased(gateway, app, judged)
    args = {name: value for name, value in call.args.items() if name not in classify.OF_THE_CALL}
    kind = judged.key if isinstance(judged, Now) else KeyKind.PRODUCTION
    async with gateway.relay.download(app, args, kind) as found:
        assert found.chunks is not None
        headers = [*headers_of_file(found.headers), *CORS, *GUARDS, NO_STORE]
        headers += [(b"x-request-id", context.request_id.encode()), *context.rate_headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for chunk in found.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Exception as error:
            # too late for another answer: that it ends before its end tells the SDK
            log.error(
                "request.failed",
                request_id=context.request_id,
                operation=context.operation,
                **describe(error),
            )
            return 200
        await send({"type": "http.response.body", "body": b""})
    return 200


# --- out --------------------------------------------------------------------------------------------------------------


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
    body = response.envelope([response.failed(reason, one) for one in sent])
    return await _send(context, send, status, [*JSON, *headers], body)


async def _send(
    context: Context, send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> int:
    common = [*CORS, (b"x-request-id", context.request_id.encode()), *context.rate_headers]
    if status != 204:
        common.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *common]})
    await send({"type": "http.response.body", "body": body})
    return status
