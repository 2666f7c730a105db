"""The table of all Leanplum actions, and their names as callers write them. Pure.

Validation, the choice of a key, packing, the SDK protocol and the documentation follow the table. A
further action needs an entry here, its parameters, a route under /v1, and an entry in the
simulator's own table (see CONTRIBUTING.md). Sources: Leanplum's API reference (42
actions), its SDKs' code (the last ten); fact sheet §2 for the keys, §3 for the rest.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import unquote

import orjson

from app.errors import Fault
from app.leanplum import parameters, passthrough_parameters, response_schemas
from app.model import KeyKind, Scope

Fields = Mapping[str, Any]


class About(Enum):
    """The subject of an action."""

    USER = "a user, or a device and its user"
    DEVICE = "a device; its user may be named too"
    APP = "the app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action of Leanplum's API."""

    name: str
    scope: Scope
    shape: Any
    key: KeyKind = KeyKind.PRODUCTION
    about: About = About.USER
    # Accepted durably and delivered in the background, since the answer is no more than success
    later: bool = False
    alone: bool = False  # never inside a `multi`, which takes the production key
    answer: Any = response_schemas.Success
    # Finds faults that no single field has
    check: Callable[[Fields], Fault | None] = lambda fields: None
    per_day: int | None = None  # how often it succeeds in a day (fact sheet §5)
    seldom_changes: bool = False
    documented: bool = True  # False: only SDKs call it, by their own protocol

    @property
    def read_only(self) -> bool:
        """True when the action changes nothing at Leanplum.

        Its name tells: Leanplum names all actions that read `get…` or `list…`, except for two.
        """
        return self.name.startswith(("get", "list")) or self.name in {"exportUser", "downloadFile"}

    @property
    def required(self) -> frozenset[str]:
        """The names of the required parameters."""
        names: frozenset[str] = self.shape.__required_keys__
        return names


# A text in every body of development traffic, and in few others
IN_DEVELOPMENT = '"devMode":true'
WITHOUT_CONTENT = frozenset(
    {
        "id",
        "action",
        "userId",
        "deviceId",
        "time",
        "createDisposition",
        "sentAt",
        "ip",
        "userAgent",
        "devMode",
    }
)
DEVICE_FIELDS: frozenset[str] = frozenset(parameters.DeviceFields.__annotations__)


def _event_named(fields: Fields) -> Fault | None:
    """Refuse an empty event, which only reports a message sent or seen (fact sheet, track)."""
    if fields.get("event") != "" or "messageId" in fields:
        return None
    return Fault("/event", "must not be empty unless messageId is set", "empty-event")


def _changes_something(fields: Fields) -> Fault | None:
    if fields.keys() - WITHOUT_CONTENT:
        return None
    return Fault("", "must set userAttributes or another field", "empty-update")


def _names_a_device(fields: Fields) -> Fault | None:
    if "deviceId" not in fields:
        return Fault("/deviceId", "is required", "required")
    if fields.keys() & DEVICE_FIELDS:
        return None
    return Fault("", "must set appVersion or another field of the device", "empty-update")


def _names_a_source(fields: Fields) -> Fault | None:
    return (
        None if fields["trafficSource"] else Fault("/trafficSource", "must not be empty", "length")
    )


EVENTS, USERS, SEND, ERASE = (
    Scope.EVENTS_WRITE,
    Scope.USERS_WRITE,
    Scope.MESSAGES_SEND,
    Scope.USERS_ERASE,
)
READ, WRITE, EXPORT, SDK = Scope.CONTENT_READ, Scope.CONTENT_WRITE, Scope.EXPORTS_RUN, Scope.SDK
DEVELOPMENT, DATA_EXPORT, CONTENT = (
    KeyKind.DEVELOPMENT,
    KeyKind.DATA_EXPORT,
    KeyKind.CONTENT_READ_ONLY,
)


def _later(name: str, scope: Scope, shape: Any, **more: Any) -> Action:
    return Action(name=name, scope=scope, shape=shape, later=True, **more)


