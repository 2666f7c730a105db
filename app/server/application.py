"""The application: routers, handlers, the front, and the lifespan that opens and closes the
gateway.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app import __version__
from app.api import (
    audit,
    dead_letters,
    keys,
    passthrough,
    preview,
    receipt_search,
    routes,
    tracking,
)
from app.bootstrap import Gateway, gateway
from app.compat.leanplum_sdk import endpoint as sdk
from app.compat.segment import endpoint as segment
from app.compat.segment.request import PATHS as SEGMENT_PATHS
from app.errors import Fault, GatewayError, Invalid, NotFound, RequestPart
from app.http import authentication, problems
from app.http import request as context
from app.http.client_address import TrustedProxies
from app.ingest.json_pointers import pointer
from app.server import openapi, operations
from app.server.lifecycle import Lifecycle
from app.server.middleware import Front
from app.settings import Settings
from app.telemetry import Metrics
from app.tracking.plan.validate import NO_PLANS

ROUTERS = tuple(
    one.router
    for one in (
        routes,
        receipt_search,
        preview,
        passthrough,
        dead_letters,
        keys,
        audit,
        tracking,
        operations,
    )
)
DOORS = dict.fromkeys(sdk.PATHS, sdk.answer) | dict.fromkeys(SEGMENT_PATHS, segment.answer)


class Application(FastAPI):
    """FastAPI behind our front: the hot writes need nothing of what FastAPI does for each
    request.
    """

    def __init__(
        self, *, metrics: Metrics, proxies: TrustedProxies, root: str, **options: Any
    ) -> None:
        super().__init__(**options)
        self._front = Front(super().__call__, metrics, DOORS, proxies, root)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every request goes through the front."""
        scope["app"] = self
        await self._front(scope, receive, send)


def create_app(settings: Settings, *, delivery: bool = True) -> FastAPI:
    """The ASGI app. Nothing is opened before its lifespan is entered."""
    metrics = Metrics()
    lifecycle = Lifecycle(settings.gateway_shutdown_seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway(settings, metrics, lifecycle, delivery=delivery) as opened:
            app.state.gateway = opened
            yield

    app = Application(
        metrics=metrics,
        proxies=TrustedProxies(settings.trusted_proxies),
        root=settings.gateway_root_path,
        title="Leanplum gateway",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.lifecycle = lifecycle
    app.state.settings = settings
    for router in ROUTERS:
        app.include_router(router)
    operations.add_documentation(app)
    app.add_exception_handler(GatewayError, _problem)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _parameter_problem)
    app.add_exception_handler(Exception, _internal_problem)
    app.openapi = lambda: _remembered(app)  # type: ignore[method-assign]
    return app


def _remembered(app: FastAPI) -> dict[str, object]:
    """Made anew where the tracking plan has changed."""
    gateway: Gateway | None = getattr(app.state, "gateway", None)
    plans = NO_PLANS if gateway is None else gateway.plans.plans
    if app.openapi_schema is None or app.state.documented is not plans:
        app.openapi_schema, app.state.documented = openapi.openapi(app, plans), plans
    return app.openapi_schema


def _response(answer: problems.Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return response


def _of(request: Request) -> tuple[str, str]:
    """Return the id of the request and its path prefix."""
    about = context.of(request.scope)
    return about.request_id, about.prefix


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    if isinstance(error, NotFound):
        error = await _refused_key(request) or error
    return _response(problems.answer(error, *_of(request)))


async def _refused_key(request: Request) -> GatewayError | None:
    """Return what is wrong with the key of a call that asks for what is not there. The call takes
    an item of the key, where that is not done yet.
    """
    try:
        await authentication.charge(request.app.state.gateway, context.of(request.scope))
    except GatewayError as refusal:
        return refusal
    return None


async def _internal_problem(request: Request, error: Exception) -> Response:
    """A fault of ours: answered without its text; the front, which it goes on to, puts it into the
    log.
    """
    detail = "The gateway failed on this request; it is in the log."
    return _response(problems.plain("internal", detail, *_of(request)))


HTTP_SLUGS = {404: "not-found", 405: "method-not-allowed"}


async def _http_problem(request: Request, error: Exception) -> Response:
    """What the router itself refuses."""
    assert isinstance(error, HTTPException)
    if (refusal := await _refused_key(request)) is not None:
        return await _problem(request, refusal)
    slug = HTTP_SLUGS.get(error.status_code, "internal")
    headers, detail = [], "There is nothing at this address."
    if error.status_code == 405:
        allowed = ", ".join(_allowed(request))
        headers, detail = (
            [(b"allow", allowed.encode())],
            f"{request.method} is not taken here; {allowed} is.",
        )
    return _response(problems.plain(slug, detail, *_of(request), *headers))


def _allowed(request: Request) -> list[str]:
    """The methods that the address takes (RFC 9110 §10.2.1); a router knows those of one of its
    routes alone.
    """
    found = {
        method
        for route in (*request.app.routes, *(one for router in ROUTERS for one in router.routes))
        if isinstance(route, Route) and route.path_regex.match(request.scope["path"])
        for method in route.methods or ()
    } or {"GET"}  # the pages' files
    return sorted(found | {"HEAD"} if "GET" in found else found)


async def _parameter_problem(request: Request, error: Exception) -> Response:
    """What FastAPI finds wrong in a path or a query. It looks before anybody has asked who calls:
    that comes first.
    """
    assert isinstance(error, RequestValidationError)
    about = context.of(request.scope)
    about.operation = f"{request.method} {request.scope['route'].path}"
    faults = tuple(map(_parameter_fault, error.errors()))
    try:
        if request.url.path.startswith("/v1/"):
            await authentication.enter_unread(request.app.state.gateway, about)
        else:
            await authentication.charge(request.app.state.gateway, about)
        raise Invalid(faults)
    except GatewayError as refusal:
        return await _problem(request, refusal)


def _parameter_fault(found: Any) -> Fault:
    where, *path = map(str, found["loc"])
    if where == "body":
        return Fault(pointer(path), found["msg"], "type")
    part: RequestPart = "header" if where == "header" else "parameter"
    return Fault(path[0] if path else where, found["msg"], part, part)
