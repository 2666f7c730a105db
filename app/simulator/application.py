"""The simulator as an ASGI application: Leanplum's two paths, and the pages under /_simulator."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.simulator.app_state import FILES_PATH
from app.simulator.call import ReceivedRequest
from app.simulator.call_flow import Simulator
from app.simulator.config import SimulatorConfig
from app.simulator.fault_catalog import FAULTS_PATH, fault_catalog
from app.simulator.faults import InvalidFaultPlan, parse_faults
from app.simulator.journal import JournalEntry
from app.simulator.responses import SimulatedResponse

LEANPLUM_HEADERS = {"Access-Control-Allow-Origin": "*", "Cache-Control": "private"}

PageHandler = Callable[[Request], Awaitable[Response]]


def create_app(config: SimulatorConfig) -> Starlette:
    """Create an independent simulator; the application holds all its state."""
    simulator = Simulator(config)
    endpoint = LeanplumEndpoint(simulator)
    leanplum = [Route(path, endpoint, methods=["GET", "POST"]) for path in ("/api", "/api-batch")]
    files = Route(f"{FILES_PATH}/{{name:path}}", file_handler(simulator))
    return Starlette(routes=[*leanplum, files, *InspectionPages(simulator).routes()])


class LeanplumEndpoint:
    """Leanplum's endpoint, as plain ASGI: a planned disconnect needs the connection itself."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        received = ReceivedRequest(
            method=request.method,
            path=request.url.path,
            query=request.url.query,
            headers=dict(request.headers),
            body=await request.body(),
            origin=_origin(request),
        )
        response = await self._simulator.answer(received)
        if response.hang_up and await _disconnect(receive):
            return
        await _to_starlette(response)(scope, receive, send)


def file_handler(simulator: Simulator) -> PageHandler:
    """Return the handler for files: targets of redirects and finished jobs, by name and token."""

    async def download(request: Request) -> Response:
        token = request.query_params.get("token", "")
        file = simulator.world.files.fetch(request.path_params["name"], token)
        if file is None:
            return Response("no such file", 404, media_type="text/plain")
        return Response(file.content, media_type="application/octet-stream")

    return download


class InspectionPages:
    """The pages under /_simulator: calls received, users, files, statistics, and the fault plan."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def routes(self) -> list[Route]:
        """Return the routes of all pages."""
        table: list[tuple[str, str, PageHandler]] = [
            ("GET", "/_simulator/requests", self.requests),
            ("GET", "/_simulator/calls", self.calls),
            ("GET", "/_simulator/users/{id:path}", self.user),
            ("GET", "/_simulator/devices/{id:path}", self.device),
            ("GET", "/_simulator/app", self.app),
            ("GET", "/_simulator/files", self.files),
            ("PUT", "/_simulator/buckets/{bucket}/{name:path}", self.put_object),
            ("GET", "/_simulator/stats", self.stats),
            ("POST", "/_simulator/reset", self.reset),
            ("POST", FAULTS_PATH, self.add_faults),
            ("GET", FAULTS_PATH, self.faults),
            ("DELETE", FAULTS_PATH, self.remove_faults),
        ]
        return [Route(path, handler, methods=[method]) for method, path, handler in table]

    async def requests(self, request: Request) -> Response:
        """Show the latest calls with requests and responses in full."""
        try:
            entries = self._select_entries(request)
        except ValueError as error:
            return _error(str(error), 400)
        return JSONResponse({"requests": [await entry.as_json() for entry in entries]})

    async def calls(self, request: Request) -> Response:
        """Show start, end, users and actions of the latest calls, to check overlaps and order."""
        try:
            entries = self._select_entries(request)
        except ValueError as error:
            return _error(str(error), 400)
        return JSONResponse({"calls": [await entry.trace() for entry in entries]})

    def _select_entries(self, request: Request) -> list[JournalEntry]:
        """Return the calls that the query selects. Raises ValueError for an invalid count."""
        since = request.query_params.get("since", "0")
        limit = request.query_params.get("limit")
        if not since.isdecimal() or not (limit is None or limit.isdecimal()):
            raise ValueError("since and limit must be whole numbers of 0 or more")
        return self._simulator.journal.since(int(since), None if limit is None else int(limit))

    async def user(self, request: Request) -> Response:
        """Show a user."""
        user = self._simulator.world.users.get(request.path_params["id"])
        return JSONResponse(user.as_json()) if user else _error("no such user", 404)

    async def device(self, request: Request) -> Response:
        """Show a device."""
        device = self._simulator.world.devices.get(request.path_params["id"])
        return JSONResponse(device.as_json()) if device else _error("no such device", 404)

    async def app(self, request: Request) -> Response:
        """Show the content and the jobs of the app."""
        world = self._simulator.world
        return JSONResponse({**world.content.as_json(), "jobs": world.jobs.as_json()})

    async def files(self, request: Request) -> Response:
        """List the uploaded files."""
        uploads = self._simulator.world.files.uploads.values()
        return JSONResponse({"files": [file.as_json() for file in uploads]})

    async def put_object(self, request: Request) -> Response:
        """Put an object into a public bucket, for CSV jobs to read."""
        location = (request.path_params["bucket"], request.path_params["name"])
        self._simulator.world.files.objects[location] = await request.body()
        return JSONResponse({"stored": True})

    async def stats(self, request: Request) -> Response:
        """Show the counters."""
        return JSONResponse(self._simulator.stats())

    async def reset(self, request: Request) -> Response:
        """Restore the initial state."""
        self._simulator.reset()
        return JSONResponse({"reset": True})

    async def add_faults(self, request: Request) -> Response:
        """Add faults to the plan, and show it."""
        try:
            faults = parse_faults(json.loads(await request.body()))
        except InvalidFaultPlan as error:
            return _error(str(error), 400)
        except ValueError as error:
            return _error(f"the body is not JSON: {error}", 400)
        self._simulator.faults.add(faults, self._simulator.clock())
        return JSONResponse({"faults": self._active_faults()})

    async def faults(self, request: Request) -> Response:
        """Show the faults that are active, and every mode with a command that plans it."""
        catalog = fault_catalog(_origin(request))
        text = json.dumps({"faults": self._active_faults(), **catalog}, indent=2)
        return Response(text, media_type="application/json")

    async def remove_faults(self, request: Request) -> Response:
        """Remove all faults; responses that a fault delays are sent now."""
        self._simulator.faults.clear()
        return JSONResponse({"faults": self._active_faults()})

    def _active_faults(self) -> list[dict[str, Any]]:
        active = self._simulator.faults.active(self._simulator.clock())
        return [fault.as_json() for fault in active]


def _origin(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}"


def _error(message: str, status: int) -> Response:
    return JSONResponse({"error": {"message": message}}, status)


def _to_starlette(response: SimulatedResponse) -> Response:
    headers = {**LEANPLUM_HEADERS, **response.headers, "Content-Type": response.content_type}
    return Response(response.body, response.status, headers)


async def _disconnect(receive: Receive) -> bool:
    """Close the connection without a response; return False if the server does not allow it.

    ASGI has no message for it. Under uvicorn, `receive` is a method of the object that holds the
    transport.
    """
    transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        return False
    transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
    return True
