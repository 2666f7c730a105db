"""The audit over HTTP: search of records, checkpoints, and proofs."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AfterValidator

from app.api import schemas
from app.api.dependencies import KEY
from app.audit import merkle, proofs, record_search, tree
from app.audit.service import AuditService, RecordQuestion
from app.clock import instant
from app.errors import Fault, Invalid
from app.http import JSON, Authenticator, Tag, context_of, problem_responses
from app.leanplum.values import query_time
from app.model import Caller, Scope

AUDIT = "/v1/audit"
CHECKPOINT, CONSISTENCY, PROOF = (
    f"{AUDIT}/checkpoint",
    f"{AUDIT}/consistency",
    f"{AUDIT}/{{recordId}}/proof",
)
MAX_RECORD_ID = 2**62
Instant = Annotated[str, AfterValidator(query_time)]
Size = Annotated[
    int, Query(ge=1, le=MAX_RECORD_ID, description="Size of the checkpoint, in records.")
]
router = APIRouter(dependencies=KEY, tags=[Tag.AUDIT])


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """The query parameters of a list of audit records."""

    since: Annotated[
        Instant | None, Query(description="At this time or later (RFC 3339 or seconds).")
    ] = None
    until: Annotated[Instant | None, Query(description="Before this time.")] = None
    key_id: Annotated[str | None, Query(alias="keyId", description="By this caller key.")] = None
    app: Annotated[str | None, Query(description="About this app.")] = None
    user_id: Annotated[
        str | None,
        Query(
            alias="userId",
            description="About this user. The id is hashed for the search and never shown. All "
            "known apps are searched; name any other app in `app`.",
        ),
    ] = None
    device_id: Annotated[
        str | None,
        Query(
            alias="deviceId",
            description="About this device; with `userId`, about either of the two.",
        ),
    ] = None
    user_hash: Annotated[
        str | None,
        Query(alias="userHash", description="About the user with this keyed hash, as in records."),
    ] = None
    action: Annotated[
        str | None,
        Query(
            description="Operation, such as `POST /v1/events`, or Leanplum action, such as `track`."
        ),
    ] = None
    outcome: Annotated[
        record_search.Outcome | None,
        Query(description="`success`, `refused` (4xx) or `failed` (5xx or no answer)."),
    ] = None
    request_id: Annotated[str | None, Query(alias="requestId", description="Of this request.")] = (
        None
    )
    resource: Annotated[
        str | None, Query(description="Of actions on this resource, such as the key with this id.")
    ] = None
    order: Annotated[Literal["newest", "oldest"], Query(description="Order of the records.")] = (
        "newest"
    )
    cursor: Annotated[
        str | None, Query(pattern=r"^\d{1,18}$", description="`nextCursor` of the previous page.")
    ] = None
    limit: Annotated[
        int, Query(ge=1, le=1_000, description="Maximum number of results per page.")
    ] = 100


class AuditReader:
    """The handler of calls that read the audit."""

    def __init__(self, authenticator: Authenticator, service: AuditService) -> None:
        self._authenticator, self.service = authenticator, service

    async def enter(self, request: Request, operation: str) -> Caller:
        """Return the caller. Raises what `Authenticator` raises."""
        context = context_of(request.scope)
        context.operation = operation
        return await self._authenticator.enter_without_app(context, Scope.AUDIT_READ)

    def checkpoint_document(self, sealed: proofs.SealedTree) -> dict[str, Any]:
        """Return a checkpoint as JSON."""
        return {
            "size": sealed.checkpoint.size,
            "rootHash": tree.to_base64(sealed.checkpoint.root),
            "sealedAt": instant(sealed.time),
            "note": sealed.checkpoint.note,
            "publicKey": self.service.public_key.text,
        }


async def _audit_reader(request: Request) -> AuditReader:
    reader: AuditReader = request.state.audit_reader
    return reader


Reader = Annotated[AuditReader, Depends(_audit_reader)]


@router.get(
    AUDIT,
    operation_id="listAuditRecords",
    summary="List audit records",
    response_model=schemas.AuditPage,
    responses=problem_responses("storage-unavailable"),
)
async def list_records(
    request: Request, reader: Reader, query: Annotated[RecordQuery, Depends()]
) -> Response:
    """Return audit records in the order of their commits.

    A key that is limited to certain apps sees only their records. A call examines a limited number
    of records, so a page may have fewer than `limit`, or none, and still a `nextCursor`.
    """
    caller = await reader.enter(request, f"GET {AUDIT}")
    page = await reader.service.search(
        caller,
        _question(query),
        after=int(query.cursor) if query.cursor else None,
        limit=query.limit,
        oldest_first=query.order == "oldest",
    )
    document: dict[str, Any] = {
        "records": [
            {"recordId": seq, "record": orjson.Fragment(text)} for seq, text in page.records
        ]
    }
    if page.next_after is not None:
        document["nextCursor"] = str(page.next_after)
    return Response(orjson.dumps(document), media_type=JSON)


def _ms(seconds: Any) -> int | None:
    """Return a time of the query in milliseconds."""
    return None if seconds is None else int(float(seconds) * 1000)


def _question(query: RecordQuery) -> RecordQuestion:
    return RecordQuestion(
        since=_ms(query.since),
        until=_ms(query.until),
        key_id=query.key_id,
        app=query.app,
        user_id=query.user_id,
        device_id=query.device_id,
        user_hash=query.user_hash,
        action=query.action,
        outcome=query.outcome,
        request_id=query.request_id,
        resource=query.resource,
    )


@router.get(
    CHECKPOINT,
    operation_id="getAuditCheckpoint",
    summary="Retrieve the newest checkpoint",
    response_model=schemas.AuditCheckpoint,
    responses=problem_responses("not-found", "audit-broken", "storage-unavailable"),
)
async def get_checkpoint(request: Request, reader: Reader) -> Any:
    """Return the newest checkpoint.

    A copy kept elsewhere proves later that no record before it was changed or removed.
    """
    await reader.enter(request, f"GET {CHECKPOINT}")
    return reader.checkpoint_document(await reader.service.newest_checkpoint())


@router.get(
    CONSISTENCY,
    operation_id="getConsistencyProof",
    summary="Prove that the log only grew",
    response_model=schemas.ConsistencyProof,
    responses=problem_responses("not-found", "audit-broken", "storage-unavailable"),
)
async def get_consistency(
    request: Request, reader: Reader, from_: Annotated[Size, Query(alias="from")], to: Size
) -> Any:
    """Return a proof between two checkpoints, given by their sizes (RFC 9162 §2.1.4)."""
    await reader.enter(request, f"GET {CONSISTENCY}")
    if from_ > to:
        raise Invalid((Fault("from", "must not be greater than to", "order", "parameter"),))
    hashes = await reader.service.consistency(from_, to)
    return {"hashes": [tree.to_base64(value) for value in hashes]}


@router.get(
    PROOF,
    operation_id="getInclusionProof",
    summary="Prove that a record is in the log",
    response_model=schemas.InclusionProof,
    responses=problem_responses("not-found", "audit-broken", "storage-unavailable"),
)
async def get_proof(
    request: Request,
    reader: Reader,
    record_id: Annotated[
        int, Path(alias="recordId", ge=1, le=MAX_RECORD_ID, description="Number of the record.")
    ],
) -> Any:
    """Return the record and the hashes from it to the newest checkpoint (RFC 9162 §2.1.3)."""
    caller = await reader.enter(request, f"GET {PROOF}")
    proof = await reader.service.inclusion(caller, record_id)
    return {
        "recordId": proof.seq,
        "record": proof.record,
        "leafIndex": proof.seq - 1,
        "leafHash": tree.to_base64(merkle.leaf_hash(proof.record.encode())),
        "hashes": [tree.to_base64(value) for value in proof.path],
        "checkpoint": reader.checkpoint_document(proof.sealed),
    }
