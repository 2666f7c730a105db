"""What Leanplum answers, action by action: for the documentation; what comes is passed on whole,
unknown fields too.

Source: fact sheet §3; `total=False` everywhere, since no field is promised.
"""

from typing import Any, Literal

from typing_extensions import TypedDict


class Success(TypedDict, total=False):
    """Nothing beyond success; `warning` where Leanplum did it with a change."""

    warning: dict[str, Any]


class UserVariables(Success, total=False):
    """A user's variables, and what belongs to them."""

    vars: dict[str, Any]
    variants: list[dict[str, Any]]
    messages: dict[str, Any]
    regions: dict[str, Any]
    interfaceRules: list[Any]
    interfaceEvents: list[Any]


class Started(UserVariables, total=False):
    """What a new session needs to know."""

    token: str
    syncNewsfeed: bool


class Sent(Success, total=False):
    """How often a message was sent; 0 where its targeting doesn't fit."""

    result: str
    messagesSent: int


class ExportedUser(Success, total=False):
    """All that Leanplum knows of a user. Booleans among the attributes come as "True" and
    "False".
    """

    userId: str
    userAttributes: dict[str, Any]
    events: dict[str, Any]
    states: dict[str, Any]
    created: float
    lastActive: float
    totalSessions: int
    timeSpentInApp: float
    devices: list[dict[str, Any]]
    unsubscribeChannels: list[str]
    unsubscribeCategories: list[Any]


class RemovedVariables(Success, total=False):
    """Which variables went."""

    variablesRemoved: list[str]


class Registered(Success, total=False):
    """false where the device was registered before."""

    registered: bool


class Bytes(TypedDict, total=False):
    """The file itself."""


class NotificationChannels(Success, total=False):
    """Android's notification channels."""

    notificationChannels: list[dict[str, Any]]


class ChannelAdded(Success, total=False):
    """A channel made or changed."""

    channelCreated: bool
    channelUpdated: bool
    channelId: str
    name: str
    importance: int


class ChannelDeleted(Success, total=False):
    """A channel that went."""

    channelDeleted: bool
    channelId: str


class Entity(TypedDict, total=False):
    """A message or a test."""

    id: int
    name: str
    active: bool
    state: str
    created: float
    updated: float
    finished: float | None


class KnownMessage(Entity, total=False):
    """A message."""

    messageType: str
    scheduledTime: float | str | None
    campaignID: int
    campaignName: str


class Messages(Success, total=False):
    """Messages."""

    messages: list[KnownMessage]


class OneMessage(Success, total=False):
    """One message."""

    message: KnownMessage


class AbTest(Entity, total=False):
    """A test and its variants."""

    chosenVariant: Any
    variants: list[dict[str, Any]]


class AbTests(Success, total=False):
    """Tests."""

    abTests: list[AbTest]


class OneAbTest(Success, total=False):
    """One test."""

    abTest: AbTest


class OneVariant(Success, total=False):
    """One variant of a test."""

    variant: dict[str, Any]


class Categories(Success, total=False):
    """What users may unsubscribe from."""

    categories: list[dict[str, Any]]


class Job(Success, total=False):
    """A job that was begun; ask for its results by its id."""

    jobId: str


class ExportState(Success, total=False):
    """How far an export is; once finished, where its files are (for 24 hours), or a report
    itself.
    """

    state: Literal["PENDING", "RUNNING", "FINISHED", "FAILED"]
    jobId: str
    files: list[str]
    numSessions: int
    numBytes: int


class ImportState(Success, total=False):
    """How far an import is."""

    state: Literal["PENDING", "RUNNING", "FINISHED", "FAILED"]
    data: dict[str, Any]


class PostbackAdded(Success, total=False):
    """A new postback."""

    postbackId: int | str


class Postbacks(Success, total=False):
    """The app's postbacks."""

    postbacks: list[dict[str, Any]]


class Newsfeed(Success, total=False):
    """A user's inbox, by message."""

    newsfeedMessages: dict[str, Any]


class MigrateState(Success, total=False):
    """Whether an SDK speaks to Leanplum (`lp`), to CleverTap (`ct`) or both."""

    sdk: str
    sha256: str
