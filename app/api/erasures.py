"""Signed statements of erasures over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request

from app.api import schemas
from app.api.dependencies import KEY
from app.audit.service import AuditService
from app.http import Authenticator, Tag, context_of, problem_responses
from app.model import Scope

ERASURE = "/v1/erasures/{recordId}"
MAX_RECORD_ID = 2**62
router = APIRouter(dependencies=KEY, tags=[Tag.EVENTS_AND_USERS])


class ErasureReader:
    """The handler of calls that read statements of erasures."""

    def __init__(self, authenticator: Authenticator, audit: AuditService) -> None:
        self._authenticator, self._audit = authenticator, audit

    async def statement(self, request: Request, record_id: int) -> dict[str, Any]:
        """Return a statement. Raises NotFound, AuditBroken, and what `Authenticator` raises."""
        context = context_of(request.scope)
        context.operation = f"GET {ERASURE}"
        caller = await self._authenticator.enter_without_app(context, Scope.USERS_ERASE)
        return await self._audit.erasure_statement(caller, record_id)


async def _erasure_reader(request: Request) -> ErasureReader:
    reader: ErasureReader = request.state.erasures
    return reader


@router.get(
    ERASURE,
    operation_id="getErasureStatement",
    summary="Retrieve the statement of an erasure",
    response_model=schemas.ErasureStatement,
    responses=problem_responses("not-found", "audit-broken", "storage-unavailable"),
)
async def get_statement(
    request: Request,
    reader: Annotated[ErasureReader, Depends(_erasure_reader)],
    record_id: Annotated[
        int,
        Path(
            alias="recordId",
            ge=1,
            le=MAX_RECORD_ID,
            description="Number of the audit record, as in the receipt's `statementHref`.",
        ),
    ],
) -> Any:
    """Return the signed statement of an erasure: what was removed and when, with its proof.

    `404` until the record is sealed, which takes a second. The key that made the erasure may
    retrieve it, and a key that has the scope `audit:read`, too. It is available for
    `GATEWAY_AUDIT_SECONDS`: keep a copy. `python -m app audit verify --statement` verifies it.
    """
    return await reader.statement(request, record_id)
