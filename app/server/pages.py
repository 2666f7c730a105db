"""The pages that anybody may read: the links at `/`, the API reference, and problem types."""

import secrets
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from app import __version__
from app.api import schemas
from app.errors import NotFound
from app.http import (
    JSON,
    PROBLEMS,
    VARY_BY_PREFIX,
    Tag,
    context_of,
    example,
    example_headers,
    problem_responses,
)
from app.pages import Content, asset_response, environment, page_headers
from app.server.openapi.document import with_current_dates

TEMPLATES = environment()
# What is at `/`: a path, a name for programs, and what a person finds there.
LINKS = (
    ("/docs", "docs", "API reference", "Every endpoint, to read and to try out."),
    ("/openapi.json", "openapi", "OpenAPI document", "The same for code generators and tools."),
    ("/console", "console", "Console", "Items, dead letters, keys and the audit log."),
    ("/problems", "problems", "Problems", "Every error: its cause, and what to do."),
    ("/readyz", "ready", "Readiness", "Can items be accepted now? If not, which part fails?"),
    ("/livez", "live", "Liveness", "Does the process answer?"),
    ("/metrics", "metrics", "Metrics", "Counters and gauges for Prometheus."),
)
router = APIRouter(tags=[Tag.OPERATIONS])


def _page(
    request: Request, template: str, headers: dict[str, str] | None = None, **values: Any
) -> HTMLResponse:
    """Return a page. Templates have `prefix`, to precede links with, and `here`."""
    context = context_of(request.scope)
    shared = {"prefix": context.prefix, "here": context.path, "version": __version__}
    text = TEMPLATES.get_template(template).render(shared | values)
    return HTMLResponse(text, headers=headers or page_headers())


def _accepts_html(request: Request) -> bool:
    """Tell whether the client is a browser: these name HTML among what they accept."""
    return "text/html" in request.headers.get("accept", "")


@router.get("/", operation_id="listPages", summary="List the pages", response_model=schemas.Pages)
async def index(request: Request) -> Any:
    """Return links to the API reference, the console, problem types, health and metrics.

    Browsers, which accept `text/html`, get a page instead.
    """
    context = context_of(request.scope)
    context.operation = "GET /"
    vary = {"Vary": f"Accept, {VARY_BY_PREFIX['Vary']}"}
    if _accepts_html(request):
        return _page(request, "index.html", page_headers() | vary, links=LINKS)
    links = {name: f"{context.prefix}{path}" for path, name, *_ in LINKS}
    return JSONResponse(
        {"name": "Leanplum gateway", "version": __version__, "links": links}, headers=vary
    )


@router.get(
    "/problems",
    operation_id="listProblems",
    summary="List problem types",
    response_class=HTMLResponse,
)
async def problem_index(request: Request) -> HTMLResponse:
    """Return an HTML page that lists the problem types."""
    context_of(request.scope).operation = "GET /problems"
    return _page(request, "problems.html", problems=PROBLEMS.values())


@router.get(
    "/problems/{slug}",
    operation_id="getProblem",
    summary="Explain a problem type",
    response_class=HTMLResponse,
    responses=problem_responses("unauthorized", "not-found", "rate-limited"),
)
async def problem_page(
    request: Request,
    slug: Annotated[str, Path(description="Name of the problem type.", examples=["validation"])],
) -> HTMLResponse:
    """Return an HTML page about a problem type: its cause, what to do, and an example."""
    context = context_of(request.scope)
    context.operation = "GET /problems/{slug}"
    problem = PROBLEMS.get(slug)
    if problem is None:
        raise NotFound("No problem has this name; /problems lists all problems.")
    phrase = HTTPStatus(problem.status).phrase
    head = [f"HTTP/1.1 {problem.status} {phrase}"]
    head += [f"{name}: {value}" for name, value in example_headers(slug).items()]
    shown: dict[str, Any] = {
        "problem": problem,
        "head": head,
        "example": example(slug, context.prefix),
    }
    return _page(request, "problem.html", **shown)


def add_documentation(app: FastAPI) -> None:
    """Add the API reference, the OpenAPI document and the static files of pages."""
    documents = Documents(app)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        context = context_of(request.scope)
        context.operation = "GET /openapi.json"
        headers = {"Cache-Control": "no-cache", **VARY_BY_PREFIX}
        return await documents.content(context.prefix).response(request, headers)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        context_of(request.scope).operation = "GET /docs"
        nonce = secrets.token_urlsafe(16)
        return _page(request, "docs.html", docs_headers(nonce), nonce=nonce)

    @app.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> RedirectResponse:
        context = context_of(request.scope)
        context.operation = "GET /redoc"
        return RedirectResponse(f"{context.prefix}/docs", 308, VARY_BY_PREFIX)

    @app.get("/assets/{version}/{name}", include_in_schema=False)
    async def asset(request: Request, version: str, name: str) -> Response:
        context_of(request.scope).operation = "GET /assets"
        return await asset_response(request, version, name)


def docs_headers(nonce: str) -> dict[str, str]:
    """Return the headers of the API reference.

    Its bundle inserts style elements, which have the nonce, and sets style attributes, for which
    there is none.
    """
    styles = f"'self' 'nonce-{nonce}'; style-src-attr 'unsafe-inline'"
    return page_headers(styles=styles, images="'self' data: blob:")


class Documents:
    """The OpenAPI document as it is sent, for each path prefix."""

    MOST_PREFIXES = 8  # more are not remembered; a gateway is reached under one or two

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._document: dict[str, Any] = {}
        self._day = date.min
        self._contents: dict[str, Content] = {}

    def content(self, prefix: str) -> Content:
        """Return the document with links under a prefix, and examples of today."""
        document, today = self._app.openapi(), datetime.now(UTC).date()
        is_current = document is self._document and today == self._day
        if not is_current or len(self._contents) >= self.MOST_PREFIXES:
            self._document, self._day, self._contents = document, today, {}
        if prefix not in self._contents:
            servers = {"servers": [{"url": prefix or "/"}]}
            body = with_current_dates(document | servers, today)
            self._contents[prefix] = Content(body, JSON)
        return self._contents[prefix]
