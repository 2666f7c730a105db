"""The endpoint of Leanplum's protocol: authenticate, read, execute and respond."""

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

from app.apps import AppRegistry
from app.compat.admission import BodyCredentials, read_within_limit
from app.compat.body_formats import Fits
from app.compat.leanplum_sdk import classify, request, response
from app.compat.leanplum_sdk.execute import EntryExecutor, note_refused
from app.compat.leanplum_sdk.relayed_entries import status_of
from app.compat.leanplum_sdk.transfers import IMPORT_HELP, TRANSFER_ACTIONS, TransferHandler
from app.errors import Forbidden, GatewayError, Malformed, Overloaded, Refusal, TooLarge
from app.http import (
    Authenticator,
    BodyReader,
    RateLimiter,
    RequestContext,
    log_failure,
    problems,
    refuse_declared,
    require_scope,
)
from app.leanplum.client import FilePart
from app.model import App, Caller
from app.model import Scope as KeyScope

PATHS = ("/api", "/api/", request.BATCH_PATH, f"{request.BATCH_PATH}/")
METHODS = ("GET", "POST")
PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-max-age", b"86400"),
]
MAX_ENTRIES = 10_000
EMPTY = f"The batch has no actions: send them in data. For an import: {IMPORT_HELP}"

log = structlog.get_logger("sdk")


class SdkEndpoint:
    """Answer calls in Leanplum's own protocol, as its SDKs make them."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: RateLimiter,
        calls: "CallReader",
        executor: EntryExecutor,
        transfers: TransferHandler,
        apps: AppRegistry,
    ) -> None:
        self._authenticator, self._limiter, self._apps = authenticator, limiter, apps
        self._calls, self._executor, self._transfers = calls, executor, transfers

    async def answer(
        self, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> int:
        """Answer one request; return the status.

        No error is raised: each is answered in Leanplum's envelope.
        """
        # Some clients are configured with a slash at the end of the endpoint.
        context.path = context.path.rstrip("/")
        context.operation = f"{context.method} {context.path}"
        if context.method == "OPTIONS" and context.faulty is None:
            requested = context.headers.get(b"access-control-request-headers", b"*")
            headers = [*PREFLIGHT, (b"access-control-allow-headers", requested)]
            return await response.send_body(context, send, 204, headers, b"")
        call: request.SdkCall | None = None
        files = list[FilePart]()
        try:
            await self._refuse_malformed(context, scope)
            if context.method not in METHODS:
                named = _use_query_key(context, scope)
                await self._authenticator.charge(context, named=named)
                allow = [(b"allow", b"GET, POST, OPTIONS")]
                return await _send_error(context, send, 405, "Send GET or POST.", call, allow)
            call = await self._calls.read(context, scope, receive, files)
            caller, app = await self._authenticate(context, call)
            if call.batch and not call.entries:
                raise Malformed(EMPTY)
            _permit_action(context, call, caller, app)
            if files or call.is_import or call.action in TRANSFER_ACTIONS:
                transfer = await self._transfers.start(context, caller, app, call, files)
                if transfer is not None:
                    return await transfer(send)
            reply = await self._executor.reply_to(context, caller, app, call)
        except GatewayError as error:
            status, headers = status_of(error), _retry_headers(error)
            return await _send_error(context, send, status, error.detail, call, headers)
        except Exception as error:
            # No caller handles errors of a request: log this one, and answer without its text.
            log_failure(log, context, error)
            # 503, not 500, says that the request may be sent again; all SDKs but JavaScript do.
            return await _send_error(
                context, send, 503, "The gateway failed on this request.", call
            )
        except asyncio.CancelledError:
            stopping = problems.stopping()
            status, headers = status_of(stopping), _retry_headers(stopping)
            return await _send_error(context, send, status, stopping.detail, call, headers)
        finally:
            for _, (_, file, _) in files:
                file.close()
        return await _send_reply(context, send, reply)

    async def _refuse_malformed(self, context: RequestContext, scope: Scope) -> None:
        """Raise Malformed, or RateLimited, for a request with faulty headers."""
        if context.faulty is None:
            return
        named = _use_query_key(context, scope)
        error = Malformed(context.faulty.detail).at(context.faulty)
        raise await self._authenticator.charged(context, error, named=named)

    async def _authenticate(
        self, context: RequestContext, call: request.SdkCall
    ) -> tuple[Caller, App]:
        """Return the caller and the app of a call.

        SDKs send the caller's key as `clientKey`, and the app's id at Leanplum as `appId`. Raises
        Unauthorized, Forbidden and RateLimited.
        """
        if call.key:
            context.use_key(call.key)
        caller = await self._authenticator.authenticate(context)
        try:
            app = self._choose_app(context, call, caller)
        finally:
            await self._limiter.take(context, caller, len(call.entries) or 1, lends=True)
        require_scope(caller, KeyScope.SDK)
        return caller, app

    def _choose_app(self, context: RequestContext, call: request.SdkCall, caller: Caller) -> App:
        named = next(
            (
                app
                for app in self._apps.values()
                if app.app_id == call.app_id and caller.may_use(app.name)
            ),
            None,
        )
        if call.app_id and named is None:
            raise Forbidden(
                "This gateway does not serve the app with this appId, or not with this key."
            )
        if named is not None:
            return self._authenticator.choose_app(context, caller, named.name)
        return self._authenticator.choose_app(context, caller)


class CallReader:
    """Read calls of Leanplum's protocol within the limits of size and rate."""

    def __init__(
        self,
        limiter: RateLimiter,
        bodies: BodyReader,
        credentials: BodyCredentials,
        *,
        max_body_bytes: int,
        max_upload_bytes: int,
    ) -> None:
        self._limiter, self._bodies, self._credentials = limiter, bodies, credentials
        self._max_body_bytes, self._max_upload_bytes = max_body_bytes, max_upload_bytes

    async def read(
        self, context: RequestContext, scope: Scope, receive: Receive, files: list[FilePart]
    ) -> request.SdkCall:
        """Return the call; `files` receives its files, which the caller of this method closes.

        A call that cannot be read counts against the limits, too.
        """
        try:
            return await self._read(context, scope, receive, files)
        except Refusal as refusal:
            await self._credentials.charge(context, refusal)
            raise
        except Overloaded:
            await self._limiter.charge_unread(context)
            raise

    async def _read(
        self, context: RequestContext, scope: Scope, receive: Receive, files: list[FilePart]
    ) -> request.SdkCall:
        query = request.parse_query(scope["query_string"])
        media_type, limit = context.header(b"content-type").lower(), self._max_body_bytes
        is_form = media_type.startswith("multipart/form-data") and "boundary=" in media_type
        refuse_declared(context, self._max_upload_bytes if is_form else limit)
        receive = await self._credentials.identify(
            context,
            receive,
            limit=limit,
            encoding="" if is_form else context.header(b"content-encoding"),
            query_key=request.to_text(query.get("clientKey")),
        )
        if is_form:
            fields = await self._read_form(context, scope, receive, files)
            context.received = time.perf_counter()
            size = sum(map(len, fields.values()))
            read = partial(request.make_call, context.path, query, fields)
            return _check_count(await read_within_limit(self._limiter, context, read, size))
        body = await self._bodies.read(context, receive, limit)
        context.received = time.perf_counter()
        if request.is_csv(media_type, query, body):
            return request.make_import_call(context.path, query, body)
        read = partial(_parse_call, context.path, query, body)
        return _check_count(await read_within_limit(self._limiter, context, read, len(body)))

    async def _read_form(
        self, context: RequestContext, scope: Scope, receive: Receive, files: list[FilePart]
    ) -> request.Args:
        """Return the fields of a form; large files are in temporary files."""
        limit = self._max_upload_bytes
        form_request = Request(scope, self._bodies.limited(context, receive, limit))
        try:
            form = await form_request.form(max_files=100, max_fields=1000, max_part_size=limit)
        except HTTPException as error:  # raised by starlette for a form that it can't read
            raise Malformed(f"The form cannot be parsed: {error.detail}") from None
        fields = request.Args()
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                media_type = value.content_type or "application/octet-stream"
                files.append((name, (value.filename or name, value.file, media_type)))
            else:
                fields[name] = value
        return fields


