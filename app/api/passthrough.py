"""What is asked of Leanplum while the caller waits (contract §5): one table, one entry for each
call.
"""

import re
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from app.api import import_check, job_facts, privacy_guard, schemas, writes
from app.api.routes import KEY, PATH_PARAMETERS, USER, gateway_of, in_path, path_parameters
from app.bootstrap import Gateway
from app.enrichment.config import ENRICHED
from app.errors import Fault, Invalid, Malformed, NotFound, RequestPart
from app.http import authentication, json_body
from app.http import body as receiving
from app.http import request as context
from app.http.openapi_parts import body_of, parameters_of, problem_responses
from app.http.request import Context
from app.http.response_headers import headers_of_file
from app.ingest import validate
from app.ingest.json_pointers import Move, as_sent, parts
from app.leanplum.actions import ACTIONS, About, Action
from app.leanplum.client import FilePart
from app.leanplum.passthrough_parameters import ImportOfRows
from app.model import APP_NAME, App, Caller, KeyKind, Scope
from app.relay.key_checks import Checked, check

router = APIRouter(dependencies=KEY, tags=["Leanplum"])
MULTIPART = "multipart/form-data"
MAX_FILES = 16  # of one upload (fact sheet, uploadFile)
ANSWERS = (
    "internal",
    "upstream-rejected",
    "upstream-unavailable",
    "upstream-timeout",
    "key-not-configured",
)
REFUSED = ("unauthorized", "forbidden", "not-found", "validation", "rate-limited")
WITH_BODY = ("malformed", "too-large", "unsupported-media-type")


class Ask(NamedTuple):
    """One call: where, Leanplum's action, and what it means. `renamed`: the parameter that the
    path's `id` is.
    """

    method: str
    path: str
    action: str
    summary: str
    renamed: str = "id"


ASKS = (
    Ask("POST", f"{USER}/sessions", "start", "Begin a session: variables, messages, variants"),
    Ask("GET", f"{USER}/variables", "getVars", "A user's variables"),
    Ask("GET", USER, "exportUser", "All that Leanplum knows of a user"),
    Ask("GET", "/v1/messages", "getMessages", "The app's messages"),
    Ask("GET", "/v1/messages/{id}", "getMessage", "One message"),
    Ask("GET", "/v1/ab-tests", "getAbTests", "The app's A/B tests"),
    Ask("GET", "/v1/ab-tests/{id}", "getAbTest", "One A/B test"),
    Ask("GET", "/v1/variants/{id}", "getVariant", "One variant of an A/B test"),
    Ask(
        "GET",
        "/v1/unsubscribe-categories",
        "getUnsubscribeCategories",
        "What users may unsubscribe from",
    ),
    Ask(
        "GET",
        "/v1/notification-channels",
        "getAndroidNotificationChannels",
        "Android's notification channels",
    ),
    Ask(
        "PUT",
        "/v1/notification-channels/{id}",
        "addAndroidNotificationChannel",
        "Make or change a channel",
    ),
    Ask(
        "DELETE",
        "/v1/notification-channels/{id}",
        "deleteAndroidNotificationChannel",
        "Remove a channel",
        "channelId",
    ),
    Ask("PUT", "/v1/variables", "setVars", "Set variables"),
    Ask("DELETE", "/v1/variables", "deleteVars", "Remove variables"),
    Ask("POST", "/v1/files", "uploadFile", "Upload files"),
    Ask("GET", "/v1/files/{filename}", "downloadFile", "Download a file"),
    Ask("POST", "/v1/development-devices", "registerDevice", "Register a device for development"),
    Ask("POST", "/v1/exports/data", "exportData", "Begin an export of raw data"),
    Ask("POST", "/v1/exports/users", "exportUsers", "Begin an export of users"),
    Ask("POST", "/v1/exports/report", "exportReport", "Begin a report"),
    Ask("GET", "/v1/exports/{jobId}", "getExportResults", "How far an export is, and its files"),
    Ask("POST", "/v1/imports", "multi", "Begin an import of CSV"),
    Ask("GET", "/v1/imports/{jobId}", "getMultiResults", "How far an import is"),
    Ask("POST", "/v1/postbacks", "addPostback", "Add a postback"),
    Ask("GET", "/v1/postbacks", "listPostbacks", "The app's postbacks"),
    Ask("DELETE", "/v1/postbacks/{id}", "deletePostback", "Remove a postback", "postbackId"),
)
DESCRIBED = PATH_PARAMETERS | {
    "id": "its id",
    "filename": "the file's name; a slash in it is written %2F",
    "jobId": "the id that the begun job has",
}
SHAPES = {ask.action: TypeAdapter[Any](ACTIONS[ask.action].shape) for ask in ASKS}


