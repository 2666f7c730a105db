"""The parameters of Leanplum's actions, less `appId`, `clientKey`, `apiVersion` (contract §4, §5).

These shapes are the rules *and* the documentation: bodies are checked against them, and `openapi/` is made from them.
The source of each is the action's page of Leanplum's API reference (fact sheet §3).
"""

from typing import Annotated, Literal, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from app.leanplum.values import (
    DAY,
    MAX_PARAMS,
    AttributeValue,
    Bool,
    Count,
    Currency,
    DeviceId,
    EntityId,
    Int,
    ItemId,
    Name,
    Number,
    Params,
    Plain,
    Scalar,
    Text,
    Time,
    UserId,
)

CLOSED = ConfigDict(extra="forbid")
Empty = Literal[""]


class Subject(TypedDict, total=False):
    """Whom something is about."""

    id: Annotated[
        ItemId, Field(description="The caller's own id for the item: a repeat within the window is a duplicate.")
    ]
    userId: Annotated[UserId, Field(description="Whom it is about. One of userId and deviceId is required.")]
    deviceId: Annotated[DeviceId, Field(description="The device it is about.")]
    time: Annotated[Time, Field(description="When it happened: RFC 3339 or epoch seconds. Default: now.")]


class Common(Subject, total=False):
    """What every item may carry that Leanplum may make a user for."""

    createDisposition: Annotated[
        Literal["CreateIfNeeded", "CreateNever"],
        Field(
            description="Whether Leanplum makes a user that it doesn't know. Leanplum's default depends on the action."
        ),
    ]


class Event(Common, total=False):
    """One event (Leanplum's `track`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "userId": "user-1",
                    "event": "Purchase",
                    "value": 9.99,
                    "currencyCode": "EUR",
                    "params": {"sku": "A-1", "gift": False},
                }
            ]
        },
    )
    event: Required[
        Annotated[
            Name | Empty,
            Field(union_mode="left_to_right", description="The event's name; empty only with messageId."),
        ]
    ]
    value: Annotated[Number, Field(description="The event's value, as the price of a purchase.")]
    currencyCode: Annotated[Currency, Field(description="ISO 4217 code of `value`'s currency.")]
    info: Annotated[Text, Field(description="Free text, treated like a parameter.")]
    params: Annotated[Params, Field(description=f"At most {MAX_PARAMS} parameters: text, number or boolean.")]
    messageId: Annotated[Int, Field(description="Ties the event to a message.")]
    disposition: Annotated[
        Literal["active", "passive", "requireActive"],
        Field(description="active marks the user active; passive doesn't; requireActive needs an open session."),
    ]
    allowOffline: Annotated[Bool, Field(description="Deprecated by Leanplum: false is active, true is passive.")]
    googlePlayPurchaseData: Text
    googlePlayPurchaseDataSignature: Text
    iOSTransactionIdentifier: Text
    iOSReceiptData: Text
    iOSSandbox: Bool


class Occurrences(TypedDict, total=False):
    """Counters of one event in a user's profile. Times are epoch seconds."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    count: Count
    countIncrement: Int
    value: Number
    valueIncrement: Number
    firstTime: Time
    lastTime: Time


class Visits(TypedDict, total=False):
    """Counters of one state in a user's profile. Times are epoch seconds."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    count: Count
    countIncrement: Int
    firstTime: Time
    lastTime: Time


class DeviceFields(TypedDict, total=False):
    """What Leanplum knows of a device."""

    appVersion: Text
    systemName: Text
    systemVersion: Text
    browserName: Text
    browserVersion: Text
    deviceName: Text
    deviceModel: Text
    iosPushToken: Text
    gcmRegistrationId: Text
    webPushSubscription: Text


class Device(DeviceFields, total=False):
    """One device of a user."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    deviceId: Required[DeviceId]


class Place(TypedDict, total=False):
    """Where a user is, and what their clock shows."""

    locale: Text
    country: Text
    region: Text
    city: Text
    location: Annotated[Text, Field(description="Latitude and longitude, as in 52.5,13.4.")]
    locationAccuracyType: Literal["IP", "CELL", "GPS"]
    timezone: Text
    timezoneOffsetSeconds: Int


Channel = Literal["Email", "Push Notification", "Webhook", "Newsfeed Message"]
Attributes = dict[Name, AttributeValue]
SetValues = dict[Name, Annotated[Scalar | list[Scalar], Field(union_mode="left_to_right")]]


