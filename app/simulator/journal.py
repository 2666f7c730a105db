"""What was received and answered, the latest calls only; kept as bytes, decoded when somebody
looks.
"""

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from app.simulator.encoding import Received, Unreadable, read_request
from app.simulator.responses import Answer
from app.simulator.shelf import Upload


@dataclass(frozen=True)
class Arrival:
    """One HTTP request as it came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    origin: str
    """The simulator's own address, as the sender knows it."""

    async def read(self) -> Received:
        return await read_request(self.headers.get("content-type", ""), self.query, self.body)


@dataclass
class Record:
    """One call; without `finished_at` while it is in flight, without `status` when it got no
    answer.
    """

    index: int
    received_at: float
    arrival: Arrival
    finished_at: float | None = None
    status: int | None = None
    response: bytes | None = None
    users: frozenset[str] = frozenset()
    """The users that the call locks, as they were known when it arrived."""

    async def traced(self) -> dict[str, Any]:
        """Return what /_simulator/calls shows: begin, end and users of the call, its actions and
        their answers.
        """
        try:
            args = (await self.arrival.read()).args
        except Unreadable:
            args = {}
        response = _readable(self.response)
        return {
            "index": self.index,
            "receivedAt": self.received_at,
            "finishedAt": self.finished_at,
            "users": sorted(self.users),
            "actions": _actions(args),
            "status": self.status,
            "answers": response.get("response", []) if isinstance(response, dict) else [],
        }

    async def shown(self) -> dict[str, Any]:
        """What /_simulator/requests shows of it; `args` is null when the request made no sense.
        Files by part.
        """
        try:
            received = await self.arrival.read()
            args: dict[str, Any] | None = received.args
        except Unreadable:
            received, args = Received({}), None
        return {
            "index": self.index,
            "receivedAt": self.received_at,
            "finishedAt": self.finished_at,
            "method": self.arrival.method,
            "path": self.arrival.path,
            "query": self.arrival.query,
            "headers": self.arrival.headers,
            "body": self.arrival.body.decode(errors="replace"),
            "args": args,
            "files": {part: _sized(upload) for part, upload in received.files.items()},
            "status": self.status,
            "response": _readable(self.response),
        }


class Journal:
    """The latest calls in the order of their arrival; indexes begin at 1 and are never used
    twice.
    """

    def __init__(self, keep: int) -> None:
        self.calls = 0
        self._records: deque[Record] = deque(maxlen=keep)

    def open(self, arrival: Arrival, now: float) -> Record:
        self.calls += 1
        record = Record(self.calls, now, arrival)
        self._records.append(record)
        return record

    def since(self, index: int, limit: int | None) -> list[Record]:
        """The calls after this index, oldest first, at most `limit`."""
        return [record for record in self._records if record.index > index][:limit]


def close(record: Record, answer: Answer, now: float) -> None:
    record.finished_at = now
    if not answer.hang_up:
        record.status, record.response = answer.status, answer.body


def _actions(args: dict[str, Any]) -> list[Any]:
    """The entries of a multi, or the one action of another call, without keys."""
    data = args.get("data")
    if args.get("action") == "multi" and isinstance(data, list):
        return data
    return [{name: value for name, value in args.items() if name != "clientKey"}]


def _sized(upload: Upload) -> dict[str, Any]:
    return {"filename": upload.filename, "bytes": len(upload.content)}


def _readable(response: bytes | None) -> Any:
    """The answer as JSON where it is JSON, else as text."""
    if response is None:
        return None
    try:
        return json.loads(response)
    except ValueError:
        return response.decode(errors="replace")
