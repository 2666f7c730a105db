"""The shapes of responses and of operators' requests; `openapi/` is made from them."""

from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from app.leanplum.actions import DELIVERABLE_ACTIONS
from app.leanplum.parameters import CLOSED
from app.leanplum.values import Bool, ItemId, Time
from app.model import APP_NAME, KEY_NAME, Scope, Status

ActionName: Any = Literal[tuple(DELIVERABLE_ACTIONS)]


class LeanplumSaid(TypedDict, total=False):
    """Leanplum's answer about the item."""

    success: bool
    warning: str
    error: str


class ErasureCounts(TypedDict):
    """The counts of what an erasure removed from the gateway itself."""

    waiting: Annotated[int, Field(ge=0, description="Items that had not been sent.")]
    inFlight: Annotated[
        int,
        Field(
            ge=0,
            description="Items that were being sent; their call is finished, and not kept.",
        ),
    ]
    deadLetters: Annotated[int, Field(ge=0, description="Dead letters, with their payloads.")]
    receipts: Annotated[int, Field(ge=0, description="Receipts of settled items.")]
    ids: Annotated[int, Field(ge=0, description="Item ids that were kept for deduplication.")]


class FaultShape(TypedDict):
    """One error in a request, with one of `pointer`, `header` and `parameter`."""

    pointer: NotRequired[
        Annotated[
            str,
            Field(
                description="JSON Pointer into the body as you sent it.",
                examples=["/items/3/event"],
            ),
        ]
    ]
    header: NotRequired[
        Annotated[str, Field(description="Name of the header.", examples=["Idempotency-Key"])]
    ]
    parameter: NotRequired[
        Annotated[
            str,
            Field(description="Name of the path or query parameter.", examples=["limit"]),
        ]
    ]
    detail: str
    code: str


class EnrichmentDocument(TypedDict, total=False):
    """The changes that enrichment made to the item; absent if it made none."""

    steps: Annotated[
        list[str],
        Field(description="Steps that changed the item, in order.", examples=[["time"]]),
    ]
    warnings: Annotated[
        list[str],
        Field(
            description="Values that look wrong and were left unchanged, or that Leanplum will "
            "change."
        ),
    ]


Violations = Annotated[
    list[FaultShape],
    Field(description="Tracking plan violations that were let through; pointers into the item."),
]


class TimeCorrection(TypedDict):
    """The correction of an SDK entry's `time` for the sender's clock."""

    seconds: Annotated[
        float,
        Field(
            description="Seconds added to `time`: the gateway's clock minus the call's own `time`.",
            examples=[432000.25],
        ),
    ]


class WaitingFor(TypedDict):
    """The reason why an item is not delivered yet."""

    reason: Annotated[
        Literal["app-held", "earlier-item", "circuit-open", "rate", "retry"],
        Field(
            description="`app-held`: Leanplum rejects the key or the app. `retry`: the last "
            "attempt failed. `earlier-item`: an earlier item of the same user is waiting. "
            "`circuit-open`: Leanplum is unavailable. `rate`: Leanplum accepts fewer calls."
        ),
    ]
    since: Annotated[
        str,
        Field(
            description="Start of the wait, or the time of acceptance if that is unknown.",
            json_schema_extra={"format": "date-time"},
        ),
    ]
    until: NotRequired[Annotated[str, Field(json_schema_extra={"format": "date-time"})]]


class ReceiptDocument(TypedDict):
    """The receipt of one item: its state, and its outcome once it is settled."""

    id: Annotated[str, Field(examples=["019abc12-3456-7def-8123-000000000001"])]
    action: Annotated[str, Field(examples=["track"])]
    event: NotRequired[
        Annotated[str, Field(description="Name of its event or state.", examples=["Purchase"])]
    ]
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
                description="Set instead of `leanplum` if Leanplum's answer is encrypted with a "
                "key that is missing."
            ),
        ]
    ]
    erased: NotRequired[ErasureCounts]
    timeCorrection: NotRequired[TimeCorrection]
    enrichment: NotRequired[EnrichmentDocument]
    violations: NotRequired[Violations]
    href: Annotated[str, Field(examples=["/v1/receipts/019abc12-3456-7def-8123-000000000001"])]
    duplicate: NotRequired[Annotated[bool, Field(description="Set if the id was accepted before.")]]


class DeadLetterFields(TypedDict, total=False):
    """A filter of dead letters; a field that is left out matches all."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    action: ActionName
    status: Literal["rejected", "expired", "unknown"]
    since: Annotated[Time, Field(description="Became a dead letter at this time or later.")]
    until: Annotated[Time, Field(description="Became a dead letter before this time.")]


class DeadLetterChoice(TypedDict, total=False):
    """A selection of dead letters, by ids or by a filter; an empty filter selects all."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"ids": ["order-1:paid"]},
                {"filter": {"status": "expired"}, "dryRun": True},
            ],
        },
    )
    ids: Annotated[list[ItemId], Field(min_length=1, max_length=1_000)]
    filter: DeadLetterFields
    dryRun: Annotated[Bool, Field(description="Count the dead letters without changing them.")]


