"""The parameters of Leanplum's actions, without `appId`, `clientKey` and `apiVersion`.

These shapes are the rules *and* the documentation: bodies are validated by them, and `openapi/` is
made from them. The source of each is the action's page of Leanplum's API reference (fact sheet
§3).
"""

from typing import Annotated, Literal, Required

from pydantic import ConfigDict, Field, WithJsonSchema
from typing_extensions import TypedDict

from app.leanplum.values import (
    MAX_NAME,
    MAX_PARAMS,
    NAME_OR_EMPTY,
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
    described,
)

CLOSED = ConfigDict(extra="forbid")
# Documented as one plain string: client generators misread a union with a constant.
NameOrEmpty = Annotated[
    Name | Literal[""],
    Field(union_mode="left_to_right"),
    WithJsonSchema({"type": "string", "maxLength": MAX_NAME, "pattern": NAME_OR_EMPTY}),
]


DevMode = Annotated[
    Bool,
    Field(
        description="Marks development traffic: it stays out of analytics and is sent with the "
        "development key, once per second.",
        examples=[False],
    ),
]


class Subject(TypedDict, total=False):
    """The user or device that an item is about, and what every item may carry."""

    id: Annotated[
        ItemId,
        Field(
            description="Your own id for the item; a repeat within the deduplication window is "
            "a duplicate.",
            examples=["order-1:paid"],
        ),
    ]
    userId: Annotated[
        UserId,
        Field(
            description="Id of the user. Either userId or deviceId is required.",
            examples=["user-1"],
        ),
    ]
    deviceId: Annotated[DeviceId, Field(description="Id of the device.", examples=["device-1"])]
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
    devMode: DevMode


class Common(Subject, total=False):
    """The fields of items for which Leanplum may create a user."""

    createDisposition: Annotated[
        Literal["CreateIfNeeded", "CreateNever"],
        Field(
            description="Whether Leanplum creates unknown users. Leanplum's default depends on "
            "the action.",
            examples=["CreateNever"],
        ),
    ]


class Event(Common, total=False):
    """An event of a user (Leanplum's `track`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "id": "order-1:paid",
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
            NameOrEmpty,
            described("Name of the event; may be empty only with messageId.", "Purchase"),
        ]
    ]
    value: Annotated[
        Number,
        Field(description="Value of the event, such as the price of a purchase.", examples=[9.99]),
    ]
    currencyCode: Annotated[
        Currency, Field(description="ISO 4217 currency code of `value`.", examples=["EUR"])
    ]
    info: Annotated[
        Text, Field(description="Free text, treated as a parameter.", examples=["gift wrapped"])
    ]
    params: Annotated[
        Params,
        Field(
            description=f"Up to {MAX_PARAMS} parameters: strings, numbers or booleans.",
            examples=[{"sku": "A-1", "gift": False}],
        ),
    ]
    messageId: Annotated[
        Int, Field(description="Id of the message that the event belongs to.", examples=[1002])
    ]
    disposition: Annotated[
        Literal["active", "passive", "requireActive"],
        Field(
            description="`active` marks the user as active, `passive` does not, "
            "`requireActive` requires an open session.",
            examples=["passive"],
        ),
    ]
    allowOffline: Annotated[
        Bool,
        Field(
            description="Deprecated by Leanplum: false means active, true means passive.",
            examples=[True],
        ),
    ]
    googlePlayPurchaseData: Annotated[
        Text,
        described(
            "Purchase data of Google Play, as JSON text; Leanplum verifies the purchase.",
            '{"orderId": "GPA.1"}',
        ),
    ]
    googlePlayPurchaseDataSignature: Annotated[
        Text, described("Signature of `googlePlayPurchaseData`.", "c2lnbmF0dXJl")
    ]
    iOSTransactionIdentifier: Annotated[
        Text, described("Transaction id of the App Store.", "1000000123")
    ]
    iOSReceiptData: Annotated[
        Text,
        described(
            "Receipt of the App Store, in base64; Leanplum verifies the purchase.", "cmVjZWlwdA=="
        ),
    ]
    iOSSandbox: Annotated[
        Bool, described("Whether the purchase was made in the App Store's sandbox.", False)
    ]


class Occurrences(TypedDict, total=False):
    """The counters of one event in a user's profile. Times are epoch seconds."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    count: Annotated[Count, described("Number of occurrences.", 3)]
    countIncrement: Annotated[Int, described("Occurrences to add.", 1)]
    value: Annotated[Number, described("Sum of the values.", 29.97)]
    valueIncrement: Annotated[Number, described("Value to add.", 9.99)]
    firstTime: Annotated[Time, described("Time of the first occurrence.")]
    lastTime: Annotated[Time, described("Time of the last occurrence.")]