def _parse_call(path: str, query: request.Args, body: bytes, fits: Fits) -> request.SdkCall:
    call = request.make_call(path, query, request.parse_body(body), fits)
    request.refuse_crowded_entries(call)
    return call


def _check_count(call: request.SdkCall) -> request.SdkCall:
    if len(call.entries) > MAX_ENTRIES:
        raise TooLarge(f"The batch has {len(call.entries)} actions; the limit is {MAX_ENTRIES}.")
    return call


def _use_query_key(context: RequestContext, scope: Scope) -> bool:
    """Use the key in the query as the credential; return whether there is one. Raises Malformed."""
    key = request.to_text(request.parse_query(scope["query_string"]).get("clientKey"))
    if key:
        context.use_key(key)
    return key != ""


def _permit_action(
    context: RequestContext, call: request.SdkCall, caller: Caller, app: App
) -> None:
    """Raise Forbidden for a call of one action that the caller may not use.

    The entries of a batch are checked one by one.
    """
    if call.batch or not call.action:
        return
    if refused := classify.refuse_unpermitted(call.args, caller.scopes, app.sdk_extra):
        note_refused(context, [call.args])
        context.subjects = context.refused_subjects
        raise Forbidden(refused.reason)


def _retry_headers(error: GatewayError) -> list[tuple[bytes, bytes]]:
    after = getattr(error, "retry_after", None)
    return [] if after is None else [(b"retry-after", b"%d" % max(1, math.ceil(after)))]


async def _send_reply(context: RequestContext, send: Send, reply: response.Reply) -> int:
    entries = [
        entry if entry is not None else response.render_failure(response.NO_ANSWER)
        for entry in reply.entries
    ]
    headers = list(response.JSON)
    if reply.retry_after is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(reply.retry_after)))
    body = response.render_envelope(entries, reply.extra_fields)
    return await response.send_body(context, send, reply.status, headers, body)


async def _send_error(
    context: RequestContext,
    send: Send,
    status: int,
    reason: str,
    call: request.SdkCall | None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> int:
    """Send a response that has the failure for each entry; return the status."""
    sent = call.entries if call is not None and call.entries else [None]
    body = response.render_envelope([response.render_failure(reason, entry) for entry in sent])
    return await response.send_body(context, send, status, [*response.JSON, *headers], body)
