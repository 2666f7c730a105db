"""Authentication of callers and authorization of calls, before a body is read."""

import base64
import binascii
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import structlog

from app.apps import AppRegistry
from app.callers.directory import Directory
from app.callers.key_format import LENGTH, PREFIX
from app.errors import (
    Forbidden,
    GatewayError,
    KeyInUrl,
    KeyNotConfigured,
    Malformed,
    RateLimited,
    Unauthorized,
)
from app.http.rate_limiting import RateLimiter
from app.http.request import RequestContext
from app.model import App, Caller, KeyKind, Scope

APP_HEADER = "X-Leanplum-App"
KEY_IN_URL = (
    "The URL contains an API key. Send it in a header (Authorization: Bearer KEY or X-API-Key: "
    "KEY), and rotate it: URLs are kept in logs and histories."
)

NAMES_OF_KEYS = frozenset(
    {
        "accesskey",
        "accesstoken",
        "apikey",
        "authorization",
        "authtoken",
        "bearer",
        "clientkey",
        "clientsecret",
        "key",
        "password",
        "secret",
        "token",
        "xapikey",
    }
)
KEY_PATTERN = re.compile(rb"%s[0-9A-Za-z]{%d}" % (PREFIX.encode(), LENGTH - len(PREFIX)))

log = structlog.get_logger("request")


class Authenticator:
    """The authenticator of requests: it finds caller and app, and counts failures and items."""

    def __init__(self, directory: Directory, apps: AppRegistry, limiter: RateLimiter) -> None:
        self._directory, self._apps, self._limiter = directory, apps, limiter

    async def enter(
        self,
        context: RequestContext,
        scope: Scope,
        kind: KeyKind | None = None,
        *,
        app_name: str | None = None,
    ) -> tuple[Caller, App]:
        """Return the caller and the app of a call that counts as one item, even when refused.

        `kind` is the Leanplum key that the call needs; `app_name` is an app that the call names
        elsewhere than in the header, and takes precedence over it. Raises Unauthorized,
        RateLimited, Forbidden, Malformed, KeyNotConfigured.
        """
        caller = context.caller = self._directory.recognise(context.credential)
        if caller is None:
            caller = await self.authenticate(context)
        try:
            app = self.choose_app(context, caller, app_name)
        finally:
            await self._limiter.take(context, caller, 1)
        require_scope(caller, scope)
        if kind is not None:
            require_leanplum_key(app, kind)
        return caller, app

    async def enter_without_app(self, context: RequestContext, scope: Scope) -> Caller:
        """Return the caller of a call that concerns no app; the call counts as one item.

        Raises Unauthorized, RateLimited, Forbidden.
        """
        caller = await self.authenticate(context)
        await self._limiter.take(context, caller, 1)
        require_scope(caller, scope)
        return caller

    async def charge_item(self, context: RequestContext) -> None:
        """Count one item for a call that is refused in any case.

        Raises Unauthorized, RateLimited.
        """
        await self._limiter.take(context, await self.authenticate(context), 1)

    async def charge(self, context: RequestContext, *, named: bool = False) -> None:
        """Count one item for a call that is refused before its caller is authenticated.

        Only a call with a key counts: with one in a header (Basic included), with any credential
        under /v1, or with a key elsewhere (`named`). On other paths a header may belong to a proxy.
        Raises Unauthorized, RateLimited.
        """
        if context.caller is not None:
            return
        key = key_in_headers(context)
        if key:
            context.use_key(key)
        if key or named or shows_key(context):
            await self.charge_item(context)

    async def charged(
        self, context: RequestContext, error: GatewayError, *, named: bool = False
    ) -> GatewayError:
        """Charge a refused call; return `error`, or RateLimited if a limit is exceeded.

        An invalid key does not change the error.
        """
        try:
            await self.charge(context, named=named)
        except RateLimited as refusal:
            return refusal
        except Unauthorized:
            pass
        return error

    async def authenticate(self, context: RequestContext) -> Caller:
        """Return the caller, by key.

        Raises Unauthorized, or RateLimited if the address has failed too often. A valid key is
        accepted even then: many callers may share an address.
        """
        context.caller = self._directory.recognise(context.credential)
        if context.caller is not None:
            return context.caller
        try:
            key = sent_key(context)
            context.caller = self._directory.authenticate(key, context.credential)
        except Unauthorized:
            await self._limiter.count_failure(context.address)
            with suppress(Unauthorized):  # there may be no key at all
                context.shown_key_id = self._directory.owner(sent_key(context))
            raise
        return context.caller

    def confirm(self, context: RequestContext, caller: Caller) -> Caller:
        """Return the caller as their key is now: nearly always `caller` itself.

        While a body arrives, the key may be revoked, expire, or lose the app. Raises Unauthorized,
        Forbidden.
        """
        current = self._directory.recognise(context.credential)
        if current is None:
            current = self._directory.authenticate(sent_key(context), context.credential)
        if current is caller:
            return caller
        context.caller = current
        if context.app is not None and not current.may_use(context.app.name):
            raise Forbidden("Forbidden: this key is not valid for this app any more")
        return current

    def confirm_scope(self, context: RequestContext, scope: Scope) -> Caller:
        """Return the caller as their key is now, if it still has the scope.

        Raises Unauthorized, Forbidden.
        """
        assert context.caller is not None
        caller = self.confirm(context, context.caller)
        require_scope(caller, scope)
        return caller

    def find(self, context: RequestContext, key: str) -> Caller | None:
        """Return the caller of `key`, else of the key in a header; None if neither is valid.

        Nothing is refused, counted or remembered: the call may be authenticated by another key.
        """
        caller = self._directory.find(key) if key else None
        if caller is None:
            with suppress(Unauthorized):  # there may be no key at all
                caller = self._directory.find(sent_key(context))
        return caller

    def find_by_key(self, key: str) -> Caller | None:
        """Return the caller of `key`; nothing is counted or remembered."""
        return self._directory.find(key)

    async def refusal_of_leak(
        self, context: RequestContext, scope: Mapping[str, Any]
    ) -> GatewayError | None:
        """Return the refusal of a request with a key in its URL; None if there is no key.

        The key is in the logs and histories of every system that the request passed; the log line
        written here has its id. The call counts as an item of that key; an invalid key counts as a
        failed authentication.
        """
        leak = leaked_credential(scope)
        if leak is None:
            return None
        refusal = KeyInUrl(KEY_IN_URL)
        context.shown_key_id = self._directory.owner(leak.key) if leak.key else None
        log.warning("key.leaked", request_id=context.request_id, key_id=context.shown_key_id)
        caller = self._directory.find(leak.key) if leak.key else None
        try:
            if caller is not None:
                await self._limiter.take(context, caller, 1)
                return refusal
            if leak.key:
                await self._limiter.count_failure(context.address)
        except RateLimited as limited:
            return limited
        if context.shown_key_id:
            return refusal
        return await self.charged(context, refusal)

    def choose_app(
        self, context: RequestContext, caller: Caller, app_name: str | None = None
    ) -> App:
        """Return the app that the call names, or the only one that the key is for.

        `app_name` is an app that the call names elsewhere than in the header, and takes precedence
        over it. Raises Forbidden, and Malformed if the call must name an app.
        """
        named = app_name
        if named is None and b"x-leanplum-app" in context.headers:
            named = context.header(b"x-leanplum-app")
        if named is None:
            app = self._apps.implied(caller.apps)
        else:
            app = self._apps.get(named)
        if app is not None and (named is None or caller.may_use(app.name)):
            context.app = app
            return app
        if named is not None:
            raise Forbidden(
                "Forbidden: this key is not valid for the app in X-Leanplum-App"
            ).at_header(APP_HEADER)
        usable = sorted(name for name in self._apps if caller.may_use(name))
        if not usable:
            raise Forbidden("Forbidden: no app that this key is valid for is configured")
        names = ", ".join(usable)
        detail = f"This key is for several apps: name one in the header X-Leanplum-App ({names})."
        raise Malformed(detail).at_header(APP_HEADER)