class UserUpdate(Common, Place, total=False):
    """Changes of one user (Leanplum's `setUserAttributes`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"userAttributes": {"plan": "pro", "age": 29, "nickname": None}}]},
    )
    userAttributes: Annotated[Attributes, Field(description="Merged into the user's; null clears an attribute.")]
    userAttributeValuesToAdd: Annotated[SetValues, Field(description="Values added to set-valued attributes.")]
    userAttributeValuesToRemove: Annotated[SetValues, Field(description="Values removed from set-valued attributes.")]
    userAttributeValuesToIncrement: Annotated[dict[Name, Int], Field(description="Whole numbers added.")]
    newUserId: Annotated[UserId, Field(description="Log in, register or switch: the user's new id.")]
    events: Annotated[dict[Name, Occurrences], Field(description="The profile's counters of events.")]
    states: Annotated[dict[Name, Visits], Field(description="The profile's counters of states.")]
    created: Time
    lastActive: Time
    timeSpentInApp: Number
    totalSessions: Count
    devices: list[Device]
    unsubscribeCategoriesToAdd: list[Int]
    unsubscribeCategoriesToRemove: list[Int]
    unsubscribeChannelsToAdd: Annotated[Channel | list[Channel], Field(union_mode="left_to_right")]
    unsubscribeChannelsToRemove: Annotated[Channel | list[Channel], Field(union_mode="left_to_right")]
    resetAnomalies: Annotated[
        Bool,
        Field(
            description="Clears Leanplum's mark of an anomalous user. Undocumented there; needs the development key."
        ),
    ]


class State(Common, total=False):
    """The user enters a state (Leanplum's `advance`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"state": "Checkout", "params": {"step": 2}}]}
    )
    state: Required[
        Annotated[
            Name | Empty, Field(union_mode="left_to_right", description="The state's name; empty leaves the state.")
        ]
    ]
    info: Annotated[Text, Field(description="Free text, treated like a parameter.")]
    params: Annotated[Params, Field(description=f"At most {MAX_PARAMS} parameters: text, number or boolean.")]


class UserCall(Common, total=False):
    """Nothing beyond whom it is about and when."""

    __pydantic_config__ = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"deviceId": "device-1"}]})  # type: ignore[misc]


class DeviceUpdate(Common, DeviceFields, total=False):
    """Changes of one device (Leanplum's `setDeviceAttributes`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"deviceModel": "Pixel 9", "appVersion": "2.0.1"}]}
    )


class Source(TypedDict, total=False):
    """Who brought the user (the keys that Leanplum's Android SDK documents)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    publisherId: Text
    publisherName: Text
    publisherSubPublisher: Text
    publisherSubSite: Text
    publisherSubCampaign: Text
    publisherSubAdGroup: Text
    publisherSubAd: Text


class TrafficSource(Common, total=False):
    """Where the user came from (Leanplum's `setTrafficSourceInfo`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"trafficSource": {"publisherName": "Search", "publisherSubCampaign": "May"}}]},
    )
    trafficSource: Required[Source]


Values = Annotated[Plain, Field(description="What the template's variables shall be.")]


class Message(Common, total=False):
    """One message to one user (Leanplum's `sendMessage`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"userId": "user-1", "values": {"name": "Ann"}, "force": False}]},
    )
    messageId: Required[Annotated[EntityId, Field(description="The message's id.")]]
    values: Values
    force: Annotated[Bool, Field(description="Send it whether or not its targeting fits.")]


class Campaign(Common, total=False):
    """One user enters a campaign (Leanplum's `startCampaign`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"userId": "user-1", "values": {"name": "Ann"}}]}
    )
    campaignId: Required[Annotated[EntityId, Field(description="The campaign's id.")]]
    values: Values


class Blocking(Subject, total=False):
    """Nothing beyond whom it is about."""

    __pydantic_config__ = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"deviceId": "device-1"}]})  # type: ignore[misc]


class Erasure(Subject, total=False):
    """A user who shall be forgotten (Leanplum's `deleteUser`)."""

    __pydantic_config__ = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"fullErasure": True}]})  # type: ignore[misc]
    fullErasure: Annotated[Bool, Field(description="Everything, as the GDPR asks; Leanplum takes up to 15 days.")]


# --- what is answered while the caller waits --------------------------------------------------------------------------


class Nothing(TypedDict, total=False):
    """No parameter at all."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]


class Start(DeviceFields, Place, total=False):
    """A session begins (Leanplum's `start`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"deviceId": "device-1", "systemName": "iOS", "userAttributes": {"age": 29}}]},
    )
    userId: UserId
    deviceId: DeviceId
    time: Time
    createDisposition: Literal["CreateIfNeeded", "CreateNever"]
    userAttributes: Attributes
    background: Annotated[Bool, Field(description="true: not counted until the session is resumed.")]
    includeDefaults: Annotated[Bool, Field(description="Whether variables at their defaults are answered too.")]


class Variables(TypedDict, total=False):
    """Whose variables (Leanplum's `getVars`)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    userId: UserId
    deviceId: DeviceId
    includeDefaults: Annotated[Bool, Field(description="Whether variables at their defaults are answered too.")]


class Whom(TypedDict, total=False):
    """A user or a device."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    userId: UserId
    deviceId: DeviceId


class Listing(TypedDict, total=False):
    """Which of them are listed."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    includeDrafts: Annotated[Bool, Field(description="Whether drafts are listed too; Leanplum's default is false.")]
    recent: Annotated[Bool, Field(description="Whether only recent ones are; Leanplum's default is true.")]


class One(TypedDict, total=False):
    """One thing by its id."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    id: Required[EntityId]


