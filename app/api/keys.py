"""Caller keys over HTTP: made, listed, changed, rotated, revoked (contract §3). A key itself is
shown once.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import TypeAdapter

from app.api import schemas
from app.api.dependencies import KEY
from app.callers.directory import Directory
from app.callers.store import KEEP, ChangeRecord, KeyStore, StoredKey
from app.clock import instant, now_ms
from app.database.driver import in_time
from app.errors import Fault, Forbidden, Invalid, NotFound, StorageUnavailable
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

T = TypeVar("T")
KEYS = "/v1/keys"
ONE, ROTATE = f"{KEYS}/{{keyId}}", f"{KEYS}/{{keyId}}/rotate"
REFUSED = ("unauthorized", "forbidden", "rate-limited", "internal", "storage-unavailable")
WITH_BODY = (*REFUSED, "malformed", "too-large", "unsupported-media-type", "validation")
MADE: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Created; `key` is shown only once",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "URL of the key"}},
    }
}
OVERLAP_SECONDS = 86_400
MAX_ONCE = 255
NEW, CHANGE, ROTATION = (
    TypeAdapter[Any](shape) for shape in (schemas.NewKey, schemas.KeyChange, schemas.Rotation)
)
FIELDS = {"name": "name", "scopes": "scopes", "apps": "apps", "ratePerSecond": "rate_per_second"}
FIELDS |= {"rateBurst": "rate_burst"}
CURSOR = r"^\d{1,18}-key_[0-9a-f]{16}$"
# Of those that were made here; anything else may be anything
KEY_ID = re.compile("key_[0-9a-f]{16}")
KeyId = Annotated[str, Path(alias="keyId", description="Id of the key; it is not secret.")]
Once = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A repeat of the rotation with the same value has no further effect.",
    ),
]

log = structlog.get_logger("keys")
router = APIRouter(dependencies=KEY, tags=[Tag.API_KEYS])


def key_document(stored: StoredKey, key: str | None = None) -> dict[str, Any]:
    """A key as operators see it; with the key itself where it has just been made."""
    caller = stored.caller
    return {
        **({"key": key} if key is not None else {}),
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
            {"lastFour": one.last_four, "expiresAt": _instant(one.expires_at)}
            for one in stored.secrets
        ],
    }


def _instant(at: int | None) -> str | None:
    return None if at is None else instant(at)


class KeyHandler:
    """Authenticate calls about caller keys, and change keys."""

    def __init__(
        self,
        authenticator: Authenticator,
        bodies: BodyReader,
        store: KeyStore,
        directory: Directory,
    ) -> None:
        self._authenticator, self._bodies = authenticator, bodies
        self.store, self._directory = store, directory

    async def enter(self, request: Request, operation: str, key_id: str = "") -> Caller:
        """Return the caller of a call about the key `key_id`. Raises what `Authenticator` does."""
        context = context_of(request.scope)
        context.operation = operation
        context.resource = key_id if KEY_ID.fullmatch(key_id) else None
        return await self._authenticator.enter_without_app(context, Scope.KEYS_MANAGE)

    async def fields(
        self, request: Request, shape: TypeAdapter[Any], *, optional: bool = False
    ) -> tuple[Any, Caller]:
        """Return the validated body, and the caller as their key is once the body is read."""
        context = context_of(request.scope)
        body = await self._bodies.read_json(context, request.receive, optional=optional)
        fields = validate.checked(shape, parse_json(body))
        return fields, self._authenticator.confirm_scope(context, Scope.KEYS_MANAGE)

    async def change(
        self, request: Request, change: Callable[[ChangeRecord], T], status: int = 200
    ) -> T:
        """Make a change with its audit record, on a thread, and let this process know it at once.

        A change that fails is recorded as such by the middleware.
        """
        with transaction_record(context_of(request.scope)) as record:

            def text_of_record(key_id: str, now: int, details: Mapping[str, Any]) -> str:
                return record.make(details, status=status, resource=key_id, now=now)[1]

            result = await in_time(partial(change, text_of_record))
        try:
            await in_time(self._directory.refresh)
        except StorageUnavailable as error:
            # The change is made, and known within a second of the database's return.
            log.warning("keys.unreadable", reason=error.detail)
        return result


async def _handler(request: Request) -> KeyHandler:
    handler: KeyHandler = request.state.keys_handler
    return handler


Handler = Annotated[KeyHandler, Depends(_handler)]


def _require_apps(caller: Caller, apps: Iterable[str] | None) -> None:
    """Raises Forbidden where these are more apps than the caller's own key is for."""
    if caller.apps is not None and (apps is None or not caller.apps.issuperset(apps)):
        raise Forbidden("A key can grant only apps that it may use itself.")


def _guard(caller: Caller, stored: StoredKey) -> None:
    """Raises NotFound where the key is for apps that are not the caller's."""
    if not _sees(caller, stored):
        raise NotFound("No key has this id.")


def _sees(caller: Caller, stored: StoredKey) -> bool:
    return caller.apps is None or (
        stored.caller.apps is not None and caller.apps >= stored.caller.apps
    )


