"""Operational endpoints: liveness, readiness, metrics, API pages and problem types."""

import json
import re
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.staticfiles import StaticFiles

from app.api import schemas
from app.audit.sealer import Sealer
from app.database.engine import reason
from app.database.writer import Writer
from app.errors import NotFound, StorageUnavailable
from app.http import (
    JSON,
    PROBLEMS,
    VARY_BY_PREFIX,
    Problem,
    RateLimiter,
    Tag,
    context_of,
    example,
    problem_responses,
)
from app.server.openapi.document import with_current_dates
from app.telemetry import Metrics
from app.tracking.plan.validate import NO_PLANS
from app.tracking.service import Tracking

PROBE_SECONDS = 5.0  # so that /readyz responds within six seconds
router = APIRouter(tags=[Tag.OPERATIONS])


@router.get(
    "/livez",
    operation_id="getLiveness",
    summary="Check that the process is alive",
    response_model=dict[str, str],
)
async def livez(request: Request) -> Any:
    """Respond with 200 as long as the process answers requests."""
    context_of(request.scope).operation = "GET /livez"
    return {"status": "alive"}


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Check that items can be accepted",
    response_model=schemas.Readiness,
    responses={
        503: {
            "model": schemas.Readiness,
            "description": "Not ready; the response names the part that is not",
            "headers": {
                "Retry-After": {
                    "schema": {"type": "integer"},
                    "description": "Seconds to wait before a retry",
                }
            },
        }
    },
)
async def readyz(request: Request) -> Any:
    """Test readiness with a commit to the database.

    The response is 503, naming the part, if a part is not ready or the gateway is shutting down.
    """
    context_of(request.scope).operation = "GET /readyz"
    parts: dict[str, schemas.PartState] = {
        "database": await _database(request.state.writer),
        "delivery": _delivery(request.state.metrics),
        "limits": _limits(request.state.limiter),
        "audit": _audit(request.state.sealer),
    }
    if request.state.lifecycle.draining:
        parts["process"] = {"ok": False, "detail": "stopping"}
    ready = all(part["ok"] for part in parts.values())
    return JSONResponse(
        {"ready": ready, "parts": parts},
        200 if ready else 503,
        None if ready else {"Retry-After": "5"},
    )


def _delivery(metrics: Metrics) -> schemas.PartState:
    """Return the state of delivery, which is always ok: undelivered items wait in the queue."""
    details = []
    for app, state in sorted(metrics.states.items()):
        if state not in STATES:
            continue
        detail = f"{app}: {STATES[state]}"
        if app in metrics.redirects:
            detail += f"; it redirects to {metrics.redirects[app]}"
        details.append(detail)
    return {"ok": True, "detail": "; ".join(details)} if details else {"ok": True}


def _limits(limiter: RateLimiter) -> schemas.PartState:
    """Return the state of the rate limits, which is always ok: a process limits by itself."""
    state = limiter.state()
    return {"ok": True} if state is None else {"ok": True, "detail": state}


def _audit(sealer: Sealer) -> schemas.PartState:
    """Return the state of sealing, which is always ok: records are written without it."""
    if sealer.tampered:
        return {"ok": True, "detail": TAMPERED}
    if sealer.waiting:
        return {"ok": True, "detail": SEALING_WAITS}
    return {"ok": True}


TAMPERED = (
    "sealing has stopped, since the audit log differs from what was recorded; the log line "
    "audit.not_sealed says where, and `audit verify` lists every difference"
)
SEALING_WAITS = (
    "sealing waits for the database and resumes by itself; no difference was found "
    "(audit.sealing_waits)"
)
STATES = {
    "held": "held, since Leanplum or a proxy before it rejects every call; the log says why",
    "open": "waiting, since calls to Leanplum fail; single calls are tried until one succeeds",
}


async def _database(writer: Writer) -> schemas.PartState:
    try:
        await writer.probe(PROBE_SECONDS)
    except StorageUnavailable as error:
        cause = f" ({reason(error.__cause__)})" if error.__cause__ is not None else ""
        return {"ok": False, "detail": f"{error.detail}{cause}"}
    return {"ok": True}