class DeadLetterPage(TypedDict):
    """A page of dead letters."""

    deadLetters: list[ReceiptDocument]
    nextCursor: NotRequired[
        Annotated[
            str, Field(description="Value of `cursor` for the next page; absent on the last page.")
        ]
    ]


class ReceiptPage(TypedDict):
    """A page of receipts, newest first."""

    receipts: list[ReceiptDocument]
    nextCursor: NotRequired[
        Annotated[
            str, Field(description="Value of `cursor` for the next page; absent on the last page.")
        ]
    ]


class Replayed(TypedDict):
    """The number of dead letters that matched, and that went back into the queue."""

    matched: int
    replayed: int
    dryRun: bool


class Discarded(TypedDict):
    """The number of dead letters that matched, and that were discarded."""

    matched: int
    discarded: int
    dryRun: bool


class ProblemShape(TypedDict):
    """A problem document (RFC 9457)."""

    type: Annotated[str, Field(examples=["/problems/validation"])]
    title: str
    status: int
    detail: str
    instance: NotRequired[Annotated[str, Field(description="Id of the request.")]]
    errors: NotRequired[list[FaultShape]]
    ids: NotRequired[
        Annotated[
            list[str | None],
            Field(
                description="Set if a write may have been accepted: the ids with which to send its "
                "items again, in order; null for an item that was not accepted."
            ),
        ]
    ]


class BatchResult(TypedDict):
    """The result of one item of a batch."""

    index: int
    id: NotRequired[str]
    status: Literal["accepted", "duplicate", "rejected"]
    enrichment: NotRequired[EnrichmentDocument]
    violations: NotRequired[Violations]
    problem: NotRequired[ProblemShape]


class BatchAnswer(TypedDict):
    """The result of a batch."""

    accepted: int
    duplicates: int
    rejected: int
    results: list[BatchResult]


class PreviewResult(TypedDict):
    """The preview of one item."""

    index: int
    leanplum: NotRequired[
        Annotated[
            dict[str, Any], Field(description="The call that Leanplum would receive, without keys.")
        ]
    ]
    enrichment: NotRequired[EnrichmentDocument]
    violations: NotRequired[Violations]
    problem: NotRequired[ProblemShape]


class PreviewAnswer(TypedDict):
    """The previews of the items, in order."""

    results: list[PreviewResult]


class PartState(TypedDict):
    """The state of one part of the gateway."""

    ok: bool
    detail: NotRequired[str]


class Readiness(TypedDict):
    """The readiness of the gateway, part by part."""

    ready: bool
    parts: dict[str, PartState]


class KeyState(TypedDict):
    """The state of a Leanplum key; `accepted` is absent if it was not tested or not conclusive."""

    configured: bool
    accepted: NotRequired[bool]
    detail: NotRequired[str]


class AppState(TypedDict):
    """A configured app and its Leanplum keys, by kind."""

    name: str
    appId: str
    keys: dict[str, KeyState]


class Apps(TypedDict):
    """The configured apps."""

    apps: list[AppState]


class CheckedApp(TypedDict):
    """The result of testing an app's keys against Leanplum, by kind."""

    name: str
    keys: dict[str, KeyState]


ScopeName: Any = Literal[tuple(scope.value for scope in Scope)]
KeyName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=KEY_NAME,
        strict=True,
        description="Name of the key's owner.",
    ),
]
Scopes = Annotated[
    list[ScopeName], Field(min_length=1, max_length=len(Scope), description="Scopes of the key.")
]
AppNames = Annotated[
    Annotated[list[Annotated[str, Field(pattern=APP_NAME, strict=True)]], Field(min_length=1)]
    | None,
    Field(description="Apps that the key may use; null for all apps."),
]
Rate = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=10**9)] | None,
    Field(description="Items per second; null for the gateway's default."),
]
Burst = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=10**9)] | None,
    Field(
        description="Burst size in items; null for the gateway's default, in proportion to the "
        "key's own rate if it has one."
    ),
]
Expiry = Annotated[Time | None, Field(description="Expiry of the key; null for never.")]
WhenOrNever = Annotated[str | None, Field(json_schema_extra={"format": "date-time"})]


