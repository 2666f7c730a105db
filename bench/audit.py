"""What the audit costs a batch: `python -m bench.audit`. Slices with and without it by turns, in one process, on SQLite
with `synchronous=FULL`, for users who are known from a moment ago and for users who are new in each call; the switch is
here, not in the product."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson

from app.audit import records
from app.callers import keys
from app.main import create_app
from app.outbox import accept
from app.settings import Settings

ITEMS, AT_ONCE, CALLS, ROUNDS = 100, 8, 160, 15


def _body(number: int) -> bytes:
    items = [
        {"action": "track", "userId": f"user-{number * ITEMS + one}", "event": "Purchase", "value": 9.99}
        for one in range(ITEMS)
    ]
    return orjson.dumps({"items": items})


BODIES = [_body(number) for number in range(64)]


async def call(app: Any, key: str, path: str, body: bytes) -> None:
    """One call of the application, past the network; anything but 202 is an error."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "headers": [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")],
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        assert message.get("status", 202) == 202

    await app(scope, receive, send)


async def _slice(app: Any, key: str, *, new: bool = False) -> tuple[float, float]:
    """Seconds of processor time, which matter little what else this machine does; and seconds."""
    waiting = [BODIES[number % len(BODIES)] for number in range(CALLS)]

    async def worker() -> None:
        while waiting:
            if new:
                app.state.gateway.pseudonyms.forget()
            await call(app, key, "/v1/batch", waiting.pop())

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
    async with app.router.lifespan_context(app):
        await _slice(app, key)
        for new in (False, True):
            pairs = []
            for _ in range(ROUNDS):
                with_it = await _slice(app, key, new=new)
                with (
                    patch.object(records, "insert", lambda cursor, marks, rows: None),
                    patch.object(accept, "_record", lambda acceptance, taken, new: ""),
                    patch("app.audit.pseudonyms.Pseudonyms.of_all", lambda self, app, subjects: []),
                ):
                    without = await _slice(app, key, new=new)
                pairs.append((without, with_it))
            print("users that are new in each call" if new else "users that are known")
            _tell(pairs)


def _tell(pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    for name, which in (("processor time", 0), ("time", 1)):
        ratios = [without[which] / with_it[which] for without, with_it in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rate = CALLS * ITEMS / statistics.median(with_it[which] for _, with_it in pairs)
        print(f"  items a second of {name}, with to without: {middle:.3f} ({low:.3f} to {high:.3f}); {rate:,.0f} with")


def main() -> None:
    """Measure, and print."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(folder))


if __name__ == "__main__":
    main()
