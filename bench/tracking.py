"""The cost of enrichment, tracking plan and taxonomy for a batch: `python -m bench.tracking`.

Bodies of 100 items are validated by the rules alone, then with names counted, then also with a plan
of 200 events under enforce, then also with enrichment's default steps; and whole gateways accept
them. The variants alternate in rounds, so that other load on the machine affects all alike. Figures
are CPU time of the process, as medians of the ratios within a round.
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


def plan_text() -> str:
    """Return the text of an ordinary plan file with 200 events (JSON is YAML)."""
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
    """Return batches of items that the plan accepts."""
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


async def compare(steps: dict[str, Step], first: str) -> dict[str, tuple[float, float]]:
    """Return the CPU microseconds per item and the median ratio to the step `first`, by step."""
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS):
        names = [*steps] if number % 2 else [*reversed(steps)]
        for name in names:
            began = time.process_time()
            await steps[name]()
            rounds[name].append((time.process_time() - began) / (SIZE * BODIES) * 1e6)
    figures: dict[str, tuple[float, float]] = {}
    for name, times in rounds.items():
        ratios = [time_ / base for time_, base in zip(times, rounds[first], strict=True)]
        figures[name] = statistics.median(times), statistics.median(ratios)
    return figures


def validation_steps(sent: list[bytes]) -> dict[str, Step]:
    """Return the steps that validate bodies, without the rest of the gateway."""
    plans, names, caps = (
        load_plans({"plan": plan_text()}).plans,
        AppNames(),
        NameLimits({kind: TAXONOMY[kind] for kind in NAME_KINDS}, 0.9),
    )
    enrichment = EnrichmentService(None, None, b"0" * 32)
    assert plans is not None
    app_plan = plans.of("default")

    def step(make_steps: Callable[[], ItemSteps]) -> Step:
        async def validate_all() -> None:
            for body in sent:
                steps = make_steps()
                batch = validate.fast_batch(body, steps)
                assert batch is not None
                if isinstance(steps, PlanChecker) and steps.has_new_names:
                    item_names = steps.new_names(batch)
                    new_names = {name for names_of_item in item_names for name in names_of_item}
                    steps.claim(new_names)
                    names.release(new_names, ())

        return validate_all

    return {
        NOTHING: step(lambda: NO_STEPS),
        NAMES: step(lambda: PlanChecker(NO_STEPS, None, names, caps, "enforce")),
        PLAN: step(lambda: PlanChecker(NO_STEPS, app_plan, names, caps, "enforce")),
        ALL: step(
            lambda: PlanChecker(
                enrichment.enricher("default", "key", now_ms()), app_plan, names, caps, "enforce"
            )
        ),
    }


async def measure(sent: list[bytes]) -> None:
    """Measure and print both; each gateway has its own database, and delivers nothing."""
    print_figures("validate", await compare(validation_steps(sent), NOTHING))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plan.yaml").write_text(plan_text())
        (Path(folder) / "off.toml").write_text(OFF)
        apps = {
            name: create_app(_settings(folder, name), delivery=False) for name in (NAMES, PLAN, ALL)
        }
        async with AsyncExitStack() as stack:
            for app in apps.values():
                await stack.enter_async_context(app.router.lifespan_context(app))
            steps = {name: _post_step(app, sent) for name, app in apps.items()}
            for step in steps.values():
                await step()
            print_figures("accept", await compare(steps, NAMES))


def print_figures(title: str, figures: dict[str, tuple[float, float]]) -> None:
    """Print one line for each variant."""
    for name, (microseconds, ratio) in figures.items():
        print(
            f"{title:<10} {name:<14} {microseconds:6.2f} µs an item; "
            f"CPU x {ratio:.3f}, throughput {1 / ratio - 1:+.1%}"
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


def _post_step(app: Any, sent: list[bytes]) -> Step:
    headers = [
        (b"host", b"gateway"),
        (b"authorization", f"Bearer {KEY}".encode()),
        (b"content-type", b"application/json"),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/batch",
        "raw_path": b"/v1/batch",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("gateway", 80),
    }

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
    asyncio.run(measure(bodies()))


if __name__ == "__main__":
    main()
