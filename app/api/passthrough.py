"""Calls that are relayed to Leanplum while the caller waits, in one table.

The routes of the configured apps are here as well, since testing an app's keys calls Leanplum.
"""

import re
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import TypeAdapter
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from app.api import schemas
from app.api.dependencies import KEY, Authentication, path_parameters
from app.api.events import PATH_PARAMETERS, USER, contradictions, documented_parameters
from app.apps import AppRegistry
from app.clock import now_ms
from app.enrichment.config import ENRICHED
from app.enrichment.relayed_calls import RelayedCallPrivacy, permit_import
from app.errors import Fault, Invalid, Malformed, NotFound, RequestPart
from app.http import (
    CSV,
    JSON,
    Authenticator,
    BodyReader,
    JobFacts,
    RequestContext,
    Tag,
    body_of,
    context_of,
    has_rows,
    headers_of_file,
    note_answer,
    parameters_of,
    parse_json,
    problem_responses,
    require_media_type,
    without_bom,
)
from app.ingest import Ingest, Move, as_sent, parts, validate
from app.leanplum.actions import ACTIONS, About, Action
from app.leanplum.client import FilePart
from app.leanplum.passthrough_parameters import ImportOfRows
from app.model import APP_NAME, App, Caller, KeyKind, Scope
from app.outbox.outbox import Outbox
from app.relay.key_checks import KeyCheck, check
from app.relay.service import Relay

router = APIRouter(dependencies=KEY)
MULTIPART = "multipart/form-data"
MAX_FILES = 16  # of one upload (fact sheet, uploadFile)
FAILED = (
    "not-found",
    "key-not-configured",
    "upstream-rejected",
    "upstream-unavailable",
    "upstream-timeout",
)


class PassthroughCall(NamedTuple):
    """A route of a relayed call; `renamed` is Leanplum's parameter for the path's `id`."""

    method: str
    path: str
    action: str
    operation_id: str
    summary: str
    renamed: str = "id"


