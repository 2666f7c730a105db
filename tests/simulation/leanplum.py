"""A Leanplum that records every call: when it began and ended, what it did, who heard the
answer.
"""

import asyncio
import random
from collections.abc import Callable
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from .clockwork import RUNNING, weighted

# When a caller asked for a call
ASKED: ContextVar[float | None] = ContextVar("ASKED", default=None)
GOOD = {"done": 1.0}


@dataclass(frozen=True)
class Entry:
    """One action of a call."""

    action: str
    user: str
    marker: str
    request_id: str | None


@dataclass
class Call:
    """One call that arrived."""

    process: str
    asked: float | None  # when its caller asked, where it was relayed; None for deliveries
    began: float
    entries: list[Entry]
    fate: str
    ended: float = 0.0
    applied: float | None = None
    refused: list[str] = field(default_factory=list)  # markers
    abandoned: float | None = None  # when its sender went away or stopped waiting
    heard: bool = False  # whether the answer reached its sender

    @property
    def users(self) -> set[str]:
        """Whom it is about."""
        return {entry.user for entry in self.entries}

    def __str__(self) -> str:
        told = ",".join(f"{one.user}:{one.marker}" for one in self.entries)
        return f"{'relayed' if self.asked is not None else 'delivery'} {self.process} [{told}]"


class Leanplum:
    """The world's one Leanplum."""

    def __init__(self, chance: random.Random, trace: Callable[[str], None]) -> None:
        self._chance, self._trace = chance, trace
        self.fates: dict[str, float] = dict(GOOD)  # what becomes of calls, by weight
        self.refusing = set[str]()  # markers of items that are refused for good
        self.calls: list[Call] = []
        self.unreached = list[Call]()  # calls whose connection was never made
        self.exists = dict[str, bool]()

    def transport(self) -> httpx.AsyncBaseTransport:
        """A way here for one client."""
        return _Line(self)

    async def take(self, request: httpx.Request) -> httpx.Response:
        """Answer one request, or raise what a client meets."""
        body = orjson.loads(await request.aread())
        fate = weighted(self._chance, self.fates)
        now = asyncio.get_running_loop().time()
        runner = RUNNING.get()
        name = runner.name if runner is not None else "nobody"
        call = Call(name, ASKED.get(), now, _entries(body), fate)
        if fate in {"unreachable", "unconnected"}:
            self.unreached.append(call)
            self._trace(f"{call} can't connect")
            return await _never_connected(fate, request)
        self.calls.append(call)
        self._trace(f"{call} begins ({fate})")
        serving = asyncio.create_task(self._serve(call), context=Context())
        try:
            answer = await asyncio.shield(serving)
        except asyncio.CancelledError:
            call.abandoned = asyncio.get_running_loop().time()
            self._trace(f"{call} is abandoned")
            raise
        if isinstance(answer, Exception):
            raise answer
        call.heard = True
        return answer

    async def _serve(self, call: Call) -> httpx.Response | Exception:
        seconds = self._seconds(call.fate)
        before = seconds * self._chance.random()
        await asyncio.sleep(before)
        answer = self._answer(call)
        await asyncio.sleep(seconds - before)
        call.ended = asyncio.get_running_loop().time()
        self._trace(f"{call} ends")
        return answer

    def _seconds(self, fate: str) -> float:
        if fate == "slow":
            return self._chance.uniform(0.5, 4.5)
        if fate == "late":
            return self._chance.uniform(6.5, 9.0)
        return self._chance.uniform(0.01, 0.25)

    def _answer(self, call: Call) -> httpx.Response | Exception:
        match call.fate:
            case "away":
                return httpx.Response(503)
            case "throttled":
                return httpx.Response(429)
            case "key":
                error = {"success": False, "error": {"message": "Invalid access key"}}
                return httpx.Response(403, json={"response": [error]})
            case "limited":
                error = {"success": False, "error": {"message": "Rate limit exceeded"}}
                return httpx.Response(200, json={"response": [error]})
            case "unread":
                return httpx.ReadError("reset")
        said = [self._apply(call, entry) for entry in call.entries]
        call.applied = asyncio.get_running_loop().time()
        if call.fate == "lost":
            return httpx.ReadError("reset")
        return httpx.Response(200, json={"response": said})

    def _apply(self, call: Call, entry: Entry) -> dict[str, Any]:
        said: dict[str, Any] = {"success": True}
        if entry.request_id is not None:
            said["reqId"] = entry.request_id
        if entry.marker in self.refusing:
            call.refused.append(entry.marker)
            said.update(success=False, error={"message": "Bad."})
        elif entry.action == "deleteUser":
            self.exists[entry.user] = False
        elif entry.action != "getVars":
            self.exists[entry.user] = True
        return said


class _Line(httpx.AsyncBaseTransport):
    def __init__(self, leanplum: Leanplum) -> None:
        self._leanplum = leanplum

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._leanplum.take(request)


async def _never_connected(fate: str, request: httpx.Request) -> httpx.Response:
    if fate == "unreachable":
        await asyncio.sleep(0.01)
        raise httpx.ConnectError("refused")
    await asyncio.sleep(request.extensions["timeout"]["connect"])
    raise httpx.ConnectTimeout("nobody answers")


def _entries(body: dict[str, Any]) -> list[Entry]:
    return [
        Entry(one["action"], one.get("userId") or one["deviceId"], one["marker"], one.get("reqId"))
        for one in body.get("data", [body])
    ]
