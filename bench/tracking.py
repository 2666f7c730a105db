"""What enrichment, the tracking plan and the taxonomy cost a batch: `python -m bench.tracking`.

Bodies of 100 items are judged with nothing beside the rules, with names counted, with a plan of 200
events under enforce too, and with enrichment's default steps too; and whole gateways take them. One
after the other in rounds, so that what else the machine does meets all alike. CPU time of the
process, the medians of the rounds' ratios.
"""

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson

from app.callers import key_format
from app.clock import now_ms
from app.enrichment.config import STEPS
from app.enrichment.service import EnrichmentService
from app.ingest import validate
from app.ingest.validate import NO_STEPS, ItemSteps
from app.server.application import create_app
from app.settings import Settings
from app.settings.validators import TAXONOMY
from app.telemetry import configure_logging
from app.tracking.checker import PlanChecker
from app.tracking.names import NAME_KINDS, AppNames, NameLimits
from app.tracking.plan.load import load_plans

EVENTS, SIZE, BODIES = 200, 100, 50
ROUNDS, AT_ONCE = 40, 5


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
        "params": {
            "sku": f"A-{rng.randrange(50)}",
            "quantity": rng.randrange(1, 9),
            "gift": False,
            "channel": "web",
        },
    }


Step = Callable[[], Awaitable[object]]
NOTHING, NAMES, PLAN, ALL = "rules alone", "+ names", "+ plan", "+ enrichment"
OFF = "[steps]\n" + "".join(f"{step} = false\n" for step in STEPS)


async def compared(steps: dict[str, Step], first: str) -> dict[str, tuple[float, float]]:
    """CPU microseconds of an item, and the median ratio to the step `first`, by step."""
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS):
        names = [*steps] if number % 2 else [*reversed(steps)]
        for name in names:
            began = time.process_time()  # of all threads
            await steps[name]()
            rounds[name].append((time.process_time() - began) / (SIZE * BODIES) * 1e6)
    return {
        name: (
            statistics.median(found),
            statistics.median(one / base for one, base in zip(found, rounds[first], strict=True)),
        )
        for name, found in rounds.items()
    }


def judging(sent: list[bytes]) -> dict[str, Step]:
    """Reading and judging alone."""
    plans, names, caps = (
        load_plans({"plan": plan()}).plans,
        AppNames(),
        NameLimits({kind: TAXONOMY[kind] for kind in NAME_KINDS}, 0.9),
    )
    enrichment = EnrichmentService(None, None, b"0" * 32)
    assert plans is not None
    of = plans.of("default")

    def step(refiner: Callable[[], ItemSteps]) -> Step:
        async def judge() -> None:
            for body in sent:
                made_ = refiner()
                found = validate.fast_batch(body, made_)
                assert found is not None
                if isinstance(made_, PlanChecker) and made_.has_new_names:
                    new = {name for of_item in made_.new_names(found) for name in of_item}
                    made_.claim(new)
                    names.release(new, ())

        return judge

    return {
        NOTHING: step(lambda: NO_STEPS),
        NAMES: step(lambda: PlanChecker(NO_STEPS, None, names, caps, "enforce")),
        PLAN: step(lambda: PlanChecker(NO_STEPS, of, names, caps, "enforce")),
        ALL: step(
            lambda: PlanChecker(
                enrichment.enricher("default", "key", now_ms()), of, names, caps, "enforce"
            )
        ),
    }


async def measured(sent: list[bytes]) -> None:
    """Print both; gateways have a database of their own each, and deliver nothing."""
    told("judging", await compared(judging(sent), NOTHING))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plan.yaml").write_text(plan())
        (Path(folder) / "off.toml").write_text(OFF)
        apps = {
            name: create_app(_settings(folder, name), delivery=False) for name in (NAMES, PLAN, ALL)
        }
        async with AsyncExitStack() as stack:
            for app in apps.values():
                await stack.enter_async_context(app.router.lifespan_context(app))
            steps = {name: _posting(app, sent) for name, app in apps.items()}
            for step in steps.values():
                await step()
            told("accepting", await compared(steps, NAMES))


def told(what: str, found: dict[str, tuple[float, float]]) -> None:
    """Print the figures."""
    for name, (micro, ratio) in found.items():
        print(
            f"{what:<10} {name:<14} {micro:6.2f} µs an item; CPU x {ratio:.3f}, throughput {1 / ratio - 1:+.1%}"
        )


KEY = key_format.make()


def _settings(folder: str, name: str) -> Settings:
    return Settings(
        _env_file=None,
        leanplum_app_id="app",
        leanplum_production_key="key",
        gateway_database_url=f"sqlite:///{folder}/{name.strip('+ ')}.db",
        gateway_bootstrap_key=KEY,
        gateway_rate_per_second=10**6,
        gateway_rate_burst=10**9,
        gateway_tracking_plan=None if name == NAMES else Path(folder) / "plan.yaml",
        gateway_enrichment_file=None if name == ALL else Path(folder) / "off.toml",
    )


def _posting(app: Any, sent: list[bytes]) -> Step:
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

    async def step() -> None:
        for start in range(0, len(sent), AT_ONCE):
            await asyncio.gather(*(post(body) for body in sent[start : start + AT_ONCE]))

    return step


def main() -> None:
    """Measure and print."""
    configure_logging("error", "json")
    asyncio.run(measured(bodies()))


if __name__ == "__main__":
    main()