@router.get(
    "/metrics",
    operation_id="getMetrics",
    name="metrics",
    summary="Retrieve Prometheus metrics",
    response_class=Response,
)
async def prometheus_metrics(request: Request) -> Response:
    """Return metrics in Prometheus text format; every name starts with `leanplum_gateway_`."""
    context_of(request.scope).operation = "GET /metrics"
    metrics: Metrics = request.state.metrics
    return Response(
        generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


@router.get(
    "/problems",
    operation_id="listProblems",
    summary="List problem types",
    response_class=HTMLResponse,
)
async def problem_index(request: Request) -> HTMLResponse:
    """Return an HTML page that lists the problem types."""
    prefix = _prefix(request, "GET /problems")
    rows = "".join(
        f'<li><a href="{prefix}/problems/{problem.slug}">{problem.slug}</a> '
        f"({problem.status}): {escape(problem.title)}</li>"
        for problem in PROBLEMS.values()
    )
    return _with_policy(
        HTMLResponse(PAGE.format(title="Problems", body=f"<h1>Problems</h1><ul>{rows}</ul>"))
    )


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
    """Return an HTML page about a problem type: its meaning and what to do."""
    prefix = _prefix(request, "GET /problems/{slug}")
    problem = PROBLEMS.get(slug)
    if problem is None:
        raise NotFound("No problem has this name; /problems lists all problems.")
    return _with_policy(
        HTMLResponse(PAGE.format(title=escape(problem.title), body=_problem_html(problem, prefix)))
    )


def _prefix(request: Request, operation: str) -> str:
    """Set the operation of a request; return the path prefix for links in its page."""
    context = context_of(request.scope)
    context.operation = operation
    return context.prefix


def _problem_html(problem: Problem, prefix: str) -> str:
    """Return the body of a problem's page: its meaning, what to do, and an example."""
    example_json = json.dumps(example(problem.slug, prefix), indent=2)
    return (
        f"<h1>{escape(problem.title)}</h1>"
        f"<p>HTTP {problem.status}, <code>{prefix}/problems/{problem.slug}</code></p>"
        f"<p>{escape(problem.advice)}</p>"
        f"<h2>Example</h2><pre>{escape(example_json, quote=False)}</pre>"
        f"<p><a href='{prefix}/problems'>All problems</a></p>"
    )


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title} - Leanplum gateway</title>
<style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}}
pre{{white-space:pre-wrap}}
</style>
<body>{body}</body></html>"""


def _with_policy(page: HTMLResponse, styles: str = "") -> HTMLResponse:
    """Add a policy to a page: only its own inline scripts run, and no other host is contacted.

    `styles` are the permitted style sources; by default the inline styles of the page.
    """
    styles = styles or _hashes(page, "style")
    page.headers.update(VARY_BY_PREFIX)
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self'{_hashes(page, 'script')}; style-src {styles}; "
        "img-src 'self' data:; connect-src 'self'; worker-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page


def _hashes(page: HTMLResponse, tag: str) -> str:
    """Return the hash sources of the page's inline scripts or styles (CSP level 2)."""
    inline = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), bytes(page.body), re.DOTALL)
    digests = [b64encode(sha256(text).digest()).decode() for text in inline]
    return "".join(f" 'sha256-{digest}'" for digest in digests)


# With a tracking plan, its schemas are shown first.
PLANNED = {"defaultModelRendering": "model", "defaultModelExpandDepth": 4}


def add_documentation(app: FastAPI) -> None:
    """Add `/openapi.json`, `/docs` and `/redoc`, whose assets are part of this package."""
    app.mount("/assets", StaticFiles(directory=str(files("app.server") / "assets")), name="assets")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        prefix = _prefix(request, "GET /openapi.json")
        servers = {"servers": [{"url": prefix or "/"}]}
        content = with_current_dates(app.openapi() | servers, datetime.now(UTC).date())
        return Response(content, headers=VARY_BY_PREFIX, media_type=JSON)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        prefix = _prefix(request, "GET /docs")
        tracking: Tracking = request.state.tracking
        page = get_swagger_ui_html(
            openapi_url=f"{prefix}/openapi.json",
            title=app.title,
            swagger_js_url=f"{prefix}/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{prefix}/assets/swagger-ui.css",
            swagger_favicon_url=f"{prefix}/assets/favicon.svg",
            swagger_ui_parameters=PLANNED if tracking.plans.current is not NO_PLANS else None,
        )
        return _with_policy(page, styles="'self' 'unsafe-inline'")

    @app.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        prefix = _prefix(request, "GET /redoc")
        page = get_redoc_html(
            openapi_url=f"{prefix}/openapi.json",
            title=app.title,
            redoc_js_url=f"{prefix}/assets/redoc.standalone.js",
            redoc_favicon_url=f"{prefix}/assets/favicon.svg",
            with_google_fonts=False,
        )
        return _with_policy(page, styles="'self' 'unsafe-inline'")
