"""Dependencies of the /v1 routes: services of the running gateway, and checks of each request.

The lifespan puts the services into the state of each request; each route declares those it uses.
"""

from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import AfterValidator

from app import ids
from app.errors import Fault, Invalid
from app.http import Authenticator, BodyReader, context_of
from app.ingest.validate import subject_of
from app.leanplum.values import query_time
from app.outbox.outbox import Outbox
from app.suggestions import hint

NO_NUL = "must not contain a NUL character"
UNKNOWN = "unknown query parameter"
NO_SUGGESTION = "; remove it or check its spelling"
SUBJECTS = frozenset({"userId", "deviceId"})


async def storable(request: Request) -> None:
    """Refuse a path or query parameter with a NUL character, which PostgreSQL cannot store."""
    if b"%00" not in request.scope["raw_path"] and b"%00" not in request.scope["query_string"]:
        return
    parameters = [("path", *parameter) for parameter in request.path_params.items()]
    parameters += [("query", *parameter) for parameter in request.query_params.multi_items()]
    faults = [
        {"loc": (place, name), "msg": NO_NUL}
        for place, name, value in parameters
        if "\0" in f"{name}{value}"
    ]
    if faults:
        raise RequestValidationError(faults)


MOST_FAULTS = 10


async def declared(request: Request) -> None:
    """Refuse query parameters that the route does not declare.

    A misspelt filter would match everything; a misspelt `fullErasure` would leave data behind.
    """
    if not request.scope["query_string"]:
        return
    known = _declared(request.scope["route"])
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        faults = [
            {"loc": ("query", name), "msg": UNKNOWN + (hint(name, known) or NO_SUGGESTION)}
            for name in unknown[:MOST_FAULTS]
        ]
        raise RequestValidationError(faults)


def _declared(route: Any) -> set[str]:
    """Return the names in the signature of the route's endpoint and in its documentation."""
    documented = (route.openapi_extra or {}).get("parameters", ())
    in_query = {parameter["name"] for parameter in documented if parameter["in"] == "query"}
    # A class of query parameters is a dependency of the route.
    for dependant in (route.dependant, *route.dependant.dependencies):
        in_query |= {parameter.alias for parameter in dependant.query_params}
    return in_query


# Query parameters of lists. A time is returned by validation as a number of seconds.
Instant = Annotated[str, AfterValidator(query_time)]
PageCursor = Annotated[
    str | None, Query(pattern=r"^\d{1,18}$", description="`nextCursor` of the previous page.")
]
PageLimit = Annotated[int, Query(ge=1, le=1_000, description="Maximum number of results per page.")]


def milliseconds(seconds: Any) -> int | None:
    """Return a time of the request in milliseconds."""
    return None if seconds is None else int(float(seconds) * 1000)


BOTH_SUBJECTS = "cannot be used with userId; items of a user have its userId"


def require_one_subject(user_id: str | None, device_id: str | None) -> None:
    """Raise Invalid if query parameters name a user and a device."""
    if user_id is not None and device_id is not None:
        raise Invalid((Fault("deviceId", BOTH_SUBJECTS, "parameter", "parameter"),))


def subject_in_query(user_id: str | None, device_id: str | None) -> str | None:
    """Return the subject that query parameters name; None if they name nobody."""
    if user_id is not None:
        return subject_of({"userId": ids.plain(user_id)})
    return None if device_id is None else subject_of({"deviceId": ids.plain(device_id)})


# The last two only document how a key is sent; `Authenticator` checks it.
KEY = [
    Depends(storable),
    Depends(declared),
    Depends(HTTPBearer(auto_error=False, scheme_name="Bearer", description="A caller key")),
    Depends(
        APIKeyHeader(
            name="X-API-Key", auto_error=False, scheme_name="X-API-Key", description="A caller key"
        )
    ),
]


async def _authenticator(request: Request) -> Authenticator:
    authenticator: Authenticator = request.state.authenticator
    return authenticator


async def _bodies(request: Request) -> BodyReader:
    bodies: BodyReader = request.state.bodies
    return bodies


async def _outbox(request: Request) -> Outbox:
    outbox: Outbox = request.state.outbox
    return outbox


Authentication = Annotated[Authenticator, Depends(_authenticator)]
Bodies = Annotated[BodyReader, Depends(_bodies)]
OutboxDependency = Annotated[Outbox, Depends(_outbox)]


def path_parameters(request: Request) -> dict[str, str]:
    """Return the path parameters, unescaped; a user id may contain a slash, sent as `%2F`."""
    sent: list[bytes] = request.scope["raw_path"].partition(b"?")[0].split(b"/")
    template = request.scope["route"].path.split("/")
    # The middleware has refused a path that is not UTF-8.
    parameters = {
        name[1:-1]: unquote_to_bytes(value).decode()
        for name, value in zip(template, sent, strict=True)
        if name.startswith("{")
    }
    for name in SUBJECTS & parameters.keys():
        parameters[name] = ids.plain(parameters[name])
    subject = subject_of(parameters)
    if subject is not None:
        context_of(request.scope).subjects = (subject,)
    return parameters
