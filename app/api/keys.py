"""Caller keys over HTTP: create, list, change, rotate, revoke.

A key itself is shown only once.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import TypeAdapter

from app.api import schemas
from app.api.dependencies import KEY
from app.callers.key_service import KeyService, Position
from app.callers.store import KEEP, ChangeRecord, StoredKey
from app.clock import instant, now_ms
from app.errors import Fault, Invalid
from app.http import (
    IDEMPOTENCY_KEY,
    Authenticator,
    BodyReader,
    Tag,
    body_of,
    context_of,
    idempotency_key,
    parse_json,
    problem_responses,
    transaction_record,
)
from app.ingest import validate
from app.model import Caller, Scope

KEYS = "/v1/keys"
KEY_PATH, ROTATE = f"{KEYS}/{{keyId}}", f"{KEYS}/{{keyId}}/rotate"
CREATED: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Created; `key` is shown only once",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "URL of the key"}},
    }
}
OVERLAP_SECONDS = 86_400
MAX_IDEMPOTENCY_KEY = 255
NEW, CHANGE, ROTATION = (
    TypeAdapter[Any](shape) for shape in (schemas.KeyCreation, schemas.KeyChange, schemas.Rotation)
)
FIELDS = {"name": "name", "scopes": "scopes", "apps": "apps", "ratePerSecond": "rate_per_second"}
FIELDS |= {"rateBurst": "rate_burst"}
CURSOR = r"^\d{1,18}-key_[0-9a-f]{16}$"
# The form of ids that this gateway generates; other text may be anything, even a secret.
KEY_ID = re.compile("key_[0-9a-f]{16}")
KeyId = Annotated[str, Path(alias="keyId", description="Id of the key; it is not secret.")]
RotationKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A repeat of the rotation with the same value has no further effect.",
    ),
]

router = APIRouter(dependencies=KEY, tags=[Tag.API_KEYS])


def key_document(stored: StoredKey, key: str | None = None) -> dict[str, Any]:
    """Return the JSON of a stored key, with `key` itself if it was just created."""
    caller = stored.caller
    document = {} if key is None else {"key": key}
    return document | {
        "id": caller.key_id,
        "name": caller.name,
        "scopes": sorted(caller.scopes),
        "apps": None if caller.apps is None else sorted(caller.apps),
        "ratePerSecond": caller.rate_per_second,
        "rateBurst": caller.rate_burst,
        "lastFour": stored.last_four,
        "createdAt": instant(stored.created_at),
        "expiresAt": _instant(stored.expires_at),
        "revokedAt": _instant(stored.revoked_at),
        "lastUsedAt": _instant(stored.last_used_at),
        "secrets": [
            {"lastFour": secret.last_four, "expiresAt": _instant(secret.expires_at)}
            for secret in stored.secrets
        ],
    }


def _instant(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else instant(milliseconds)


class KeyHandler:
    """The handler of calls about caller keys."""

    def __init__(
        self, authenticator: Authenticator, bodies: BodyReader, service: KeyService
    ) -> None:
        self._authenticator, self._bodies, self.service = authenticator, bodies, service

    async def enter(self, request: Request, operation: str, key_id: str = "") -> Caller:
        """Return the caller of a call about the key `key_id`. Raises what authentication raises."""
        context = context_of(request.scope)
        context.operation = operation
        context.resource = key_id if KEY_ID.fullmatch(key_id) else None
        return await self._authenticator.enter_without_app(context, Scope.KEYS_MANAGE)

    async def fields(
        self, request: Request, shape: TypeAdapter[Any], *, optional: bool = False
    ) -> tuple[Any, Caller]:
        """Return the validated body, and the caller as their key is after the body was read."""
        context = context_of(request.scope)
        body = await self._bodies.read_json(context, request.receive, optional=optional)
        fields = validate.checked(shape, parse_json(body))
        return fields, self._authenticator.confirm_scope(context, Scope.KEYS_MANAGE)


@contextmanager
def _change_record(request: Request, status: int = 200) -> Iterator[ChangeRecord]:
    """Provide the function that makes the audit record of a change.

    If the change fails, the middleware records the failure.
    """
    with transaction_record(context_of(request.scope)) as record:

        def text_of_record(key_id: str, now: int, details: Mapping[str, Any]) -> str:
            return record.make(details, status=status, resource=key_id, now=now)[1]

        yield text_of_record


async def _handler(request: Request) -> KeyHandler:
    handler: KeyHandler = request.state.keys_handler
    return handler


Handler = Annotated[KeyHandler, Depends(_handler)]


def _expiry(fields: Mapping[str, Any], now: int) -> int | None:
    """Return the expiry in epoch milliseconds. Raises Invalid if it has passed."""
    seconds = fields.get("expiresAt")
    if seconds is None:
        return None
    if seconds * 1000 <= now:
        detail = "must be in the future; use DELETE to revoke a key at once"
        raise Invalid((Fault("/expiresAt", detail, "past"),))
    return int(seconds * 1000)


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a caller that a body sets."""
    values = {attribute: fields[name] for name, attribute in FIELDS.items() if name in fields}
    if "scopes" in values:
        values["scopes"] = frozenset(map(Scope, values["scopes"]))
    if values.get("apps") is not None:
        values["apps"] = frozenset(values["apps"])
    return values


