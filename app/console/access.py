"""Access to the console: sign-in, and authentication of every page and operation.

A page needs the cookie of a session and the scope `console:read`; an operation also needs a scope
of its own, the token of the session's forms, and must come from a page of this origin.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastapi import Request

from app.apps import AppRegistry
from app.callers import key_format
from app.callers.directory import Directory
from app.console.forms import MOST_BYTES, Form, read_form
from app.console.sessions import Session, SessionStore, form_token
from app.errors import Forbidden, NotFound, Unauthorized
from app.http import (
    Authenticator,
    BodyReader,
    RateLimiter,
    RequestContext,
    context_of,
    require_scope,
    transaction_record,
)
from app.model import App, Caller, Scope

ROOT = "/console"
COOKIE = "leanplum_gateway_console"
TOKEN_FIELD = "form_token"  # noqa: S105  # the name of a field
OTHER_ORIGIN = (
    "The form was sent from another site. Open the console in this browser and try again."
)
NOT_OF_SESSION = (
    "The form is not one of this session. Open the page again and repeat the operation."
)


class SignedOut(Unauthorized):
    """A request without a session that is still valid. The visitor is sent to the sign-in page."""

    def __init__(self) -> None:
        super().__init__("Sign in to the console.")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in: the session, and the key as it is now.

    `apps` are the names of the configured apps that the key may use.
    """

    context: RequestContext
    session: Session
    caller: Caller
    form_token: str
    apps: Sequence[str]

    def may(self, scope: Scope) -> bool:
        """Return whether the key has a scope."""
        return scope in self.caller.scopes


class ConsoleAccess:
    """The authentication of console requests."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: RateLimiter,
        directory: Directory,
        bodies: BodyReader,
        sessions: SessionStore,
        apps: AppRegistry,
    ) -> None:
        self._authenticator, self._limiter, self._directory = authenticator, limiter, directory
        self._bodies, self.sessions, self._apps = bodies, sessions, apps

    async def enter(self, request: Request, operation: str, *scopes: Scope) -> Visitor:
        """Return the visitor of a page, which needs `console:read` and these scopes.

        The request counts as one item of the key. Raises SignedOut, RateLimited, Forbidden.
        """
        context = context_of(request.scope)
        context.operation = operation
        session_id = request.cookies.get(COOKIE, "")
        session = await self.sessions.find(session_id) if session_id else None
        if session is None:
            raise SignedOut
        caller = context.caller = self.caller_of(session)
        await self._limiter.take(context, caller, 1)
        for scope in scopes:
            require_scope(caller, scope)
        return Visitor(context, session, caller, form_token(session_id), self._usable(caller))

    async def operate(
        self, request: Request, operation: str, *scopes: Scope, most_bytes: int = MOST_BYTES
    ) -> tuple[Visitor, Form]:
        """Return the visitor and the form of an operation, which needs these scopes.

        The visitor has the key as it is once the whole form has come.

        Raises what `enter` and `read_form` raise, and Forbidden for a forged request.
        """
        visitor = await self.enter(request, operation, *scopes)
        refuse_other_origin(visitor.context)
        form = await read_form(self._bodies, visitor.context, request.receive, most_bytes)
        if not hmac.compare_digest(form.raw(TOKEN_FIELD).encode(), visitor.form_token.encode()):
            raise Forbidden(NOT_OF_SESSION)
        caller = visitor.context.caller = self.confirm(visitor, *scopes)
        return replace(visitor, caller=caller, apps=self._usable(caller)), form

    def _usable(self, caller: Caller) -> list[str]:
        return sorted(name for name in self._apps if caller.may_use(name))

    def use_app(self, visitor: Visitor, name: str) -> App:
        """Return an app that the visitor's request is about, as its audit record says.

        Raises NotFound where the key may not use it, as for an app that does not exist.
        """
        app = self._apps.get(name)
        if app is None or not visitor.caller.may_use(name):
            raise NotFound("No app that your key may use has this name.")
        visitor.context.app = app
        return app

    def confirm(self, visitor: Visitor, *scopes: Scope) -> Caller:
        """Return the caller as the key is now: it may have changed since the request came.

        Raises SignedOut, Forbidden.
        """
        caller = self.caller_of(visitor.session)
        for scope in scopes:
            require_scope(caller, scope)
        return caller

    def caller_of(self, session: Session) -> Caller:
        """Return the caller whose key began a session.

        Raises SignedOut if the key does not work any more, or no longer for the console.
        """
        caller = self._directory.present(session.secret)
        if caller is None or Scope.CONSOLE_READ not in caller.scopes:
            raise SignedOut
        return caller

    async def sign_in(self, request: Request, operation: str) -> str:
        """Begin a session for the key in the form, and end the one before; return its id.

        Raises Unauthorized, RateLimited, Forbidden, and what `read_form` raises. Failures count
        for the address, as everywhere.
        """
        context = context_of(request.scope)
        context.operation = operation
        refuse_other_origin(context)
        form = await read_form(self._bodies, context, request.receive, MOST_BYTES)
        key = form.text("key")
        if not key:
            raise Unauthorized("Enter a caller key.")
        context.use_key(key)
        caller = await self._authenticator.enter_without_app(context, Scope.CONSOLE_READ)
        with transaction_record(context) as record:
            text = record.make({}, status=303)
            return await self.sessions.begin(
                caller.key_id,
                key_format.digest(key),
                text,
                replaced_id=request.cookies.get(COOKIE, ""),
            )

    async def sign_out(self, visitor: Visitor) -> None:
        """End the visitor's session, on all processes."""
        with transaction_record(visitor.context) as record:
            await self.sessions.end(visitor.session, record.make({}, status=303))


def refuse_other_origin(context: RequestContext) -> None:
    """Raise Forbidden for a form that another origin's page has sent.

    Browsers tell so in Sec-Fetch-Site; older ones send Origin. A request with neither comes from no
    browser, so it has no cookie but one that its sender knows.
    """
    site = context.header(b"sec-fetch-site")
    if site:
        if site not in {"same-origin", "none"}:
            raise Forbidden(OTHER_ORIGIN)
        return
    origin = context.header(b"origin")
    if origin and origin.partition("://")[2] != context.header(b"host"):
        raise Forbidden(OTHER_ORIGIN)


def cookie_header(prefix: str, session_id: str) -> str:
    """Return the Set-Cookie header of a session; an empty id removes the cookie."""
    lasting = "" if session_id else "; Max-Age=0"
    return f"{COOKIE}={session_id}; Path={prefix}{ROOT}; HttpOnly; Secure; SameSite=Strict{lasting}"