def _alone(
    name: str,
    scope: Scope,
    shape: Any,
    key: KeyKind,
    answer: Any = response_schemas.Success,
    **more: Any,
) -> Action:
    """Return an action about the app that is answered while the caller waits."""
    return Action(
        name=name,
        scope=scope,
        shape=shape,
        key=key,
        answer=answer,
        about=About.APP,
        alone=True,
        **more,
    )


def _content(name: str, shape: Any, answer: Any) -> Action:
    return _alone(name, READ, shape, CONTENT, answer, seldom_changes=True)


def _sdk(name: str, shape: Any = passthrough_parameters.SdkParameters, **more: Any) -> Action:
    return Action(name=name, scope=SDK, shape=shape, documented=False, **more)


def _ios(name: str) -> Action:
    """Return an old action of iOS's development builds (fact sheet §12.9)."""
    return Action(
        name=name,
        scope=WRITE,
        shape=passthrough_parameters.SdkParameters,
        key=DEVELOPMENT,
        about=About.APP,
        alone=True,
        documented=False,
    )


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            name="start",
            scope=EVENTS,
            shape=passthrough_parameters.Start,
            answer=response_schemas.Started,
        ),
        _later("stop", EVENTS, parameters.UserCall),
        _later("pauseSession", EVENTS, parameters.UserCall),
        _later("resumeSession", EVENTS, parameters.UserCall),
        _later("heartbeat", EVENTS, parameters.UserCall),
        _later("track", EVENTS, parameters.Event, check=_event_named),
        _later("advance", EVENTS, parameters.StateChange),
        _later("pauseState", EVENTS, parameters.UserCall),
        _later("resumeState", EVENTS, parameters.UserCall),
        _later("setUserAttributes", USERS, parameters.UserUpdate, check=_changes_something),
        _later(
            "setDeviceAttributes",
            USERS,
            parameters.DeviceUpdate,
            about=About.DEVICE,
            check=_names_a_device,
        ),
        _later(
            "setTrafficSourceInfo", USERS, parameters.TrafficSourceChange, check=_names_a_source
        ),
        _later("sendMessage", SEND, parameters.Message, answer=response_schemas.MessageSent),
        _later("startCampaign", SEND, parameters.Campaign, key=DEVELOPMENT, alone=True),
        _later("block", ERASE, parameters.Blocking),
        _later("unblock", ERASE, parameters.Blocking, key=DEVELOPMENT, alone=True),
        _later("deleteUser", ERASE, parameters.Erasure, key=DEVELOPMENT, alone=True),
        Action(
            name="getVars",
            scope=READ,
            shape=passthrough_parameters.Variables,
            answer=response_schemas.UserVariables,
        ),
        Action(
            name="exportUser",
            scope=Scope.USERS_READ,
            shape=passthrough_parameters.UserOrDevice,
            key=DATA_EXPORT,
            alone=True,
            answer=response_schemas.ExportedUser,
        ),
        _alone("setVars", WRITE, passthrough_parameters.VariableChange, DEVELOPMENT),
        _alone(
            "deleteVars",
            WRITE,
            passthrough_parameters.VariableNames,
            DEVELOPMENT,
            response_schemas.RemovedVariables,
        ),
        _alone(
            "registerDevice",
            WRITE,
            passthrough_parameters.DevelopmentDevice,
            DEVELOPMENT,
            response_schemas.Registered,
        ),
        _alone("uploadFile", WRITE, passthrough_parameters.FileUpload, DEVELOPMENT),
        _alone(
            "downloadFile",
            READ,
            passthrough_parameters.FileName,
            KeyKind.PRODUCTION,
            response_schemas.Bytes,
        ),
        _alone(
            "getAndroidNotificationChannels",
            READ,
            passthrough_parameters.NoParameters,
            KeyKind.PRODUCTION,
            response_schemas.NotificationChannelList,
        ),
        _alone(
            "addAndroidNotificationChannel",
            WRITE,
            passthrough_parameters.NotificationChannel,
            DEVELOPMENT,
            response_schemas.ChannelAdded,
        ),
        _alone(
            "deleteAndroidNotificationChannel",
            WRITE,
            passthrough_parameters.ChannelId,
            DEVELOPMENT,
            response_schemas.ChannelDeleted,
        ),
        _content("getMessages", passthrough_parameters.Listing, response_schemas.MessageList),
        _content("getMessage", passthrough_parameters.EntityLookup, response_schemas.OneMessage),
        _content("getAbTests", passthrough_parameters.Listing, response_schemas.AbTestList),
        _content("getAbTest", passthrough_parameters.EntityLookup, response_schemas.OneAbTest),
        _content("getVariant", passthrough_parameters.EntityLookup, response_schemas.OneVariant),
        _content(
            "getUnsubscribeCategories",
            passthrough_parameters.NoParameters,
            response_schemas.CategoryList,
        ),
        _alone(
            "exportData",
            EXPORT,
            passthrough_parameters.DataExport,
            DATA_EXPORT,
            response_schemas.StartedJob,
            per_day=24,
        ),
        _alone(
            "exportUsers",
            EXPORT,
            passthrough_parameters.UsersExport,
            DATA_EXPORT,
            response_schemas.StartedJob,
            per_day=40,
        ),
        _alone(
            "exportReport",
            EXPORT,
            passthrough_parameters.ReportExport,
            DATA_EXPORT,
            response_schemas.StartedJob,
            per_day=100,
        ),
        _alone(
            "getExportResults",
            EXPORT,
            passthrough_parameters.JobId,
            DATA_EXPORT,
            response_schemas.ExportState,
        ),
        # As a CSV job. The JSON form, with the production key, is how items are packed
        # (`leanplum/mapping.py`).
        _alone(
            "multi",
            EXPORT,
            passthrough_parameters.Import,
            DEVELOPMENT,
            response_schemas.StartedJob,
        ),
        _alone(
            "getMultiResults",
            EXPORT,
            passthrough_parameters.JobId,
            DEVELOPMENT,
            response_schemas.ImportState,
        ),
        _alone(
            "addPostback",
            EXPORT,
            passthrough_parameters.Postback,
            DATA_EXPORT,
            response_schemas.PostbackAdded,
        ),
        _alone(
            "listPostbacks",
            EXPORT,
            passthrough_parameters.NoParameters,
            DATA_EXPORT,
            response_schemas.PostbackList,
        ),
        _alone("deletePostback", EXPORT, passthrough_parameters.PostbackId, DATA_EXPORT),
        _sdk("getNewsfeedMessages", answer=response_schemas.Newsfeed),
        _sdk("markNewsfeedMessageAsRead", shape=passthrough_parameters.InboxMessage, later=True),
        _sdk("deleteNewsfeedMessage", shape=passthrough_parameters.InboxMessage, later=True),
        _sdk("getMigrateState", about=About.APP, answer=response_schemas.MigrateState),
        _sdk("log", later=True, about=About.APP),
        _sdk("trackGeofence", shape=parameters.Event, later=True),
        _sdk("restart"),
        _ios("saveInterface"),
        _ios("saveInterfaceImage"),
        _ios("getViewControllerVersionsList"),
    )
}
# Accepted durably and delivered in the background, by /v1 or from SDKs
BACKGROUND_ACTIONS = {name: action for name, action in ACTIONS.items() if action.later}
# Actions that a setting may have relayed for SDKs: none that needs a call of its own, and none that
# blocks a user
RELAYABLE = tuple(
    name
    for name, action in BACKGROUND_ACTIONS.items()
    if not action.alone and action.scope is not ERASE
)
# All actions that an item may have. `start` is one only for the sessions of an SDK's batch before
# the last one: the last `start` is relayed, since the SDK uses its response.
DELIVERABLE_ACTIONS = {"start": ACTIONS["start"], **BACKGROUND_ACTIONS}
# Accepted as items by /v1: without those that only SDKs send
ACCEPTED_ACTIONS = {
    name: action for name, action in BACKGROUND_ACTIONS.items() if action.documented
}


