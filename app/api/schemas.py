"""What the gateway answers, and what operators send, as shapes; `openapi/` is made from them."""

from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from app.leanplum.actions import DELIVERED
from app.leanplum.parameters import CLOSED
from app.leanplum.values import Bool, ItemId, Time
from app.model import APP_NAME, KEY_NAME, Scope, Status

ActionName: Any = Literal[tuple(DELIVERED)]


class LeanplumSaid(TypedDict, total=False):
    """What Leanplum said of the item."""

    success: bool
    warning: str
    error: str


class Erased(TypedDict):
    """What an erasure removed from the gateway itself."""

    waiting: Annotated[int, Field(ge=0, description="items that had not been sent")]
    inFlight: Annotated[
        int,
        Field(ge=0, description="items just being sent: that is finished, and nothing kept of it"),
    ]
    deadLetters: Annotated[int, Field(ge=0, description="with their contents")]
    receipts: Annotated[int, Field(ge=0, description="of items that were settled")]
    ids: Annotated[
        int, Field(ge=0, description="your own ids of items, remembered against repeats")
    ]


class FaultShape(TypedDict):
    """One thing wrong in a request, with one of `pointer`, `header` and `parameter`."""

    pointer: NotRequired[
        Annotated[
            str,
            Field(
                description="JSON Pointer into the body as it was sent", examples=["/items/3/event"]
            ),
        ]
    ]
    header: NotRequired[
        Annotated[str, Field(description="the header's name", examples=["Idempotency-Key"])]
    ]
    parameter: NotRequired[
        Annotated[
            str,
            Field(
                description="the name of a parameter of the path or the query", examples=["limit"]
            ),
        ]
    ]
    detail: str
    code: str


class Enrichment(TypedDict, total=False):
    """What enrichment did to the item, where it did something."""

    steps: Annotated[
        list[str],
        Field(description="the steps that changed it, in their order", examples=[["time"]]),
    ]
    warnings: Annotated[
        list[str],
        Field(description="what was seen and left as it is, or what Leanplum will change"),
    ]


Violations = Annotated[
    list[FaultShape],
    Field(description="what breaks the tracking plan and was let through; pointers into the item"),
]


class TimeCorrection(TypedDict):
    """How the `time` of an SDK's entry was corrected for the clock of its sender."""

    seconds: Annotated[
        float,
        Field(
            description="added to `time`: the gateway's clock less the call's own `time`",
            examples=[432000.25],
        ),
    ]


class WaitingFor(TypedDict):
    """Why an item is not delivered yet."""

    reason: Annotated[
        Literal["app-held", "earlier-item", "circuit-open", "rate", "retry"],
        Field(
            description="`app-held`: Leanplum refuses the key or the app; `retry`: the last attempt failed; "
            "`earlier-item`: an earlier item of the same user waits; `circuit-open`: Leanplum is away; `rate`: fewer "
            "calls are taken"
        ),
    ]
    since: Annotated[
        str,
        Field(
            description="since when, as far as that is known; else when the item was accepted",
            json_schema_extra={"format": "date-time"},
        ),
    ]
    until: NotRequired[Annotated[str, Field(json_schema_extra={"format": "date-time"})]]


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
    waitingFor: NotRequired[WaitingFor]
    leanplum: NotRequired[LeanplumSaid]
    leanplumUnreadable: NotRequired[
        Annotated[
            bool,
            Field(
                description="true, in place of `leanplum`, where what Leanplum said is encrypted with a missing key"
            ),
        ]
    ]
    erased: NotRequired[Erased]
    timeCorrection: NotRequired[TimeCorrection]
    enrichment: NotRequired[Enrichment]
    violations: NotRequired[Violations]
    href: Annotated[str, Field(examples=["/v1/receipts/019abc12-3456-7def-8123-000000000001"])]
    duplicate: NotRequired[
        Annotated[bool, Field(description="true where the id was accepted before")]
    ]


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
            "examples": [
                {"ids": ["order-1:paid"]},
                {"filter": {"status": "expired"}, "dryRun": True},
            ],
        },
    )
    ids: Annotated[list[ItemId], Field(min_length=1, max_length=1_000)]
    filter: DeadLetterFilter
    dryRun: Annotated[Bool, Field(description="only count them")]


class DeadLetterPage(TypedDict):
    """Some dead letters, and where the next ones are."""

    deadLetters: list[Receipt]
    nextCursor: NotRequired[
        Annotated[str, Field(description="`cursor` of the next page; absent on the last")]
    ]


