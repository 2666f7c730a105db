"""Schemas of Leanplum's answers, action by action, for the documentation.

Answers are passed on whole, unknown fields too. Source: fact sheet §3; `total=False` everywhere,
since Leanplum promises no field.
"""

from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from app.leanplum.values import described


class Success(TypedDict, total=False):
    """Success, with a `warning` where Leanplum did it with a change."""

    warning: Annotated[
        dict[str, Any],
        described(
            "Set if Leanplum applied the call with a change.",
            {"message": "Past event time rewritten."},
        ),
    ]


class UserVariables(Success, total=False):
    """A user's variables, variants, messages and interface rules."""

    vars: Annotated[
        dict[str, Any], described("Values of variables by name.", {"welcome.text": "Hello"})
    ]
    variants: Annotated[
        list[dict[str, Any]],
        described("Variants of the user's A/B tests.", [{"id": 2002, "abTestId": 2001}]),
    ]
    messages: Annotated[
        dict[str, Any], described("In-app messages by id.", {"1001": {"action": "Center Popup"}})
    ]
    regions: Annotated[dict[str, Any], described("Geofences by name.", {})]
    interfaceRules: Annotated[list[Any], described("Rules that change the interface.", [])]
    interfaceEvents: Annotated[list[Any], described("Events of the interface.", [])]


class Started(UserVariables, total=False):
    """The variables and settings of a new session."""

    token: Annotated[str, described("Token of the session.", "t-1")]
    syncNewsfeed: Annotated[bool, described("Whether the inbox has changed.", False)]


class MessageSent(Success, total=False):
    """The number of messages sent; 0 where the message's targeting excludes the user."""

    result: Annotated[str, described("Leanplum's result.", "SUCCESS")]
    messagesSent: Annotated[int, described("Number of messages.", 1)]


class ExportedUser(Success, total=False):
    """Everything that Leanplum has about a user.

    Booleans among the attributes come as "True" and "False".
    """

    userId: Annotated[str, described("Id of the user.", "user-1")]
    userAttributes: Annotated[
        dict[str, Any], described("Attributes by name.", {"plan": "pro", "beta": "True"})
    ]
    events: Annotated[
        dict[str, Any], described("Counters of events by name.", {"Purchase": {"count": 3}})
    ]
    states: Annotated[
        dict[str, Any], described("Counters of states by name.", {"Checkout": {"count": 2}})
    ]
    created: Annotated[float, described("Time of creation, in epoch seconds.", 1769860800.0)]
    lastActive: Annotated[
        float, described("Time of the last activity, in epoch seconds.", 1769860800.0)
    ]
    totalSessions: Annotated[int, described("Number of sessions.", 12)]
    timeSpentInApp: Annotated[float, described("Time spent in the app, in seconds.", 3600.0)]
    devices: Annotated[
        list[dict[str, Any]], described("The user's devices.", [{"deviceId": "device-1"}])
    ]
    unsubscribeChannels: Annotated[
        list[str], described("Channels that the user unsubscribed from.", ["Email"])
    ]
    unsubscribeCategories: Annotated[
        list[Any], described("Categories that the user unsubscribed from.", [7])
    ]


class RemovedVariables(Success, total=False):
    """The names of the deleted variables."""

    variablesRemoved: Annotated[
        list[str], described("Names of the deleted variables.", ["welcome.text"])
    ]


class Registered(Success, total=False):
    """The result of a registration: false where the device was registered before."""

    registered: Annotated[bool, described("False if the device was registered before.", True)]


class Bytes(TypedDict, total=False):
    """The content of the file."""


class NotificationChannelList(Success, total=False):
    """Android's notification channels."""

    notificationChannels: Annotated[
        list[dict[str, Any]], described("The channels.", [{"id": "offers", "name": "Offers"}])
    ]


class ChannelAdded(Success, total=False):
    """A channel that was created or changed."""

    channelCreated: Annotated[bool, described("Whether the channel is new.", True)]
    channelUpdated: Annotated[bool, described("Whether the channel was changed.", False)]
    channelId: Annotated[str, described("Id of the channel.", "offers")]
    name: Annotated[str, described("Name that users see.", "Offers")]
    importance: Annotated[int, described("Importance, as in Android.", 3)]


class ChannelDeleted(Success, total=False):
    """A channel that was deleted."""

    channelDeleted: Annotated[bool, described("Whether there was such a channel.", True)]
    channelId: Annotated[str, described("Id of the channel.", "offers")]


