"""What was received and answered, the latest calls only; kept as bytes, decoded when somebody looks."""

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from app.simulator.answers import Answer
from app.simulator.encoding import Unreadable, read_args


@dataclass(frozen=True)
class Arrival:
    """One HTTP request as it came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    async def args(self) -> dict[str, Any]:
        return await read_args(self.headers.get("content-type", ""), self.query, self.body)


@dataclass
class Record:
    """One call; without `finished_at` while it is in flight, without `status` when it got no answer."""

    index: int
    received_at: float
    arrival: Arrival
    finished_at: float | None = None
    status: int | None = None
    response: bytes | None = None

    async def shown(self) -> dict[str, Any]:
        """What /_simulator/requests shows of it; `args` is null when the request made no sense."""
        try:
            args: dict[str, Any] | None = await self.arrival.args()
        except Unreadable:
            args = None
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
            "status": self.status,
            "response": _readable(self.response),
        }


class Journal:
    """The latest calls in the order of their arrival; indexes begin at 1 and are never used twice."""

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


def _readable(response: bytes | None) -> Any:
    """The answer as JSON where it is JSON, else as text."""
    if response is None:
        return None
    try:
        return json.loads(response)
    except ValueError:
        return response.decode(errors="replace")