class VariableChange(TypedDict, total=False):
    """Variables and their values (Leanplum's `setVars`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"vars": {"welcome.text": "Hello", "welcome.seconds": 3}}]}
    )
    vars: Required[Annotated[Plain, Field(min_length=1)]]
    deviceId: DeviceId


class VariableNames(TypedDict, total=False):
    """The names of variables that shall go (Leanplum's `deleteVars`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"vars": ["welcome.text"]}]}
    )
    vars: Required[Annotated[list[Text], Field(min_length=1)]]
    deviceId: DeviceId


class NotificationChannel(TypedDict, total=False):
    """An Android notification channel (Leanplum's `addAndroidNotificationChannel`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"name": "Offers", "importance": 3}]}
    )
    id: Required[Annotated[Text, Field(min_length=1)]]
    name: Required[Annotated[Text, Field(min_length=1)]]
    importance: Required[Annotated[Int, Field(description="Android's importance; Leanplum's own default is 3.")]]
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
    """One notification channel."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    channelId: Required[Annotated[Text, Field(min_length=1)]]


class DevelopmentDevice(TypedDict, total=False):
    """A device for development (Leanplum's `registerDevice`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"deviceId": "device-1", "email": "ann@example.com"}]}
    )
    deviceId: Required[DeviceId]
    email: Required[Annotated[Text, Field(min_length=1)]]


class FileName(TypedDict, total=False):
    """One file by its name."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    filename: Required[Annotated[Text, Field(min_length=1)]]


class Upload(TypedDict, total=False):
    """Files, as multipart/form-data: one as `file` with its `filename`, `size` and `hash`; or several as `file0`,
    `file1` … with `data`, a JSON list of {filename, size, hash}. At most 16, 50 MB together."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="allow",
        json_schema_extra={
            "examples": [{"filename": "hello.png", "size": "512", "hash": "9a0364b9", "file": "(bytes)"}]
        },
    )
    data: Annotated[Text, Field(description="JSON list of {filename, size, hash}, one for each file.")]
    filename: Text
    size: Text
    hash: Text
    file: Annotated[Text, Field(json_schema_extra={"format": "binary"})]


Day = Annotated[str, Field(strict=True, pattern=DAY, description="YYYYMMDD, Pacific time.")]


class DataExport(TypedDict, total=False):
    """Raw data of some days (Leanplum's `exportData`); at most 60 days back."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"startDate": "20260131", "endDate": "20260201", "exportFormat": "json"}]},
    )
    startDate: Required[Day]
    endDate: Day
    startTime: Annotated[Time, Field(description="instead of whole days: from here")]
    endTime: Annotated[Time, Field(description="instead of whole days: to here")]
    exportFormat: Literal["json", "csv"]
    callbackUrl: Text
    s3BucketName: Text
    s3AccessId: Text
    s3AccessKey: Text
    s3ObjectPrefix: Text
    compressData: Annotated[Bool, Field(description="gzip; only with S3")]


class UsersExport(TypedDict, total=False):
    """Users with their attributes (Leanplum's `exportUsers`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"audienceName": "Buyers"}]}
    )
    audienceName: Text
    abTestId: EntityId
    userAttribute: Text


class ReportExport(TypedDict, total=False):
    """A report (Leanplum's `exportReport`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"startDate": "20260131", "dataType": "UserActivity"}]}
    )
    startDate: Required[Day]
    dataType: Required[Literal["UserActivity", "AbTestResults", "MessageResults", "BookmarkedReport"]]
    endDate: Day
    abTestId: EntityId
    messageId: EntityId
    bookmarkName: Text
    eventNames: list[Text]


class JobId(TypedDict, total=False):
    """One job."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    jobId: Required[Annotated[Text, Field(min_length=1, max_length=400)]]


class Import(TypedDict, total=False):
    """Actions as CSV (Leanplum's `multi` with `createJob`), as multipart/form-data. The first row names the arguments;
    dots nest."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"gcsBucket": "bucket", "defaultAction": "track", "file": "userId,event"}]},
    )
    file: Required[Annotated[Text, Field(json_schema_extra={"format": "binary"})]]
    gcsBucket: Annotated[Text, Field(description="Leanplum's docs name it as required")]
    defaultAction: Annotated[Text, Field(description="of rows without an action of their own")]


class Postback(TypedDict, total=False):
    """Where Leanplum posts what happens to messages or tests (Leanplum's `addPostback`); at most 3 an app."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={
            "examples": [{"type": "messageEvents", "postbackUrl": "https://example.com/lp?user={{User ID}}"}]
        },
    )
    type: Required[Literal["messageEvents", "abTestEvents"]]
    postbackUrl: Required[Annotated[Text, Field(min_length=1)]]
    channels: list[Literal["Push Notification", "Email", "In-app Message"]]


class PostbackId(TypedDict, total=False):
    """One postback."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    postbackId: Required[Annotated[Text, Field(min_length=1)]]


# --- what only SDKs call (fact sheet §3.8) ----------------------------------------------------------------------------


class FromSdk(TypedDict, total=False):
    """What SDKs send is passed on as it is: no source documents it."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]


class Inbox(FromSdk, total=False):
    """One message of the inbox."""

    newsfeedMessageId: Required[Text]
