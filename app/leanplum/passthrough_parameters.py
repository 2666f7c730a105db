"""The parameters of actions that are answered while the caller waits, and of those of SDKs.

They are checked and documented like those in `parameters`.
"""

from typing import Annotated, Literal, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from app.leanplum.parameters import CLOSED, Attributes, DeviceFields, DevMode, UserLocation
from app.leanplum.values import DAY, Bool, DeviceId, EntityId, Int, Plain, Text, Time, UserId


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
    userId: UserId
    deviceId: DeviceId
    time: Time
    sentAt: Annotated[
        Time, Field(description="Time of sending by the sender's clock; corrects `time`. Not sent.")
    ]
    ip: Annotated[
        Text,
        Field(description="IP address of the end user, for geolocation. Not stored or sent."),
    ]
    userAgent: Annotated[
        Text, Field(description="User agent of the end user, for device detection. Not sent.")
    ]
    createDisposition: Literal["CreateIfNeeded", "CreateNever"]
    devMode: DevMode
    userAttributes: Attributes
    background: Annotated[
        Bool, Field(description="If true, the session does not count until it is resumed.")
    ]
    includeDefaults: Annotated[
        Bool, Field(description="Whether to include variables that have their default value.")
    ]


class Variables(TypedDict, total=False):
    """The user whose variables are returned (Leanplum's `getVars`)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    userId: UserId
    deviceId: DeviceId
    devMode: DevMode
    createDisposition: Annotated[
        Literal["CreateIfNeeded", "CreateNever"],
        Field(description="Whether Leanplum creates unknown users. Default: CreateNever."),
    ]
    includeDefaults: Annotated[
        Bool, Field(description="Whether to include variables that have their default value.")
    ]


class UserOrDevice(TypedDict, total=False):
    """A user or a device."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    userId: UserId
    deviceId: DeviceId


class Listing(TypedDict, total=False):
    """Filters of a list."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    includeDrafts: Annotated[Bool, Field(description="Whether to include drafts. Default: false.")]
    recent: Annotated[
        Bool, Field(description="Whether to list only recent entries. Default: true.")
    ]


class EntityLookup(TypedDict, total=False):
    """The id of one message, A/B test or variant."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    id: Required[EntityId]
    includeDrafts: Annotated[Bool, Field(description="Whether to include drafts. Default: false.")]


class VariableChange(TypedDict, total=False):
    """Variables and their values (Leanplum's `setVars`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"vars": {"welcome.text": "Hello", "welcome.seconds": 3}}]},
    )
    vars: Required[Annotated[Plain, Field(min_length=1)]]
    deviceId: DeviceId


class VariableNames(TypedDict, total=False):
    """The names of variables to delete (Leanplum's `deleteVars`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"vars": ["welcome.text"]}]}
    )
    vars: Required[Annotated[list[Text], Field(min_length=1)]]
    deviceId: DeviceId


class NotificationChannel(TypedDict, total=False):
    """An Android notification channel (Leanplum's `addAndroidNotificationChannel`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"name": "Offers", "importance": 3}]}
    )
    id: Required[Annotated[Text, Field(min_length=1)]]
    name: Required[Annotated[Text, Field(min_length=1)]]
    importance: Required[
        Annotated[
            Int,
            Field(description="Importance of the channel, as in Android; Leanplum's default is 3."),
        ]
    ]
    description: Text
    groupId: Text
    enableLights: Bool
    lightColor: Annotated[Text | Int, Field(union_mode="left_to_right")]
    enableVibration: Bool
    vibrationPattern: list[Int]
    lockscreenVisibility: Int
    bypassDnd: Bool
    showBadge: Bool
    sound: Text
    default: Bool


class ChannelId(TypedDict, total=False):
    """The id of one notification channel."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    channelId: Required[Annotated[Text, Field(min_length=1)]]


class DevelopmentDevice(TypedDict, total=False):
    """A device for development (Leanplum's `registerDevice`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"deviceId": "device-1", "email": "ann@example.com"}]},
    )
    deviceId: Required[DeviceId]
    email: Required[Annotated[Text, Field(min_length=1)]]


class FileName(TypedDict, total=False):
    """The name of one file."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    filename: Required[Annotated[Text, Field(min_length=1)]]


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
        Text, Field(description="JSON array of {filename, size, hash}, one for each file.")
    ]
    filename: Text
    size: Text
    hash: Text
    file: Annotated[Text, Field(json_schema_extra={"format": "binary"})]


Day = Annotated[str, Field(strict=True, pattern=DAY, description="Date as YYYYMMDD, Pacific time.")]


class DataExport(TypedDict, total=False):
    """A period whose raw data is exported (Leanplum's `exportData`); at most 60 days back."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [{"startDate": "20260131", "endDate": "20260201", "exportFormat": "json"}]
        },
    )
    startDate: Required[Day]
    endDate: Day
    startTime: Annotated[Time, Field(description="Start of the period, instead of whole days.")]
    endTime: Annotated[Time, Field(description="End of the period, instead of whole days.")]
    exportFormat: Literal["json", "csv"]
    callbackUrl: Text
    s3BucketName: Text
    s3AccessId: Text
    s3AccessKey: Text
    s3ObjectPrefix: Text
    compressData: Annotated[Bool, Field(description="Compress the files with gzip; only with S3.")]


class UsersExport(TypedDict, total=False):
    """The users to export with their attributes (Leanplum's `exportUsers`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"audienceName": "Buyers"}]}
    )
    audienceName: Text
    abTestId: EntityId
    userAttribute: Text


class ReportExport(TypedDict, total=False):
    """The report to export (Leanplum's `exportReport`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"startDate": "20260131", "dataType": "UserActivity"}]},
    )
    startDate: Required[Day]
    dataType: Required[
        Literal["UserActivity", "AbTestResults", "MessageResults", "BookmarkedReport"]
    ]
    endDate: Day
    abTestId: EntityId
    messageId: EntityId
    bookmarkName: Text
    eventNames: list[Text]


class JobId(TypedDict, total=False):
    """The id of one job."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    jobId: Required[Annotated[Text, Field(min_length=1, max_length=400)]]


DefaultAction = Annotated[
    Text, Field(min_length=1, description="Action of rows that do not name one.")
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
        Annotated[Text, Field(min_length=1, description="Name of the object in the bucket.")]
    ]
    gcsBucket: Required[
        Annotated[Text, Field(min_length=1, description="Name of the public bucket.")]
    ]
    defaultAction: DefaultAction


class ImportOfRows(TypedDict, total=False):
    """The arguments of an import whose rows are the body, as text/csv."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    defaultAction: DefaultAction
    gcsBucket: Annotated[Text, Field(description="Passed on to Leanplum; the rows are the body.")]


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
    type: Required[Literal["messageEvents", "abTestEvents"]]
    postbackUrl: Required[Annotated[Text, Field(min_length=1)]]
    channels: list[Literal["Push Notification", "Email", "In-app Message"]]


class PostbackId(TypedDict, total=False):
    """The id of one postback."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    postbackId: Required[Annotated[Text, Field(min_length=1)]]


# Parameters of actions that only SDKs call (fact sheet §3.8)


class SdkParameters(TypedDict, total=False):
    """Parameters that an SDK sends, passed on unchanged, since no source documents them."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # for pydantic


class InboxMessage(SdkParameters, total=False):
    """One message of a user's inbox."""

    newsfeedMessageId: Required[Text]
