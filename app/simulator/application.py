"""The simulator as an ASGI application: Leanplum's two paths, and the pages under /_simulator."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.simulator.call_flow import Simulator
from app.simulator.config import SimulatorConfig
from app.simulator.inspection import Inspection
from app.simulator.journal import Arrival
from app.simulator.responses import Answer
from app.simulator.shelf import FILES_PATH

LEANPLUM_HEADERS = {"Access-Control-Allow-Origin": "*", "Cache-Control": "private"}


def create_app(config: SimulatorConfig) -> Starlette:
    """A simulator of its own; all its state lives in this application."""
    simulator = Simulator(config)
    endpoint = LeanplumEndpoint(simulator)
    leanplum = [Route(path, endpoint, methods=["GET", "POST"]) for path in ("/api", "/api-batch")]
    files = Route(f"{FILES_PATH}/{{name:path}}", file_server(simulator))
    return Starlette(routes=[*leanplum, files, *Inspection(simulator).routes()])


class LeanplumEndpoint:
    """Leanplum's one endpoint, as bare ASGI: a planned disconnect needs the connection itself."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        url, headers = request.url, dict(request.headers)
        origin = f"{url.scheme}://{url.netloc}"
        arrival = Arrival(
            request.method, url.path, url.query, headers, await request.body(), origin
        )
        answer = await self._simulator.answer(arrival)
        if answer.hang_up and await _hang_up(receive):
            return
        await _response(answer)(scope, receive, send)


def file_server(simulator: Simulator) -> Callable[[Request], Awaitable[Response]]:
    """Where redirects and finished jobs point to; without the file's own token there is nothing."""

    async def serve(request: Request) -> Response:
        file = simulator.world.shelf.fetch(
            request.path_params["name"], request.query_params.get("token", "")
        )
        if file is None:
            return Response("no such file", 404, media_type="text/plain")
        return Response(file.content, media_type="application/octet-stream")

    return serve


def _response(answer: Answer) -> Response:
    headers = {**LEANPLUM_HEADERS, **answer.headers, "Content-Type": answer.content_type}
    return Response(answer.body, answer.status, headers)


async def _hang_up(receive: Receive) -> bool:
    """Close the connection without an answer; False where the server doesn't let us.

    ASGI has no such message. Under uvicorn `receive` is a method of the object that holds the
    transport.
    """
    transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        return False
    transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
    return True