CALLS = (
    PassthroughCall("POST", f"{USER}/sessions", "start", "startSession", "Start a session"),
    PassthroughCall(
        "GET", f"{USER}/variables", "getVars", "getUserVariables", "Retrieve a user's variables"
    ),
    PassthroughCall("GET", USER, "exportUser", "getUser", "Retrieve a user"),
    PassthroughCall("GET", "/v1/messages", "getMessages", "listMessages", "List messages"),
    PassthroughCall("GET", "/v1/messages/{id}", "getMessage", "getMessage", "Retrieve a message"),
    PassthroughCall("GET", "/v1/ab-tests", "getAbTests", "listAbTests", "List A/B tests"),
    PassthroughCall("GET", "/v1/ab-tests/{id}", "getAbTest", "getAbTest", "Retrieve an A/B test"),
    PassthroughCall(
        "GET", "/v1/variants/{id}", "getVariant", "getVariant", "Retrieve a variant of an A/B test"
    ),
    PassthroughCall(
        "GET",
        "/v1/unsubscribe-categories",
        "getUnsubscribeCategories",
        "listUnsubscribeCategories",
        "List unsubscribe categories",
    ),
    PassthroughCall(
        "GET",
        "/v1/notification-channels",
        "getAndroidNotificationChannels",
        "listNotificationChannels",
        "List Android notification channels",
    ),
    PassthroughCall(
        "PUT",
        "/v1/notification-channels/{id}",
        "addAndroidNotificationChannel",
        "setNotificationChannel",
        "Create or update a notification channel",
    ),
    PassthroughCall(
        "DELETE",
        "/v1/notification-channels/{id}",
        "deleteAndroidNotificationChannel",
        "deleteNotificationChannel",
        "Delete a notification channel",
        "channelId",
    ),
    PassthroughCall("PUT", "/v1/variables", "setVars", "setVariables", "Set variables"),
    PassthroughCall("DELETE", "/v1/variables", "deleteVars", "deleteVariables", "Delete variables"),
    PassthroughCall("POST", "/v1/files", "uploadFile", "uploadFiles", "Upload files"),
    PassthroughCall(
        "GET", "/v1/files/{filename}", "downloadFile", "downloadFile", "Download a file"
    ),
    PassthroughCall(
        "POST",
        "/v1/development-devices",
        "registerDevice",
        "registerDevelopmentDevice",
        "Register a development device",
    ),
    PassthroughCall(
        "POST", "/v1/exports/data", "exportData", "exportData", "Start an export of raw data"
    ),
    PassthroughCall(
        "POST", "/v1/exports/users", "exportUsers", "exportUsers", "Start an export of users"
    ),
    PassthroughCall("POST", "/v1/exports/report", "exportReport", "exportReport", "Start a report"),
    PassthroughCall(
        "GET",
        "/v1/exports/{jobId}",
        "getExportResults",
        "getExport",
        "Retrieve the state and files of an export",
    ),
    PassthroughCall("POST", "/v1/imports", "multi", "importCsv", "Start a CSV import"),
    PassthroughCall(
        "GET",
        "/v1/imports/{jobId}",
        "getMultiResults",
        "getImport",
        "Retrieve the state of an import",
    ),
    PassthroughCall("POST", "/v1/postbacks", "addPostback", "createPostback", "Create a postback"),
    PassthroughCall("GET", "/v1/postbacks", "listPostbacks", "listPostbacks", "List postbacks"),
    PassthroughCall(
        "DELETE",
        "/v1/postbacks/{id}",
        "deletePostback",
        "deletePostback",
        "Delete a postback",
        "postbackId",
    ),
)
PATH_DESCRIPTIONS = PATH_PARAMETERS | {
    "id": "Id of the resource.",
    "filename": "Name of the file; write a slash in it as %2F.",
    "jobId": "Id of the job.",
}
SHAPES = {call.action: TypeAdapter[Any](ACTIONS[call.action].shape) for call in CALLS}


JSON_HEADERS = {"Content-Type": JSON}
# The headers that identify the caller and the app.
CREDENTIAL_HEADERS = "Authorization, X-API-Key, X-Leanplum-App"
SET_BY_GATEWAY = frozenset({"appId", "clientKey", "apiVersion", "action"})
IMPORT = "multi"  # Leanplum's action that begins an import
NO_ROWS = "must have rows: the first line names the arguments, and each further line is one action"
ROWS = TypeAdapter[Any](ImportOfRows)


