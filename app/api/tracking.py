"""The tracking plan over HTTP: the plan, its violations, and the names that an app uses."""

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request

from app.api import schemas
from app.api.dependencies import KEY, Authentication, path_parameters
from app.audit import records
from app.audit.records import AuditMacs
from app.clock import instant
from app.database.driver import Cursor, in_time
from app.errors import NotFound
from app.http import Authenticator, Tag, context_of, problem_responses, transaction_record
from app.model import App, Scope
from app.tracking.names import NAME_KINDS, Name
from app.tracking.plan.file_format import KINDS
from app.tracking.plan.validate import Plan, PlannedEntry
from app.tracking.service import Tracking

PLAN, VIOLATIONS, TAXONOMY = "/v1/tracking-plan", "/v1/tracking-plan/violations", "/v1/taxonomy"
ONE_NAME = f"{TAXONOMY}/{{kind}}/{{name}}"
router = APIRouter(dependencies=KEY, tags=[Tag.TRACKING_PLAN])


async def _tracking(request: Request) -> Tracking:
    tracking: Tracking = request.state.tracking
    return tracking


async def _macs(request: Request) -> AuditMacs:
    macs: AuditMacs = request.state.macs
    return macs


Tracked = Annotated[Tracking, Depends(_tracking)]
RecordMacs = Annotated[AuditMacs, Depends(_macs)]


async def _enter(
    request: Request, authenticator: Authenticator, operation: str, scope: Scope
) -> App:
    """Return the app of a call. Raises what `Authenticator` raises."""
    context = context_of(request.scope)
    context.operation = operation
    _, app = await authenticator.enter(context, scope)
    return app


@router.get(
    PLAN,
    operation_id="getTrackingPlan",
    summary="Retrieve the tracking plan",
    response_model=schemas.TrackingPlan,
    response_model_exclude_unset=True,
    responses=problem_responses("storage-unavailable"),
)
async def get_plan(request: Request, authenticator: Authentication, tracking: Tracked) -> Any:
    """Return the app's loaded plan, and the errors in the plan's files if they were refused."""
    app = await _enter(request, authenticator, f"GET {PLAN}", Scope.CONTENT_READ)
    plan = tracking.plans.current.of(app.name)
    document: dict[str, Any] = {"loaded": False} if plan is None else _document(plan)
    return document | {"refused": list(tracking.plans.faults)}


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


def _entry(entry: PlannedEntry) -> dict[str, Any]:
    document: dict[str, Any] = {"name": entry.name, "mode": entry.mode}
    if entry.description is not None:
        document["description"] = entry.description
    if entry.owner is not None:
        document["owner"] = entry.owner
    return document | {"schema": entry.schema, "examples": list(entry.examples)}


@router.get(
    VIOLATIONS,
    operation_id="listPlanViolations",
    summary="List plan violations",
    response_model=schemas.PlanViolations,
    responses=problem_responses("storage-unavailable"),
)
async def list_violations(
    request: Request, authenticator: Authentication, tracking: Tracked
) -> Any:
    """Return violations counted by name, code and caller key, latest first, at most 1,000.

    Values are never included. Violations of every process appear within two seconds, and are kept
    for 30 days after they last occurred.
    """
    app = await _enter(request, authenticator, f"GET {VIOLATIONS}", Scope.AUDIT_READ)
    await tracking.violations.flush()
    counted_violations = await in_time(partial(tracking.violations.stored, app.name))
    return {
        "violations": [
            {
                "kind": violation.kind,
                "name": violation.name,
                "code": violation.code,
                "keyId": violation.key_id,
                "count": tally.count,
                "firstSeen": instant(tally.first_seen),
                "lastSeen": instant(tally.last_seen),
                "pointer": tally.pointer,
            }
            for violation, tally in counted_violations
        ]
    }


@router.get(
    TAXONOMY,
    operation_id="getTaxonomy",
    summary="List the names that an app uses",
    response_model=schemas.Taxonomy,
    responses=problem_responses("storage-unavailable"),
)
async def get_taxonomy(request: Request, authenticator: Authentication, tracking: Tracked) -> Any:
    """Return every distinct name that was accepted for the app, over any protocol.

    Leanplum silently drops names beyond its limits; `GATEWAY_TAXONOMY_POLICY` sets whether the
    gateway warns about them or refuses them.
    """
    app = await _enter(request, authenticator, f"GET {TAXONOMY}", Scope.CONTENT_READ)
    taxonomy = tracking.names
    names_by_kind: dict[str, list[dict[str, str]]] = {kind: [] for kind in NAME_KINDS}
    for known in await in_time(partial(taxonomy.names, app.name)):
        document = {"name": known.name.name, "firstSeen": instant(known.first_seen)}
        names_by_kind[known.name.kind].append(document)
    return {
        "app": app.name,
        "policy": taxonomy.policy,
        "warnFrom": taxonomy.limits.warn_from,
        **{
            kind: {
                "count": len(names_by_kind[kind]),
                "limit": taxonomy.limits.by_kind[kind],
                "names": names_by_kind[kind],
            }
            for kind in NAME_KINDS
        },
    }


@router.delete(
    ONE_NAME,
    operation_id="forgetName",
    status_code=204,
    summary="Forget a name",
    responses=problem_responses("not-found", "storage-unavailable"),
)
async def forget_name(
    request: Request,
    authenticator: Authentication,
    tracking: Tracked,
    macs: RecordMacs,
    kind: Annotated[
        Literal["events", "states", "params", "attributes"],
        Path(description="Kind of the name."),
    ],
    name: Annotated[str, Path(description="Name to forget.")],
) -> None:
    """Remove a name that Leanplum does not keep, or that was accepted by mistake.

    It counts again if it is used again. Other processes apply this within two seconds.
    """
    app = await _enter(request, authenticator, f"DELETE {ONE_NAME}", Scope.CONTENT_WRITE)
    forgotten_name = Name(kind, path_parameters(request)["name"])
    with transaction_record(context_of(request.scope)) as record:

        def write_record(cursor: Cursor) -> None:
            records.insert(cursor, macs, [record.make({}, status=204, resource=kind)])

        forgotten = await tracking.names.forget(app.name, forgotten_name, write_record)
    if not forgotten:
        raise NotFound("The app has no such name; GET /v1/taxonomy lists its names.")
