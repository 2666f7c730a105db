"""The table of all of Leanplum's actions: one entry is all that a further one needs.

Validation, the choice of a key, packing, the SDK door and the documentation all follow it. Sources:
Leanplum's API reference (42 actions), its SDKs' code (the last ten); fact sheet §2 for the keys, §3
for the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from app.errors import Fault
from app.leanplum import answers, parameters, passthrough_parameters
from app.model import KeyKind, Scope

Fields = Mapping[str, Any]


class About(Enum):
    """Whom an action is about."""

    USER = "a user, or a device and its user"
    DEVICE = "a device; its user may be named too"
    APP = "the app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What the gateway knows of one action."""

    name: str
    scope: Scope
    shape: Any
    key: KeyKind = KeyKind.PRODUCTION
    about: About = About.USER
    # Nothing beyond success is answered: accepted durably, delivered in the background
    later: bool = False
    alone: bool = False  # never inside a `multi`, which takes the production key
    # Doing it twice does no more than doing it once, or Leanplum knows the repeat by its reqId
    repeatable: bool = True
    answer: Any = answers.Success
    # What is wrong beside the single fields
    check: Callable[[Fields], Fault | None] = lambda fields: None
    a_day: int | None = None  # how often it succeeds in a day (fact sheet §5)
    seldom_changes: bool = False
    documented: bool = True  # False: only SDKs call it, by their own door

    @property
    def looks(self) -> bool:
        """Whether it changes nothing at Leanplum."""
        return self.name.startswith(("get", "list")) or self.name in {"exportUser", "downloadFile"}

    @property
    def required(self) -> frozenset[str]:
        """The parameters that it can't do without."""
        found: frozenset[str] = self.shape.__required_keys__
        return found


# The text that only bodies of development traffic have, and some others
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
    """An empty event is how Leanplum is told of a message sent or seen (fact sheet, track)."""
    if fields.get("event") != "" or "messageId" in fields:
        return None
    return Fault("/event", "may be empty only with messageId", "empty-event")


def _changes_something(fields: Fields) -> Fault | None:
    if fields.keys() - WITHOUT_CONTENT:
        return None
    return Fault("", "changes nothing: give userAttributes or another field to set", "empty-update")


def _names_a_device(fields: Fields) -> Fault | None:
    if "deviceId" not in fields:
        return Fault("/deviceId", "is required", "required")
    if fields.keys() & DEVICE_FIELDS:
        return None
    return Fault(
        "", "changes nothing: give appVersion or another field of the device", "empty-update"
    )


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
    name: str, scope: Scope, shape: Any, key: KeyKind, answer: Any = answers.Success, **more: Any
) -> Action:
    """Answered while the caller waits, and about the app."""
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


def _sdk(name: str, shape: Any = passthrough_parameters.FromSdk, **more: Any) -> Action:
    return Action(name=name, scope=SDK, shape=shape, documented=False, **more)