class PassthroughHandler:
    """The handler of calls that are relayed to Leanplum."""

    def __init__(
        self,
        authenticator: Authenticator,
        bodies: BodyReader,
        relay: Relay,
        outbox: Outbox,
        ingest: Ingest,
        privacy: RelayedCallPrivacy,
        job_facts: JobFacts,
        *,
        max_upload_bytes: int,
    ) -> None:
        self._authenticator, self._bodies, self._relay = authenticator, bodies, relay
        self._outbox, self._ingest, self._privacy = outbox, ingest, privacy
        self._job_facts, self._max_upload_bytes = job_facts, max_upload_bytes

    async def answer(self, request: Request, call: PassthroughCall) -> Response:
        """Relay a call; respond with Leanplum's answer as JSON."""
        path_parameters(request)  # the audit record names the user even of a refused call
        action = ACTIONS[call.action]
        context, caller, app = await self._enter(request, call)
        args = await self._args(request, caller, app, call)
        self._authenticator.confirm_scope(context, action.scope)
        if action.seldom_changes:
            return await self._cached(request, app, action, args)
        subject = validate.subject_of(args) if action.about is About.USER else None
        context.subjects = (subject,) if subject else ()
        self._job_facts.note_call(context, action, args)
        answer = await self._relay.request(app, action, args, subject)
        if action.scope is Scope.EXPORTS_RUN:
            note_answer(context, answer)
        return Response(orjson.dumps(answer), headers=JSON_HEADERS)

    async def upload(self, request: Request, call: PassthroughCall) -> Response:
        """Upload files; large ones are kept in temporary files and streamed to Leanplum."""
        action = ACTIONS[call.action]
        context, caller, app = await self._enter(request, call)
        require_media_type(context.header(b"content-type"), MULTIPART)
        async with self._form(request) as form:
            fields, files = dict[str, str](), list[FilePart]()
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    media_type = value.content_type or "application/octet-stream"
                    files.append((name, (value.filename or name, value.file, media_type)))
                elif name not in SET_BY_GATEWAY:
                    fields[name] = value
            if not files:
                raise Invalid((Fault("", "must contain a file", "required"),))
            self._privacy.apply(app, caller, action.name, fields)
            files = self._privacy.files(app, caller, action.name, files)
            self._authenticator.confirm_scope(context, action.scope)
            answer = await self._relay.upload(app, action, fields, files)
        return Response(orjson.dumps(answer), headers=JSON_HEADERS)

    async def download(self, request: Request, call: PassthroughCall) -> Response:
        """Stream a file; the response begins once the first piece has arrived."""
        _, caller, app = await self._enter(request, call)
        args = await self._args(request, caller, app, call)
        opened = self._relay.download(app, args)
        file = await opened.__aenter__()
        assert file.chunks is not None
        chunks = file.chunks

        async def stream() -> AsyncIterator[bytes]:
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                await opened.__aexit__(None, None, None)

        response = StreamingResponse(stream())
        response.raw_headers = headers_of_file(file.headers)
        return response

    async def import_users(self, request: Request, call: PassthroughCall) -> Response:
        """Start an import of rows in the body or in a form, or of a file in a bucket."""
        context, caller, app = await self._enter(request, call)
        media_type = require_media_type(context.header(b"content-type"), JSON, CSV, MULTIPART)
        if media_type == JSON:
            args = await self._args(request, caller, app, call)
            answer = await self._import_bucket(context, caller, app, args)
        elif media_type == CSV:
            rows = await self._bodies.read(context, request.receive, self._max_upload_bytes)
            caller = self._authenticator.confirm_scope(context, ACTIONS[IMPORT].scope)
            fields = dict(request.query_params)
            answer = await self._import_rows(context, caller, app, fields, rows, "parameter")
        else:
            answer = await self._import_form(request, context, caller, app)
        note_answer(context, answer)
        return Response(orjson.dumps(answer), headers=JSON_HEADERS)

    async def _enter(
        self, request: Request, call: PassthroughCall
    ) -> tuple[RequestContext, Caller, App]:
        context, action = context_of(request.scope), ACTIONS[call.action]
        context.operation = f"{call.method} {call.path}"
        caller, app = await self._authenticator.enter(context, action.scope, action.key)
        return context, caller, app

    async def _args(
        self, request: Request, caller: Caller, app: App, call: PassthroughCall
    ) -> dict[str, Any]:
        """Return the parameters of path, query and body, validated by the action's shape."""
        context = context_of(request.scope)
        in_path = {
            call.renamed if name == "id" else name: value
            for name, value in path_parameters(request).items()
        }
        raw: dict[str, Any] = {
            name: _query_value(value) for name, value in request.query_params.items()
        }
        names_in_body = frozenset[str]()
        if call.method != "GET":
            body = await self._bodies.read_json(
                context, request.receive, optional=bool(in_path or raw)
            )
            fields = parse_json(body)
            if not isinstance(fields, dict):
                raise Invalid((Fault("", "must be an object", "type"),))
            names_in_body = frozenset(fields)
            raw |= fields
        moved: Sequence[Move] = ()
        try:
            faults = contradictions(raw, in_path)
            if faults:
                raise Invalid(tuple(faults))
            if call.action in ENRICHED:
                item_steps = self._ingest.item_steps(app, caller, now_ms(), context.origin.named)
                moved = item_steps.enrich(call.action, raw).moved
            else:
                self._privacy.apply(app, caller, call.action, raw)
            return validate.checked(SHAPES[call.action], raw)
        except Invalid as error:
            raise Invalid(
                tuple(
                    _placed(call, as_sent(fault, moved), in_path, names_in_body)
                    for fault in error.faults
                )
            ) from None

    async def _cached(
        self, request: Request, app: App, action: Action, args: Mapping[str, Any]
    ) -> Response:
        """Respond from a cache whose entries are kept for a short time.

        A caller that has the answer already (If-None-Match) gets 304. `Vary` keeps the caller's own
        cache from giving the answer for one app or key to another.
        """
        cached = await self._relay.request_cached(app, action, args)
        seconds = max(0, int(cached.until - time.monotonic()))
        headers = {
            "ETag": cached.etag,
            "Cache-Control": f"private, max-age={seconds}",
            "Vary": CREDENTIAL_HEADERS,
        }
        known_tags = {
            tag.strip().removeprefix("W/")
            for tag in request.headers.get("if-none-match", "").split(",")
        }
        if known_tags & {cached.etag, "*"}:
            return Response(status_code=304, headers=headers)
        return Response(cached.body, headers=headers | JSON_HEADERS)

    # --- imports ---------------------------------------------------------------------------------

    async def _import_bucket(
        self, context: RequestContext, caller: Caller, app: App, args: dict[str, Any]
    ) -> dict[str, Any]:
        """Start an import of a file in a bucket."""
        action = ACTIONS[IMPORT]
        self._privacy.refuse_bucket(app, caller)
        self._job_facts.note_call(context, action, args)
        caller = self._authenticator.confirm_scope(context, action.scope)
        await permit_import(app, caller, args.get("defaultAction", ""))
        return await self._relay.request(app, action, {"createJob": True, **args})

    async def _import_rows(
        self,
        context: RequestContext,
        caller: Caller,
        app: App,
        fields: dict[str, Any],
        rows: bytes,
        part: RequestPart = "pointer",
    ) -> dict[str, Any]:
        """Start an import of these rows; `part` is the part of the request that has the fields."""
        action = ACTIONS[IMPORT]
        default_action = str(fields.get("defaultAction", ""))
        self._privacy.apply(app, caller, action.name, fields)
        try:
            args = validate.checked(ROWS, fields)
        except Invalid as error:
            if part == "pointer":
                raise
            faults = (
                replace(fault, pointer=parts(fault.pointer)[0], part=part) for fault in error.faults
            )
            raise Invalid(tuple(faults)) from None
        if not has_rows(rows):
            raise Invalid((Fault("", NO_ROWS, "required"),))
        self._job_facts.note_call(context, action, args)
        await permit_import(app, caller, default_action, rows)
        find_end = await self._outbox.find_erasure_ends(app.name)
        rows = await self._privacy.rows(app, caller, rows, default_action, find_end)
        return await self._relay.import_csv(app, action, {"createJob": "true", **args}, rows)

    async def _import_form(
        self, request: Request, context: RequestContext, caller: Caller, app: App
    ) -> dict[str, Any]:
        """Start an import of the file in a form, or of a file in a bucket."""
        async with self._form(request) as form:
            items = form.multi_items()
            files = [value for _, value in items if isinstance(value, UploadFile)]
            fields: dict[str, Any] = {
                name: value for name, value in items if not isinstance(value, UploadFile)
            }
            if len(files) > 1:
                raise Invalid((Fault("/file", "must be one file with the rows", "required"),))
            rows = without_bom(await files[0].read()) if files else None
        caller = self._authenticator.confirm_scope(context, ACTIONS[IMPORT].scope)
        if rows is not None:
            return await self._import_rows(context, caller, app, fields, rows)
        self._privacy.apply(app, caller, IMPORT, fields)
        return await self._import_bucket(
            context, caller, app, validate.checked(SHAPES[IMPORT], fields)
        )

    @asynccontextmanager
    async def _form(self, request: Request) -> AsyncIterator[FormData]:
        """Read a form within the limits of uploads. Raises Malformed."""
        context = context_of(request.scope)
        if "boundary=" not in context.header(b"content-type").lower():
            raise Malformed("The Content-Type header has no boundary.")
        receive = self._bodies.limited(context, request.receive, self._max_upload_bytes)
        limited = Request(request.scope, receive)
        try:
            async with limited.form(max_files=MAX_FILES, max_fields=100) as form:
                yield form
        except HTTPException as error:  # raised by starlette for a form that it cannot parse
            raise Malformed(f"The form cannot be parsed: {error.detail}") from None


