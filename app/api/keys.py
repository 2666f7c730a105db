"""Caller keys over HTTP: made, listed, changed, rotated, revoked (contract §3). A key itself is
shown once.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import TypeAdapter

from app.api import schemas
from app.api.routes import KEY, gateway_of
from app.audit import records
from app.bootstrap import Gateway
from app.callers.store import KEEP, Recorder, StoredKey
from app.clock import instant, now_ms
from app.database.deadline import in_time
from app.errors import Fault, Forbidden, Invalid, NotFound, StorageUnavailable
from app.http import authentication, json_body
from app.http import body as receiving
from app.http import request as context
from app.http.idempotency import NAME as IDEMPOTENCY_KEY
from app.http.idempotency import key_of
from app.http.openapi_parts import body_of, problem_responses
from app.ingest import validate
from app.model import Caller, Scope

T = TypeVar("T")
KEYS = "/v1/keys"
ONE, ROTATE = f"{KEYS}/{{keyId}}", f"{KEYS}/{{keyId}}/rotate"
REFUSED = ("unauthorized", "forbidden", "rate-limited", "internal", "storage-unavailable")
WITH_BODY = (*REFUSED, "malformed", "too-large", "unsupported-media-type", "validation")
MADE: dict[int | str, dict[str, Any]] = {
    201: {
        "description": "Made; `key` is shown this once",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "Where the key is"}},
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
KeyId = Annotated[str, Path(alias="keyId", description="the key's id, which is not secret")]
Once = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A rotation that is asked for again with it is done once",
    ),
]

log = structlog.get_logger("keys")
router = APIRouter(dependencies=KEY, tags=["Keys"])


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


async def _manager(request: Request, operation: str, key_id: str = "") -> tuple[Gateway, Caller]:
    """Who calls. `key_id`: of the key that it is about."""
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation, about.resource = operation, key_id if KEY_ID.fullmatch(key_id) else None
    return gateway, await authentication.enter_beside_apps(gateway, about, Scope.KEYS_MANAGE)


def _recorder(request: Request, status: int = 200) -> Recorder:
    """What makes the audit record that is committed with a change."""
    about = context.of(request.scope)

    def record(key_id: str, now: int, what: Mapping[str, Any]) -> str:
        assert about.caller is not None
        about.recorded = True
        return records.api_call(
            time=now,
            operation=about.operation,
            key_id=about.caller.key_id,
            app="",
            address=about.address,
            request_id=about.request_id,
            status=status,
            details=dict(what),
            resource=key_id,
        )

    return record


async def _body(
    request: Request, gateway: Gateway, shape: TypeAdapter[Any], *, optional: bool = False
) -> tuple[Any, Caller]:
    """Return what was sent, and who calls as their key is after that."""
    about = context.of(request.scope)
    body = await receiving.read_fields(gateway, about, request.receive, optional=optional)
    fields = validate.checked(shape, json_body.parse(body))
    return fields, authentication.still(gateway, about, Scope.KEYS_MANAGE)


async def _written(request: Request, gateway: Gateway, change: Callable[[], T]) -> T:
    """Make a change, on a thread, and let this process know of it at once. One that fails is
    recorded as such.
    """
    try:
        done = await in_time(change)
    except BaseException:
        context.of(request.scope).recorded = False  # its record was in the transaction that failed
        raise
    try:
        await in_time(gateway.directory.refresh)
    except StorageUnavailable as error:
        # it is done, and known within a second of the database's return
        log.warning("keys.unreadable", reason=error.detail)
    return done


def _within(caller: Caller, apps: Iterable[str] | None) -> None:
    """Raises Forbidden where these are more apps than the caller's own key is for."""
    if caller.apps is not None and (apps is None or not caller.apps.issuperset(apps)):
        raise Forbidden("This key is not for all of these apps, so it can't give them to another.")


def _mine(gateway: Gateway, caller: Caller, key_id: str) -> StoredKey:
    """The key with this id. Raises NotFound where there is none, or it is for apps that are not the
    caller's.
    """
    stored = gateway.keys.get(key_id)
    _guard(caller, stored)
    return stored


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
            (Fault("/expiresAt", "must be in the future; DELETE revokes a key at once", "past"),)
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
    summary="Make a key",
    response_model=schemas.MadeKey,
    responses=MADE | problem_responses(*WITH_BODY),
    openapi_extra=body_of("NewKey"),
)
async def make_key(request: Request, response: Response) -> Any:
    """For whom, what it may do, for which apps, how fast, until when. It works at once here, and
    within a second in every other process.
    """
    gateway, _ = await _manager(request, f"POST {KEYS}")
    fields, caller = await _body(request, gateway, NEW)
    values, now = _values(fields), now_ms()
    _within(caller, values.get("apps"))
    limits = {name: values.get(name) for name in ("rate_per_second", "rate_burst")}
    expires_at, record = _expiry(fields, now), _recorder(request, 201)
    key, stored = await _written(
        request,
        gateway,
        lambda: gateway.keys.create(
            values["name"],
            values["scopes"],
            values.get("apps"),
            now,
            expires_at=expires_at,
            record=record,
            **limits,
        ),
    )
    response.headers["Location"] = (
        f"{context.of(request.scope).prefix}{KEYS}/{stored.caller.key_id}"
    )
    return key_document(stored, key)