def key_for(action: str, body: str) -> KeyKind:
    """Return the kind of key that an item needs; `body` is its JSON text."""
    key = ACTIONS[action].key
    if key is not KeyKind.PRODUCTION:
        return key
    if IN_DEVELOPMENT in body and _is_true(body, "devMode"):
        return DEVELOPMENT
    if action == "setUserAttributes" and '"resetAnomalies":true' in body:
        return DEVELOPMENT if _is_true(body, "resetAnomalies") else key
    return key


def _is_true(body: str, name: str) -> bool:
    """Return whether the body's own field is true, and not one inside another field."""
    return orjson.loads(body).get(name) is True


def sent_alone(action: str, body: str) -> bool:
    """Return whether an item is a call of its own.

    A `multi` takes the production key, so no item that needs another key fits into one.
    """
    # True of nearly all items, and every item is checked: two look-ups instead of `key_for`
    if action in _TOGETHER and IN_DEVELOPMENT not in body:
        return False
    return ACTIONS[action].alone or key_for(action, body) is not KeyKind.PRODUCTION


_TOGETHER = frozenset(
    name
    for name, action in ACTIONS.items()
    if not action.alone and action.key is KeyKind.PRODUCTION and name != "setUserAttributes"
)


MAX_NAME = 100  # characters of a name that a setting may allow, and that a message repeats
DECODINGS = 3
ALPHANUMERIC = re.compile(r"[a-z0-9]+")
ADVICE = "GATEWAY_SDK_EXTRA_ACTIONS allows further actions by their exact names."