class Visits(TypedDict, total=False):
    """The counters of one state in a user's profile. Times are epoch seconds."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    count: Annotated[Count, described("Number of visits.", 3)]
    countIncrement: Annotated[Int, described("Visits to add.", 1)]
    firstTime: Annotated[Time, described("Time of the first visit.")]
    lastTime: Annotated[Time, described("Time of the last visit.")]


class DeviceFields(TypedDict, total=False):
    """The properties of a device."""

    appVersion: Annotated[Text, described("Version of the app.", "2.0.1")]
    systemName: Annotated[Text, described("Name of the operating system.", "iOS")]
    systemVersion: Annotated[Text, described("Version of the operating system.", "18.0")]
    browserName: Annotated[Text, described("Name of the browser.", "Firefox")]
    browserVersion: Annotated[Text, described("Version of the browser.", "141.0")]
    deviceName: Annotated[Text, described("Name of the device.", "Ann's phone")]
    deviceModel: Annotated[Text, described("Model of the device.", "iPhone17,1")]
    iosPushToken: Annotated[Text, described("Push token of iOS.", "5f3c9a")]
    gcmRegistrationId: Annotated[
        Text, described("Registration id of Firebase Cloud Messaging.", "fcm-1")
    ]
    webPushSubscription: Annotated[
        Text,
        described("Web push subscription, as JSON text.", '{"endpoint": "https://push.example/1"}'),
    ]


class UserDevice(DeviceFields, total=False):
    """A device of a user. Leanplum accepts one without `deviceId` (fact sheet §12.5)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    deviceId: Annotated[DeviceId, described("Id of the device.", "device-1")]