@router.get(
    KEYS,
    summary="The keys",
    response_model=schemas.Keys,
    response_model_exclude_unset=True,
    responses=problem_responses(*REFUSED, "validation"),
)
async def list_keys(
    request: Request,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR, description="`nextCursor` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="of one page")] = 1_000,
) -> Any:
    """The keys, oldest first, revoked ones too; never a key itself. Where there are more,
    `nextCursor` leads on.
    """
    gateway, caller = await _manager(request, f"GET {KEYS}")
    after = _position(cursor) if cursor else None
    found = await in_time(partial(gateway.keys.page, after, limit + 1, partial(_sees, caller)))
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
    summary="A key",
    response_model=schemas.Key,
    responses=problem_responses(*REFUSED, "not-found"),
)
async def get_key(request: Request, key_id: KeyId) -> Any:
    """What is known of it; never the key itself."""
    gateway, caller = await _manager(request, f"GET {ONE}", key_id)
    return key_document(await in_time(partial(_mine, gateway, caller, key_id)))


@router.patch(
    ONE,
    summary="Change a key",
    response_model=schemas.Key,
    responses=problem_responses(*WITH_BODY, "not-found"),
    openapi_extra=body_of("KeyChange"),
)
async def change_key(request: Request, key_id: KeyId) -> Any:
    """What is left out stays as it is; `null` takes a limit or the expiry away, and gives every
    app.
    """
    gateway, _ = await _manager(request, f"PATCH {ONE}", key_id)
    fields, caller = await _body(request, gateway, CHANGE)
    values, record, now = _values(fields), _recorder(request), now_ms()
    if "apps" in values:
        _within(caller, values["apps"])
    expires_at = _expiry(fields, now)

    change = partial(
        gateway.keys.change,
        key_id,
        now,
        values,
        record,
        expires_at if "expiresAt" in fields else KEEP,
        guard=partial(_guard, caller),
    )
    return key_document(await _written(request, gateway, change))


@router.post(
    ROTATE,
    summary="Rotate a key",
    response_model=schemas.RotatedKey,
    responses=problem_responses(*WITH_BODY, "not-found"),
    openapi_extra=body_of("Rotation", required=False),
)
async def rotate_key(request: Request, key_id: KeyId, once: Once = None) -> Any:
    """A new key under the same id; the old one goes on for `overlapSeconds` (a day unless told).
    Asked for again with the same `Idempotency-Key`, it is not done again, and the new key is shown
    again for ten minutes.
    """
    gateway, _ = await _manager(request, f"POST {ROTATE}", key_id)
    fields, caller = await _body(request, gateway, ROTATION, optional=True)
    overlap_ms, record = fields.get("overlapSeconds", OVERLAP_SECONDS) * 1000, _recorder(request)
    once = None if once is None else key_of(once)
    if once is not None and not 1 <= len(once) <= MAX_ONCE:
        raise Invalid(
            (Fault(IDEMPOTENCY_KEY, f"takes 1 to {MAX_ONCE} characters", "header", "header"),)
        )

    def rotate() -> tuple[str | None, StoredKey]:
        guard = partial(_guard, caller)
        return gateway.keys.rotate(
            key_id, now_ms(), overlap_ms, once=once, record=record, guard=guard
        )

    key, stored = await _written(request, gateway, rotate)
    return {"key": None} | key_document(stored, key)


@router.delete(
    ONE, status_code=204, summary="Revoke a key", responses=problem_responses(*REFUSED, "not-found")
)
async def revoke_key(request: Request, key_id: KeyId) -> None:
    """It stops at once here, and within a second in every other process. What it had accepted is
    delivered.
    """
    gateway, caller = await _manager(request, f"DELETE {ONE}", key_id)
    record = _recorder(request, 204)

    def revoke() -> None:
        gateway.keys.revoke(key_id, now_ms(), record, guard=partial(_guard, caller))

    await _written(request, gateway, revoke)