def fold_action_name(name: str) -> str:
    """Return a name's letters and digits without case, width, accents or percent-encoding.

    This folds more than any server is known to: a name that folds to a known action's needs that
    action's scope.
    """
    text = name.strip()[:MAX_NAME]
    for _ in range(DECODINGS):
        text = unquote(text)
    plain = unicodedata.normalize("NFKD", text).upper().casefold()
    return "".join(ALPHANUMERIC.findall(plain))


def _deletions(name: str) -> Iterator[str]:
    """Yield a name, and every name that deleting one character of it leaves."""
    yield name
    for at in range(len(name)):
        yield name[:at] + name[at + 1 :]


_FOLDED: Mapping[str, Action] = {fold_action_name(name): action for name, action in ACTIONS.items()}
# Two names are a letter apart where one deletion leaves the same form, so a few look-ups compare a
# name with all actions.
_NEAR: Mapping[str, str] = {
    form: action.name for folded_name, action in _FOLDED.items() for form in _deletions(folded_name)
} | {form: action.name for form, action in _FOLDED.items()}
_LONGEST_NEAR = max(map(len, _FOLDED)) + 1


def find_similar_action(name: str) -> Action | None:
    """Return the known action that a server might take `name` for, or None.

    That is the action of this name, or one whose name folds to the same.
    """
    known = ACTIONS.get(name)
    return _FOLDED.get(fold_action_name(name)) if known is None else known


def suggest_action_name(name: str) -> str | None:
    """Return the known name that was probably meant: one that is at most a letter away."""
    form = fold_action_name(name)
    if not form or len(form) > _LONGEST_NEAR:
        return None
    return next((_NEAR[near] for near in _deletions(form) if near in _NEAR), None)


def printable_name(name: str) -> str:
    """Return at most `MAX_NAME` printable characters of a name, for a message."""
    head = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name[:MAX_NAME]
    )
    return head if len(name) <= MAX_NAME else f"{head}…"


def is_allowed_action(name: str, extra: Set[str]) -> bool:
    """Return whether an action is passed on: it is known, or a setting names it exactly."""
    return name in ACTIONS or name in extra


def unknown_action_message(name: str) -> str:
    """Return the message that refuses an action."""
    meant = suggest_action_name(name)
    hint = f"; did you mean {meant}?" if meant is not None else "."
    return f'The action "{printable_name(name)}" is not known to this gateway{hint} {ADVICE}'


def validate_extra_action(name: str) -> str:
    """Return a name that a setting allows. Raises ValueError for text that names no action."""
    if not name or len(name) > MAX_NAME or not name.isprintable() or any(map(str.isspace, name)):
        raise ValueError(
            f"takes names of at most {MAX_NAME} printable characters without spaces; "
            f"not {printable_name(name)!r}"
        )
    known = find_similar_action(name)
    if known is not None and known.name == "multi" and name != "multi":
        raise ValueError(
            f"{name} can't be allowed: a batch under another name would hide what is in it"
        )
    return name
