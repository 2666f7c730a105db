"""The parameters of Leanplum's actions, without `appId`, `clientKey` and `apiVersion`.

These shapes are the rules *and* the documentation: bodies are validated by them, and `openapi/` is
made from them. The source of each is the action's page of Leanplum's API reference (fact sheet
§3).
"""

from typing import Annotated, Literal, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from app.leanplum.values import (
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


DevMode = Annotated[
    Bool,
    Field(
        description="Marks development traffic: it stays out of analytics and is sent with the "
        "development key, once per second."
    ),
]


class Subject(TypedDict, total=False):
    """The user or device that an item is about, and what every item may carry."""

    id: Annotated[
        ItemId,
        Field(
            description="Your own id for the item; a repeat within the deduplication window is "
            "a duplicate."
        ),
    ]
    userId: Annotated[
        UserId, Field(description="Id of the user. Either userId or deviceId is required.")
    ]
    deviceId: Annotated[DeviceId, Field(description="Id of the device.")]
    time: Annotated[
        Time, Field(description="Time of the action, RFC 3339 or epoch seconds. Default: now.")
    ]
    sentAt: Annotated[
        Time,
        Field(
            description="Time of sending by the sender's clock; corrects `time` by that "
            "clock's error. Not sent to Leanplum."
        ),
    ]
    ip: Annotated[
        Text,
        Field(description="IP address of the end user, for geolocation. Not stored or sent."),
    ]
    userAgent: Annotated[
        Text, Field(description="User agent of the end user, for device detection. Not sent.")
    ]
    devMode: DevMode


class Common(Subject, total=False):
    """The fields of items for which Leanplum may create a user."""

    createDisposition: Annotated[
        Literal["CreateIfNeeded", "CreateNever"],
        Field(
            description="Whether Leanplum creates unknown users. Leanplum's default depends on "
            "the action."
        ),
    ]


class Event(Common, total=False):
    """An event of a user (Leanplum's `track`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
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
            Field(
                union_mode="left_to_right",
                description="Name of the event; may be empty only with messageId.",
            ),
        ]
    ]
    value: Annotated[
        Number, Field(description="Value of the event, such as the price of a purchase.")
    ]
    currencyCode: Annotated[Currency, Field(description="ISO 4217 currency code of `value`.")]
    info: Annotated[Text, Field(description="Free text, treated as a parameter.")]
    params: Annotated[
        Params, Field(description=f"Up to {MAX_PARAMS} parameters: strings, numbers or booleans.")
    ]
    messageId: Annotated[Int, Field(description="Id of the message that the event belongs to.")]
    disposition: Annotated[
        Literal["active", "passive", "requireActive"],
        Field(
            description="`active` marks the user as active, `passive` does not, "
            "`requireActive` requires an open session."
        ),
    ]
    allowOffline: Annotated[
        Bool, Field(description="Deprecated by Leanplum: false means active, true means passive.")
    ]
    googlePlayPurchaseData: Text
    googlePlayPurchaseDataSignature: Text
    iOSTransactionIdentifier: Text
    iOSReceiptData: Text
    iOSSandbox: Bool


class Occurrences(TypedDict, total=False):
    """The counters of one event in a user's profile. Times are epoch seconds."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    count: Count
    countIncrement: Int
    value: Number
    valueIncrement: Number
    firstTime: Time
    lastTime: Time


class Visits(TypedDict, total=False):
    """The counters of one state in a user's profile. Times are epoch seconds."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    count: Count
    countIncrement: Int
    firstTime: Time
    lastTime: Time


class DeviceFields(TypedDict, total=False):
    """The properties of a device."""

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


class UserDevice(DeviceFields, total=False):
    """A device of a user. Leanplum accepts one without `deviceId` (fact sheet §12.5)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    deviceId: DeviceId


class UserLocation(TypedDict, total=False):
    """The location, locale and time zone of a user."""

    locale: Text
    country: Text
    region: Text
    city: Text
    location: Annotated[Text, Field(description="Latitude and longitude, such as 52.5,13.4.")]
    locationAccuracyType: Literal["IP", "CELL", "GPS"]
    timezone: Text
    timezoneOffsetSeconds: Int


Channel = Literal["Email", "Push Notification", "Webhook", "Newsfeed Message"]
Attributes = dict[Name, AttributeValue]
SetValues = dict[Name, Annotated[Scalar | list[Scalar], Field(union_mode="left_to_right")]]


class UserUpdate(Common, UserLocation, total=False):
    """Changes to a user (Leanplum's `setUserAttributes`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [{"userAttributes": {"plan": "pro", "age": 29, "nickname": None}}]
        },
    )
    userAttributes: Annotated[
        Attributes, Field(description="Attributes to set; null clears an attribute.")
    ]
    userAttributeValuesToAdd: Annotated[
        SetValues, Field(description="Values to add to set-valued attributes.")
    ]
    userAttributeValuesToRemove: Annotated[
        SetValues, Field(description="Values to remove from set-valued attributes.")
    ]
    userAttributeValuesToIncrement: Annotated[
        dict[Name, Int], Field(description="Integers to add to numeric attributes.")
    ]
    newUserId: Annotated[UserId, Field(description="New id of the user, at login or registration.")]
    events: Annotated[
        dict[Name, Occurrences], Field(description="Counters of events in the profile.")
    ]
    states: Annotated[dict[Name, Visits], Field(description="Counters of states in the profile.")]
    created: Time
    lastActive: Time
    timeSpentInApp: Number
    totalSessions: Count
    devices: list[UserDevice]
    unsubscribeCategoriesToAdd: list[Int]
    unsubscribeCategoriesToRemove: list[Int]
    unsubscribeChannelsToAdd: Annotated[Channel | list[Channel], Field(union_mode="left_to_right")]
    unsubscribeChannelsToRemove: Annotated[
        Channel | list[Channel], Field(union_mode="left_to_right")
    ]
    resetAnomalies: Annotated[
        Bool,
        Field(
            description="Clears Leanplum's flag of an anomalous user. Undocumented by "
            "Leanplum; requires the development key."
        ),
    ]


class StateChange(Common, total=False):
    """A state that the user enters (Leanplum's `advance`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"state": "Checkout", "params": {"step": 2}}]},
    )
    state: Required[
        Annotated[
            Name | Empty,
            Field(
                union_mode="left_to_right",
                description="Name of the state; empty to leave the current state.",
            ),
        ]
    ]
    info: Annotated[Text, Field(description="Free text, treated as a parameter.")]
    params: Annotated[
        Params, Field(description=f"Up to {MAX_PARAMS} parameters: strings, numbers or booleans.")
    ]


class UserCall(Common, total=False):
    """A call that has no fields beyond the user or device and the time."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"deviceId": "device-1"}]}
    )


class DeviceUpdate(Common, DeviceFields, total=False):
    """Changes to a device (Leanplum's `setDeviceAttributes`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"deviceModel": "Pixel 9", "appVersion": "2.0.1"}]},
    )


class Source(TypedDict, total=False):
    """The publisher that brought the user (keys from Leanplum's Android SDK)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    publisherId: Text
    publisherName: Text
    publisherSubPublisher: Text
    publisherSubSite: Text
    publisherSubCampaign: Text
    publisherSubAdGroup: Text
    publisherSubAd: Text


class TrafficSource(Common, total=False):
    """The traffic source of a user (Leanplum's `setTrafficSourceInfo`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"trafficSource": {"publisherName": "Search", "publisherSubCampaign": "May"}}
            ]
        },
    )
    trafficSource: Required[Source]


Values = Annotated[Plain, Field(description="Values of the template's variables.")]


class Message(Common, total=False):
    """A message to a user (Leanplum's `sendMessage`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [{"userId": "user-1", "values": {"name": "Ann"}, "force": False}]
        },
    )
    messageId: Required[Annotated[EntityId, Field(description="Id of the message.")]]
    values: Values
    force: Annotated[
        Bool, Field(description="Send the message even if the user is not in its target.")
    ]


class Campaign(Common, total=False):
    """A campaign to start for a user (Leanplum's `startCampaign`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"userId": "user-1", "values": {"name": "Ann"}}]},
    )
    campaignId: Required[Annotated[EntityId, Field(description="Id of the campaign.")]]
    values: Values


class Blocking(Subject, total=False):
    """The user to block or unblock (Leanplum's `block` and `unblock`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"deviceId": "device-1"}]}
    )


class Erasure(Subject, total=False):
    """The user to delete (Leanplum's `deleteUser`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"fullErasure": True}]}
    )
    fullErasure: Annotated[
        Bool,
        Field(
            description="Erase all data of the user, as the GDPR requires; takes Leanplum up "
            "to 15 days."
        ),
    ]
