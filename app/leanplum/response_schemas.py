"""Schemas of Leanplum's answers, action by action, for the documentation.

Answers are passed on whole, unknown fields too. Source: fact sheet §3; `total=False` everywhere,
since Leanplum promises no field.
"""

from typing import Any, Literal

from typing_extensions import TypedDict


class Success(TypedDict, total=False):
    """Success, with a `warning` where Leanplum did it with a change."""

    warning: dict[str, Any]


class UserVariables(Success, total=False):
    """A user's variables, variants, messages and interface rules."""

    vars: dict[str, Any]
    variants: list[dict[str, Any]]
    messages: dict[str, Any]
    regions: dict[str, Any]
    interfaceRules: list[Any]
    interfaceEvents: list[Any]


class Started(UserVariables, total=False):
    """The variables and settings of a new session."""

    token: str
    syncNewsfeed: bool


class MessageSent(Success, total=False):
    """The number of messages sent; 0 where the message's targeting excludes the user."""

    result: str
    messagesSent: int


class ExportedUser(Success, total=False):
    """Everything that Leanplum has about a user.

    Booleans among the attributes come as "True" and "False".
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
    """The names of the deleted variables."""

    variablesRemoved: list[str]


class Registered(Success, total=False):
    """The result of a registration: false where the device was registered before."""

    registered: bool


class Bytes(TypedDict, total=False):
    """The content of the file."""


class NotificationChannels(Success, total=False):
    """Android's notification channels."""

    notificationChannels: list[dict[str, Any]]


class ChannelAdded(Success, total=False):
    """A channel that was created or changed."""

    channelCreated: bool
    channelUpdated: bool
    channelId: str
    name: str
    importance: int


class ChannelDeleted(Success, total=False):
    """A channel that was deleted."""

    channelDeleted: bool
    channelId: str


class Entity(TypedDict, total=False):
    """A message or an A/B test."""

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
    """A list of messages."""

    messages: list[KnownMessage]


class OneMessage(Success, total=False):
    """One message."""

    message: KnownMessage


class AbTest(Entity, total=False):
    """An A/B test and its variants."""

    chosenVariant: Any
    variants: list[dict[str, Any]]


class AbTests(Success, total=False):
    """A list of A/B tests."""

    abTests: list[AbTest]


class OneAbTest(Success, total=False):
    """One A/B test."""

    abTest: AbTest


class OneVariant(Success, total=False):
    """One variant of an A/B test."""

    variant: dict[str, Any]


class Categories(Success, total=False):
    """The categories that users may unsubscribe from."""

    categories: list[dict[str, Any]]


class StartedJob(Success, total=False):
    """A job that was started; its id gets its results."""

    jobId: str


class ExportState(Success, total=False):
    """The state of an export; once finished, the URLs of its files (for 24 hours) or a report."""

    state: Literal["PENDING", "RUNNING", "FINISHED", "FAILED"]
    jobId: str
    files: list[str]
    numSessions: int
    numBytes: int


class ImportState(Success, total=False):
    """The state of an import."""

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
    """The service that an SDK is to use: Leanplum (`lp`), CleverTap (`ct`) or both."""

    sdk: str
    sha256: str
