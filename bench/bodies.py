"""Request bodies: events, batches, batches with the caller's own ids; reproducible by seed."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

ID_MARK = "@ID@"
SEED = 20_240_229


@dataclass(frozen=True)
class Traffic:
    """A kind of request: its path, its number of items, and their content."""

    path: str
    size: int = 1
    ids: bool = False
    relayed: bool = False
    """Sent in the SDK protocol, and relayed while the caller waits."""


EVENT = Traffic("/v1/events")
BATCH = Traffic("/v1/batch", size=100)
BATCH_WITH_IDS = Traffic("/v1/batch", size=100, ids=True)
BIG_BATCH = Traffic("/v1/batch", size=1_000)


def event(rng: random.Random, users: int) -> dict[str, object]:
    """Return a purchase of a random user."""
    return {
        "userId": f"user-{rng.randrange(users)}",
        "event": "Purchase",
        "value": round(rng.uniform(1, 100), 2),
        "currencyCode": "EUR",
        "params": {"sku": f"A-{rng.randrange(50)}", "quantity": rng.randrange(1, 9), "gift": False},
    }


def item(rng: random.Random, users: int, *, ids: bool) -> dict[str, object]:
    """Return an entry of a batch; with `ids`, its id is a mark that `fill` replaces."""
    return {"action": "track"} | ({"id": ID_MARK} if ids else {}) | event(rng, users)


def body(traffic: Traffic, rng: random.Random, users: int) -> str:
    """Return one request body."""
    if traffic.relayed:
        action = {"action": "getVars", "userId": f"user-{rng.randrange(users)}"}
        return json.dumps({"data": [action]})
    if traffic.size == 1:
        return json.dumps(event(rng, users), separators=(",", ":"))
    items = [item(rng, users, ids=traffic.ids) for _ in range(traffic.size)]
    return json.dumps({"items": items}, separators=(",", ":"))


def make_bodies(traffic: Traffic, count: int, users: int, seed: int = SEED) -> list[str]:
    """Return `count` bodies, the same ones each time."""
    rng = random.Random(seed)
    return [body(traffic, rng, users) for _ in range(count)]


def fill(template: bytes, prefix: str, numbers: Iterator[int]) -> bytes:
    """Replace every id mark in a body by a unique id."""
    return re.sub(ID_MARK.encode(), lambda _: f"{prefix}-{next(numbers)}".encode(), template)
