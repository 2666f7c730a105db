"""What the limits in memory cost a single event: `python -m bench.limits`. Slices with and without them by turns, in
one process, on SQLite with `synchronous=FULL`; the switch is here, not in the product."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson

from app.api import limiting
from app.callers import keys
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logging
from bench.audit import call

AT_ONCE, CALLS, ROUNDS = 32, 2_000, 25
EVENT = orjson.dumps({"userId": "user-1", "event": "Purchase", "value": 9.99})


async def _unlimited(gateway: Any, context: Any, caller: Any, count: int, *, capped: bool = False) -> None:
    context.rate_headers = ()


async def _slice(app: Any, key: str) -> tuple[float, float]:
    """Seconds of processor time; and seconds."""
    left = CALLS

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call(app, key, "/v1/events", EVENT)

    began, clock = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return time.process_time() - began, time.perf_counter() - clock


async def _measure(folder: str) -> None:
    key = keys.make()
    settings = Settings(
        _env_file=None,
        leanplum_app_id="app",
        leanplum_production_key="key",
        gateway_database_url=f"sqlite:///{Path(folder)}/g.db",
        gateway_bootstrap_key=key,
        gateway_rate_per_second=10**9,
        gateway_rate_burst=10**9,
        gateway_log_level="error",
    )
    app = create_app(settings, delivery=False)
    pairs = []
    async with app.router.lifespan_context(app):
        await _slice(app, key)
        for _ in range(ROUNDS):
            with_them = await _slice(app, key)
            with patch.object(limiting, "take", _unlimited):
                without = await _slice(app, key)
            pairs.append((without, with_them))
    for name, which in (("processor time", 0), ("time", 1)):
        low, middle, high = statistics.quantiles([without[which] / with_[which] for without, with_ in pairs], n=4)
        rate = CALLS / statistics.median(with_[which] for _, with_ in pairs)
        print(f"events a second of {name}, with to without: {middle:.3f} ({low:.3f} to {high:.3f}); {rate:,.0f} with")


def main() -> None:
    """Measure, and print."""
    configure_logging("error", "json")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(folder))


if __name__ == "__main__":
    main()