async def _enter(
    request: Request, operation: str, action: Action
) -> tuple[Gateway, Context, App, Caller]:
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation = operation
    caller, app = await authentication.enter(gateway, about, action.scope, action.key)
    return gateway, about, app, caller


async def _args(
    request: Request, gateway: Gateway, about: Context, caller: Caller, ask: Ask
) -> dict[str, Any]:
    """The parameters, from path, query and body, held against the action's shape."""
    path = {
        ask.renamed if name == "id" else name: value for name, value in in_path(request).items()
    }
    raw: Any = {name: _meant(value) for name, value in request.query_params.items()}
    if ask.method != "GET":
        told = json_body.parse(
            await receiving.read_fields(gateway, about, request.receive, optional=bool(path or raw))
        )
        if not isinstance(told, dict):
            raise Invalid((Fault("", "takes an object", "type"),))
        raw = {**raw, **told}
    in_body = frozenset(told) if ask.method != "GET" else frozenset[str]()
    moved: Sequence[Move] = ()
    try:
        faults = writes.contradictions(raw, path)
        if faults:
            raise Invalid(tuple(faults))
        if ask.action in ENRICHED:
            moved = writes.refiner_for(gateway, about, caller).refine(ask.action, raw).moved
        else:
            privacy_guard.arguments(gateway, about, caller, ask.action, raw)
        return validate.checked(SHAPES[ask.action], raw)
    except Invalid as error:
        raise Invalid(
            tuple(_placed(ask, as_sent(fault, moved), path, in_body) for fault in error.faults)
        ) from None


def _placed(ask: Ask, fault: Fault, path: Mapping[str, Any], in_body: Collection[str]) -> Fault:
    """Return a fault of what the path or the query has as one of a parameter."""
    name = next(iter(parts(fault.pointer)), "")
    if not name or name in in_body or (ask.method != "GET" and fault.code == "required"):
        return fault
    if name in path and name not in ask.path:
        name = "id"
    return replace(fault, pointer=name, part="parameter")


def _meant(text: str) -> Any:
    """A query has booleans as text."""
    return {"true": True, "false": False}.get(text, text)


