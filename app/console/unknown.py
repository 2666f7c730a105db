"""The page for addresses of the console that do not exist."""

from fastapi import Request, Response

from app.console.routes import ConsoleDependency, console_router
from app.errors import NotFound

router = console_router()


@router.get("/console/{path:path}")
async def unknown_page(request: Request, console: ConsoleDependency) -> Response:
    """Answer 404 to somebody who is signed in."""
    await console.access.enter(request, "GET /console/{path}")
    raise NotFound("The console has no page at this address.")
