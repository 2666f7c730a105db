"""What is tracked: the plan that is loaded, what broke it, and the names that Leanplum keeps of an
app.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request

from app.api import schemas
from app.api.routes import KEY, gateway_of, in_path
from app.audit import records
from app.audit.record_macs import Marks
from app.bootstrap import Gateway
from app.clock import instant, now_ms
from app.database.deadline import in_time
from app.database.dialect import Cursor
from app.errors import NotFound
from app.http import authentication
from app.http import request as context
from app.http.openapi_parts import problem_responses
from app.model import App, Scope
from app.tracking.name_rules import NAME_KINDS, Name
from app.tracking.plan.file_format import KINDS
from app.tracking.plan.validate import Entry, Plan

PLAN, VIOLATIONS, TAXONOMY = "/v1/tracking-plan", "/v1/tracking-plan/violations", "/v1/taxonomy"
ONE_NAME = f"{TAXONOMY}/{{kind}}/{{name}}"
REFUSED = (
    "malformed",
    "unauthorized",
    "forbidden",
    "rate-limited",
    "internal",
    "storage-unavailable",
)
router = APIRouter(dependencies=KEY, tags=["Tracking plan"])


async def _allowed(request: Request, operation: str, scope: Scope) -> tuple[Gateway, App]:
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation = operation
    _, app = await authentication.enter(gateway, about, scope)
    return gateway, app


@router.get(
    PLAN,
    summary="The plan that is loaded",
    response_model=schemas.TrackingPlan,
    response_model_exclude_unset=True,
    responses=problem_responses(*REFUSED),
)
async def get_plan(request: Request) -> Any:
    """Its version and digest, and all that it has for this app; and what is wrong with the files as
    they are now, where they were refused.
    """
    gateway, app = await _allowed(request, f"GET {PLAN}", Scope.CONTENT_READ)
    plan, refused = gateway.plans.of(app.name), list(gateway.plans.refused)
    return (
        {"loaded": False, "refused": refused}
        if plan is None
        else _document(plan) | {"refused": refused}
    )


def _document(plan: Plan) -> dict[str, Any]:
    return {
        "loaded": True,
        "version": plan.version,
        "digest": plan.digest,
        "files": list(plan.files),
        "unknown": dict(plan.unknown),
        "definitions": plan.definitions,
        **{kind: [_entry(entry) for entry in plan.entries[kind].values()] for kind in KINDS},
    }


def _entry(entry: Entry) -> dict[str, Any]:
    told = {"description": entry.description, "owner": entry.owner}
    return {
        "name": entry.name,
        "mode": entry.mode,
        **{name: value for name, value in told.items() if value is not None},
        "schema": entry.schema,
        "examples": list(entry.examples),
    }


@router.get(
    VIOLATIONS,
    summary="What broke the plan",
    response_model=schemas.PlanViolations,
    responses=problem_responses(*REFUSED),
)
async def list_violations(request: Request) -> Any:
    """Counted by name, code and caller key, the latest first, at most 1,000; of every process,
    within two seconds. Never a value. Kept for 30 days after they were last seen.
    """
    gateway, app = await _allowed(request, f"GET {VIOLATIONS}", Scope.AUDIT_READ)
    await gateway.violations.flush()
    found = await in_time(partial(gateway.violations.stored, app.name))
    return {
        "violations": [
            {
                "kind": of.kind,
                "name": of.name,
                "code": of.code,
                "keyId": of.key_id,
                "count": tally.count,
                "firstSeen": instant(tally.first_seen),
                "lastSeen": instant(tally.last_seen),
                "pointer": tally.pointer,
            }
            for of, tally in found
        ]
    }


@router.get(
    TAXONOMY,
    summary="The names that an app has, and how many Leanplum keeps",
    response_model=schemas.Taxonomy,
    responses=problem_responses(*REFUSED),
)
async def get_taxonomy(request: Request) -> Any:
    """Every distinct name that was accepted for the app, by any door. Beyond its limits Leanplum
    drops names without a word; `GATEWAY_TAXONOMY_POLICY` says what becomes of them here.
    """
    gateway, app = await _allowed(request, f"GET {TAXONOMY}", Scope.CONTENT_READ)
    taxonomy = gateway.taxonomy
    found = await in_time(partial(taxonomy.names, app.name))
    of: dict[str, list[dict[str, str]]] = {kind: [] for kind in NAME_KINDS}
    for one in found:
        of[one.name.kind].append({"name": one.name.name, "firstSeen": instant(one.first_seen)})
    return {
        "app": app.name,
        "policy": taxonomy.policy,
        "warnFrom": taxonomy.caps.warn_from,
        **{
            kind: {"count": len(of[kind]), "limit": taxonomy.caps.of[kind], "names": of[kind]}
            for kind in NAME_KINDS
        },
    }


@router.delete(
    ONE_NAME,
    status_code=204,
    summary="Forget a name",
    responses=problem_responses(*REFUSED, "not-found", "validation"),
)
async def forget_name(
    request: Request,
    kind: Annotated[
        Literal["events", "states", "params", "attributes"],
        Path(description="what it is a name of"),
    ],
    name: Annotated[str, Path(description="the name")],
) -> None:
    """For names that Leanplum has dropped too, or that were accepted by mistake. It counts again
    when it comes again. Other processes know within two seconds.
    """
    gateway, app = await _allowed(request, f"DELETE {ONE_NAME}", Scope.CONTENT_WRITE)
    told = Name(kind, in_path(request)["name"])
    try:
        forgotten = await gateway.taxonomy.forget(
            app.name, told, _record(request, app, kind, gateway.marks)
        )
    except BaseException:
        context.of(request.scope).recorded = False  # its record was in the transaction that failed
        raise
    if not forgotten:
        raise NotFound("The app has no such name; GET /v1/taxonomy lists them.")


def _record(request: Request, app: App, kind: str, marks: Marks) -> Callable[[Cursor], None]:
    """What writes the audit record along with the change."""
    about = context.of(request.scope)

    def record(cursor: Cursor) -> None:
        assert about.caller is not None
        now = now_ms()
        text = records.api_call(
            time=now,
            operation=about.operation,
            key_id=about.caller.key_id,
            app=app.name,
            address=about.address,
            request_id=about.request_id,
            status=204,
            details={},
            resource=kind,
        )
        records.insert(cursor, marks, [(now, text)])
        about.recorded = True

    return record