def _add(ask: Ask) -> None:
    action = ACTIONS[ask.action]
    operation = f"{ask.method} {ask.path}"

    async def answered(request: Request) -> Response:
        in_path(request)  # whom it is about is known even where it is refused
        gateway, about, app, caller = await _enter(request, operation, action)
        args = await _args(request, gateway, about, caller, ask)
        authentication.still(gateway, about, action.scope)
        if action.seldom_changes:
            return await _kept(request, gateway, app, action, args)
        subject = validate.subject_of(args) if action.about is About.USER else None
        about.subjects = (subject,) if subject else ()
        job_facts.tell_asked(gateway, about, action, args)
        told = await gateway.relay.ask(app, action, args, subject)
        if action.scope is Scope.EXPORTS_RUN:
            job_facts.tell_answered(about, told)
        return Response(orjson.dumps(told), headers=JSON)

    async def uploaded(request: Request) -> Response:
        gateway, about, app, caller = await _enter(request, operation, action)
        return await _upload(request, gateway, about, caller, app, action)

    async def downloaded(request: Request) -> Response:
        gateway, about, app, caller = await _enter(request, operation, action)
        return await _download(gateway, app, await _args(request, gateway, about, caller, ask))

    async def imported(request: Request) -> Response:
        gateway, about, app, caller = await _enter(request, operation, action)
        media = json_body.media_type(
            about.header(b"content-type"), json_body.JSON, json_body.CSV, MULTIPART
        )
        if media == json_body.JSON:
            args = await _args(request, gateway, about, caller, ask)
            privacy_guard.refuse_bucket(gateway, about, caller)
            job_facts.tell_asked(gateway, about, action, args)
            authentication.still(gateway, about, action.scope)
            await import_check.permit(about, app, args.get("defaultAction", ""))
            told = await gateway.relay.ask(app, action, {"createJob": True, **args})
        elif media == json_body.CSV:
            most = gateway.settings.gateway_max_upload_bytes
            rows = await receiving.read_body(gateway, about, request.receive, most)
            authentication.still(gateway, about, action.scope)
            fields = dict(request.query_params)
            told = await _import_rows(
                gateway, about, caller, app, action, fields, rows, "parameter"
            )
        else:
            told = await _import_form(request, gateway, about, caller, app, action)
        job_facts.tell_answered(about, told)
        return Response(orjson.dumps(told), headers=JSON)

    special = {"uploadFile": uploaded, "multi": imported, "downloadFile": downloaded}
    router.add_api_route(
        ask.path,
        special.get(ask.action, answered),
        methods=[ask.method],
        name=ask.action,
        summary=ask.summary,
        description=_described(action),
        responses=_responses(ask, action),
        openapi_extra=_extra(ask, action),
    )


JSON = {"Content-Type": json_body.JSON}
# The headers that say who asks, and about which app
WHOSE = "Authorization, X-API-Key, X-Leanplum-App"