def _ios(name: str) -> Action:
    """An old action of iOS's development builds (fact sheet §12.9)."""
    return Action(
        name=name,
        scope=WRITE,
        shape=passthrough_parameters.FromSdk,
        key=DEVELOPMENT,
        about=About.APP,
        alone=True,
        documented=False,
    )


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            name="start", scope=EVENTS, shape=passthrough_parameters.Start, answer=answers.Started
        ),
        _later("stop", EVENTS, parameters.UserCall),
        _later("pauseSession", EVENTS, parameters.UserCall),
        _later("resumeSession", EVENTS, parameters.UserCall),
        _later("heartbeat", EVENTS, parameters.UserCall),
        _later("track", EVENTS, parameters.Event, check=_event_named),
        _later("advance", EVENTS, parameters.State),
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
        _later("setTrafficSourceInfo", USERS, parameters.TrafficSource, check=_names_a_source),
        _later("sendMessage", SEND, parameters.Message, answer=answers.Sent),
        _later("startCampaign", SEND, parameters.Campaign, key=DEVELOPMENT, alone=True),
        _later("block", ERASE, parameters.Blocking),
        _later("unblock", ERASE, parameters.Blocking, key=DEVELOPMENT, alone=True),
        _later("deleteUser", ERASE, parameters.Erasure, key=DEVELOPMENT, alone=True),
        Action(
            name="getVars",
            scope=READ,
            shape=passthrough_parameters.Variables,
            answer=answers.UserVariables,
        ),
        Action(
            name="exportUser",
            scope=Scope.USERS_READ,
            shape=passthrough_parameters.Whom,
            key=DATA_EXPORT,
            alone=True,
            answer=answers.ExportedUser,
        ),
        _alone("setVars", WRITE, passthrough_parameters.VariableChange, DEVELOPMENT),
        _alone(
            "deleteVars",
            WRITE,
            passthrough_parameters.VariableNames,
            DEVELOPMENT,
            answers.RemovedVariables,
        ),
        _alone(
            "registerDevice",
            WRITE,
            passthrough_parameters.DevelopmentDevice,
            DEVELOPMENT,
            answers.Registered,
        ),
        _alone("uploadFile", WRITE, passthrough_parameters.Upload, DEVELOPMENT),
        _alone(
            "downloadFile", READ, passthrough_parameters.FileName, KeyKind.PRODUCTION, answers.Bytes
        ),
        _alone(
            "getAndroidNotificationChannels",
            READ,
            passthrough_parameters.Nothing,
            KeyKind.PRODUCTION,
            answers.NotificationChannels,
        ),
        _alone(
            "addAndroidNotificationChannel",
            WRITE,
            passthrough_parameters.NotificationChannel,
            DEVELOPMENT,
            answers.ChannelAdded,
        ),
        _alone(
            "deleteAndroidNotificationChannel",
            WRITE,
            passthrough_parameters.ChannelId,
            DEVELOPMENT,
            answers.ChannelDeleted,
        ),
        _content("getMessages", passthrough_parameters.Listing, answers.Messages),
        _content("getMessage", passthrough_parameters.One, answers.OneMessage),
        _content("getAbTests", passthrough_parameters.Listing, answers.AbTests),
        _content("getAbTest", passthrough_parameters.One, answers.OneAbTest),
        _content("getVariant", passthrough_parameters.One, answers.OneVariant),
        _content("getUnsubscribeCategories", passthrough_parameters.Nothing, answers.Categories),
        _alone(
            "exportData",
            EXPORT,
            passthrough_parameters.DataExport,
            DATA_EXPORT,
            answers.Job,
            a_day=24,
            repeatable=False,
        ),
        _alone(
            "exportUsers",
            EXPORT,
            passthrough_parameters.UsersExport,
            DATA_EXPORT,
            answers.Job,
            a_day=40,
            repeatable=False,
        ),
        _alone(
            "exportReport",
            EXPORT,
            passthrough_parameters.ReportExport,
            DATA_EXPORT,
            answers.Job,
            a_day=100,
            repeatable=False,
        ),
        _alone(
            "getExportResults",
            EXPORT,
            passthrough_parameters.JobId,
            DATA_EXPORT,
            answers.ExportState,
        ),
        # As a CSV job. The JSON form, with the production key, is how items are packed
        # (`leanplum/mapping.py`).
        _alone(
            "multi",
            EXPORT,
            passthrough_parameters.Import,
            DEVELOPMENT,
            answers.Job,
            repeatable=False,
        ),
        _alone(
            "getMultiResults",
            EXPORT,
            passthrough_parameters.JobId,
            DEVELOPMENT,
            answers.ImportState,
        ),
        _alone(
            "addPostback",
            EXPORT,
            passthrough_parameters.Postback,
            DATA_EXPORT,
            answers.PostbackAdded,
            repeatable=False,
        ),
        _alone(
            "listPostbacks", EXPORT, passthrough_parameters.Nothing, DATA_EXPORT, answers.Postbacks
        ),
        _alone("deletePostback", EXPORT, passthrough_parameters.PostbackId, DATA_EXPORT),
        _sdk("getNewsfeedMessages", answer=answers.Newsfeed),
        _sdk("markNewsfeedMessageAsRead", shape=passthrough_parameters.Inbox, later=True),
        _sdk("deleteNewsfeedMessage", shape=passthrough_parameters.Inbox, later=True),
        _sdk("getMigrateState", about=About.APP, answer=answers.MigrateState),
        _sdk("log", later=True, about=About.APP),
        _sdk("trackGeofence", shape=parameters.Event, later=True),
        _sdk("restart"),
        _ios("saveInterface"),
        _ios("saveInterfaceImage"),
        _ios("getViewControllerVersionsList"),
    )
}
QUEUED = {name: action for name, action in ACTIONS.items() if action.later}
# Those that a setting may have relayed at the SDK door: not what needs a call of its own, nor what
# blocks a user.
RELAYABLE = tuple(
    name for name, action in QUEUED.items() if not action.alone and action.scope is not ERASE
)
# What may be delivered in the background: of several sessions in one SDK's batch all but the last,
# too.
DELIVERED = {"start": ACTIONS["start"], **QUEUED}
LATER = {name: action for name, action in QUEUED.items() if action.documented}


def key_for(action: str, body: str) -> KeyKind:
    """The kind of key that an item needs; `body` is its JSON text."""
    key = ACTIONS[action].key
    if key is not KeyKind.PRODUCTION:
        return key
    if (
        action == "setUserAttributes"
        and '"resetAnomalies":true' in body
        and _says(body, "resetAnomalies")
    ):
        return DEVELOPMENT
    return DEVELOPMENT if IN_DEVELOPMENT in body and _says(body, "devMode") else key


def _says(body: str, name: str) -> bool:
    """Whether the field itself is true, and not one of the same name inside another."""
    return orjson.loads(body).get(name) is True


def sent_alone(action: str, body: str) -> bool:
    """Whether an item is a call of its own: a `multi` takes the production key, so nothing else
    fits into one.
    """
    # Nearly all of them: this is asked of every item
    if action in _TOGETHER and IN_DEVELOPMENT not in body:
        return False
    return ACTIONS[action].alone or key_for(action, body) is not KeyKind.PRODUCTION


_TOGETHER = frozenset(
    name
    for name, action in ACTIONS.items()
    if not action.alone and action.key is KeyKind.PRODUCTION and name != "setUserAttributes"
)