def _placed(
    call: PassthroughCall, fault: Fault, path: Mapping[str, Any], in_body: Collection[str]
) -> Fault:
    """Return a fault, located at a parameter if its field comes from the path or the query."""
    name = next(iter(parts(fault.pointer)), "")
    if not name or name in in_body or (call.method != "GET" and fault.code == "required"):
        return fault
    if name in path and name not in call.path:
        name = "id"
    return replace(fault, pointer=name, part="parameter")


def _query_value(text: str) -> Any:
    """Return the value of a query parameter, in which booleans are text."""
    return {"true": True, "false": False}.get(text, text)


def _add_route(call: PassthroughCall) -> None:
    action = ACTIONS[call.action]

    async def answer(request: Request, handler: Handler) -> Response:
        return await handler.answer(request, call)

    async def upload(request: Request, handler: Handler) -> Response:
        return await handler.upload(request, call)

    async def download(request: Request, handler: Handler) -> Response:
        return await handler.download(request, call)

    async def import_users(request: Request, handler: Handler) -> Response:
        return await handler.import_users(request, call)

    special = {"uploadFile": upload, IMPORT: import_users, "downloadFile": download}
    router.add_api_route(
        call.path,
        special.get(call.action, answer),
        methods=[call.method],
        name=call.action,
        operation_id=call.operation_id,
        tags=[_tag(call, action)],
        summary=call.summary,
        description=_description(action),
        # Without a media type, a file is not documented as JSON.
        response_class=Response if call.action == "downloadFile" else JSONResponse,
        responses=_responses(call, action),
        openapi_extra=_documented_input(call, action),
    )