async def _kept(
    request: Request, gateway: Gateway, app: App, action: Action, args: Mapping[str, Any]
) -> Response:
    """Answer from a cache that is kept for a short while; a caller that has the answer
    (If-None-Match) gets 304.

    A caller's own cache must not tell one app's answer, or one key's, to another.
    """
    kept = await gateway.relay.ask_seldom(app, action, args)
    seconds = max(0, int(kept.until - time.monotonic()))
    headers = {"ETag": kept.etag, "Cache-Control": f"private, max-age={seconds}", "Vary": WHOSE}
    known = {
        tag.strip().removeprefix("W/")
        for tag in request.headers.get("if-none-match", "").split(",")
    }
    if known & {kept.etag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(kept.body, headers=headers | JSON)


# --- files ------------------------------------------------------------------------------------------------------------


async def _upload(
    request: Request, gateway: Gateway, about: Context, caller: Caller, app: App, action: Action
) -> Response:
    """A form is written to a temporary file where it is large, and read from there as it goes
    out.
    """
    media = about.header(b"content-type")
    json_body.media_type(media, MULTIPART)
    if "boundary=" not in media.lower():
        raise Malformed("The Content-Type has no boundary.")
    most = gateway.settings.gateway_max_upload_bytes
    limited = Request(request.scope, receiving.limited(gateway, about, request.receive, most))
    fields = dict[str, str]()
    try:
        async with limited.form(max_files=MAX_FILES, max_fields=100) as form:
            files = list[FilePart]()
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    media = value.content_type or "application/octet-stream"
                    files.append((name, (value.filename or name, value.file, media)))
                elif name not in OURS:
                    fields[name] = value
            if not files:
                raise Invalid((Fault("", "has no file", "required"),))
            privacy_guard.arguments(gateway, about, caller, action.name, fields)
            files = privacy_guard.files(gateway, about, caller, action.name, files)
            authentication.still(gateway, about, action.scope)
            told = await gateway.relay.upload(app, action, fields, files)
    except HTTPException as error:  # what starlette makes of a form that it can't read
        raise Malformed(f"The form can't be read: {error.detail}") from None
    return Response(orjson.dumps(told), headers=JSON)


OURS = frozenset({"appId", "clientKey", "apiVersion", "action"})


async def _import_rows(
    gateway: Gateway,
    about: Context,
    caller: Caller,
    app: App,
    action: Action,
    fields: dict[str, Any],
    rows: bytes,
    part: RequestPart = "pointer",
) -> dict[str, Any]:
    """Begin an import of these rows. `part`: what the fields came in."""
    default_action = str(fields.get("defaultAction", ""))
    privacy_guard.arguments(gateway, about, caller, action.name, fields)
    try:
        args = validate.checked(ROWS, fields)
    except Invalid as error:
        if part == "pointer":
            raise
        named = (
            replace(fault, pointer=parts(fault.pointer)[0], part=part) for fault in error.faults
        )
        raise Invalid(tuple(named)) from None
    if not json_body.has_rows(rows):
        raise Invalid((Fault("", NO_ROWS, "required"),))
    job_facts.tell_asked(gateway, about, action, args)
    await import_check.permit(about, app, default_action, rows)
    rows = await privacy_guard.rows(gateway, about, caller, rows, default_action)
    return await gateway.relay.import_csv(app, action, {"createJob": "true", **args}, rows)


async def _import_form(
    request: Request, gateway: Gateway, about: Context, caller: Caller, app: App, action: Action
) -> dict[str, Any]:
    """Begin an import of the file that a form carries, or of the one in a bucket that it names."""
    if "boundary=" not in about.header(b"content-type").lower():
        raise Malformed("The Content-Type has no boundary.")
    most = gateway.settings.gateway_max_upload_bytes
    limited = Request(request.scope, receiving.limited(gateway, about, request.receive, most))
    try:
        async with limited.form(max_files=MAX_FILES, max_fields=100) as form:
            parts = form.multi_items()
            files = [value for _, value in parts if isinstance(value, UploadFile)]
            fields: dict[str, Any] = {
                name: value for name, value in parts if not isinstance(value, UploadFile)
            }
            if len(files) > 1:
                raise Invalid((Fault("/file", "must be one file with the rows", "required"),))
            rows = json_body.without_bom(await files[0].read()) if files else None
    except HTTPException as error:  # what starlette makes of a form that it can't read
        raise Malformed(f"The form can't be read: {error.detail}") from None
    authentication.still(gateway, about, action.scope)
    if rows is not None:
        return await _import_rows(gateway, about, caller, app, action, fields, rows)
    privacy_guard.arguments(gateway, about, caller, action.name, fields)
    args = validate.checked(SHAPES["multi"], fields)
    privacy_guard.refuse_bucket(gateway, about, caller)
    job_facts.tell_asked(gateway, about, action, args)
    await import_check.permit(about, app, args.get("defaultAction", ""))
    return await gateway.relay.ask(app, action, {"createJob": True, **args})


NO_ROWS = "has no rows: the first line names the arguments, and each further line is one action"
ROWS = TypeAdapter[Any](ImportOfRows)


async def _download(gateway: Gateway, app: App, args: Mapping[str, Any]) -> Response:
    """Streamed: the first piece is there before anything is answered."""
    opened = gateway.relay.download(app, args)
    found = await opened.__aenter__()
    assert found.chunks is not None
    chunks = found.chunks

    async def passed_on() -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await opened.__aexit__(None, None, None)

    response = StreamingResponse(passed_on())
    response.raw_headers = headers_of_file(found.headers)
    return response


# --- the documentation ------------------------------------------------------------------------------------------------


def _described(action: Action) -> str:
    told = [
        f"Leanplum's `{action.name}`, answered while you wait, with Leanplum's {action.key.value} key."
    ]
    if action.a_day:
        told.append(f"Leanplum does it {action.a_day} times a day.")
    if action.seldom_changes:
        told.append("The answer may be `GATEWAY_CACHE_SECONDS` old; it has an `ETag`.")
    return " ".join(told)


def _responses(ask: Ask, action: Action) -> dict[int | str, dict[str, Any]]:
    kinds = (*REFUSED, *ANSWERS, *(() if ask.method == "GET" else WITH_BODY))
    good: dict[str, Any] = {
        "model": action.answer,
        "description": "Leanplum's answer, less `success`",
    }
    if ask.action == "downloadFile":
        file = {"schema": {"type": "string", "format": "binary"}}
        good = {"description": "The file", "content": {"application/octet-stream": file}}
    more: dict[int | str, dict[str, Any]] = (
        {304: {"description": "As it was: see If-None-Match"}} if action.seldom_changes else {}
    )
    return {200: good, **more, **problem_responses(*kinds)}


def _extra(ask: Ask, action: Action) -> dict[str, Any]:
    """The parameters of path and query, and the body."""
    in_the_path = re.findall(r"{(\w+)}", ask.path)
    known = {ask.renamed if name == "id" else name for name in in_the_path}
    parameters = path_parameters(ask.path, DESCRIBED)
    if ask.method == "GET":
        return {"parameters": parameters + parameters_of(action.shape, known)}
    if ask.action == "multi":
        return _extra_of_imports()
    media = MULTIPART if ask.action == "uploadFile" else json_body.JSON
    if set(action.shape.__annotations__) <= known:
        return {"parameters": parameters}
    body = body_of(action.shape.__name__, media=media, required=bool(action.required - known))
    return {"parameters": parameters} | body


def _extra_of_imports() -> dict[str, Any]:
    """The two forms of an import: a file in a bucket, named in JSON, or the rows themselves."""
    body = body_of("Import")
    rows = {"type": "string", "examples": ["userId,event\nuser-1,Purchase\n"]}
    body["requestBody"]["content"][json_body.CSV] = {"schema": rows}
    return {"parameters": parameters_of(ImportOfRows, ())} | body


for _one in ASKS:
    _add(_one)


# --- apps -------------------------------------------------------------------------------------------------------------

APPS = "/v1/apps"
NAME = re.compile(APP_NAME)
MANAGED = ("unauthorized", "forbidden", "rate-limited", "internal")


async def _manage(request: Request, operation: str) -> tuple[Gateway, Caller]:
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation = operation
    return gateway, await authentication.enter_beside_apps(gateway, about, Scope.KEYS_MANAGE)


@router.get(
    APPS,
    summary="The configured apps",
    response_model=schemas.Apps,
    responses=problem_responses(*MANAGED),
)
async def list_apps(request: Request) -> Any:
    """Which apps there are, and which kinds of Leanplum's keys each has; never a key."""
    gateway, caller = await _manage(request, f"GET {APPS}")
    mine = [app for app in gateway.apps.values() if caller.may_use(app.name)]
    return {
        "apps": [
            {
                "name": app.name,
                "appId": app.app_id,
                "keys": {kind.value: {"configured": kind in app.keys} for kind in KeyKind},
            }
            for app in mine
        ]
    }


@router.post(
    f"{APPS}/{{name}}/check",
    summary="Does Leanplum take the keys?",
    response_model=schemas.CheckedApp,
    response_model_exclude_none=True,
    responses=problem_responses(*MANAGED, "not-found"),
)
async def check_app(
    request: Request, name: Annotated[str, Path(description="the app's name")]
) -> Any:
    """Asks Leanplum once for each key, by calls that name no user and change nothing."""
    gateway, caller = await _manage(request, f"POST {APPS}/{{name}}/check")
    about, app = context.of(request.scope), gateway.apps.get(name)
    if NAME.fullmatch(name):
        about.resource = name
    if app is None or not caller.may_use(name):
        raise NotFound("There is no app of this name; GET /v1/apps lists them.")
    about.app = app
    found = await check(gateway.relay.client, app)
    return {"name": name, "keys": {kind.value: _told(one) for kind, one in found.items()}}


def _told(one: Checked) -> dict[str, Any]:
    return {name: value for name, value in one._asdict().items() if value is not None}
