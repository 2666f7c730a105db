"""The parameters of Leanplum's actions, less `appId`, `clientKey`, `apiVersion` (contract §4, §5).

These shapes are the rules *and* the documentation: bodies are checked against them, and `openapi/`
is made from them. The source of each is the action's page of Leanplum's API reference (fact sheet
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
        description="Development traffic: kept out of analytics, sent with the development key, once a second."
    ),
]


class Subject(TypedDict, total=False):
    """Whom something is about."""

    id: Annotated[
        ItemId,
        Field(
            description="The caller's own id for the item: a repeat within the window is a duplicate."
        ),
    ]
    userId: Annotated[
        UserId, Field(description="Whom it is about. One of userId and deviceId is required.")
    ]
    deviceId: Annotated[DeviceId, Field(description="The device it is about.")]
    time: Annotated[
        Time, Field(description="When it happened: RFC 3339 or epoch seconds. Default: now.")
    ]
    sentAt: Annotated[
        Time,
        Field(
            description="When the sender's clock sent it: corrects `time` by that clock's error. Not sent on."
        ),
    ]
    ip: Annotated[
        Text,
        Field(description="The end user's address, to find the place by. Not sent on, nor stored."),
    ]
    userAgent: Annotated[
        Text, Field(description="The end user's, to find the device by. Not sent on.")
    ]
    devMode: DevMode


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
            Field(
                union_mode="left_to_right",
                description="The event's name; empty only with messageId.",
            ),
        ]
    ]
    value: Annotated[Number, Field(description="The event's value, as the price of a purchase.")]
    currencyCode: Annotated[Currency, Field(description="ISO 4217 code of `value`'s currency.")]
    info: Annotated[Text, Field(description="Free text, treated like a parameter.")]
    params: Annotated[
        Params, Field(description=f"At most {MAX_PARAMS} parameters: text, number or boolean.")
    ]
    messageId: Annotated[Int, Field(description="Ties the event to a message.")]
    disposition: Annotated[
        Literal["active", "passive", "requireActive"],
        Field(
            description="active marks the user active; passive doesn't; requireActive needs an open session."
        ),
    ]
    allowOffline: Annotated[
        Bool, Field(description="Deprecated by Leanplum: false is active, true is passive.")
    ]
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
    """One device of a user. Leanplum accepts one without `deviceId` (fact sheet §12.5)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    deviceId: DeviceId


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
        json_schema_extra={
            "examples": [{"userAttributes": {"plan": "pro", "age": 29, "nickname": None}}]
        },
    )
    userAttributes: Annotated[
        Attributes, Field(description="Merged into the user's; null clears an attribute.")
    ]
    userAttributeValuesToAdd: Annotated[
        SetValues, Field(description="Values added to set-valued attributes.")
    ]
    userAttributeValuesToRemove: Annotated[
        SetValues, Field(description="Values removed from set-valued attributes.")
    ]
    userAttributeValuesToIncrement: Annotated[
        dict[Name, Int], Field(description="Whole numbers added.")
    ]
    newUserId: Annotated[
        UserId, Field(description="Log in, register or switch: the user's new id.")
    ]
    events: Annotated[
        dict[Name, Occurrences], Field(description="The profile's counters of events.")
    ]
    states: Annotated[dict[Name, Visits], Field(description="The profile's counters of states.")]
    created: Time
    lastActive: Time
    timeSpentInApp: Number
    totalSessions: Count
    devices: list[Device]
    unsubscribeCategoriesToAdd: list[Int]
    unsubscribeCategoriesToRemove: list[Int]
    unsubscribeChannelsToAdd: Annotated[Channel | list[Channel], Field(union_mode="left_to_right")]
    unsubscribeChannelsToRemove: Annotated[
        Channel | list[Channel], Field(union_mode="left_to_right")
    ]
    resetAnomalies: Annotated[
        Bool,
        Field(
            description="Clears Leanplum's mark of an anomalous user. Undocumented there; needs the development key."
        ),
    ]


class State(Common, total=False):
    """The user enters a state (Leanplum's `advance`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"state": "Checkout", "params": {"step": 2}}]},
    )
    state: Required[
        Annotated[
            Name | Empty,
            Field(
                union_mode="left_to_right", description="The state's name; empty leaves the state."
            ),
        ]
    ]
    info: Annotated[Text, Field(description="Free text, treated like a parameter.")]
    params: Annotated[
        Params, Field(description=f"At most {MAX_PARAMS} parameters: text, number or boolean.")
    ]


class UserCall(Common, total=False):
    """Nothing beyond whom it is about and when."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"deviceId": "device-1"}]}
    )


class DeviceUpdate(Common, DeviceFields, total=False):
    """Changes of one device (Leanplum's `setDeviceAttributes`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"deviceModel": "Pixel 9", "appVersion": "2.0.1"}]},
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
        json_schema_extra={
            "examples": [
                {"trafficSource": {"publisherName": "Search", "publisherSubCampaign": "May"}}
            ]
        },
    )
    trafficSource: Required[Source]


Values = Annotated[Plain, Field(description="What the template's variables shall be.")]


class Message(Common, total=False):
    """One message to one user (Leanplum's `sendMessage`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={
            "examples": [{"userId": "user-1", "values": {"name": "Ann"}, "force": False}]
        },
    )
    messageId: Required[Annotated[EntityId, Field(description="The message's id.")]]
    values: Values
    force: Annotated[Bool, Field(description="Send it whether or not its targeting fits.")]


class Campaign(Common, total=False):
    """One user enters a campaign (Leanplum's `startCampaign`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"userId": "user-1", "values": {"name": "Ann"}}]},
    )
    campaignId: Required[Annotated[EntityId, Field(description="The campaign's id.")]]
    values: Values


class Blocking(Subject, total=False):
    """Nothing beyond whom it is about."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"deviceId": "device-1"}]}
    )


class Erasure(Subject, total=False):
    """A user who shall be forgotten (Leanplum's `deleteUser`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"fullErasure": True}]}
    )
    fullErasure: Annotated[
        Bool, Field(description="Everything, as the GDPR asks; Leanplum takes up to 15 days.")
    ]