async def _handler(request: Request) -> PassthroughHandler:
    handler: PassthroughHandler = request.state.passthrough
    return handler


Handler = Annotated[PassthroughHandler, Depends(_handler)]


# --- documentation -------------------------------------------------------------------------------


def _tag(call: PassthroughCall, action: Action) -> Tag:
    if action.scope is Scope.EXPORTS_RUN:
        return Tag.EXPORTS
    return Tag.EVENTS_AND_USERS if call.path.startswith(USER) else Tag.MESSAGES


def _description(action: Action) -> str:
    sentences = [
        f"Calls Leanplum's `{action.name}` with the {action.key.value} key and returns the answer."
    ]
    if action.per_day:
        sentences.append(f"Leanplum allows {action.per_day} such calls per day.")
    if action.seldom_changes:
        sentences.append("The response may be `GATEWAY_CACHE_SECONDS` old and has an `ETag`.")
    return " ".join(sentences)


def _responses(call: PassthroughCall, action: Action) -> dict[int | str, dict[str, Any]]:
    success: dict[str, Any] = {
        "model": action.answer,
        "description": "Leanplum's answer without `success`",
    }
    if call.action == "downloadFile":
        file = {"schema": {"type": "string", "format": "binary"}}
        success = {"description": "The file", "content": {"application/octet-stream": file}}
    responses: dict[int | str, dict[str, Any]] = {200: success}
    if action.seldom_changes:
        responses[304] = {"description": "Not modified (If-None-Match)"}
    # These calls read a body even where none is documented.
    of_body = () if call.method == "GET" else ("too-large", "unsupported-media-type")
    return responses | problem_responses(*FAILED, *of_body)


