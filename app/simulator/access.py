"""Access checks of a call: key, arguments, size, rate, and user locks (fact sheet §2, §5)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.simulator.actions.context import Refused
from app.simulator.arguments import number, text, truthy
from app.simulator.call import SimulatedCall
from app.simulator.config import ClientKeyKind, SimulatorConfig, Texts

MAX_USERS = 50
MAX_ACTIONS = 500
DEV_MODE_INTERVAL = 1.0  # seconds


def authorize(call: SimulatedCall, config: SimulatorConfig, users: set[str]) -> ClientKeyKind:
    """Return the kind of the call's key. Raises Refused with the status of fact sheet §2."""
    texts = config.texts
    _require(call, texts, "appId")
    if text(call.args["appId"]) != config.app_id:
        raise Refused(texts.unknown_app, 404)
    _require(call, texts, "clientKey", "action")
    key = _key_kinds(config).get(text(call.args["clientKey"]))
    if key is None:
        raise Refused(texts.wrong_key, 403)
    if config.strict_dev_mode and call.dev_mode and key is ClientKeyKind.PRODUCTION:
        raise Refused(texts.dev_mode_refused, 403)
    if call.multi:
        _check_multi(call, key, texts, users)
    return key


def check_action_key(
    required: ClientKeyKind,
    key: ClientKeyKind,
    item: dict[str, Any],
    texts: Texts,
    *,
    dev_mode: bool,
) -> None:
    """Raise Refused unless a key of this kind may execute the action.

    The development key may execute production actions too: in devMode, as SDK debug builds and the
    sample of the docs do, and `setUserAttributes` with `resetAnomalies` (fact sheet §2).
    """
    if required is key:
        return
    replaces = required is ClientKeyKind.PRODUCTION and key is ClientKeyKind.DEVELOPMENT
    if replaces and (dev_mode or truthy(item.get("resetAnomalies"))):
        return
    raise Refused(texts.wrong_key, 403)


class DevModeRateLimit:
    """One call in devMode a second for each user (fact sheet §5): SDKs get 408, others 429."""

    def __init__(self) -> None:
        self._last_call: dict[str, float] = {}

    def check(self, call: SimulatedCall, users: set[str], now: float, texts: Texts) -> None:
        """Count a call in devMode. Raises Refused when one of its users had another just before."""
        if not call.dev_mode:
            return
        for user in users:
            last = self._last_call.get(user)
            if last is not None and now - last < DEV_MODE_INTERVAL:
                if call.from_sdk:
                    raise Refused(texts.dev_mode_rate_sdk, 408)
                raise Refused(texts.dev_mode_rate, 429)
        self._last_call.update(dict.fromkeys(users, now))


class ProfileLocks:
    """Users of the calls in flight, at most one call for a user at a time (fact sheet §5).

    A second call is refused or queued. It waits only for earlier calls, so no deadlock is possible.
    """

    def __init__(self, *, queue: bool) -> None:
        self.overlaps = 0
        self._queue = queue
        self._in_flight: dict[str, list[asyncio.Event]] = {}

    @asynccontextmanager
    async def hold(self, users: set[str]) -> AsyncIterator[bool]:
        """Lock the users during the block; yield False if one is locked and queueing is off."""
        earlier = {event for user in users for event in self._in_flight.get(user, ())}
        self.overlaps += len(earlier)
        if earlier and not self._queue:
            yield False
            return
        finished = self._enter(users)
        try:
            for event in earlier:
                await event.wait()
            yield True
        finally:
            self._leave(users, finished)

    def _enter(self, users: set[str]) -> asyncio.Event:
        finished = asyncio.Event()
        for user in users:
            self._in_flight.setdefault(user, []).append(finished)
        return finished

    def _leave(self, users: set[str], finished: asyncio.Event) -> None:
        finished.set()
        for user in users:
            self._in_flight[user].remove(finished)
            if not self._in_flight[user]:
                del self._in_flight[user]


def _key_kinds(config: SimulatorConfig) -> dict[str, ClientKeyKind]:
    return {
        config.production_key: ClientKeyKind.PRODUCTION,
        config.development_key: ClientKeyKind.DEVELOPMENT,
        config.data_export_key: ClientKeyKind.DATA_EXPORT,
        config.content_read_only_key: ClientKeyKind.CONTENT_READ_ONLY,
    }


def _require(call: SimulatedCall, texts: Texts, *names: str) -> None:
    for name in names:
        if call.args.get(name) in (None, ""):
            raise Refused(texts.missing.format(name=name), 400)


def _check_multi(call: SimulatedCall, key: ClientKeyKind, texts: Texts, users: set[str]) -> None:
    """Check the key, arguments and size of a multi.

    It takes the production key, or the development key as in the sample of the docs (fact sheet §2,
    X). Over 50 users or 500 actions all of it is refused with 403, except for SDKs, which are known
    to send more (§5).
    """
    if key not in (ClientKeyKind.PRODUCTION, ClientKeyKind.DEVELOPMENT):
        raise Refused(texts.wrong_key, 403)
    _require(call, texts, "time", "data")
    if not call.items:
        raise Refused(texts.missing.format(name="data"), 400)
    if number(call.args["time"]) is None:
        raise Refused(texts.invalid.format(name="time"), 400)
    if call.from_sdk:
        return
    if len(users) > MAX_USERS:
        raise Refused(texts.too_many_users.format(count=len(users), limit=MAX_USERS), 403)
    if len(call.items) > MAX_ACTIONS:
        raise Refused(texts.too_many_actions.format(count=len(call.items), limit=MAX_ACTIONS), 403)