class ReceiptPage(TypedDict):
    """Some receipts, newest first, and where the next ones are."""

    receipts: list[Receipt]
    nextCursor: NotRequired[
        Annotated[str, Field(description="`cursor` of the next page; absent on the last")]
    ]


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


class ProblemShape(TypedDict):
    """A problem (RFC 9457)."""

    type: Annotated[str, Field(examples=["/problems/validation"])]
    title: str
    status: int
    detail: str
    instance: NotRequired[Annotated[str, Field(description="the request id")]]
    errors: NotRequired[list[FaultShape]]
    ids: NotRequired[
        Annotated[
            list[str | None],
            Field(
                description="of a write that may have been taken: the ids to send its items again with, in their "
                "order; null for one that was not taken"
            ),
        ]
    ]


class BatchResult(TypedDict):
    """What became of one item of a batch."""

    index: int
    id: NotRequired[str]
    status: Literal["accepted", "duplicate", "rejected"]
    enrichment: NotRequired[Enrichment]
    violations: NotRequired[Violations]
    problem: NotRequired[ProblemShape]


class BatchAnswer(TypedDict):
    """What became of a batch."""

    accepted: int
    duplicates: int
    rejected: int
    results: list[BatchResult]


class PreviewResult(TypedDict):
    """What would become of one item."""

    index: int
    leanplum: NotRequired[
        Annotated[dict[str, Any], Field(description="what Leanplum would get, less keys")]
    ]
    enrichment: NotRequired[Enrichment]
    violations: NotRequired[Violations]
    problem: NotRequired[ProblemShape]


class PreviewAnswer(TypedDict):
    """What would become of the items, in their order."""

    results: list[PreviewResult]


class Part(TypedDict):
    """One part of the gateway, and whether it works."""

    ok: bool
    detail: NotRequired[str]


class Readiness(TypedDict):
    """Whether the gateway can accept durably, part by part."""

    ready: bool
    parts: dict[str, Part]


class KeyState(TypedDict):
    """One kind of Leanplum's keys. `accepted` is absent where it was not asked, or Leanplum did not
    say.
    """

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


ScopeName: Any = Literal[tuple(scope.value for scope in Scope)]
KeyName = Annotated[
    str,
    Field(
        min_length=1, max_length=200, pattern=KEY_NAME, strict=True, description="Whose key it is"
    ),
]
Scopes = Annotated[
    list[ScopeName], Field(min_length=1, max_length=len(Scope), description="What it may do")
]
AppNames = Annotated[
    Annotated[list[Annotated[str, Field(pattern=APP_NAME, strict=True)]], Field(min_length=1)]
    | None,
    Field(description="For these apps; null: for every one"),
]
Rate = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=10**9)] | None,
    Field(description="Items a second; null: the gateway's"),
]
Burst = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=10**9)] | None,
    Field(
        description="Items at once; null: the gateway's, in proportion to the key's own rate where it has one"
    ),
]
Expiry = Annotated[Time | None, Field(description="When it stops; null: never")]
WhenOrNever = Annotated[str | None, Field(json_schema_extra={"format": "date-time"})]


class NewKey(TypedDict, total=False):
    """A caller key to be made."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "shop backend", "scopes": ["events:write", "users:write"]}]
        },
    )
    name: Required[KeyName]
    scopes: Required[Scopes]
    apps: AppNames
    expiresAt: Expiry
    ratePerSecond: Rate
    rateBurst: Burst


class KeyChange(TypedDict, total=False):
    """What is to change of a caller key."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={"examples": [{"scopes": ["events:write"], "ratePerSecond": 50}]},
    )
    name: KeyName
    scopes: Scopes
    apps: AppNames
    expiresAt: Expiry
    ratePerSecond: Rate
    rateBurst: Burst


