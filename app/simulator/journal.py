"""The journal: the latest calls with their responses, as bytes that are decoded when shown."""

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from app.simulator.app_state import Upload
from app.simulator.call import DecodedRequest, ReceivedRequest, UndecodableRequest
from app.simulator.responses import SimulatedResponse


@dataclass
class JournalEntry:
    """A call and its response: `finished_at` is None in flight, `status` without a response."""

    index: int
    received_at: float
    request: ReceivedRequest
    finished_at: float | None = None
    status: int | None = None
    response: bytes | None = None
    users: frozenset[str] = frozenset()
    """The users that the call locks, as known when it arrived."""

    def finish(self, response: SimulatedResponse, now: float) -> None:
        """Record the response; a closed connection has none."""
        self.finished_at = now
        if not response.hang_up:
            self.status, self.response = response.status, response.body

    async def trace(self) -> dict[str, Any]:
        """Return the start, end, users, actions and answers, as /_simulator/calls shows them."""
        try:
            args = (await self.request.decode()).args
        except UndecodableRequest:
            args = {}
        response = _decode_response(self.response)
        return {
            "index": self.index,
            "receivedAt": self.received_at,
            "finishedAt": self.finished_at,
            "users": sorted(self.users),
            "actions": _actions(args),
            "status": self.status,
            "answers": response.get("response", []) if isinstance(response, dict) else [],
        }

    async def as_json(self) -> dict[str, Any]:
        """Return the entry as /_simulator/requests shows it; `args` is null if undecodable."""
        try:
            decoded = await self.request.decode()
            args: dict[str, Any] | None = decoded.args
        except UndecodableRequest:
            decoded, args = DecodedRequest({}), None
        return {
            "index": self.index,
            "receivedAt": self.received_at,
            "finishedAt": self.finished_at,
            "method": self.request.method,
            "path": self.request.path,
            "query": self.request.query,
            "headers": self.request.headers,
            "body": self.request.body.decode(errors="replace"),
            "args": args,
            "files": {part: _file_summary(upload) for part, upload in decoded.files.items()},
            "status": self.status,
            "response": _decode_response(self.response),
        }


class Journal:
    """The latest calls in order of arrival; indexes begin at 1 and are never reused."""

    def __init__(self, keep: int) -> None:
        self.calls = 0
        self._entries: deque[JournalEntry] = deque(maxlen=keep)

    def open(self, request: ReceivedRequest, now: float) -> JournalEntry:
        """Add an entry for a call that arrived."""
        self.calls += 1
        entry = JournalEntry(self.calls, now, request)
        self._entries.append(entry)
        return entry

    def since(self, index: int, limit: int | None) -> list[JournalEntry]:
        """Return the calls after this index, oldest first, at most `limit`."""
        return [entry for entry in self._entries if entry.index > index][:limit]


def _actions(args: dict[str, Any]) -> list[Any]:
    """Return the entries of a multi, or the action of any other call, without keys."""
    data = args.get("data")
    if args.get("action") == "multi" and isinstance(data, list):
        return data
    return [{name: value for name, value in args.items() if name != "clientKey"}]


def _file_summary(upload: Upload) -> dict[str, Any]:
    return {"filename": upload.filename, "bytes": len(upload.content)}


def _decode_response(response: bytes | None) -> Any:
    """Return the response as JSON if it is JSON, else as text."""
    if response is None:
        return None
    try:
        return json.loads(response)
    except ValueError:
        return response.decode(errors="replace")
