"""The look-up of a caller by key, on every request: a dictionary in memory, read anew once a second."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from app.callers import keys
from app.callers.store import KeyStore, StoredKey
from app.errors import Unauthorized
from app.model import Caller
from app.telemetry import describe

REFRESH_SECONDS = 0.5  # a key revoked by another process stops working within a second
log = structlog.get_logger("callers")


class Directory:
    """Every usable key by its hash."""

    def __init__(self, store: KeyStore, clock: Callable[[], int]) -> None:
        self._store, self._clock = store, clock
        self._by_hash: dict[bytes, StoredKey] = {}
        self._recognised: dict[bytes, StoredKey] = {}

    def refresh(self) -> None:
        """Read the store."""
        self._by_hash = {stored.hash: stored for stored in self._store.all()}
        self._recognised = {}

    async def run(self) -> None:
        """Read the store again and again, until cancelled; while it can't be read, the last reading stays in force."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # the outermost place: a reader that ended would let revoked keys go on
                log.warning("keys.unreadable", **describe(error))

    def recognise(self, header: bytes) -> Caller | None:
        """The caller whose key has just come in this very header; None where it must be looked at."""
        stored = self._recognised.get(header)
        return stored.caller if stored is not None and stored.usable(self._clock()) else None

    def authenticate(self, key: str, header: bytes) -> Caller:
        """The caller that `key` belongs to, which came in `header`. Raises Unauthorized, saying why as far as the
        caller may know."""
        stored = self._by_hash.get(keys.digest(key))
        if stored is not None and stored.usable(self._clock()):
            self._recognised[header] = stored
            return stored.caller
        if not keys.well_formed(key):
            raise Unauthorized("The key is mistyped: its form or checksum is wrong.")
        raise Unauthorized("The key is not known here, or it is revoked or expired.")


async def cancelled(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
