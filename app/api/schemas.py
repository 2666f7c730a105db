"""What the gateway answers, and what operators send, as shapes; `openapi/` is made from them."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from app.leanplum.actions import QUEUED
from app.leanplum.shapes import CLOSED
from app.leanplum.values import Bool, ItemId, Time
from app.model import Status

ActionName: Any = Literal[tuple(QUEUED)]


class LeanplumSaid(TypedDict, total=False):
    """What Leanplum said of the item."""

    success: bool
    warning: str
    error: str


class Receipt(TypedDict):
    """The gateway's promise for one item, and how far it is kept."""

    id: Annotated[str, Field(examples=["019abc12-3456-7def-8123-000000000001"])]
    action: Annotated[str, Field(examples=["track"])]
    userId: NotRequired[Annotated[str, Field(examples=["user-1"])]]
    deviceId: NotRequired[str]
    status: Status
    acceptedAt: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    attempts: Annotated[int, Field(ge=0)]
    settledAt: NotRequired[Annotated[str, Field(json_schema_extra={"format": "date-time"})]]
    nextAttemptAt: NotRequired[Annotated[str, Field(json_schema_extra={"format": "date-time"})]]
    leanplum: NotRequired[LeanplumSaid]
    href: Annotated[str, Field(examples=["/v1/receipts/019abc12-3456-7def-8123-000000000001"])]
    duplicate: NotRequired[Annotated[bool, Field(description="true where the id was accepted before")]]


class DeadLetterFilter(TypedDict, total=False):
    """Which dead letters; what is left out takes all."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    action: ActionName
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


class DeadLetterPage(TypedDict):
    """Some dead letters, and where the next ones are."""

    deadLetters: list[Receipt]
    nextCursor: NotRequired[Annotated[str, Field(description="`cursor` of the next page; absent on the last")]]


class Replayed(TypedDict):
    """How many dead letters were chosen, and how many went back into the queue."""

    matched: int
    replayed: int
    dryRun: bool


class Discarded(TypedDict):
    """How many dead letters were chosen, and how many were discarded."""

    matched: int
    discarded: int
    dryRun: bool


class FaultShape(TypedDict):
    """One thing wrong in a body."""

    pointer: Annotated[str, Field(description="JSON Pointer into the body", examples=["/items/3/event"])]
    detail: str
    code: str


class ProblemShape(TypedDict):
    """A problem (RFC 9457)."""

    type: Annotated[str, Field(examples=["/problems/validation"])]
    title: str
    status: int
    detail: str
    instance: NotRequired[Annotated[str, Field(description="the request id")]]
    errors: NotRequired[list[FaultShape]]


class BatchResult(TypedDict):
    """What became of one item of a batch."""

    index: int
    id: NotRequired[str]
    status: Literal["accepted", "duplicate", "rejected"]
    problem: NotRequired[ProblemShape]


class BatchAnswer(TypedDict):
    """What became of a batch."""

    accepted: int
    duplicates: int
    rejected: int
    results: list[BatchResult]


class Part(TypedDict):
    """One part of the gateway, and whether it works."""

    ok: bool
    detail: NotRequired[str]


class Readiness(TypedDict):
    """Whether the gateway can accept durably, part by part."""

    ready: bool
    parts: dict[str, Part]


class KeyState(TypedDict):
    """One kind of Leanplum's keys. `accepted` is absent where it was not asked, or Leanplum did not say."""

    configured: bool
    accepted: NotRequired[bool]
    detail: NotRequired[str]


class AppState(TypedDict):
    """One app, and its keys by their kind."""

    name: str
    appId: str
    keys: dict[str, KeyState]


class Apps(TypedDict):
    """The configured apps."""

    apps: list[AppState]


class CheckedApp(TypedDict):
    """What Leanplum says of an app's keys, by their kind."""

    name: str
    keys: dict[str, KeyState]
