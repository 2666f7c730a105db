"""The ASGI application: routers, handlers, middleware, and the lifespan of the gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.api import (
    audit,
    batch,
    dead_letters,
    erasures,
    events,
    keys,
    passthrough,
    preview,
    receipts,
    tracking,
)
from app.compat.leanplum_sdk import endpoint as sdk
from app.compat.segment.request import PATHS as SEGMENT_PATHS
from app.console import audit as console_audit
from app.console import dead_letters as console_dead_letters
from app.console import find, live, overview, sign_in, unknown
from app.console import keys as console_keys
from app.console import preview as console_preview
from app.console import tracking_plan as console_tracking_plan
from app.errors import Fault, GatewayError, Invalid, NotFound, RequestPart
from app.http import Authenticator, TrustedProxies, context_of, problems
from app.http.problem_types import INTERNAL
from app.ingest import parameter_sentence, pointer
from app.server import operations, pages
from app.server.bootstrap import NOTHING_SHARED, Role, Services, Shared, gateway
from app.server.handlers import Handlers, handlers_of
from app.server.lifecycle import Lifecycle
from app.server.middleware import QUIET, CompatEndpoint, HotHandler, Middleware, Targets
from app.server.openapi import document
from app.server.process_reports import ProcessReports
from app.server.unknown_routes import shown_path, unknown_route
from app.server.worker_events import exchange_events
from app.server.worker_links import WorkerLink
from app.settings import Settings
from app.telemetry import Metrics, traces
from app.tracking.plan.validate import NO_PLANS, Plans

ROUTERS = (
    events.router,
    batch.router,
    erasures.router,
    receipts.router,
    preview.router,
    passthrough.router,
    dead_letters.router,
    keys.router,
    audit.router,
    tracking.router,
    operations.router,
    pages.router,
    sign_in.router,
    overview.router,
    find.router,
    console_dead_letters.router,
    live.router,
    console_keys.router,
    console_audit.router,
    console_tracking_plan.router,
    console_preview.router,
    unknown.router,  # the last one of the console's: it takes every path
)
# FastAPI makes no span for a scope that has this
UNTRACED = "fastapi.telemetry"


class Application(FastAPI):
    """The gateway as an ASGI application.

    The lifespan makes the middleware of the gateway's services, and puts it in front of FastAPI's
    own. The middleware calls those where it does not answer itself.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        role: Role,
        link: WorkerLink | None,
        shared: Shared,
    ) -> None:
        super().__init__(
            title="Leanplum gateway",
            version=__version__,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,
            telemetry=traces.request_tracing(),
        )
        self.settings, self._metrics, self._role = settings, metrics, role
        self._traced = traces.enabled()
        self._link, self._shared = link, shared
        self.lifecycle = Lifecycle(settings.gateway_shutdown_seconds)
        # The HTTP server's protocol reads them there.
        self.state.lifecycle, self.state.settings = self.lifecycle, settings
        self._services: Services | None = None
        self._handlers: Handlers | None = None
        self._state: dict[str, Any] = {}
        self._framework: ASGIApp | None = None
        self._documented: Plans | None = None

    @property
    def services(self) -> Services:
        """The services of the running gateway. Raises RuntimeError before the lifespan begins."""
        if self._services is None:
            raise RuntimeError("the application's lifespan has not begun")
        return self._services

    @property
    def handlers(self) -> Handlers:
        """The handlers of requests. Raises RuntimeError before the lifespan begins."""
        if self._handlers is None:
            raise RuntimeError("the application's lifespan has not begun")
        return self._handlers

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, made anew when the tracking plan has changed."""
        plans = NO_PLANS if self._services is None else self._services.tracking.plans.current
        if self.openapi_schema is None or self._documented is not plans:
            self.openapi_schema, self._documented = document.openapi(self, plans), plans
        return self.openapi_schema

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[dict[str, Any]]:
        """Open the gateway; yield the state of each request."""
        opening = gateway(self.settings, self._metrics, self.lifecycle, self._role, self._shared)
        async with opening as services:
            self.serve(services)
            yield self._state

    def serve(self, services: Services) -> None:
        """Answer requests with these services from now on."""
        handlers = handlers_of(services, exchange_events(self._link, services))
        self._services, self._handlers = services, handlers
        if self._framework is None:
            self._framework = self.build_middleware_stack()
        self._state = (
            services._asdict()
            | handlers._asdict()
            | {
                "lifecycle": self.lifecycle,
                "reports": ProcessReports(services, self._link),
            }
        )
        self.middleware_stack = Middleware(
            self._targets(handlers),
            services.authenticator,
            services.bodies,
            services.audit_trail,
            self._metrics,
            proxies=TrustedProxies(self.settings.trusted_proxies),
            root_path=self.settings.gateway_root_path,
            access_log=self.settings.gateway_access_log,
            traced=self._traced,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; FastAPI traces it unless the scope says that it is not sampled."""
        if self._traced and scope["type"] == "http" and not self._samples(scope):
            scope[UNTRACED] = None
        await super().__call__(scope, receive, send)

    def _samples(self, scope: Scope) -> bool:
        """Return whether a request has a span: none if it is about the gateway's own state."""
        path: str = scope["path"]
        if path in QUIET or path.removeprefix(self.settings.gateway_root_path) in QUIET:
            return False
        return traces.samples(scope["headers"])

    def _targets(self, handlers: Handlers) -> Targets:
        """Return the targets of requests; those past the router name the spans of requests."""
        hot_handlers: dict[tuple[str, str], HotHandler] = {
            ("POST", events.EVENTS): handlers.items.post_event,
            ("POST", batch.BATCH): handlers.batches.post,
        }
        compat_endpoints: dict[str, CompatEndpoint] = {
            **dict.fromkeys(sdk.PATHS, handlers.sdk.answer),
            **dict.fromkeys(SEGMENT_PATHS, handlers.segment.answer),
        }
        if self._traced:
            naming = traces.naming_route
            hot_handlers = {call: naming(handle) for call, handle in hot_handlers.items()}
            compat_endpoints = {path: naming(answer) for path, answer in compat_endpoints.items()}
        return Targets(hot_handlers, compat_endpoints, self._route)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by FastAPI's own middleware and router.

        The services and handlers are the state of the request.
        """
        assert self._framework is not None
        await self._framework({**scope, "state": self._state}, receive, send)


def create_app(
    settings: Settings,
    *,
    delivery: bool = True,
    link: WorkerLink | None = None,
    shared: Shared = NOTHING_SHARED,
) -> Application:
    """Return the ASGI application. Nothing is opened before its lifespan is entered.

    `link` leads to the other workers, if it runs in one: then it only accepts. `shared` is
    what the workers share.
    """
    role = Role(delivers=delivery) if link is None else Role(delivers=False, keeps_house=False)
    metrics = Metrics("" if link is None else link.name)
    app = Application(settings, metrics, role, link, shared)
    for router in ROUTERS:
        app.include_router(router)
    pages.add_documentation(app)
    app.add_exception_handler(GatewayError, _problem)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _parameter_problem)
    app.add_exception_handler(Exception, _internal_problem)
    return app


def _response(answer: problems.Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return response


def _authenticator(request: Request) -> Authenticator:
    authenticator: Authenticator = request.state.authenticator
    return authenticator


def _of(request: Request) -> tuple[str, str]:
    """Return the id of the request and its path prefix."""
    about = context_of(request.scope)
    return about.request_id, about.prefix


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)
    if isinstance(error, NotFound):
        error = await _refused_key(request) or error
    return _response(problems.answer(error, *_of(request)))


async def _refused_key(request: Request) -> GatewayError | None:
    """Return what is wrong with the key of a call to an unknown address; None for a valid key.

    The call is charged to the key's rate limit, where that is not done yet.
    """
    try:
        await _authenticator(request).charge(context_of(request.scope))
    except GatewayError as refusal:
        return refusal
    return None


async def _internal_problem(request: Request, error: Exception) -> Response:
    """Answer an internal error without its text; the middleware logs it."""
    return _response(problems.plain("internal", INTERNAL, *_of(request)))


HTTP_SLUGS = {404: "not-found", 405: "method-not-allowed"}


async def _http_problem(request: Request, error: Exception) -> Response:
    """Answer a request that the router itself refuses."""
    assert isinstance(error, HTTPException)
    if (refusal := await _refused_key(request)) is not None:
        return await _problem(request, refusal)
    slug = HTTP_SLUGS.get(error.status_code, "internal")
    path, method, prefix = request.scope["path"], request.method, context_of(request.scope).prefix
    if error.status_code != 405:
        detail = unknown_route(method, path, prefix, _route_paths(request))
        return _response(problems.plain(slug, detail, *_of(request)))
    allowed = ", ".join(_allowed(request))
    detail = f"{method} is not allowed on {shown_path(path, prefix)}; allowed: {allowed}"
    allow_header = (b"allow", allowed.encode())
    return _response(problems.plain(slug, detail, *_of(request), allow_header))


def _route_paths(request: Request) -> list[str]:
    """Return the path templates of all routes, and the paths of the other protocols."""
    routes = (*request.app.routes, *(route for router in ROUTERS for route in router.routes))
    paths = {route.path for route in routes if isinstance(route, Route)}
    return sorted(paths.union(sdk.PATHS, SEGMENT_PATHS))


def _allowed(request: Request) -> list[str]:
    """Return the methods that the address takes (RFC 9110 §10.2.1).

    The router itself knows only those of the first route that matches.
    """
    found = {
        method
        for route in (
            *request.app.routes,
            *(route for router in ROUTERS for route in router.routes),
        )
        if isinstance(route, Route) and route.path_regex.match(request.scope["path"])
        for method in route.methods or ()
    }
    return sorted(found | {"HEAD"} if "GET" in found else found)


async def _parameter_problem(request: Request, error: Exception) -> Response:
    """Answer a request whose path or query FastAPI found invalid.

    FastAPI validates before the caller is authenticated, so that is done first here.
    """
    assert isinstance(error, RequestValidationError)
    about = context_of(request.scope)
    about.operation = f"{request.method} {request.scope['route'].path}"
    faults = tuple(map(_parameter_fault, error.errors()))
    try:
        if request.url.path.startswith("/v1/"):
            await _authenticator(request).charge_item(about)
        else:
            await _authenticator(request).charge(about)
        raise Invalid(faults)
    except GatewayError as refusal:
        return await _problem(request, refusal)


def _parameter_fault(found: Any) -> Fault:
    where, *path = map(str, found["loc"])
    if where == "body":
        return Fault(pointer(path), found["msg"], "type")
    part: RequestPart = "header" if where == "header" else "parameter"
    return Fault(path[0] if path else where, parameter_sentence(found), part, part)
