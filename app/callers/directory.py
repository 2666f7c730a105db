"""The lookup of a caller by key, on every request.

It reads a dictionary in memory, which follows the changes in the database.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from app.callers import key_format
from app.callers.store import KeyStore, Secret, StoredKey, Used
from app.database.driver import in_background
from app.errors import Unauthorized
from app.model import Caller
from app.telemetry import describe

REFRESH_SECONDS = 0.5  # a key revoked by another process stops working within a second
TELL_SECONDS = 10.0  # between writings of when keys were last used
NOTHING_READ = -1  # less than the number of any change

log = structlog.get_logger("callers")


class _Known:
    """A caller and the time until which one of its secrets is valid."""

    __slots__ = ("caller", "until")

    def __init__(self, stored: StoredKey, secret: Secret) -> None:
        ends = [at for at in (stored.expires_at, secret.expires_at) if at is not None]
        self.caller = stored.caller
        self.until = min(ends) if ends else None


class _Reading(NamedTuple):
    """The keys as they were last read from the store.

    `by_hash` holds keys that work or have expired, `revoked` the ids of revoked ones, `hashes`
    those of each key, and `recognised` the keys by the headers that they have come in since.
    """

    by_hash: dict[bytes, _Known]
    revoked: dict[bytes, str]
    hashes: dict[str, tuple[bytes, ...]]
    recognised: dict[bytes, _Known]

    def take(self, stored: StoredKey) -> None:
        """Put a key in the place of what was known of it. Others may read meanwhile."""
        key_id = stored.caller.key_id
        hashes = tuple(secret.hash for secret in stored.secrets)
        for hash_ in self.hashes.get(key_id, ()):
            if stored.revoked_at is not None or hash_ not in hashes:
                self.by_hash.pop(hash_, None)
                self.revoked.pop(hash_, None)
        self.hashes[key_id] = hashes
        for secret in stored.secrets:
            if stored.revoked_at is None:
                self.by_hash[secret.hash] = _Known(stored, secret)
            else:
                self.revoked[secret.hash] = key_id


class Directory:
    """Every usable key by its hash. `tell` writes down when keys were last used."""

    def __init__(
        self,
        store: KeyStore,
        clock: Callable[[], int],
        tell: Callable[[Used], Awaitable[None]] | None = None,
    ) -> None:
        self._store, self._clock, self._tell = store, clock, tell
        self._read = _Reading({}, {}, {}, {})
        self._newest = NOTHING_READ
        self._reading = threading.Lock()
        self._used: dict[str, int] = {}

    def refresh(self) -> None:
        """Read the keys that have changed.

        One thread does so at a time, so that no reading replaces a later one.
        """
        with self._reading:
            # Read before the keys: a change between the two is then read again by the next refresh
            newest = self._store.newest_change()
            read, after = self._read, self._newest
            if newest < after:
                # The database was replaced, perhaps by a backup: read everything anew
                read, after = _Reading({}, {}, {}, {}), NOTHING_READ
            if newest > after:
                for stored in self._store.changed(after):
                    read.take(stored)
            # Recognized headers are cached only until the next refresh, which bounds their number.
            self._read = read._replace(recognised={})
            self._newest = newest

    async def run(self) -> None:
        """Read the store again and again, until cancelled.

        While it cannot be read, the last reading stays in force.
        """
        rounds = 0
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            rounds += 1
            try:
                await in_background(self.refresh)
                if rounds * REFRESH_SECONDS % TELL_SECONDS == 0:
                    await self.tell_used()
            except Exception as error:
                # the outermost place: a reader that ended would let revoked keys go on
                log.warning("keys.unreadable", **describe(error))

    async def tell_used(self) -> None:
        """Write down when keys were last used."""
        used, self._used = self._used, {}
        if used and self._tell is not None:
            await self._tell(Used(used))

    def recognise(self, header: bytes) -> Caller | None:
        """Return the caller whose key came in this header lately; None where it must be parsed."""
        known = self._read.recognised.get(header)
        return None if known is None else self._usable(known)

    def authenticate(self, key: str, header: bytes) -> Caller:
        """Return the caller of `key`, which came in `header`.

        Raises Unauthorized, with the reason as far as the caller may know it.
        """
        read = self._read  # another thread may put the next one in its place
        known = read.by_hash.get(key_format.digest(key))
        if known is not None and (caller := self._usable(known)) is not None:
            read.recognised[header] = known
            return caller
        if not key_format.well_formed(key):
            raise Unauthorized("The API key is mistyped: its format or checksum is wrong.")
        raise Unauthorized("The API key is unknown, revoked or expired.")

    def find(self, key: str) -> Caller | None:
        """Return the caller of a usable key, without counting the key as used."""
        known = self._read.by_hash.get(key_format.digest(key))
        if known is None or (known.until is not None and self._clock() >= known.until):
            return None
        return known.caller

    def present(self, hash_: bytes) -> Caller | None:
        """Return the caller of the key with this hash (`key_format.digest`), and count it as used.

        Return None if the key does not work any more.
        """
        known = self._read.by_hash.get(hash_)
        return None if known is None else self._usable(known)

    def owner(self, key: str) -> str | None:
        """Return the id of a key, also of a revoked one, without counting the key as used."""
        hash_ = key_format.digest(key)
        known = self._read.by_hash.get(hash_)
        return self._read.revoked.get(hash_) if known is None else known.caller.key_id

    def _usable(self, known: _Known) -> Caller | None:
        now = self._clock()
        if known.until is not None and now >= known.until:
            return None
        self._used[known.caller.key_id] = now
        return known.caller