class KeyCreation(TypedDict, total=False):
    """A caller key to create."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
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
    """A change of a caller key; fields that are left out keep their values."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
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
    """The options of a rotation."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid", json_schema_extra={"examples": [{"overlapSeconds": 3600}]}
    )
    overlapSeconds: Annotated[
        int,
        Field(
            strict=True,
            ge=0,
            le=30 * 86_400,
            description="How long the old key remains valid; default: one day.",
        ),
    ]


class KeySecret(TypedDict):
    """A valid key under the id; there are two while a rotation overlaps."""

    lastFour: str
    expiresAt: WhenOrNever


class KeyDocument(TypedDict):
    """A caller key, without the key itself."""

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
    lastUsedAt: Annotated[
        WhenOrNever, Field(description="Time of the last use, to within ten seconds.")
    ]
    secrets: list[KeySecret]


class MadeKey(KeyDocument):
    """A new caller key."""

    key: Annotated[str, Field(description="The key itself. It is shown only once.")]


class RotatedKey(KeyDocument):
    """A rotated caller key."""

    key: Annotated[
        str | None,
        Field(description="The new key. It is shown only once: null if the rotation is a repeat."),
    ]


class Keys(TypedDict):
    """A page of caller keys, oldest first."""

    keys: list[KeyDocument]
    nextCursor: NotRequired[
        Annotated[
            str, Field(description="Value of `cursor` for the next page; absent on the last page.")
        ]
    ]


Base64 = Annotated[str, Field(description="base64")]


class AuditRecord(TypedDict):
    """An audit record and its position in the log."""

    recordId: Annotated[int, Field(description="Position in the log, from 1 without gaps.")]
    record: Annotated[
        dict[str, Any], Field(description="The record: OCSF API Activity (class 6003).")
    ]


class AuditPage(TypedDict):
    """A page of audit records."""

    records: list[AuditRecord]
    nextCursor: NotRequired[
        Annotated[
            str,
            Field(
                description="Value of `cursor` for the next page; absent on the last page. An "
                "empty page may have one."
            ),
        ]
    ]


class AuditCheckpoint(TypedDict):
    """A signed checkpoint: the number of sealed records, and the root of their tree."""

    size: Annotated[int, Field(description="Number of sealed records.")]
    rootHash: Annotated[Base64, Field(description="Root hash of their Merkle tree (RFC 6962).")]
    sealedAt: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    note: Annotated[str, Field(description="C2SP tlog-checkpoint, signed with Ed25519.")]
    publicKey: Annotated[str, Field(description="Key that verifies the signature: `name+id+key`.")]


class InclusionProof(TypedDict):
    """A proof that the record is in the checkpoint's log (RFC 9162 §2.1.3.2)."""

    recordId: int
    record: Annotated[
        str,
        Field(
            description="The record's text. Its leaf hash is SHA-256 of a zero byte and this text."
        ),
    ]
    leafIndex: int
    leafHash: Base64
    hashes: list[Base64]
    checkpoint: AuditCheckpoint


class ConsistencyProof(TypedDict):
    """A proof that the log of `to` records extends that of `from` (RFC 9162 §2.1.4.2)."""

    hashes: list[Base64]


class PlanEntry(TypedDict):
    """An event, state or attribute of a tracking plan.

    The schema describes an item's fields, or an attribute's value.
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
    digest: NotRequired[Annotated[str, Field(description="SHA-256 of the plan's content.")]]
    files: NotRequired[list[str]]
    unknown: NotRequired[
        Annotated[
            dict[str, str], Field(description="Policy for names that are not in the plan, by kind.")
        ]
    ]
    definitions: NotRequired[dict[str, Any]]
    events: NotRequired[list[PlanEntry]]
    states: NotRequired[list[PlanEntry]]
    attributes: NotRequired[list[PlanEntry]]
    refused: Annotated[
        list[str], Field(description="Errors in the plan's files; empty if there are none.")
    ]


class PlanViolation(TypedDict):
    """A kind of violation of the plan, and how often it occurred."""

    kind: Literal["events", "states", "attributes"]
    name: Annotated[
        str, Field(description="Name of the event, state or attribute.", examples=["Purchase"])
    ]
    code: Annotated[str, Field(examples=["plan-required"])]
    keyId: str
    count: int
    firstSeen: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    lastSeen: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    pointer: Annotated[
        str,
        Field(
            description="Place in the item that violated the plan last.", examples=["/params/sku"]
        ),
    ]


class PlanViolations(TypedDict):
    """The violations of the tracking plan."""

    violations: list[PlanViolation]


class CountedName(TypedDict):
    """A name and when it was first seen."""

    name: str
    firstSeen: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class NamesOfKind(TypedDict):
    """The names of one kind."""

    count: int
    limit: Annotated[int, Field(description="Number of names that Leanplum keeps.")]
    names: list[CountedName]


class Taxonomy(TypedDict):
    """The names that an app uses."""

    app: str
    policy: Literal["off", "warn", "enforce"]
    warnFrom: Annotated[
        float, Field(description="Share of a limit from which on new names cause warnings.")
    ]
    events: NamesOfKind
    states: NamesOfKind
    params: NamesOfKind
    attributes: NamesOfKind


# OpenAPI components whose plain names belong to domain classes in this code. Pydantic names a
# component after its class, so the classes carry the public name.
COMPONENT_NAMES: dict[Any, str] = {
    DeadLetterFields: "DeadLetterFilter",
    EnrichmentDocument: "Enrichment",
    ErasureCounts: "Erased",
    FaultShape: "Fault",
    KeyCreation: "NewKey",
    KeyDocument: "Key",
    PartState: "Part",
    ProblemShape: "Problem",
    ReceiptDocument: "Receipt",
}
for _class, _name in COMPONENT_NAMES.items():
    _class.__name__ = _class.__qualname__ = _name
