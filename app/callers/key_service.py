"""Administration of caller keys by a caller, over HTTP or in the console.

A caller sees, makes and changes only keys for apps that their own key may use.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import structlog

from app.callers.directory import Directory
from app.callers.store import KEEP, ChangeRecord, Keep, KeyStore, StoredKey
from app.clock import now_ms
from app.database.driver import in_time
from app.errors import Forbidden, NotFound, StorageUnavailable
from app.model import Caller, Scope

T = TypeVar("T")
Position = tuple[int, str]  # of a key in the list: its creation time (epoch milliseconds), its id

log = structlog.get_logger("keys")


NotifyWorkers = Callable[[], Awaitable[object]]


async def notify_nobody() -> None:
    """Do nothing: there are no other workers."""


class KeyPage(NamedTuple):
    """A page of keys, oldest first, and the position of its last key if more follow."""

    keys: list[StoredKey]
    next_after: Position | None


class KeyService:
    """Read and change keys on behalf of a caller.

    `record` makes the audit record that commits with a change. Each change applies to this process
    and the other workers at once, and to other replicas within a second. All methods raise
    StorageUnavailable.
    """

    def __init__(
        self, store: KeyStore, directory: Directory, notify_workers: NotifyWorkers = notify_nobody
    ) -> None:
        """`notify_workers` lets the other workers read the keys, and waits until they have."""
        self._store, self._directory, self._notify_workers = store, directory, notify_workers

    async def page(self, caller: Caller, after: Position | None, limit: int) -> KeyPage:
        """Return keys after a position, including revoked ones."""
        keys = await in_time(partial(self._store.page, after, limit + 1, partial(_sees, caller)))
        if len(keys) <= limit:
            return KeyPage(keys, None)
        last = keys[limit - 1]
        return KeyPage(keys[:limit], (last.created_at, last.caller.key_id))

    async def get(self, caller: Caller, key_id: str) -> StoredKey:
        """Return a key. Raises NotFound."""
        stored = await in_time(partial(self._store.get, key_id))
        _require_visible(caller, stored)
        return stored

    async def create(
        self,
        caller: Caller,
        *,
        name: str,
        scopes: Iterable[Scope],
        apps: Iterable[str] | None,
        expires_at: int | None,
        rate_per_second: int | None,
        rate_burst: int | None,
        record: ChangeRecord,
    ) -> tuple[str, StoredKey]:
        """Create a key; return it, for the only time, and what is stored of it.

        Raises Forbidden if it is for apps beyond those of the caller.
        """
        _require_apps(caller, apps)
        create = partial(
            self._store.create,
            name,
            scopes,
            apps,
            now_ms(),
            expires_at=expires_at,
            record=record,
            rate_per_second=rate_per_second,
            rate_burst=rate_burst,
        )
        return await self._apply(create)

    async def change(
        self,
        caller: Caller,
        key_id: str,
        values: Mapping[str, Any],
        *,
        expires_at: int | Keep | None = KEEP,
        record: ChangeRecord,
    ) -> StoredKey:
        """Replace attributes of a key's caller, and the expiry (KEEP: leave it as it is).

        Raises NotFound, and Forbidden for apps beyond those of the caller.
        """
        if "apps" in values:
            _require_apps(caller, values["apps"])
        guard = partial(_require_visible, caller)
        change = partial(self._store.change, key_id, now_ms(), values, record, expires_at)
        return await self._apply(partial(change, guard=guard))

    async def rotate(
        self,
        caller: Caller,
        key_id: str,
        overlap_seconds: int,
        *,
        once: str | None = None,
        record: ChangeRecord,
    ) -> tuple[str | None, StoredKey]:
        """Create a new key under the same id; the old one works for `overlap_seconds` more.

        Return the new key, for the only time; None for a repeat with the same `once` after ten
        minutes or in another process. Raises NotFound.
        """
        rotate = partial(
            self._store.rotate,
            key_id,
            now_ms(),
            overlap_seconds * 1000,
            once=once,
            record=record,
            guard=partial(_require_visible, caller),
        )
        return await self._apply(rotate)

    async def revoke(self, caller: Caller, key_id: str, *, record: ChangeRecord) -> None:
        """Revoke a key. Raises NotFound."""
        guard = partial(_require_visible, caller)
        await self._apply(partial(self._store.revoke, key_id, now_ms(), record, guard=guard))

    async def _apply(self, change: Callable[[], T]) -> T:
        """Make a change on a thread, and apply it to this process and the other workers at once."""
        result = await in_time(change)
        try:
            await in_time(self._directory.refresh)
        except StorageUnavailable as error:
            # The change is committed; it takes effect within a second once the database is back.
            log.warning("keys.unreadable", reason=error.detail)
        await self._notify_workers()
        return result


def _require_apps(caller: Caller, apps: Iterable[str] | None) -> None:
    """Raise Forbidden if these apps go beyond those of the caller's own key."""
    if caller.apps is not None and (apps is None or not caller.apps.issuperset(apps)):
        raise Forbidden("A key can grant only apps that it may use itself.")


def _require_visible(caller: Caller, stored: StoredKey) -> None:
    """Raise NotFound if the key is for apps that the caller may not use."""
    if not _sees(caller, stored):
        raise NotFound("No key has this id.")


def _sees(caller: Caller, stored: StoredKey) -> bool:
    """Tell whether the key is only for apps that the caller may use."""
    if caller.apps is None:
        return True
    return stored.caller.apps is not None and stored.caller.apps.issubset(caller.apps)