class Rotation(TypedDict, total=False):
    """How a caller key is to be rotated."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid", json_schema_extra={"examples": [{"overlapSeconds": 3600}]}
    )
    overlapSeconds: Annotated[
        int,
        Field(
            strict=True,
            ge=0,
            le=30 * 86_400,
            description="How long the old key goes on; a day unless told",
        ),
    ]


class KeySecret(TypedDict):
    """One key that works under the id: two while a rotation overlaps."""

    lastFour: str
    expiresAt: WhenOrNever


class Key(TypedDict):
    """A caller key, never the key itself."""

    id: Annotated[str, Field(examples=["key_0123456789abcdef"])]
    name: str
    scopes: list[ScopeName]
    apps: list[str] | None
    ratePerSecond: int | None
    rateBurst: int | None
    lastFour: str
    createdAt: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    expiresAt: WhenOrNever
    revokedAt: WhenOrNever
    lastUsedAt: Annotated[WhenOrNever, Field(description="To within ten seconds")]
    secrets: list[KeySecret]


class MadeKey(Key):
    """A caller key that has just been made."""

    key: Annotated[str, Field(description="Shown this once")]


class RotatedKey(Key):
    """A caller key that has been rotated."""

    key: Annotated[
        str | None,
        Field(
            description="The new one; null where this rotation was done before and is shown no more"
        ),
    ]


class Keys(TypedDict):
    """Some caller keys, oldest first, and where the next ones are."""

    keys: list[Key]
    nextCursor: NotRequired[
        Annotated[str, Field(description="`cursor` of the next page; absent on the last")]
    ]


Base64 = Annotated[str, Field(description="base64")]


class AuditRecord(TypedDict):
    """A record, and where it stands in the log."""

    recordId: Annotated[int, Field(description="its number, from 1, without a gap")]
    record: Annotated[dict[str, Any], Field(description="OCSF API Activity (class 6003)")]


class AuditPage(TypedDict):
    """Some records, and where the next ones are."""

    records: list[AuditRecord]
    nextCursor: NotRequired[
        Annotated[
            str,
            Field(
                description="`cursor` of the next page, which may be there after an empty one; absent on the last"
            ),
        ]
    ]


class AuditCheckpoint(TypedDict):
    """How far the records are sealed, signed."""

    size: Annotated[int, Field(description="how many records are sealed")]
    rootHash: Annotated[Base64, Field(description="of their tree (RFC 6962)")]
    sealedAt: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    note: Annotated[str, Field(description="C2SP tlog-checkpoint, signed with Ed25519")]
    publicKey: Annotated[str, Field(description="what verifies the signature: `name+id+key`")]


class InclusionProof(TypedDict):
    """That the record is in the log that the checkpoint is about (RFC 9162 §2.1.3.2)."""

    recordId: int
    record: Annotated[
        str,
        Field(
            description="the record's own text; its leaf hash is SHA-256 of a zero byte and this"
        ),
    ]
    leafIndex: int
    leafHash: Base64
    hashes: list[Base64]
    checkpoint: AuditCheckpoint


class ConsistencyProof(TypedDict):
    """That the log of `from` records is the beginning of that of `to` (RFC 9162 §2.1.4.2)."""

    hashes: list[Base64]


class PlanEntry(TypedDict):
    """One event, state or attribute of a tracking plan. The schema is of an item's fields; of an
    attribute's value.
    """

    name: str
    mode: Literal["off", "warn", "enforce"]
    description: NotRequired[str]
    owner: NotRequired[str]
    schema: dict[str, Any]
    examples: list[Any]


class TrackingPlan(TypedDict):
    """The tracking plan of an app."""

    loaded: bool
    version: NotRequired[str]
    digest: NotRequired[
        Annotated[str, Field(description="SHA-256 of its content, the same wherever it was read")]
    ]
    files: NotRequired[list[str]]
    unknown: NotRequired[
        Annotated[dict[str, str], Field(description="what becomes of names that it doesn't have")]
    ]
    definitions: NotRequired[dict[str, Any]]
    events: NotRequired[list[PlanEntry]]
    states: NotRequired[list[PlanEntry]]
    attributes: NotRequired[list[PlanEntry]]
    refused: Annotated[
        list[str], Field(description="what is wrong with the files now; empty where nothing is")
    ]


class PlanViolation(TypedDict):
    """One way in which items broke the plan, and how often."""

    kind: Literal["events", "states", "attributes"]
    name: Annotated[
        str, Field(description="of the event, state or attribute", examples=["Purchase"])
    ]
    code: Annotated[str, Field(examples=["plan-required"])]
    keyId: str
    count: int
    firstSeen: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    lastSeen: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    pointer: Annotated[
        str, Field(description="where in the item, the last time", examples=["/params/sku"])
    ]


class PlanViolations(TypedDict):
    """What broke the plan."""

    violations: list[PlanViolation]


class CountedName(TypedDict):
    """One name."""

    name: str
    firstSeen: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class NamesOfKind(TypedDict):
    """The names of one kind."""

    count: int
    limit: Annotated[int, Field(description="how many Leanplum keeps")]
    names: list[CountedName]


class Taxonomy(TypedDict):
    """The names that an app has."""

    app: str
    policy: Literal["off", "warn", "enforce"]
    warnFrom: Annotated[
        float, Field(description="the share of a limit from which on new names are warned of")
    ]
    events: NamesOfKind
    states: NamesOfKind
    params: NamesOfKind
    attributes: NamesOfKind
