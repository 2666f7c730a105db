"""The parameters of actions that are answered while the caller waits, and of those of SDKs.

They are checked and documented like those in `parameters`.
"""

from typing import Annotated, Literal, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from app.leanplum.parameters import CLOSED, Attributes, DeviceFields, DevMode, UserLocation
from app.leanplum.values import (
    DAY,
    Bool,
    DeviceId,
    EntityId,
    Int,
    Plain,
    Text,
    Time,
    UserId,
    described,
)

# Days in the examples of exports.
EXAMPLE_START, EXAMPLE_END = "20260131", "20260201"


class NoParameters(TypedDict, total=False):
    """No parameters."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic


class Start(DeviceFields, UserLocation, total=False):
    """The start of a session (Leanplum's `start`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"deviceId": "device-1", "systemName": "iOS", "userAttributes": {"age": 29}}
            ]
        },
    )
    userId: Annotated[
        UserId, described("Id of the user. Either userId or deviceId is required.", "user-1")
    ]
    deviceId: Annotated[DeviceId, described("Id of the device.", "device-1")]
    time: Annotated[
        Time, described("Start of the session, RFC 3339 or epoch seconds. Default: now.")
    ]
    sentAt: Annotated[
        Time, Field(description="Time of sending by the sender's clock; corrects `time`. Not sent.")
    ]
    ip: Annotated[
        Text,
        Field(
            description="IP address of the end user, for geolocation. Not stored or sent.",
            examples=["203.0.113.7"],
        ),
    ]
    userAgent: Annotated[
        Text,
        Field(
            description="User agent of the end user, for device detection. Not sent.",
            examples=["Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)"],
        ),
    ]
    createDisposition: Annotated[
        Literal["CreateIfNeeded", "CreateNever"],
        described("Whether Leanplum creates unknown users.", "CreateIfNeeded"),
    ]
    devMode: DevMode
    userAttributes: Annotated[Attributes, described("Attributes to set.", {"age": 29})]
    background: Annotated[
        Bool,
        Field(
            description="If true, the session does not count until it is resumed.", examples=[False]
        ),
    ]
    includeDefaults: Annotated[
        Bool,
        Field(
            description="Whether to include variables that have their default value.",
            examples=[False],
        ),
    ]


class Variables(TypedDict, total=False):
    """The user whose variables are returned (Leanplum's `getVars`)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    userId: Annotated[UserId, described("Id of the user.", "user-1")]
    deviceId: Annotated[DeviceId, described("Id of the device.", "device-1")]
    devMode: DevMode
    createDisposition: Annotated[
        Literal["CreateIfNeeded", "CreateNever"],
        Field(
            description="Whether Leanplum creates unknown users. Default: CreateNever.",
            examples=["CreateNever"],
        ),
    ]
    includeDefaults: Annotated[
        Bool,
        Field(
            description="Whether to include variables that have their default value.",
            examples=[False],
        ),
    ]


class UserOrDevice(TypedDict, total=False):
    """A user or a device."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    userId: Annotated[UserId, described("Id of the user.", "user-1")]
    deviceId: Annotated[DeviceId, described("Id of the device.", "device-1")]


class Listing(TypedDict, total=False):
    """Filters of a list."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    includeDrafts: Annotated[
        Bool, Field(description="Whether to include drafts. Default: false.", examples=[True])
    ]
    recent: Annotated[
        Bool,
        Field(description="Whether to list only recent entries. Default: true.", examples=[False]),
    ]


class EntityLookup(TypedDict, total=False):
    """The id of one message, A/B test or variant."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    id: Required[Annotated[EntityId, described("Id of the message, A/B test or variant.", 1002)]]
    includeDrafts: Annotated[
        Bool, Field(description="Whether to include drafts. Default: false.", examples=[True])
    ]


class VariableChange(TypedDict, total=False):
    """Variables and their values (Leanplum's `setVars`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"vars": {"welcome.text": "Hello", "welcome.seconds": 3}}]},
    )
    vars: Required[
        Annotated[
            Plain,
            Field(
                min_length=1,
                description="Values by name of the variable.",
                examples=[{"welcome.text": "Hello", "welcome.seconds": 3}],
            ),
        ]
    ]
    deviceId: Annotated[
        DeviceId, described("Id of a development device that gets them.", "device-1")
    ]


class VariableNames(TypedDict, total=False):
    """The names of variables to delete (Leanplum's `deleteVars`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"vars": ["welcome.text"]}]}
    )
    vars: Required[
        Annotated[
            list[Text],
            Field(min_length=1, description="Names of the variables.", examples=[["welcome.text"]]),
        ]
    ]
    deviceId: Annotated[DeviceId, described("Id of a development device.", "device-1")]


