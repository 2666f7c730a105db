"""Whether a call may be made at all: app, key, arguments, size, development mode (fact sheet §2,
§5).
"""

from typing import Any

from app.simulator.actions.handler import Refused
from app.simulator.arrivals import Call
from app.simulator.client_keys import Key
from app.simulator.config import SimulatorConfig, Texts
from app.simulator.values import number, text, truthy

MAX_USERS = 50
MAX_ACTIONS = 500
DEV_MODE_INTERVAL = 1.0


def admit(call: Call, config: SimulatorConfig, users: set[str]) -> Key:
    """The kind of the call's key; Refused with the status of fact sheet §2 when the call may not be
    made.
    """
    texts = config.texts
    _require(call, texts, "appId")
    if text(call.args["appId"]) != config.app_id:
        raise Refused(texts.unknown_app, 404)
    _require(call, texts, "clientKey", "action")
    key = _kinds(config).get(text(call.args["clientKey"]))
    if key is None:
        raise Refused(texts.wrong_key, 403)
    if config.strict_dev_mode and call.dev_mode and key is Key.PRODUCTION:
        raise Refused(texts.dev_mode_refused, 403)
    if call.multi:
        _check_multi(call, key, texts, users)
    return key


def check_action_key(
    wanted: Key, key: Key, item: dict[str, Any], texts: Texts, *, dev_mode: bool
) -> None:
    """Whether a key of this kind may do the action.

    The development key does production actions too in devMode, as SDK debug builds and the docs'
    sample do, and `setUserAttributes` with `resetAnomalies` (fact sheet §2).
    """
    stands_in = wanted is Key.PRODUCTION and key is Key.DEVELOPMENT
    allowed = wanted is key or (stands_in and (dev_mode or truthy(item.get("resetAnomalies"))))
    if not allowed:
        raise Refused(texts.wrong_key, 403)


class DevModeRate:
    """One call in devMode a second for each user (fact sheet §5); SDKs are told with 408, others
    with 429.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def check(self, call: Call, users: set[str], now: float, texts: Texts) -> None:
        if not call.dev_mode:
            return
        if any(
            now - self._last.get(user, now - DEV_MODE_INTERVAL) < DEV_MODE_INTERVAL
            for user in users
        ):
            told = (texts.dev_mode_rate_sdk, 408) if call.from_sdk else (texts.dev_mode_rate, 429)
            raise Refused(*told)
        self._last.update(dict.fromkeys(users, now))


def _kinds(config: SimulatorConfig) -> dict[str, Key]:
    return {
        config.production_key: Key.PRODUCTION,
        config.development_key: Key.DEVELOPMENT,
        config.data_export_key: Key.DATA_EXPORT,
        config.content_read_only_key: Key.CONTENT_READ_ONLY,
    }


def _require(call: Call, texts: Texts, *names: str) -> None:
    for name in names:
        if call.args.get(name) in (None, ""):
            raise Refused(texts.missing.format(name=name), 400)


def _check_multi(call: Call, key: Key, texts: Texts, users: set[str]) -> None:
    """A multi takes the production key, or the development key as in the docs' sample (fact sheet
    §2, X).

    Over 50 users or 500 actions the whole is ignored with 403; SDKs are known to send more (§5).
    """
    if key not in (Key.PRODUCTION, Key.DEVELOPMENT):
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