def require_scope(caller: Caller, scope: Scope) -> None:
    """Raise Forbidden if the caller's key lacks the scope."""
    if scope not in caller.scopes:
        raise Forbidden(f"Forbidden: missing scope {scope.value}")


def require_leanplum_key(app: App, kind: KeyKind) -> None:
    """Raise KeyNotConfigured if the app has no Leanplum key of this kind."""
    if kind not in app.keys:
        raise KeyNotConfigured(
            f"Leanplum's {kind.value} key is required: {app.setting(kind)} is not set."
        )


class LeakedCredential(NamedTuple):
    """A credential found in the URL; `key` is set only for keys of this gateway."""

    key: str | None


def leaked_credential(scope: Mapping[str, Any]) -> LeakedCredential | None:
    """Return the credential in the path or query of the request with this ASGI scope.

    A credential has the form of a caller key, or is a query parameter with the name of one.
    """
    query: bytes = scope["query_string"]
    match = KEY_PATTERN.search(unquote_to_bytes(scope["raw_path"] + b"?" + query))
    if match is not None:
        return LeakedCredential(match.group().decode())
    if any(_is_named_like_a_key(parameter) for parameter in query.split(b"&")):
        return LeakedCredential(None)
    return None


def _is_named_like_a_key(parameter: bytes) -> bool:
    name, _, value = parameter.partition(b"=")
    plain = unquote_to_bytes(name).decode("latin-1").lower().replace("_", "").replace("-", "")
    return bool(value) and plain in NAMES_OF_KEYS


def sent_key(context: RequestContext) -> str:
    """Return the key by which the request is authenticated. Raises Unauthorized."""
    credential = context.credential.decode("latin-1")
    if credential == "\0":
        raise Unauthorized("Missing API key: send Authorization: Bearer KEY or X-API-Key: KEY.")
    if credential.startswith("\0"):
        return credential[1:].strip()
    scheme, _, key = credential.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized("The Authorization header must have the form: Bearer KEY.")
    return key.strip()


def key_in_headers(context: RequestContext) -> str:
    """Return the credential that has the form of a caller key; "" if there is none.

    Clients send a key as Bearer, as the user name of Basic, or as X-API-Key.
    """
    authorization = context.headers.get(b"authorization", b"")
    scheme, _, text = authorization.partition(b" ")
    candidates = [context.header(b"x-api-key").strip()]
    if scheme.lower() == b"bearer":
        candidates.insert(0, text.decode("latin-1").strip())
    elif scheme.lower() == b"basic":
        candidates.insert(0, _basic_user(text))
    return next((text for text in candidates if text.startswith(PREFIX)), "")


def shows_key(context: RequestContext) -> bool:
    """Tell whether a call under /v1, where a key is required, has a header for one."""
    if not context.path.startswith("/v1/"):
        return False
    authorization = context.headers.get(b"authorization")
    if authorization is None:
        return b"x-api-key" in context.headers
    return authorization.partition(b" ")[0].lower() == b"bearer"


def _basic_user(text: bytes) -> str:
    """Return the user name of Basic (RFC 7617); "" if it cannot be decoded."""
    try:
        return base64.b64decode(text.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""
