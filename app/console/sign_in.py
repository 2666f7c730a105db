"""Signing in to the console and out of it."""

from fastapi import Request, Response

from app.console.access import cookie_header
from app.console.pages import redirect
from app.console.routes import Console, ConsoleDependency, console_router, status_of
from app.errors import Forbidden, GatewayError, RateLimited, Unauthorized
from app.http import context_of

SIGN_IN, SIGN_OUT = "/console/sign-in", "/console/sign-out"
router = console_router()


@router.get(SIGN_IN)
async def sign_in_page(request: Request, console: ConsoleDependency) -> Response:
    """Return the page with the form for a key."""
    context = context_of(request.scope)
    context.operation = f"GET {SIGN_IN}"
    return console.pages.render_public("sign_in.html", context.prefix, error=None)


@router.post(SIGN_IN)
async def sign_in(request: Request, console: ConsoleDependency) -> Response:
    """Begin a session for the key of the form, and go to the first page."""
    prefix = context_of(request.scope).prefix
    try:
        session_id = await console.access.sign_in(request, f"POST {SIGN_IN}")
    except (Unauthorized, Forbidden, RateLimited) as error:
        return _refused(console, prefix, error)
    response = redirect(prefix, "")
    response.headers["Set-Cookie"] = cookie_header(prefix, session_id)
    return response


@router.post(SIGN_OUT)
async def sign_out(request: Request, console: ConsoleDependency) -> Response:
    """End the session, and go to the sign-in page."""
    visitor, _ = await console.access.operate(request, f"POST {SIGN_OUT}")
    await console.access.sign_out(visitor)
    response = redirect(visitor.context.prefix, "/sign-in")
    response.headers["Set-Cookie"] = cookie_header(visitor.context.prefix, "")
    return response


def _refused(console: Console, prefix: str, error: GatewayError) -> Response:
    """Return the form again, with the reason why the key was refused; never with the key."""
    status, headers = status_of(error)
    page = console.pages.render_public(
        "sign_in.html", prefix, status=status, error=error.detail.removeprefix("Forbidden: ")
    )
    page.headers.update(headers)
    return page
