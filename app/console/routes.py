"""Routes of the console, whose errors are pages instead of problem documents."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from app.console.access import ConsoleAccess, SignedOut
from app.console.pages import Pages, redirect
from app.errors import Fault, GatewayError, Invalid
from app.http import context_of, problems
from app.ingest import parameter_sentence

Handle = Callable[[Request], Coroutine[Any, Any, Response]]


class Console:
    """The services that the handlers of all pages use: access, and the renderer."""

    def __init__(self, access: ConsoleAccess, pages: Pages) -> None:
        self.access, self.pages = access, pages


async def _console(request: Request) -> Console:
    console: Console = request.state.console
    return console


ConsoleDependency = Annotated[Console, Depends(_console)]


class ConsoleRoute(APIRoute):
    """A route whose errors are shown as pages; without a session it leads to the sign-in page."""

    def get_route_handler(self) -> Handle:
        """Return the handler of the route's requests."""
        handle = super().get_route_handler()

        async def handle_with_pages(request: Request) -> Response:
            try:
                try:
                    return await handle(request)
                except RequestValidationError as error:
                    raise await _invalid(request, error) from None
            except SignedOut:
                return redirect(context_of(request.scope).prefix, "/sign-in")
            except GatewayError as error:
                return error_page(request, error)

        return handle_with_pages


async def _invalid(request: Request, error: RequestValidationError) -> GatewayError:
    """Return the error of a page whose query is invalid.

    FastAPI validates before the visitor is authenticated, so that is done first here.
    """
    console: Console = request.state.console
    await console.access.enter(request, f"{request.method} {request.scope['route'].path}")
    return Invalid(
        tuple(
            Fault(str(fault["loc"][-1]), parameter_sentence(fault), "parameter", "parameter")
            for fault in error.errors()
        )
    )


async def _storable(request: Request) -> None:
    """Refuse a NUL character in the URL, which PostgreSQL cannot store or compare."""
    if b"%00" in request.scope["raw_path"] or b"%00" in request.scope["query_string"]:
        faults = [{"loc": ("query", "URL"), "msg": "must not contain a NUL character"}]
        raise RequestValidationError(faults)


def console_router(dependencies: Any = ()) -> APIRouter:
    """Return a router for pages; they are not in the OpenAPI document."""
    return APIRouter(
        route_class=ConsoleRoute,
        include_in_schema=False,
        dependencies=[Depends(_storable), *dependencies],
    )


def status_of(error: GatewayError) -> tuple[int, dict[str, str]]:
    """Return the HTTP status of an error, and the Retry-After header where it has one."""
    answer = problems.answer(error, "", "")
    retry_after = dict(answer.headers).get(b"retry-after")
    return answer.status, {} if retry_after is None else {"Retry-After": retry_after.decode()}


def error_page(request: Request, error: GatewayError) -> Response:
    """Return the page that tells of an error, with its status."""
    console: Console = request.state.console
    context = context_of(request.scope)
    status, headers = status_of(error)
    page = console.pages.render_public(
        "error.html",
        context.prefix,
        status=status,
        problem=problems.of_error(error, context.prefix),
        request_id=context.request_id,
    )
    page.headers.update(headers)
    return page