@router.post(
    KEYS,
    operation_id="createKey",
    status_code=201,
    summary="Create a key",
    response_model=schemas.MadeKey,
    responses=CREATED | problem_responses("storage-unavailable"),
    openapi_extra=body_of("NewKey"),
)
async def create_key(request: Request, response: Response, handler: Handler) -> Any:
    """Create a key for a named owner, with scopes and optionally apps, a rate limit and an expiry.

    The key is valid in every process within a second.
    """
    await handler.enter(request, f"POST {KEYS}")
    fields, caller = await handler.fields(request, NEW)
    values = _values(fields)
    with _change_record(request, status=201) as record:
        key, stored = await handler.service.create(
            caller,
            name=values["name"],
            scopes=values["scopes"],
            apps=values.get("apps"),
            expires_at=_expiry(fields, now_ms()),
            rate_per_second=values.get("rate_per_second"),
            rate_burst=values.get("rate_burst"),
            record=record,
        )
    prefix = context_of(request.scope).prefix
    response.headers["Location"] = f"{prefix}{KEYS}/{stored.caller.key_id}"
    return key_document(stored, key)


@router.get(
    KEYS,
    operation_id="listKeys",
    summary="List keys",
    response_model=schemas.KeyPage,
    response_model_exclude_unset=True,
    responses=problem_responses("storage-unavailable"),
)
async def list_keys(
    request: Request,
    handler: Handler,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR, description="`nextCursor` of the previous page.")
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=1_000, description="Maximum number of results per page.")
    ] = 1_000,
) -> Any:
    """Return the keys, including revoked ones, oldest first, without the keys themselves."""
    caller = await handler.enter(request, f"GET {KEYS}")
    after = _position(cursor) if cursor else None
    keys, next_after = await handler.service.page(caller, after, limit)
    page: dict[str, Any] = {"keys": [key_document(stored) for stored in keys]}
    if next_after is not None:
        created_at, key_id = next_after
        page["nextCursor"] = f"{created_at}-{key_id}"
    return page


def _position(cursor: str) -> Position:
    """Return the creation time (epoch milliseconds) and the id of the last key of a page."""
    created_at, _, key_id = cursor.partition("-")
    return int(created_at), key_id


@router.get(
    KEY_PATH,
    operation_id="getKey",
    summary="Retrieve a key",
    response_model=schemas.KeyDocument,
    responses=problem_responses("not-found", "storage-unavailable"),
)
async def get_key(request: Request, handler: Handler, key_id: KeyId) -> Any:
    """Return the properties of a key, without the key itself."""
    caller = await handler.enter(request, f"GET {KEY_PATH}", key_id)
    return key_document(await handler.service.get(caller, key_id))


@router.patch(
    KEY_PATH,
    operation_id="updateKey",
    summary="Change a key",
    response_model=schemas.KeyDocument,
    responses=problem_responses("not-found", "storage-unavailable"),
    openapi_extra=body_of("KeyChange"),
)
async def change_key(request: Request, handler: Handler, key_id: KeyId) -> Any:
    """Change the fields in the body; other fields keep their values.

    `null` removes a limit or the expiry; for `apps` it allows all apps.
    """
    await handler.enter(request, f"PATCH {KEY_PATH}", key_id)
    fields, caller = await handler.fields(request, CHANGE)
    expires_at = _expiry(fields, now_ms())
    with _change_record(request) as record:
        stored = await handler.service.change(
            caller,
            key_id,
            _values(fields),
            expires_at=expires_at if "expiresAt" in fields else KEEP,
            record=record,
        )
    return key_document(stored)


@router.post(
    ROTATE,
    operation_id="rotateKey",
    summary="Rotate a key",
    response_model=schemas.RotatedKey,
    responses=problem_responses("not-found", "storage-unavailable"),
    openapi_extra=body_of("Rotation", required=False),
)
async def rotate_key(
    request: Request, handler: Handler, key_id: KeyId, sent_key: RotationKey = None
) -> Any:
    """Create a new key under the same id; the old one remains valid for `overlapSeconds`.

    A repeat with the same `Idempotency-Key` does not rotate again; for ten minutes it returns the
    new key again.
    """
    await handler.enter(request, f"POST {ROTATE}", key_id)
    fields, caller = await handler.fields(request, ROTATION, optional=True)
    idempotence = idempotency_key(context_of(request.scope))
    if idempotence is not None and not 1 <= len(idempotence) <= MAX_IDEMPOTENCY_KEY:
        detail = f"must have 1 to {MAX_IDEMPOTENCY_KEY} characters"
        raise Invalid((Fault(IDEMPOTENCY_KEY, detail, "header", "header"),))

    with _change_record(request) as record:
        key, stored = await handler.service.rotate(
            caller,
            key_id,
            fields.get("overlapSeconds", OVERLAP_SECONDS),
            once=idempotence,
            record=record,
        )
    return {"key": None} | key_document(stored, key)


@router.delete(
    KEY_PATH,
    operation_id="revokeKey",
    status_code=204,
    summary="Revoke a key",
    responses=problem_responses("not-found", "storage-unavailable"),
)
async def revoke_key(request: Request, handler: Handler, key_id: KeyId) -> None:
    """Revoke a key; no process accepts it after a second. Its accepted items are delivered."""
    caller = await handler.enter(request, f"DELETE {KEY_PATH}", key_id)

    with _change_record(request, status=204) as record:
        await handler.service.revoke(caller, key_id, record=record)
