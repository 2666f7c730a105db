"""The log lines of a gateway's start and end."""

import signal
import time
from collections.abc import Collection
from typing import Any

import structlog

from app.settings import Settings
from app.telemetry import traces
from app.urls import SqliteUrl, parse_database_url

ON, OFF = "on", "off"

log = structlog.get_logger("gateway")


class RunReport:
    """Reports that the gateway has started, and that it has stopped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._began = time.monotonic()
        self._signal: int | None = None
        self._started = False

    def note_signal(self, number: int) -> None:
        """Note the signal that stops the gateway; the first one is the reason."""
        if self._signal is None:
            self._signal = number

    def started(
        self, apps: Collection[str], *, delivers: bool, accepts_at: tuple[str, int] | None
    ) -> None:
        """Log what runs: version, address, database, apps, and what is on and off."""
        self._started = True
        address = {} if accepts_at is None else {"host": accepts_at[0], "port": accepts_at[1]}
        settings = self._settings
        on_sqlite = isinstance(parse_database_url(settings.gateway_database_url), SqliteUrl)
        log.info(
            "gateway.started",
            **address,
            database="sqlite" if on_sqlite else "postgresql",
            apps=sorted(apps),
            workers=settings.gateway_workers,
            **_features(settings, delivers=delivers, accepts=accepts_at is not None),
        )

    def stopped(self, queued: int | None) -> None:
        """Log why the gateway has stopped, how long it ran, and how many items wait."""
        if not self._started:
            return
        why = "failed" if self._signal is None else signal.Signals(self._signal).name
        log.info(
            "gateway.stopped",
            why=why,
            seconds=round(time.monotonic() - self._began, 1),
            queued=queued,
        )


def _features(settings: Settings, *, delivers: bool, accepts: bool) -> dict[str, Any]:
    """Return what is on and what is off, by name."""
    wanted = {
        "accepting": accepts,
        "delivery": delivers,
        "shared_limits": settings.gateway_shared_limits_url is not None,
        "encryption": settings.encryption_key_id is not None,
        "tracking_plan": settings.gateway_tracking_plan is not None,
        "enrichment": settings.gateway_enrichment_file is not None,
        "locating": settings.gateway_maxmind_file is not None,
        "traces": traces.wanted(),
        "access_log": settings.gateway_access_log != OFF,
    }
    return {
        ON: [name for name, is_on in wanted.items() if is_on],
        OFF: [name for name, is_on in wanted.items() if not is_on],
    }
