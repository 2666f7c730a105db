"""Who calls, and may they: before anything is read or done."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog

from app.bootstrap import Gateway
from app.errors import (
    Forbidden,
    GatewayError,
    KeyInUrl,
    KeyNotConfigured,
    Malformed,
    RateLimited,
    Unauthorized,
)
from app.http import credentials, leaked_keys, rate_limiting
from app.http.request import Context
from app.model import App, Caller, KeyKind, Scope

APP = "X-Leanplum-App"

log = structlog.get_logger("request")


async def enter(
    gateway: Gateway, context: Context, scope: Scope, kind: KeyKind | None = None
) -> tuple[Caller, App]:
    """Who calls, and about which app, for a call that counts as one item, whatever is said to it.
    `kind`: of Leanplum's key that it needs. Raises Unauthorized, RateLimited, Forbidden, Malformed,
    KeyNotConfigured.
    """
    caller = _recognised(gateway, context) or await authenticate(gateway, context)
    try:
        app = choose_app(gateway, context, caller)
    finally:
        await rate_limiting.take(gateway, context, caller, 1)
    permit(caller, scope)
    if kind is not None:
        require_key(app, kind)
    return caller, app


async def enter_beside_apps(gateway: Gateway, context: Context, scope: Scope) -> Caller:
    """The same for a call that is about no app."""
    caller = await authenticate(gateway, context)
    await rate_limiting.take(gateway, context, caller, 1)
    permit(caller, scope)
    return caller


def _recognised(gateway: Gateway, context: Context) -> Caller | None:
    """The caller whose key has come just so before: nearly every one."""
    header = context.headers.get(b"authorization")
    if header is not None:
        context.caller = gateway.directory.recognise(header)
    return context.caller


async def enter_unread(gateway: Gateway, context: Context) -> None:
    """The same for a call that is refused whatever it is about. Raises Unauthorized,
    RateLimited.
    """
    await rate_limiting.take(gateway, context, await authenticate(gateway, context), 1)


async def charge(gateway: Gateway, context: Context, *, named: bool = False) -> None:
    """Take an item for a call that is refused before anybody has asked who calls, where a key came
    with it, be it by Basic. Any other text in a header is a proxy's own, but under /v1 or where the
    call has `named` its key. Raises Unauthorized, RateLimited.
    """
    if context.caller is not None:
        return
    if key := credentials.in_headers(context):
        credentials.use(context, key)
    if key or named or _shows_key(context):
        await enter_unread(gateway, context)


async def charged(
    gateway: Gateway, context: Context, error: GatewayError, *, named: bool = False
) -> GatewayError:
    """Return what such a call is refused with: `error`, unless a limit is spent. A key that opens
    nothing changes nothing else.
    """
    try:
        await charge(gateway, context, named=named)
    except RateLimited as refusal:
        return refusal
    except Unauthorized:
        pass
    return error


def _shows_key(context: Context) -> bool:
    """Tell whether a header under /v1, where a key is needed, is one for it; elsewhere it may be a
    proxy's own.
    """
    if not context.path.startswith("/v1/"):
        return False
    authorization = context.headers.get(b"authorization")
    if authorization is None:
        return b"x-api-key" in context.headers
    return authorization.partition(b" ")[0].lower() == b"bearer"


async def authenticate(gateway: Gateway, context: Context) -> Caller:
    """The caller, by key. Raises Unauthorized; or RateLimited where an address has failed too
    often. A good key passes all the same: many callers may share an address.
    """
    try:
        return look(gateway, context)
    except Unauthorized:
        await rate_limiting.count_failure(gateway, context.address)
        with suppress(Unauthorized):  # there may be none
            context.shown = gateway.directory.owner(_key(context))
        raise


def look(gateway: Gateway, context: Context) -> Caller:
    """Return who calls, and count no failure. Raises Unauthorized."""
    header = context.headers.get(b"authorization") or b"\0" + context.headers.get(b"x-api-key", b"")
    context.caller = gateway.directory.recognise(header)
    if context.caller is None:
        context.caller = gateway.directory.authenticate(_key(context), header)
    return context.caller


def look_again(gateway: Gateway, context: Context, caller: Caller) -> Caller:
    """Return who calls, as their key is now: nearly always `caller` itself.

    While a body comes a key may be revoked, expire, or lose the app. Raises Unauthorized,
    Forbidden.
    """
    header = context.headers.get(b"authorization") or b"\0" + context.headers.get(b"x-api-key", b"")
    again = gateway.directory.recognise(header) or gateway.directory.authenticate(
        _key(context), header
    )
    if again is caller:
        return caller
    context.caller = again
    if context.app is not None and not again.may_use(context.app.name):
        raise Forbidden("This key is no longer for this app.")
    return again


def still(gateway: Gateway, context: Context, scope: Scope) -> Caller:
    """Return who calls, as their key is now, where it still has the scope. Raises Unauthorized,
    Forbidden.
    """
    assert context.caller is not None
    caller = look_again(gateway, context, context.caller)
    permit(caller, scope)
    return caller


def find(gateway: Gateway, context: Context, shown: str) -> Caller | None:
    """Return the caller of the key that is shown before the body, or of the one in a header; None
    where neither is known. Nothing is refused, counted or remembered: another key may be the one
    that counts.
    """
    caller = gateway.directory.find(shown) if shown else None
    if caller is None:
        with suppress(Unauthorized):  # there may be none
            caller = gateway.directory.find(_key(context))
    return caller


def _key(context: Context) -> str:
    authorization = context.headers.get(b"authorization")
    if authorization is not None:
        scheme, _, key = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("The Authorization header must be: Bearer KEY.")
        return key.strip()
    if (key_header := context.headers.get(b"x-api-key")) is not None:
        return key_header.decode("latin-1").strip()
    raise Unauthorized("There is no key: send Authorization: Bearer KEY or X-API-Key: KEY.")


async def leaked(
    gateway: Gateway, context: Context, scope: Mapping[str, Any]
) -> GatewayError | None:
    """Why a request with a key in its address is refused; None where there is none. The key is in
    the logs and histories of whatever the call came through; the log here says whose it is. The
    call takes an item of that key; one that opens nothing counts as a failed authentication.
    """
    if (leak := leaked_keys.found(scope)) is None:
        return None
    context.shown = gateway.directory.owner(leak.key) if leak.key else None
    log.warning("key.leaked", request_id=context.request_id, key_id=context.shown)
    caller = gateway.directory.find(leak.key) if leak.key else None
    try:
        if caller is not None:
            await rate_limiting.take(gateway, context, caller, 1)
            return KeyInUrl(leaked_keys.HINT)
        if leak.key:
            await rate_limiting.count_failure(gateway, context.address)
    except RateLimited as refusal:
        return refusal
    return (
        KeyInUrl(leaked_keys.HINT)
        if context.shown
        else await charged(gateway, context, KeyInUrl(leaked_keys.HINT))
    )


def permit(caller: Caller, scope: Scope) -> None:
    """Raises Forbidden where the caller's key lacks the scope."""
    if scope not in caller.scopes:
        raise Forbidden(f"This needs a key with the scope {scope.value}.")


def choose_app(gateway: Gateway, context: Context, caller: Caller) -> App:
    """The app that the call is about: the one that it names, or the only one that the key is for.
    Raises Forbidden, Malformed where it must name one.
    """
    named = context.headers.get(b"x-leanplum-app")
    app = (
        gateway.apps.implied(caller.apps)
        if named is None
        else gateway.apps.get(named.decode("latin-1"))
    )
    if app is not None and caller.may_use(app.name):
        context.app = app
        return app
    if named is not None:
        raise Forbidden("This key is not for the app that X-Leanplum-App names.").at_header(APP)
    mine = sorted(name for name in gateway.apps if caller.may_use(name))
    if not mine:
        raise Forbidden("No app that this key is for is configured.")
    detail = (
        f"This key is for several apps: name one in the header X-Leanplum-App ({', '.join(mine)})."
    )
    raise Malformed(detail).at_header(APP)


def require_key(app: App, kind: KeyKind) -> None:
    """Raises KeyNotConfigured where Leanplum's key of this kind is not there."""
    if kind not in app.keys:
        raise KeyNotConfigured(
            f"This needs Leanplum's {kind.value} key: {app.setting(kind)} is not set."
        )