class Entity(TypedDict, total=False):
    """A message or an A/B test."""

    id: Annotated[int, described("Id.", 1002)]
    name: Annotated[str, described("Name.", "Welcome")]
    active: Annotated[bool, described("Whether it is running.", True)]
    state: Annotated[str, described("State.", "active")]
    created: Annotated[float, described("Time of creation, in epoch seconds.", 1769860800.0)]
    updated: Annotated[float, described("Time of the last change, in epoch seconds.", 1769860800.0)]
    finished: Annotated[
        float | None,
        described("Time of the end, in epoch seconds; null while it runs.", 1769860800.0),
    ]


class KnownMessage(Entity, total=False):
    """A message."""

    messageType: Annotated[str, described("Channel.", "Push Notification")]
    scheduledTime: Annotated[
        float | str | None, described("Time of sending, if it is scheduled.", 1769860800.0)
    ]
    campaignID: Annotated[int, described("Id of its campaign.", 1003)]
    campaignName: Annotated[str, described("Name of its campaign.", "Welcome")]


class MessageList(Success, total=False):
    """A list of messages."""

    messages: Annotated[
        list[KnownMessage], described("The messages.", [{"id": 1002, "name": "Welcome"}])
    ]


class OneMessage(Success, total=False):
    """One message."""

    message: Annotated[KnownMessage, described("The message.", {"id": 1002, "name": "Welcome"})]


class AbTest(Entity, total=False):
    """An A/B test and its variants."""

    chosenVariant: Annotated[Any, described("Id of the variant that was chosen at the end.", 2002)]
    variants: Annotated[
        list[dict[str, Any]], described("The variants.", [{"id": 2002, "name": "Blue"}])
    ]


class AbTestList(Success, total=False):
    """A list of A/B tests."""

    abTests: Annotated[list[AbTest], described("The A/B tests.", [{"id": 2001, "name": "Colors"}])]


class OneAbTest(Success, total=False):
    """One A/B test."""

    abTest: Annotated[AbTest, described("The A/B test.", {"id": 2001, "name": "Colors"})]


class OneVariant(Success, total=False):
    """One variant of an A/B test."""

    variant: Annotated[dict[str, Any], described("The variant.", {"id": 2002, "name": "Blue"})]


class CategoryList(Success, total=False):
    """The categories that users may unsubscribe from."""

    categories: Annotated[
        list[dict[str, Any]], described("The categories.", [{"id": 7, "name": "Offers"}])
    ]


class StartedJob(Success, total=False):
    """A job that was started; its id gets its results."""

    jobId: Annotated[str, described("Id of the job, with which to get its results.", "export_1")]


class ExportState(Success, total=False):
    """The state of an export; once finished, the URLs of its files (for 24 hours) or a report."""

    state: Annotated[
        Literal["PENDING", "RUNNING", "FINISHED", "FAILED"],
        described("State of the export.", "FINISHED"),
    ]
    jobId: Annotated[str, described("Id of the job.", "export_1")]
    files: Annotated[
        list[str],
        described(
            "URLs of the files, valid for 24 hours.", ["https://storage.example/export_1.json"]
        ),
    ]
    numSessions: Annotated[int, described("Number of sessions in the files.", 120)]
    numBytes: Annotated[int, described("Size of the files.", 4096)]


class ImportState(Success, total=False):
    """The state of an import."""

    state: Annotated[
        Literal["PENDING", "RUNNING", "FINISHED", "FAILED"],
        described("State of the import.", "FINISHED"),
    ]
    data: Annotated[dict[str, Any], described("Results of the rows.", {"numSuccess": 2})]


class PostbackAdded(Success, total=False):
    """A new postback."""

    postbackId: Annotated[int | str, described("Id of the postback.", 1)]


class PostbackList(Success, total=False):
    """The app's postbacks."""

    postbacks: Annotated[
        list[dict[str, Any]], described("The postbacks.", [{"id": 1, "type": "messageEvents"}])
    ]


class Newsfeed(Success, total=False):
    """A user's inbox, by message."""

    newsfeedMessages: dict[str, Any]


class MigrateState(Success, total=False):
    """The service that an SDK is to use: Leanplum (`lp`), CleverTap (`ct`) or both."""

    sdk: str
    sha256: str
