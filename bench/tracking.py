"""What the tracking plan and the taxonomy cost a batch: `python -m bench.tracking`.

Bodies of 100 items are judged with and without a plan of 200 events under enforce, in turn, so that what else the
machine does meets both alike; and whole gateways take them. CPU time of the process, medians of the pairs' ratios.
"""

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from app.callers import keys
from app.intake import rules
from app.intake.gate import Gate
from app.intake.plan.making import made
from app.intake.refining import PLAIN
from app.intake.taxonomy import Caps, Names
from app.main import create_app
from app.settings import TAXONOMY, Settings
from app.telemetry import configure_logging

EVENTS, SIZE, BODIES = 200, 100, 50
ROUNDS, STEPS = 40, 5


def plan() -> str:
    """200 events of an ordinary plan, as a file's text (JSON is YAML)."""
    params = {
        "properties": {
            "sku": {"$ref": "#/definitions/sku"},
            "quantity": {"type": "integer", "minimum": 1, "maximum": 100},
            "gift": {"type": "boolean"},
            "channel": {"enum": ["web", "app", "shop"]},
        },
        "required": ["sku", "quantity"],
        "additionalProperties": False,
    }
    event = {
        "owner": "bench",
        "value": {"type": "number", "minimum": 0},
        "currencyCode": {"enum": ["EUR", "USD", "GBP"]},
        "required": ["value", "currencyCode"],
        "params": params,
    }
    return json.dumps(
        {
            "version": "1",
            "mode": "enforce",
            "unknown": {"events": "enforce", "states": "enforce", "attributes": "enforce"},
            "definitions": {"sku": {"type": "string", "pattern": "^[A-Z]-[0-9]{1,4}$"}},
            "events": {f"Event {number}": event for number in range(EVENTS)},
        }
    )


def bodies() -> list[bytes]:
    """Batches of items that the plan likes."""
    rng = random.Random(20_240_229)
    return [orjson.dumps({"items": [_item(rng) for _ in range(SIZE)]}) for _ in range(BODIES)]


def _item(rng: random.Random) -> dict[str, Any]:
    return {
        "action": "track",
        "userId": f"user-{rng.randrange(10_000)}",
        "event": f"Event {rng.randrange(EVENTS)}",
        "value": round(rng.uniform(1, 100), 2),
        "currencyCode": "EUR",
        "params": {"sku": f"A-{rng.randrange(50)}", "quantity": rng.randrange(1, 9), "gift": False, "channel": "web"},
    }


def timed(step: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads."""
    began = time.process_time()
    step()
    return time.process_time() - began


def compared(without: Callable[[], object], with_it: Callable[[], object]) -> tuple[float, float, float]:
    """CPU seconds of a step without and with it, and the median ratio of the pairs; which goes first alternates."""
    pairs = []
    for number in range(ROUNDS):
        if number % 2:
            second, first = timed(with_it), timed(without)
        else:
            first, second = timed(without), timed(with_it)
        pairs.append((first, second))
    ratio = statistics.median(second / first for first, second in pairs)
    return statistics.median(first for first, _ in pairs), statistics.median(second for _, second in pairs), ratio


def judging(sent: list[bytes]) -> tuple[float, float, float]:
    """Reading and judging alone."""
    plans, names, caps = made({"plan": plan()}).plans, Names(), Caps(TAXONOMY, 0.9)  # type: ignore[arg-type]
    assert plans is not None
    of = plans.of("default")

    def with_it() -> None:
        for body in sent:
            gate = Gate(PLAIN, of, names, caps, "enforce")
            found = rules.fast_batch(body, gate)
            assert found is not None
            names.settle([name for of_item in gate.claim(found) for name in of_item], ())

    with_it()
    return compared(lambda: [rules.fast_batch(body, PLAIN) for body in sent], with_it)


async def accepting(sent: list[bytes]) -> tuple[float, float, float]:
    """Whole gateways, each on a database of its own, from the request to the answer; nothing is delivered."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plan.yaml").write_text(plan())
        apps = [create_app(_settings(folder, name), delivery=False) for name in ("without", "with")]
        async with apps[0].router.lifespan_context(apps[0]), apps[1].router.lifespan_context(apps[1]):
            without, with_it = (_posting(app, sent) for app in apps)
            await without()
            await with_it()
            return await _compared(without, with_it)


KEY = keys.make()


def _settings(folder: str, name: str) -> Settings:
    return Settings(
        _env_file=None,
        leanplum_app_id="app",
        leanplum_production_key="key",
        gateway_database_url=f"sqlite:///{folder}/{name}.db",
        gateway_bootstrap_key=KEY,
        gateway_rate_per_second=10**6,
        gateway_rate_burst=10**9,
        gateway_tracking_plan=Path(folder) / "plan.yaml" if name == "with" else None,
    )


def _posting(app: Any, sent: list[bytes]) -> Callable[[], Awaitable[float]]:
    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/batch", "raw_path": b"/v1/batch", "query_string": b"", "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("gateway", 80),
    }  # fmt: skip

    async def post(body: bytes) -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            assert message.get("status", 202) == 202, message

        await app({**scope}, receive, send)

    async def step() -> float:
        began = time.process_time()
        for start in range(0, len(sent), STEPS):
            await asyncio.gather(*(post(body) for body in sent[start : start + STEPS]))
        return time.process_time() - began

    return step


async def _compared(
    without: Callable[[], Awaitable[float]], with_it: Callable[[], Awaitable[float]]
) -> tuple[float, float, float]:
    pairs = []
    for number in range(ROUNDS):
        if number % 2:
            second, first = await with_it(), await without()
        else:
            first, second = await without(), await with_it()
        pairs.append((first, second))
    ratio = statistics.median(second / first for first, second in pairs)
    return statistics.median(first for first, _ in pairs), statistics.median(second for _, second in pairs), ratio


def main() -> None:
    """Print both."""
    configure_logging("error", "json")
    sent = bodies()
    items = SIZE * BODIES
    for name, (first, second, ratio) in (("judging", judging(sent)), ("accepting", asyncio.run(accepting(sent)))):
        micro = f"{first / items * 1e6:.2f} µs an item without, {second / items * 1e6:.2f} with"
        print(f"{name:<10} {micro}; CPU x {ratio:.3f}, throughput {1 / ratio - 1:+.1%}")


if __name__ == "__main__":
    main()
