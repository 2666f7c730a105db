"""The items that callers send: Leanplum's own fields, less `appId`, `clientKey`, `apiVersion` (contract §4).

These shapes are the rules *and* the documentation: bodies are checked against them, and `openapi/` is made from them.
"""

from typing import Annotated, Literal, Required

from pydantic import ConfigDict, FailFast, Field
from typing_extensions import TypedDict

from app.intake.values import (
    MAX_PARAMS,
    AttributeValue,
    Bool,
    Count,
    Currency,
    DeviceId,
    Int,
    ItemId,
    Name,
    Number,
    Params,
    Scalar,
    Text,
    Time,
    UserId,
)

CLOSED = ConfigDict(extra="forbid")
Empty = Literal[""]


class Common(TypedDict, total=False):
    """What every item may carry."""

    id: Annotated[
        ItemId, Field(description="The caller's own id for the item: a repeat within the window is a duplicate.")
    ]
    userId: Annotated[UserId, Field(description="Whom it is about. One of userId and deviceId is required.")]
    deviceId: Annotated[DeviceId, Field(description="The device it is about.")]
    time: Annotated[Time, Field(description="When it happened: RFC 3339 or epoch seconds. Default: now.")]
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


class Device(TypedDict, total=False):
    """One device of a user."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    deviceId: Required[DeviceId]
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


Channel = Literal["Email", "Push Notification", "Webhook", "Newsfeed Message"]
Attributes = dict[Name, AttributeValue]
SetValues = dict[Name, Annotated[Scalar | list[Scalar], Field(union_mode="left_to_right")]]


class UserUpdate(Common, total=False):
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
    locale: Text
    country: Text
    region: Text
    city: Text
    location: Annotated[Text, Field(description="Latitude and longitude, as in 52.5,13.4.")]
    locationAccuracyType: Literal["IP", "CELL", "GPS"]
    timezone: Text
    timezoneOffsetSeconds: Int
    devices: list[Device]
    unsubscribeCategoriesToAdd: list[Int]
    unsubscribeCategoriesToRemove: list[Int]
    unsubscribeChannelsToAdd: Annotated[Channel | list[Channel], Field(union_mode="left_to_right")]
    unsubscribeChannelsToRemove: Annotated[Channel | list[Channel], Field(union_mode="left_to_right")]


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


class TrackItem(Event):
    """An event in a batch."""

    action: Required[Literal["track"]]


class UserUpdateItem(UserUpdate):
    """A user update in a batch."""

    action: Required[Literal["setUserAttributes"]]


class StateItem(State):
    """A state in a batch."""

    action: Required[Literal["advance"]]


BatchItem = Annotated[TrackItem | UserUpdateItem | StateItem, Field(discriminator="action")]


class DeadLetterFilter(TypedDict, total=False):
    """Which dead letters; what is left out takes all."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    action: Literal["track", "setUserAttributes", "advance"]
    status: Literal["rejected", "expired", "unknown"]
    since: Annotated[Time, Field(description="became one at this time or later")]
    until: Annotated[Time, Field(description="became one before this time")]


class DeadLetterChoice(TypedDict, total=False):
    """Dead letters, by their ids or by a filter; an empty filter means all."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={
            "examples": [{"ids": ["order-1:paid"]}, {"filter": {"status": "expired"}, "dryRun": True}],
        },
    )
    ids: Annotated[list[ItemId], Field(min_length=1, max_length=1_000)]
    filter: DeadLetterFilter
    dryRun: Annotated[Bool, Field(description="only count them")]


class Batch(TypedDict):
    """Items of any of the actions, mixed."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {"action": "track", "userId": "user-1", "event": "Purchase", "value": 9.99},
                        {"action": "setUserAttributes", "userId": "user-1", "userAttributes": {"plan": "pro"}},
                        {"action": "advance", "userId": "user-2", "state": "Checkout"},
                    ]
                }
            ]
        },
    )
    items: Annotated[list[BatchItem], FailFast()]  # with the first fault a batch is read again, item by item