def _expiry(fields: Mapping[str, Any], now: int) -> int | None:
    """Milliseconds since the epoch. Raises Invalid for what is past."""
    at = fields.get("expiresAt")
    if at is None:
        return None
    if at * 1000 <= now:
        raise Invalid(
            (
                Fault(
                    "/expiresAt",
                    "must be in the future; use DELETE to revoke a key at once",
                    "past",
                ),
            )
        )
    return int(at * 1000)


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a caller that a body has."""
    made = {ours: fields[name] for name, ours in FIELDS.items() if name in fields}
    for name, kind in (("scopes", Scope), ("apps", str)):
        if made.get(name) is not None:
            made[name] = frozenset(kind(one) for one in made[name])
    return made


@router.post(
    KEYS,
    status_code=201,
    summary="Create a key",
    response_model=schemas.MadeKey,
    responses=MADE | problem_responses(*WITH_BODY),
    openapi_extra=body_of("NewKey"),
)
async def make_key(request: Request, response: Response, handler: Handler) -> Any:
    """For whom, what it may do, for which apps, how fast, until when. It works at once here, and
    within a second in every other process.
    """
    await handler.enter(request, f"POST {KEYS}")
    fields, caller = await handler.fields(request, NEW)
    values, now = _values(fields), now_ms()
    _require_apps(caller, values.get("apps"))
    expires_at = _expiry(fields, now)

    def create(record: ChangeRecord) -> tuple[str, StoredKey]:
        return handler.store.create(
            values["name"],
            values["scopes"],
            values.get("apps"),
            now,
            expires_at=expires_at,
            record=record,
            rate_per_second=values.get("rate_per_second"),
            rate_burst=values.get("rate_burst"),
        )

    key, stored = await handler.change(request, create, status=201)
    prefix = context_of(request.scope).prefix
    response.headers["Location"] = f"{prefix}{KEYS}/{stored.caller.key_id}"
    return key_document(stored, key)


@router.get(
    KEYS,
    summary="List keys",
    response_model=schemas.Keys,
    response_model_exclude_unset=True,
    responses=problem_responses(*REFUSED, "validation"),
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
    """The keys, oldest first, revoked ones too; never a key itself. Where there are more,
    `nextCursor` leads on.
    """
    caller = await handler.enter(request, f"GET {KEYS}")
    after = _position(cursor) if cursor else None
    found = await in_time(partial(handler.store.page, after, limit + 1, partial(_sees, caller)))
    page: dict[str, Any] = {"keys": [key_document(stored) for stored in found[:limit]]}
    if len(found) > limit:
        last = found[limit - 1]
        page["nextCursor"] = f"{last.created_at}-{last.caller.key_id}"
    return page


def _position(cursor: str) -> tuple[int, str]:
    """Return when the last key of a page was made, and its id."""
    made, _, key_id = cursor.partition("-")
    return int(made), key_id


@router.get(
    ONE,
    summary="Retrieve a key",
    response_model=schemas.Key,
    responses=problem_responses(*REFUSED, "not-found"),
)
async def get_key(request: Request, handler: Handler, key_id: KeyId) -> Any:
    """What is known of it; never the key itself."""
    caller = await handler.enter(request, f"GET {ONE}", key_id)
    stored = await in_time(partial(handler.store.get, key_id))
    _guard(caller, stored)
    return key_document(stored)


@router.patch(
    ONE,
    summary="Change a key",
    response_model=schemas.Key,
    responses=problem_responses(*WITH_BODY, "not-found"),
    openapi_extra=body_of("KeyChange"),
)
async def change_key(request: Request, handler: Handler, key_id: KeyId) -> Any:
    """What is left out stays as it is; `null` takes a limit or the expiry away, and gives every
    app.
    """
    await handler.enter(request, f"PATCH {ONE}", key_id)
    fields, caller = await handler.fields(request, CHANGE)
    values, now = _values(fields), now_ms()
    if "apps" in values:
        _require_apps(caller, values["apps"])
    expires_at = _expiry(fields, now)

    def change(record: ChangeRecord) -> StoredKey:
        return handler.store.change(
            key_id,
            now,
            values,
            record,
            expires_at if "expiresAt" in fields else KEEP,
            guard=partial(_guard, caller),
        )

    return key_document(await handler.change(request, change))


@router.post(
    ROTATE,
    summary="Rotate a key",
    response_model=schemas.RotatedKey,
    responses=problem_responses(*WITH_BODY, "not-found"),
    openapi_extra=body_of("Rotation", required=False),
)
async def rotate_key(request: Request, handler: Handler, key_id: KeyId, once: Once = None) -> Any:
    """A new key under the same id; the old one goes on for `overlapSeconds` (a day unless told).
    Asked for again with the same `Idempotency-Key`, it is not done again, and the new key is shown
    again for ten minutes.
    """
    await handler.enter(request, f"POST {ROTATE}", key_id)
    fields, caller = await handler.fields(request, ROTATION, optional=True)
    overlap_ms = fields.get("overlapSeconds", OVERLAP_SECONDS) * 1000
    once = idempotency_key(context_of(request.scope))
    if once is not None and not 1 <= len(once) <= MAX_ONCE:
        raise Invalid(
            (Fault(IDEMPOTENCY_KEY, f"must have 1 to {MAX_ONCE} characters", "header", "header"),)
        )

    def rotate(record: ChangeRecord) -> tuple[str | None, StoredKey]:
        return handler.store.rotate(
            key_id,
            now_ms(),
            overlap_ms,
            once=once,
            record=record,
            guard=partial(_guard, caller),
        )

    key, stored = await handler.change(request, rotate)
    return {"key": None} | key_document(stored, key)


@router.delete(
    ONE, status_code=204, summary="Revoke a key", responses=problem_responses(*REFUSED, "not-found")
)
async def revoke_key(request: Request, handler: Handler, key_id: KeyId) -> None:
    """It stops at once here, and within a second in every other process. What it had accepted is
    delivered.
    """
    caller = await handler.enter(request, f"DELETE {ONE}", key_id)

    def revoke(record: ChangeRecord) -> None:
        handler.store.revoke(key_id, now_ms(), record, guard=partial(_guard, caller))

    await handler.change(request, revoke, status=204)
