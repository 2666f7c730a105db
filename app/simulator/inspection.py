"""The simulator's own pages under /_simulator: what it received, whom it knows, and its fault
plan.
"""

import json
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.simulator.call_flow import Simulator
from app.simulator.fault_plan import BadPlan, read_plan
from app.simulator.journal import Record

Endpoint = Callable[[Request], Awaitable[Response]]


class Inspection:
    """Looks into one simulator, and sets its faults."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Endpoint]] = [
            ("GET", "/_simulator/requests", self.requests),
            ("GET", "/_simulator/calls", self.calls),
            ("GET", "/_simulator/users/{id:path}", self.user),
            ("GET", "/_simulator/devices/{id:path}", self.device),
            ("GET", "/_simulator/app", self.app),
            ("GET", "/_simulator/files", self.files),
            ("PUT", "/_simulator/buckets/{bucket}/{name:path}", self.put_object),
            ("GET", "/_simulator/stats", self.stats),
            ("POST", "/_simulator/reset", self.reset),
            ("POST", "/_simulator/faults", self.add_faults),
            ("GET", "/_simulator/faults", self.faults),
            ("DELETE", "/_simulator/faults", self.remove_faults),
        ]
        return [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]

    async def requests(self, request: Request) -> Response:
        try:
            records = self._records(request)
        except ValueError as error:
            return _error(str(error), 400)
        return JSONResponse({"requests": [await record.shown() for record in records]})

    async def calls(self, request: Request) -> Response:
        """Answer with when each call began and ended, and for which users: what tells overlaps and
        order.
        """
        try:
            records = self._records(request)
        except ValueError as error:
            return _error(str(error), 400)
        return JSONResponse({"calls": [await record.traced() for record in records]})

    def _records(self, request: Request) -> list[Record]:
        """Return the calls that the query chooses. Raises ValueError for what is no count."""
        asked = {name: request.query_params.get(name) for name in ("since", "limit")}
        if not all(value is None or value.isdecimal() for value in asked.values()):
            raise ValueError("since and limit are whole numbers of 0 or more")
        since, limit = (None if value is None else int(value) for value in asked.values())
        return self._simulator.journal.since(since or 0, limit)

    async def user(self, request: Request) -> Response:
        user = self._simulator.world.users.get(request.path_params["id"])
        return JSONResponse(user.shown()) if user else _error("no such user", 404)

    async def device(self, request: Request) -> Response:
        device = self._simulator.world.devices.get(request.path_params["id"])
        return JSONResponse(device.shown()) if device else _error("no such device", 404)

    async def app(self, request: Request) -> Response:
        world = self._simulator.world
        return JSONResponse({**world.content.shown(), "jobs": world.jobs.shown()})

    async def files(self, request: Request) -> Response:
        uploads = self._simulator.world.shelf.uploads.values()
        return JSONResponse({"files": [file.shown() for file in uploads]})

    async def put_object(self, request: Request) -> Response:
        """Put an object into a public bucket, for imports to find."""
        place = (request.path_params["bucket"], request.path_params["name"])
        self._simulator.world.shelf.objects[place] = await request.body()
        return JSONResponse({"stored": True})

    async def stats(self, request: Request) -> Response:
        return JSONResponse(self._simulator.stats())

    async def reset(self, request: Request) -> Response:
        self._simulator.reset()
        return JSONResponse({"reset": True})

    async def add_faults(self, request: Request) -> Response:
        try:
            faults = read_plan(json.loads(await request.body()))
        except BadPlan as bad:
            return _error(str(bad), 400)
        except ValueError as error:
            return _error(f"the body is not JSON: {error}", 400)
        self._simulator.faults.add(faults, self._simulator.clock())
        return await self.faults(request)

    async def faults(self, request: Request) -> Response:
        plan = self._simulator.faults.in_force(self._simulator.clock())
        return JSONResponse({"faults": [fault.shown() for fault in plan]})

    async def remove_faults(self, request: Request) -> Response:
        self._simulator.faults.clear()
        return JSONResponse({"faults": []})


def _error(message: str, status: int) -> Response:
    return JSONResponse({"error": {"message": message}}, status)
