"""What is posted: events, batches, batches whose items carry the caller's own ids. Same seed, same
bodies.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

ID_MARK = "@ID@"
SEED = 20_240_229


@dataclass(frozen=True)
class Traffic:
    """One kind of request: where it goes, how many items it holds, what is in it."""

    path: str
    size: int = 1
    ids: bool = False
    relayed: bool = False  # by the SDK door, asked while the caller waits


EVENT = Traffic("/v1/events")
BATCH = Traffic("/v1/batch", size=100)
BATCH_WITH_IDS = Traffic("/v1/batch", size=100, ids=True)
BIG_BATCH = Traffic("/v1/batch", size=1_000)


def event(rng: random.Random, users: int) -> dict[str, object]:
    """One purchase of a user drawn uniformly."""
    return {
        "userId": f"user-{rng.randrange(users)}",
        "event": "Purchase",
        "value": round(rng.uniform(1, 100), 2),
        "currencyCode": "EUR",
        "params": {"sku": f"A-{rng.randrange(50)}", "quantity": rng.randrange(1, 9), "gift": False},
    }


def item(rng: random.Random, users: int, *, ids: bool) -> dict[str, object]:
    """One entry of a batch; its id, when it has one, is a mark that `fill` replaces."""
    return {"action": "track"} | ({"id": ID_MARK} if ids else {}) | event(rng, users)


def body(traffic: Traffic, rng: random.Random, users: int) -> str:
    """One request body."""
    if traffic.relayed:
        return json.dumps(
            {"data": [{"action": "getVars", "userId": f"user-{rng.randrange(users)}"}]}
        )
    if traffic.size == 1:
        return json.dumps(event(rng, users), separators=(",", ":"))
    items = [item(rng, users, ids=traffic.ids) for _ in range(traffic.size)]
    return json.dumps({"items": items}, separators=(",", ":"))


def make_bodies(traffic: Traffic, count: int, users: int, seed: int = SEED) -> list[str]:
    """`count` bodies, each time the same ones."""
    rng = random.Random(seed)
    return [body(traffic, rng, users) for _ in range(count)]


def fill(template: bytes, prefix: str, numbers: Iterator[int]) -> bytes:
    """The body with every id mark replaced by an id of its own."""
    return re.sub(ID_MARK.encode(), lambda _: f"{prefix}-{next(numbers)}".encode(), template)