class NotificationChannel(TypedDict, total=False):
    """An Android notification channel (Leanplum's `addAndroidNotificationChannel`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"name": "Offers", "importance": 3}]}
    )
    id: Required[
        Annotated[Text, Field(min_length=1, description="Id of the channel.", examples=["offers"])]
    ]
    name: Required[
        Annotated[
            Text, Field(min_length=1, description="Name that users see.", examples=["Offers"])
        ]
    ]
    importance: Required[
        Annotated[
            Int,
            Field(
                description="Importance of the channel, as in Android; Leanplum's default is 3.",
                examples=[3],
            ),
        ]
    ]
    description: Annotated[Text, described("Description that users see.", "Offers of the week")]
    groupId: Annotated[Text, described("Group of the channel.", "marketing")]
    enableLights: Annotated[Bool, described("Whether notifications flash the light.", True)]
    lightColor: Annotated[
        Text | Int,
        Field(
            union_mode="left_to_right",
            description="Color of the light, as text or as a number (ARGB).",
            examples=["#ff0000"],
        ),
    ]
    enableVibration: Annotated[Bool, described("Whether notifications vibrate.", True)]
    vibrationPattern: Annotated[
        list[Int], described("Pauses and vibrations in turn, in milliseconds.", [0, 250, 100, 250])
    ]
    lockscreenVisibility: Annotated[
        Int, described("Visibility on the lock screen, as in Android.", 1)
    ]
    bypassDnd: Annotated[Bool, described('Whether notifications pass "do not disturb".', False)]
    showBadge: Annotated[Bool, described("Whether the icon of the app has a badge.", True)]
    sound: Annotated[Text, described("Sound of notifications.", "bell")]
    default: Annotated[Bool, described("Whether it is the app's default channel.", False)]


class ChannelId(TypedDict, total=False):
    """The id of one notification channel."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    channelId: Required[
        Annotated[Text, Field(min_length=1, description="Id of the channel.", examples=["offers"])]
    ]


class DevelopmentDevice(TypedDict, total=False):
    """A device for development (Leanplum's `registerDevice`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"deviceId": "device-1", "email": "ann@example.com"}]},
    )
    deviceId: Required[Annotated[DeviceId, described("Id of the device.", "device-1")]]
    email: Required[
        Annotated[
            Text,
            Field(
                min_length=1,
                description="Email address of its developer.",
                examples=["ann@example.com"],
            ),
        ]
    ]


class FileName(TypedDict, total=False):
    """The name of one file."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    filename: Required[
        Annotated[
            Text, Field(min_length=1, description="Name of the file.", examples=["hello.png"])
        ]
    ]


class FileUpload(TypedDict, total=False):
    """Files, as multipart/form-data, at most 16 and 50 MB together.

    One is sent as `file` with its `filename`, `size` and `hash`; several as `file0`, `file1` … with
    `data`, a JSON list of {filename, size, hash}.
    """

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="allow",
        json_schema_extra={
            "examples": [
                {"filename": "hello.png", "size": "512", "hash": "9a0364b9", "file": "(bytes)"}
            ]
        },
    )
    data: Annotated[
        Text,
        Field(
            description="JSON array of {filename, size, hash}, one for each file.",
            examples=['[{"filename": "hello.png", "size": 5, "hash": "9a0364b9"}]'],
        ),
    ]
    filename: Annotated[Text, described("Name of the file.", "hello.png")]
    size: Annotated[Text, described("Size of the file in bytes.", "5")]
    hash: Annotated[Text, described("Hash of the content.", "9a0364b9")]
    file: Annotated[
        Text,
        Field(
            json_schema_extra={"format": "binary"},
            description="Content of the file.",
            examples=["(bytes)"],
        ),
    ]


Day = Annotated[
    str,
    Field(
        strict=True,
        pattern=DAY,
        description="Date as YYYYMMDD, Pacific time.",
        examples=[EXAMPLE_START],
    ),
]


