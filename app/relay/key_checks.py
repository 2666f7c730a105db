"""Checks of an app's Leanplum keys, by calls that name no user and change nothing."""

from typing import NamedTuple

from app.clock import now_ms
from app.leanplum import mapping, replies
from app.leanplum.client import LeanplumClient, Unreachable
from app.model import App, ConfigRefused, KeyKind, Trouble

# For each kind of key, an action that only such a key may call, and its arguments. An unknown job
# is refused as such, not for its key.
PROBES: dict[KeyKind, tuple[str, dict[str, str]]] = {
    KeyKind.PRODUCTION: ("getAndroidNotificationChannels", {}),
    KeyKind.DEVELOPMENT: ("getMultiResults", {"jobId": "check"}),
    KeyKind.DATA_EXPORT: ("listPostbacks", {}),
    KeyKind.CONTENT_READ_ONLY: ("getUnsubscribeCategories", {}),
}


class KeyCheck(NamedTuple):
    """The state of one key: configured or not, accepted by Leanplum or not (None: unknown), why."""

    configured: bool
    accepted: bool | None = None
    detail: str | None = None


async def check(client: LeanplumClient, app: App) -> dict[KeyKind, KeyCheck]:
    """Check every key of the app with Leanplum, one after the other."""
    return {kind: await _check(client, app, kind) for kind in KeyKind}


async def _check(client: LeanplumClient, app: App, kind: KeyKind) -> KeyCheck:
    if kind not in app.keys:
        return KeyCheck(False)
    action, args = PROBES[kind]
    body = mapping.body_for(app, action, args, app.keys[kind].get_secret_value(), now_ms() / 1000)
    try:
        answer = await client.call(app.api_url, action, body)
    except Unreachable as error:
        return KeyCheck(True, None, f"Leanplum did not answer: {error}")
    reply = replies.read_reply(answer.status, answer.body, ["check"])
    match reply[0] if isinstance(reply, list) else reply:
        case ConfigRefused(reason):
            return KeyCheck(True, False, f"Leanplum refuses it: {reason}")
        case Trouble(reason) | replies.Doubtful(reason):
            return KeyCheck(True, None, f"Leanplum did not say: {reason}")
    return KeyCheck(True, True)