def _documented_input(call: PassthroughCall, action: Action) -> dict[str, Any]:
    """Return the OpenAPI parameters of path and query, and the body."""
    in_the_path = re.findall(r"{(\w+)}", call.path)
    known = {call.renamed if name == "id" else name for name in in_the_path}
    parameters = documented_parameters(call.path, PATH_DESCRIPTIONS)
    if call.method == "GET":
        return {"parameters": parameters + parameters_of(action.shape, known)}
    if call.action == "multi":
        return _documented_import_input()
    media = MULTIPART if call.action == "uploadFile" else JSON
    if set(action.shape.__annotations__) <= known:
        return {"parameters": parameters}
    body = body_of(action.shape.__name__, media=media, required=bool(action.required - known))
    return {"parameters": parameters} | body


def _documented_import_input() -> dict[str, Any]:
    """Return the two forms of an import: JSON that names a file in a bucket, or the CSV rows."""
    body = body_of("Import")
    rows = {"type": "string", "examples": ["userId,event\nuser-1,Purchase\n"]}
    body["requestBody"]["content"][CSV] = {"schema": rows}
    return {"parameters": parameters_of(ImportOfRows, ())} | body


for _call in CALLS:
    _add_route(_call)


# --- apps ----------------------------------------------------------------------------------------

APPS = "/v1/apps"
NAME = re.compile(APP_NAME)


async def _apps(request: Request) -> AppRegistry:
    apps: AppRegistry = request.state.apps
    return apps


async def _relay(request: Request) -> Relay:
    relay: Relay = request.state.relay
    return relay


ConfiguredApps = Annotated[AppRegistry, Depends(_apps)]


@router.get(
    APPS,
    operation_id="listApps",
    tags=[Tag.API_KEYS],
    summary="List configured apps",
    response_model=schemas.AppList,
)
async def list_apps(request: Request, authenticator: Authentication, apps: ConfiguredApps) -> Any:
    """Return the apps and the kinds of Leanplum key configured for each, without the keys."""
    context = context_of(request.scope)
    context.operation = f"GET {APPS}"
    caller = await authenticator.enter_without_app(context, Scope.KEYS_MANAGE)
    usable = [app for app in apps.values() if caller.may_use(app.name)]
    return {
        "apps": [
            {
                "name": app.name,
                "appId": app.app_id,
                "keys": {kind.value: {"configured": kind in app.keys} for kind in KeyKind},
            }
            for app in usable
        ]
    }


@router.post(
    f"{APPS}/{{name}}/check",
    operation_id="checkApp",
    tags=[Tag.API_KEYS],
    summary="Test an app's Leanplum keys",
    response_model=schemas.CheckedApp,
    response_model_exclude_none=True,
    responses=problem_responses("not-found"),
)
async def check_app(
    request: Request,
    authenticator: Authentication,
    apps: ConfiguredApps,
    relay: Annotated[Relay, Depends(_relay)],
    name: Annotated[str, Path(description="Name of the app.")],
) -> Any:
    """Test each key with one call to Leanplum that names no user and changes nothing."""
    context = context_of(request.scope)
    context.operation = f"POST {APPS}/{{name}}/check"
    caller = await authenticator.enter_without_app(context, Scope.KEYS_MANAGE)
    app = apps.get(name)
    if NAME.fullmatch(name):
        context.resource = name
    if app is None or not caller.may_use(name):
        raise NotFound("No app has this name; GET /v1/apps lists the apps.")
    context.app = app
    checks = await check(relay.client, app)
    return {
        "name": name,
        "keys": {kind.value: _check_document(key_check) for kind, key_check in checks.items()},
    }


def _check_document(key_check: KeyCheck) -> dict[str, Any]:
    return {name: value for name, value in key_check._asdict().items() if value is not None}