class DataExport(TypedDict, total=False):
    """A period whose raw data is exported (Leanplum's `exportData`); at most 60 days back."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "startDate": EXAMPLE_START,
                    "endDate": EXAMPLE_END,
                    "exportFormat": "json",
                }
            ]
        },
    )
    startDate: Required[Day]
    endDate: Day
    startTime: Annotated[Time, Field(description="Start of the period, instead of whole days.")]
    endTime: Annotated[Time, Field(description="End of the period, instead of whole days.")]
    exportFormat: Annotated[Literal["json", "csv"], described("Format of the files.", "json")]
    callbackUrl: Annotated[
        Text,
        described(
            "URL that Leanplum calls when the files are ready.", "https://shop.example/exported"
        ),
    ]
    s3BucketName: Annotated[Text, described("S3 bucket for the files.", "exports")]
    s3AccessId: Annotated[Text, described("Access key id for the bucket.", "AKIAEXAMPLE")]
    s3AccessKey: Annotated[Text, described("Secret access key for the bucket.", "(secret)")]
    s3ObjectPrefix: Annotated[Text, described("Prefix of the names of the files.", "leanplum/")]
    compressData: Annotated[
        Bool, Field(description="Compress the files with gzip; only with S3.", examples=[True])
    ]


class UsersExport(TypedDict, total=False):
    """The users to export with their attributes (Leanplum's `exportUsers`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"audienceName": "Buyers"}]}
    )
    audienceName: Annotated[Text, described("Name of the audience.", "Buyers")]
    abTestId: Annotated[EntityId, described("Id of the A/B test whose users are exported.", 2001)]
    userAttribute: Annotated[Text, described("Attribute to export; default: all.", "plan")]


class ReportExport(TypedDict, total=False):
    """The report to export (Leanplum's `exportReport`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"startDate": EXAMPLE_START, "dataType": "UserActivity"}]},
    )
    startDate: Required[Day]
    dataType: Required[
        Annotated[
            Literal["UserActivity", "AbTestResults", "MessageResults", "BookmarkedReport"],
            described("Kind of report.", "UserActivity"),
        ]
    ]
    endDate: Day
    abTestId: Annotated[EntityId, described("Id of the A/B test, for its results.", 2001)]
    messageId: Annotated[EntityId, described("Id of the message, for its results.", 1002)]
    bookmarkName: Annotated[Text, described("Name of the bookmarked report.", "Weekly")]
    eventNames: Annotated[list[Text], described("Names of the events.", ["Purchase"])]


class JobId(TypedDict, total=False):
    """The id of one job."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    jobId: Required[
        Annotated[
            Text,
            Field(
                min_length=1, max_length=400, description="Id of the job.", examples=["export_1"]
            ),
        ]
    ]


DefaultAction = Annotated[
    Text,
    Field(min_length=1, description="Action of rows that do not name one.", examples=["track"]),
]


class Import(TypedDict, total=False):
    """A CSV file of actions in a public Google Cloud Storage bucket.

    Leanplum's `multi` with `createJob`. The file's first row names the arguments; dots nest.
    """

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [{"gcsBucket": "bucket", "file": "rows.csv", "defaultAction": "track"}]
        },
    )
    file: Required[
        Annotated[
            Text,
            Field(
                min_length=1, description="Name of the object in the bucket.", examples=["rows.csv"]
            ),
        ]
    ]
    gcsBucket: Required[
        Annotated[
            Text, Field(min_length=1, description="Name of the public bucket.", examples=["bucket"])
        ]
    ]
    defaultAction: DefaultAction


class ImportOfRows(TypedDict, total=False):
    """The arguments of an import whose rows are the body, as text/csv."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    defaultAction: DefaultAction
    gcsBucket: Annotated[
        Text,
        Field(description="Passed on to Leanplum; the rows are the body.", examples=["bucket"]),
    ]


class Postback(TypedDict, total=False):
    """A URL to which Leanplum posts events of messages or A/B tests; at most 3 for an app.

    Leanplum's `addPostback`.
    """

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"type": "messageEvents", "postbackUrl": "https://example.com/lp?user={{User ID}}"}
            ]
        },
    )
    type: Required[
        Annotated[
            Literal["messageEvents", "abTestEvents"], described("Events to post.", "messageEvents")
        ]
    ]
    postbackUrl: Required[
        Annotated[
            Text,
            Field(
                min_length=1,
                description="URL that Leanplum calls, with placeholders.",
                examples=["https://shop.example/lp?user={{User ID}}"],
            ),
        ]
    ]
    channels: Annotated[
        list[Literal["Push Notification", "Email", "In-app Message"]],
        described("Channels of the messages; default: all.", ["Email"]),
    ]


class PostbackId(TypedDict, total=False):
    """The id of one postback."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    postbackId: Required[
        Annotated[Text, Field(min_length=1, description="Id of the postback.", examples=["1"])]
    ]


# Parameters of actions that only SDKs call (fact sheet §3.8)


class SdkParameters(TypedDict, total=False):
    """Parameters that an SDK sends, passed on unchanged, since no source documents them."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # for pydantic


class InboxMessage(SdkParameters, total=False):
    """One message of a user's inbox."""

    newsfeedMessageId: Required[Text]
