"""The audit over HTTP (contract §10): records by who, what, when and about whom; checkpoints, and
proofs for them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator
from sqlalchemy import Connection

from app.api import schemas
from app.api.routes import KEY, gateway_of
from app.audit import merkle, proofs, record_search
from app.audit.checkpoints import encoded
from app.audit.record_search import Filter, Outcome
from app.bootstrap import Gateway
from app.clock import instant
from app.database.deadline import in_time
from app.database.engine import snapshot
from app.errors import Fault, Forbidden, Invalid
from app.http import authentication, json_body
from app.http import request as context
from app.http.openapi_parts import problem_responses
from app.ids import plain
from app.leanplum.values import query_time
from app.model import Caller, Scope

T = TypeVar("T")
REFUSED = (
    "unauthorized",
    "forbidden",
    "rate-limited",
    "validation",
    "internal",
    "storage-unavailable",
)
AUDIT = "/v1/audit"
CHECKPOINT, CONSISTENCY, PROOF = (
    f"{AUDIT}/checkpoint",
    f"{AUDIT}/consistency",
    f"{AUDIT}/{{recordId}}/proof",
)
MOST = 2**62
Instant = Annotated[str, AfterValidator(query_time)]
Size = Annotated[int, Query(ge=1, le=MOST, description="how many records a checkpoint is about")]
router = APIRouter(dependencies=KEY, tags=["Audit"])


async def _reader(request: Request, operation: str) -> tuple[Gateway, Caller]:
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation = operation
    caller = await authentication.enter_beside_apps(gateway, about, Scope.AUDIT_READ)
    return gateway, caller


async def _read(gateway: Gateway, query: Callable[[Connection], T]) -> T:
    def run() -> T:
        with snapshot(gateway.engine) as connection:
            return query(connection)

    return await in_time(run)


@router.get(
    AUDIT,
    summary="Who did what",
    response_model=schemas.AuditPage,
    responses=problem_responses(*REFUSED),
)
async def list_records(
    request: Request,
    since: Annotated[
        Instant | None, Query(description="of this time or later (RFC 3339, or seconds)")
    ] = None,
    until: Annotated[Instant | None, Query(description="from before this time")] = None,
    key_id: Annotated[str | None, Query(alias="keyId", description="of this caller key")] = None,
    app: Annotated[str | None, Query(description="about this app")] = None,
    user_id: Annotated[
        str | None,
        Query(
            alias="userId",
            description="about this user; hashed before it is looked for, never shown. In each app that is configured, "
            "or that names were taken for; of one that is neither, `app` is to say it",
        ),
    ] = None,
    device_id: Annotated[
        str | None,
        Query(
            alias="deviceId",
            description="about this device, in the same way; with `userId`, about one of the two",
        ),
    ] = None,
    user_hash: Annotated[
        str | None,
        Query(
            alias="userHash", description="about the user with this keyed hash, as records have it"
        ),
    ] = None,
    action: Annotated[
        str | None,
        Query(description="an operation, as `POST /v1/events`, or Leanplum's action, as `track`"),
    ] = None,
    outcome: Annotated[
        Outcome | None, Query(description="success; refused: 4xx; failed: 5xx, or no answer")
    ] = None,
    request_id: Annotated[
        str | None, Query(alias="requestId", description="under this request id")
    ] = None,
    resource: Annotated[
        str | None, Query(description="of what was done to this, as to the key with this id")
    ] = None,
    order: Annotated[Literal["newest", "oldest"], Query(description="which come first")] = "newest",
    cursor: Annotated[
        str | None, Query(pattern=r"^\d{1,18}$", description="`nextCursor` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="of one page")] = 100,
) -> Response:
    """In the order of their commits. A key that is for certain apps sees the records of these. A
    call looks at so many records at most; a page may have fewer than `limit`, even none, and a
    `nextCursor`.
    """
    gateway, caller = await _reader(request, f"GET {AUDIT}")
    if app is not None and not caller.may_use(app):
        raise Forbidden("This key is not for this app.")
    which = Filter(
        _ms(since),
        _ms(until),
        key_id,
        app,
        caller.apps,
        _users(gateway, caller, app, _subjects(user_id, device_id), user_hash),
        action,
        outcome,
        request_id,
        resource,
    )
    after = int(cursor) if cursor else None
    found = await _read(
        gateway,
        partial(
            record_search.page,
            which=which,
            after=after,
            limit=limit,
            oldest_first=order == "oldest",
        ),
    )
    page: dict[str, Any] = {
        "records": [{"recordId": seq, "record": orjson.Fragment(text)} for seq, text in found.found]
    }
    if found.following is not None:
        page["nextCursor"] = str(found.following)
    return Response(orjson.dumps(page), media_type=json_body.JSON)


def _ms(seconds: Any) -> int | None:
    return None if seconds is None else int(float(seconds) * 1000)


def _subjects(user_id: str | None, device_id: str | None) -> list[str]:
    return [
        f"{kind}{plain(one)}" for kind, one in (("u", user_id), ("d", device_id)) if one is not None
    ]


def _users(
    gateway: Gateway,
    caller: Caller,
    app: str | None,
    subjects: Sequence[str],
    user_hash: str | None,
) -> set[str] | None:
    """The keyed hashes that users and devices have: one in each app, those that are configured no
    more too.
    """
    if not subjects:
        return None if user_hash is None else {user_hash}
    every = {*gateway.apps, *gateway.taxonomy.counts()}
    apps = [name for name in every if caller.may_use(name)] if app is None else [app]
    hashes = {gateway.pseudonyms.of(name, subject) for name in apps for subject in subjects}
    return hashes if user_hash is None else hashes & {user_hash}


@router.get(
    CHECKPOINT,
    summary="How far the records are sealed",
    response_model=schemas.AuditCheckpoint,
    responses=problem_responses(*REFUSED, "not-found", "audit-broken"),
)
async def get_checkpoint(request: Request) -> Any:
    """The newest checkpoint. Kept elsewhere, it shows later that no record before it was changed or
    cut off.
    """
    gateway, _ = await _reader(request, f"GET {CHECKPOINT}")
    return _told(
        gateway, await _read(gateway, partial(proofs.checkpoint, public=gateway.signer.public))
    )


def _told(gateway: Gateway, sealed: proofs.Sealed) -> dict[str, Any]:
    return {
        "size": sealed.size,
        "rootHash": sealed.note.split("\n")[2],
        "sealedAt": instant(sealed.time),
        "note": sealed.note,
        "publicKey": gateway.signer.public.text,
    }


@router.get(
    CONSISTENCY,
    summary="Prove that the log only grew",
    response_model=schemas.ConsistencyProof,
    responses=problem_responses(*REFUSED, "not-found", "audit-broken"),
)
async def get_consistency(
    request: Request, from_: Annotated[Size, Query(alias="from")], to: Size
) -> Any:
    """Between two checkpoints, by their sizes (RFC 9162 §2.1.4)."""
    gateway, _ = await _reader(request, f"GET {CONSISTENCY}")
    if from_ > to:
        raise Invalid((Fault("from", "is above to", "order", "parameter"),))
    found = await _read(
        gateway, partial(proofs.consistency, public=gateway.signer.public, old=from_, new=to)
    )
    return {"hashes": [encoded(one) for one in found]}


@router.get(
    PROOF,
    summary="Prove that a record is in the log",
    response_model=schemas.InclusionProof,
    responses=problem_responses(*REFUSED, "not-found", "audit-broken"),
)
async def get_proof(
    request: Request,
    record_id: Annotated[
        int, Path(alias="recordId", ge=1, le=MOST, description="the record's number")
    ],
) -> Any:
    """The record, and the hashes that lead from it to the newest checkpoint (RFC 9162 §2.1.3)."""
    gateway, caller = await _reader(request, f"GET {PROOF}")
    public = gateway.signer.public
    found = await _read(
        gateway, partial(proofs.inclusion, public=public, seq=record_id, apps=caller.apps)
    )
    return {
        "recordId": found.seq,
        "record": found.record,
        "leafIndex": found.seq - 1,
        "leafHash": encoded(merkle.leaf_hash(found.record.encode())),
        "hashes": [encoded(one) for one in found.path],
        "checkpoint": _told(gateway, found.checkpoint),
    }
