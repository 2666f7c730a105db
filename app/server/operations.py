"""Operational endpoints: liveness, readiness and metrics."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from app.api import schemas
from app.database.engine import reason
from app.database.writer import Writer
from app.errors import StorageUnavailable
from app.http import RateLimiter, Tag, context_of
from app.server.lifecycle import Lifecycle
from app.server.process_reports import DeliveryReport, ProcessReports

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
    reports: ProcessReports = request.state.reports
    report, workers = await asyncio.gather(reports.delivery(), reports.workers())
    parts: dict[str, schemas.PartState] = {
        "database": await _database(request.state.writer),
        "delivery": _delivery(report),
        "limits": _limits(request.state.limiter),
        "audit": _audit(report),
    }
    if workers is not None:
        parts["workers"] = _workers(workers)
    lifecycle: Lifecycle = request.state.lifecycle
    if lifecycle.draining and not lifecycle.replaced:
        parts["process"] = {"ok": False, "detail": "stopping"}
    ready = all(part["ok"] for part in parts.values())
    return JSONResponse(
        {"ready": ready, "parts": parts},
        200 if ready else 503,
        None if ready else {"Retry-After": "5"},
    )


def _delivery(report: DeliveryReport) -> schemas.PartState:
    """Return the state of delivery, which is always ok: undelivered items wait in the queue."""
    details = []
    for app, state in sorted(report.states.items()):
        if state not in STATES:
            continue
        detail = f"{app}: {STATES[state]}"
        if app in report.redirects:
            detail += f"; it redirects to {report.redirects[app]}"
        details.append(detail)
    return {"ok": True, "detail": "; ".join(details)} if details else {"ok": True}


def _workers(states: Mapping[str, str]) -> schemas.PartState:
    """Return the state of the workers, which is always ok: this one accepts items."""
    others = [f"{name}: {state}" for name, state in states.items() if state != "ready"]
    return {"ok": True, "detail": "; ".join(others)} if others else {"ok": True}


def _limits(limiter: RateLimiter) -> schemas.PartState:
    """Return the state of the rate limits, which is always ok: a process limits by itself."""
    state = limiter.state()
    return {"ok": True} if state is None else {"ok": True, "detail": state}


def _audit(report: DeliveryReport) -> schemas.PartState:
    """Return the state of sealing, which is always ok: records are written without it."""
    if report.audit_tampered:
        return {"ok": True, "detail": TAMPERED}
    if report.audit_waiting:
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
    """Return metrics in Prometheus' text format.

    Names start with `leanplum_gateway_`, or with `process_` or `python_` for the process itself.
    """
    context_of(request.scope).operation = "GET /metrics"
    text = await request.state.reports.metrics()
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})
