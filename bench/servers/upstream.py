"""The upstream: says yes to every entry of a call after a set delay, and remembers the request ids
it saw.

`GET /stats` tells how many calls, distinct request ids and repeated ones came, and when the last
new one did (on CLOCK_MONOTONIC, which all processes of a machine share).
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
FAIL_EACH = int(os.environ.get("BENCH_UPSTREAM_FAIL_EACH", "0"))  # every n-th call fails; 0: none


@dataclass
class Seen:
    """What has arrived so far."""

    calls: int = 0
    failed: int = 0
    distinct: int = 0
    repeated: int = 0
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

    def stats(self) -> dict[str, Any]:
        """The counts, without the ids."""
        return {name: value for name, value in asdict(self).items() if name != "ids"}


def entries_of(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of a `multi` call, or a single call as its only entry."""
    entries = body.get("data", [body])
    found: list[Mapping[str, Any]] = json.loads(entries) if isinstance(entries, str) else entries
    return found


def reply_to(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """Success for each entry, in order, with its request id."""
    response = [{"success": True, "reqId": entry.get("reqId")} for entry in entries]
    return json.dumps({"response": response}).encode()


SEEN = Seen()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Take a call, or tell what was taken."""
    if scope["method"] == "GET":
        await answer(send, json.dumps(SEEN.stats()).encode())
        return
    entries = entries_of(json.loads(await read_body(receive)))
    failing = FAIL_EACH and (SEEN.calls + SEEN.failed) % FAIL_EACH == FAIL_EACH - 1
    if failing:
        SEEN.failed += 1
    else:
        SEEN.add(entry["reqId"] for entry in entries if "reqId" in entry)
    if DELAY:
        await asyncio.sleep(DELAY)
    if failing:
        await answer(send, b"Service Unavailable", status=503)
        return
    await answer(send, reply_to(entries))