class UserLocation(TypedDict, total=False):
    """The location, locale and time zone of a user."""

    locale: Annotated[Text, described("Locale.", "de_DE")]
    country: Annotated[Text, described("Country code.", "DE")]
    region: Annotated[Text, described("Region.", "BE")]
    city: Annotated[Text, described("City.", "Berlin")]
    location: Annotated[
        Text,
        Field(description="Latitude and longitude, such as 52.5,13.4.", examples=["52.5,13.4"]),
    ]
    locationAccuracyType: Annotated[
        Literal["IP", "CELL", "GPS"], described("Source of `location`.", "GPS")
    ]
    timezone: Annotated[Text, described("Time zone.", "Europe/Berlin")]
    timezoneOffsetSeconds: Annotated[
        Int, described("Offset of the time zone from UTC, in seconds.", 3600)
    ]


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
        Attributes,
        Field(
            description="Attributes to set; null clears an attribute.",
            examples=[{"plan": "pro", "age": 29, "nickname": None}],
        ),
    ]
    userAttributeValuesToAdd: Annotated[
        SetValues,
        Field(
            description="Values to add to set-valued attributes.",
            examples=[{"interests": ["golf"]}],
        ),
    ]
    userAttributeValuesToRemove: Annotated[
        SetValues,
        Field(
            description="Values to remove from set-valued attributes.",
            examples=[{"interests": ["golf"]}],
        ),
    ]
    userAttributeValuesToIncrement: Annotated[
        dict[Name, Int],
        Field(description="Integers to add to numeric attributes.", examples=[{"orders": 1}]),
    ]
    newUserId: Annotated[
        UserId,
        Field(description="New id of the user, at login or registration.", examples=["user-2"]),
    ]
    events: Annotated[
        dict[Name, Occurrences],
        Field(
            description="Counters of events in the profile.",
            examples=[{"Purchase": {"countIncrement": 1}}],
        ),
    ]
    states: Annotated[
        dict[Name, Visits],
        Field(
            description="Counters of states in the profile.",
            examples=[{"Checkout": {"countIncrement": 1}}],
        ),
    ]
    created: Annotated[Time, described("Time at which the user was created.")]
    lastActive: Annotated[Time, described("Time of the user's last activity.")]
    timeSpentInApp: Annotated[Number, described("Time spent in the app, in seconds.", 3600)]
    totalSessions: Annotated[Count, described("Number of sessions.", 12)]
    devices: Annotated[
        list[UserDevice],
        described("The user's devices.", [{"deviceId": "device-1", "systemName": "iOS"}]),
    ]
    unsubscribeCategoriesToAdd: Annotated[
        list[Int], described("Ids of categories to unsubscribe from.", [7])
    ]
    unsubscribeCategoriesToRemove: Annotated[
        list[Int], described("Ids of categories to subscribe to again.", [7])
    ]
    unsubscribeChannelsToAdd: Annotated[
        Channel | list[Channel],
        Field(
            union_mode="left_to_right",
            description="Channels to unsubscribe from.",
            examples=["Email"],
        ),
    ]
    unsubscribeChannelsToRemove: Annotated[
        Channel | list[Channel],
        Field(
            union_mode="left_to_right",
            description="Channels to subscribe to again.",
            examples=["Email"],
        ),
    ]
    resetAnomalies: Annotated[
        Bool,
        Field(
            description="Clears Leanplum's flag of an anomalous user. Undocumented by "
            "Leanplum; requires the development key.",
            examples=[True],
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
            NameOrEmpty,
            described("Name of the state; empty to leave the current state.", "Checkout"),
        ]
    ]
    info: Annotated[
        Text, Field(description="Free text, treated as a parameter.", examples=["gift wrapped"])
    ]
    params: Annotated[
        Params,
        Field(
            description=f"Up to {MAX_PARAMS} parameters: strings, numbers or booleans.",
            examples=[{"sku": "A-1", "gift": False}],
        ),
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
    publisherId: Annotated[Text, described("Id of the publisher.", "p-1")]
    publisherName: Annotated[Text, described("Name of the publisher.", "Search")]
    publisherSubPublisher: Annotated[Text, described("Publisher below it.", "Partner")]
    publisherSubSite: Annotated[Text, described("Site.", "shop.example")]
    publisherSubCampaign: Annotated[Text, described("Campaign.", "May")]
    publisherSubAdGroup: Annotated[Text, described("Ad group.", "Shoes")]
    publisherSubAd: Annotated[Text, described("Ad.", "Ad 7")]


class TrafficSourceChange(Common, total=False):
    """The traffic source of a user (Leanplum's `setTrafficSourceInfo`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"trafficSource": {"publisherName": "Search", "publisherSubCampaign": "May"}}
            ]
        },
    )
    trafficSource: Required[
        Annotated[
            Source,
            described(
                "Publisher that brought the user.",
                {"publisherName": "Search", "publisherSubCampaign": "May"},
            ),
        ]
    ]


Values = Annotated[
    Plain, Field(description="Values of the template's variables.", examples=[{"name": "Ann"}])
]


class Message(Common, total=False):
    """A message to a user (Leanplum's `sendMessage`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [{"userId": "user-1", "values": {"name": "Ann"}, "force": False}]
        },
    )
    messageId: Required[
        Annotated[EntityId, Field(description="Id of the message.", examples=[1002])]
    ]
    values: Values
    force: Annotated[
        Bool,
        Field(
            description="Send the message even if the user is not in its target.", examples=[False]
        ),
    ]


class Campaign(Common, total=False):
    """A campaign to start for a user (Leanplum's `startCampaign`)."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"userId": "user-1", "values": {"name": "Ann"}}]},
    )
    campaignId: Required[
        Annotated[EntityId, Field(description="Id of the campaign.", examples=[1002])]
    ]
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
            "to 15 days.",
            examples=[True],
        ),
    ]
