"""The upstream: accepts every entry of a call after a delay, and records the request ids.

`GET /stats` returns the number of calls, of distinct and repeated request ids, and the times of the
first and the last new one (on CLOCK_MONOTONIC, which all processes of a machine share).
"""

import asyncio
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.servers.echo import Receive, Send, answer, read_body

DELAY = float(os.environ.get("BENCH_UPSTREAM_DELAY", "0"))
FAIL_EACH = int(os.environ.get("BENCH_UPSTREAM_FAIL_EACH", "0"))  # every nth call fails; 0: none


@dataclass
class ArrivalCounts:
    """The calls and request ids that have arrived."""

    calls: int = 0
    failed: int = 0
    distinct: int = 0
    repeated: int = 0
    first_new: float = 0.0
    last_new: float = 0.0
    ids: set[str] = field(default_factory=set, repr=False)

    def add(self, ids: Iterable[str]) -> None:
        """Count one call with these request ids."""
        arrived = list(ids)
        before = len(self.ids)
        self.ids.update(arrived)
        self.calls += 1
        self.distinct = len(self.ids)
        self.repeated += len(arrived) - (self.distinct - before)
        if self.distinct > before:
            self.last_new = time.monotonic()
            self.first_new = self.first_new or self.last_new

    def stats(self) -> dict[str, Any]:
        """Return the counts, without the ids."""
        return {name: value for name, value in asdict(self).items() if name != "ids"}


def entries_of(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of a `multi` call, or a single call as its only entry."""
    entries = body.get("data", [body])
    decoded: list[Mapping[str, Any]] = entries
    if isinstance(entries, str):
        decoded = json.loads(entries)
    return decoded


def reply_to(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """Return success for each entry, in order, with its request id."""
    response = [{"success": True, "reqId": entry.get("reqId")} for entry in entries]
    return json.dumps({"response": response}).encode()


COUNTS = ArrivalCounts()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Accept a call, or return the counts."""
    if scope["method"] == "GET":
        await answer(send, json.dumps(COUNTS.stats()).encode())
        return
    entries = entries_of(json.loads(await read_body(receive)))
    failing = FAIL_EACH and (COUNTS.calls + COUNTS.failed) % FAIL_EACH == FAIL_EACH - 1
    if failing:
        COUNTS.failed += 1
    else:
        COUNTS.add(entry["reqId"] for entry in entries if "reqId" in entry)
    if DELAY:
        await asyncio.sleep(DELAY)
    if failing:
        await answer(send, b"Service Unavailable", status=503)
        return
    await answer(send, reply_to(entries))
