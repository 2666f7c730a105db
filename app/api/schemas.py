"""The shapes of responses and of operators' requests; `openapi/` is made from them."""

from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from app.leanplum.actions import DELIVERABLE_ACTIONS
from app.leanplum.parameters import CLOSED
from app.leanplum.values import Bool, DeviceId, ItemId, Time, UserId, described
from app.model import APP_NAME, KEY_NAME, Scope, Status

EXAMPLE_NOTE = (
    "leanplum-gateway/f8489ab77f3ab326\n42\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
)
EXAMPLE_HASH = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
EXAMPLE_PUBLIC_KEY = "leanplum-gateway/f8489ab77f3ab326+9c54962d+ASdwZg=="
EXAMPLE_COUNTS = {"waiting": 3, "inFlight": 1, "deadLetters": 1, "receipts": 12, "ids": 16}
EXAMPLE_ERASURE = {
    "user": "3781d1d1fa7f2db06f94",
    "removed": EXAMPLE_COUNTS,
    "fullErasure": True,
    "refusedUntil": "2026-02-01T12:00:00Z",
}
EXAMPLE_STATEMENT = {
    "recordId": 42,
    "erasedAt": "2026-01-31T12:00:00Z",
    "app": "default",
    "erasures": [EXAMPLE_ERASURE],
    "record": '{"class_uid":6003}',
    "hashes": [EXAMPLE_HASH],
    "checkpoint": EXAMPLE_NOTE,
    "publicKey": EXAMPLE_PUBLIC_KEY,
}
Base64 = Annotated[
    str, Field(description="base64", examples=["47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="])
]
ActionName: Any = Literal[tuple(DELIVERABLE_ACTIONS)]


class LeanplumSaid(TypedDict, total=False):
    """Leanplum's answer about the item."""

    success: Annotated[bool, described("Whether Leanplum accepted the item.", True)]
    warning: Annotated[
        str,
        described(
            "Warning of Leanplum, if it applied the item with a change.",
            "Past event time rewritten.",
        ),
    ]
    error: Annotated[str, described("Error of Leanplum.", "Invalid user id.")]


class ErasureCounts(TypedDict):
    """The counts of what an erasure removed from the gateway itself."""

    waiting: Annotated[int, Field(ge=0, description="Items that had not been sent.", examples=[3])]
    inFlight: Annotated[
        int,
        Field(
            ge=0,
            description="Items that were being sent; their call is finished, and not kept.",
            examples=[1],
        ),
    ]
    deadLetters: Annotated[
        int, Field(ge=0, description="Dead letters, with their payloads.", examples=[1])
    ]
    receipts: Annotated[int, Field(ge=0, description="Receipts of settled items.", examples=[12])]
    ids: Annotated[
        int, Field(ge=0, description="Item ids that were kept for deduplication.", examples=[16])
    ]


class ErasedUser(TypedDict):
    """A user or device that was erased, and what was removed."""

    user: Annotated[
        str,
        Field(
            description="Keyed hash of the user or device, as in all records of the audit log.",
            examples=[EXAMPLE_ERASURE["user"]],
        ),
    ]
    removed: Annotated[
        ErasureCounts,
        described("What was removed from the gateway.", EXAMPLE_COUNTS),
    ]
    fullErasure: Annotated[
        bool, described("Whether Leanplum is asked to erase all data of the user.", True)
    ]
    refusedUntil: NotRequired[
        Annotated[
            str,
            Field(
                json_schema_extra={"format": "date-time"},
                description="Time until which writes for the user are refused; absent if "
                "`GATEWAY_ERASED_SECONDS` is 0.",
                examples=[EXAMPLE_ERASURE["refusedUntil"]],
            ),
        ]
    ]


class ErasureStatement(TypedDict):
    """A signed statement of an erasure, verifiable with the public key alone.

    `record` is what is signed; `erasedAt`, `app` and `erasures` repeat facts of it.
    """

    recordId: Annotated[
        int, described("Number of the audit record; its leaf index is one less.", 42)
    ]
    erasedAt: Annotated[
        str,
        Field(
            json_schema_extra={"format": "date-time"},
            description="Time of the erasure.",
            examples=[EXAMPLE_STATEMENT["erasedAt"]],
        ),
    ]
    app: Annotated[str, described("The app.", "default")]
    erasures: Annotated[
        list[ErasedUser],
        described("Whom the call erased; several if it was a batch.", [EXAMPLE_ERASURE]),
    ]
    record: Annotated[
        str,
        Field(
            description="The record's text. Its leaf hash is SHA-256 of a zero byte and this text.",
            examples=[EXAMPLE_STATEMENT["record"]],
        ),
    ]
    hashes: Annotated[
        list[Base64],
        described("Hashes from the leaf to the root (RFC 9162 §2.1.3).", [EXAMPLE_HASH]),
    ]
    checkpoint: Annotated[
        str,
        Field(
            description="C2SP tlog-checkpoint with size and root of the log, signed with Ed25519.",
            examples=[EXAMPLE_NOTE],
        ),
    ]
    publicKey: Annotated[
        str,
        Field(
            description="Key of the log: `name+id+key`. To trust it, get it from elsewhere.",
            examples=[EXAMPLE_PUBLIC_KEY],
        ),
    ]


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
    detail: Annotated[str, described("What is wrong, and what to do.", "is required")]
    code: Annotated[str, described("Kind of the error.", "required")]


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
            "change.",
            examples=[["time is more than a year ago"]],
        ),
    ]


Violations = Annotated[
    list[FaultShape],
    Field(
        description="Tracking plan violations that were let through; pointers into the item.",
        examples=[[{"pointer": "/params/sku", "detail": "is required", "code": "plan-required"}]],
    ),
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
            "`circuit-open`: Leanplum is unavailable. `rate`: the limits of calls to Leanplum "
            "are reached.",
            examples=["retry"],
        ),
    ]
    since: Annotated[
        str,
        Field(
            description="Start of the wait, or the time of acceptance if that is unknown.",
            json_schema_extra={"format": "date-time"},
            examples=["2026-01-31T12:00:00Z"],
        ),
    ]
    until: NotRequired[
        Annotated[
            str,
            Field(
                json_schema_extra={"format": "date-time"},
                description="Time at which it is tried again, if that is known.",
                examples=["2026-01-31T12:00:08Z"],
            ),
        ]
    ]


class ReceiptDocument(TypedDict):
    """The receipt of one item: its state, and its outcome once it is settled."""

    id: Annotated[
        str,
        Field(
            examples=["019abc12-3456-7def-8123-000000000001"],
            description="Id of the item: yours, or the one that the gateway generated.",
        ),
    ]
    action: Annotated[str, Field(examples=["track"], description="Leanplum's action.")]
    event: NotRequired[
        Annotated[str, Field(description="Name of its event or state.", examples=["Purchase"])]
    ]
    userId: NotRequired[Annotated[str, Field(examples=["user-1"], description="The user.")]]
    deviceId: NotRequired[
        Annotated[str, described("The device, if the item names no user.", "device-1")]
    ]
    status: Annotated[Status, described("State of the item.", "delivered")]
    acceptedAt: Annotated[
        str,
        Field(
            json_schema_extra={"format": "date-time"},
            description="Time at which the item was committed to disk.",
            examples=["2026-01-31T12:00:00Z"],
        ),
    ]
    attempts: Annotated[int, Field(ge=0, description="How often the item was sent.", examples=[1])]
    settledAt: NotRequired[
        Annotated[
            str,
            Field(
                json_schema_extra={"format": "date-time"},
                description="Time at which the item was settled.",
                examples=["2026-01-31T12:00:01Z"],
            ),
        ]
    ]
    nextAttemptAt: NotRequired[
        Annotated[
            str,
            Field(
                json_schema_extra={"format": "date-time"},
                description="Time of the next attempt.",
                examples=["2026-01-31T12:00:08Z"],
            ),
        ]
    ]
    waitingFor: NotRequired[
        Annotated[
            WaitingFor,
            described(
                "Why the item is not delivered yet.",
                {"reason": "retry", "since": "2026-01-31T12:00:00Z"},
            ),
        ]
    ]
    leanplum: NotRequired[
        Annotated[LeanplumSaid, described("Leanplum's answer about the item.", {"success": True})]
    ]
    leanplumUnreadable: NotRequired[
        Annotated[
            bool,
            Field(
                description="Set instead of `leanplum` if Leanplum's answer is encrypted with a "
                "key that is missing.",
                examples=[True],
            ),
        ]
    ]
    erased: NotRequired[
        Annotated[
            ErasureCounts,
            described(
                "What an erasure removed from the gateway.",
                EXAMPLE_COUNTS,
            ),
        ]
    ]
    statement: NotRequired[
        Annotated[
            ErasureStatement,
            described(
                "Signed statement of the erasure, in the response to the deletion if it is signed "
                "within 3 seconds.",
                EXAMPLE_STATEMENT,
            ),
        ]
    ]
    statementHref: NotRequired[
        Annotated[
            str,
            Field(
                examples=["/v1/erasures/42"],
                description="Path of the signed statement of the erasure.",
            ),
        ]
    ]
    statementPending: NotRequired[
        Annotated[
            str,
            Field(
                examples=["The statement is not signed yet. Retrieve it at statementHref."],
                description="Why the response to the deletion has no `statement`.",
            ),
        ]
    ]
    timeCorrection: NotRequired[
        Annotated[
            TimeCorrection,
            described("Correction of an SDK entry's `time`.", {"seconds": 432000.25}),
        ]
    ]
    enrichment: NotRequired[
        Annotated[
            EnrichmentDocument,
            described(
                "Changes that enrichment made to the item; absent if it made none.",
                {"steps": ["time"]},
            ),
        ]
    ]
    violations: NotRequired[Violations]
    href: Annotated[
        str,
        Field(
            examples=["/v1/receipts/019abc12-3456-7def-8123-000000000001"],
            description="Path of the receipt.",
        ),
    ]
    duplicate: NotRequired[
        Annotated[bool, Field(description="Set if the id was accepted before.", examples=[True])]
    ]


class DeadLetterFields(TypedDict, total=False):
    """A filter of dead letters; a field that is left out matches all."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]  # for pydantic
    userId: Annotated[UserId, described("Of this user.", "user-1")]
    deviceId: Annotated[
        DeviceId, described("Of this device; of items without a userId.", "device-1")
    ]
    event: Annotated[
        str, Field(min_length=1), described("Of this event, or this state.", "Purchase")
    ]
    action: Annotated[ActionName, described("Leanplum's action.", "track")]
    status: Annotated[Literal["rejected", "expired", "unknown"], described("Outcome.", "expired")]
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
    ids: Annotated[
        list[ItemId],
        Field(
            min_length=1, max_length=1_000, description="Ids of items.", examples=[["order-1:paid"]]
        ),
    ]
    filter: Annotated[DeadLetterFields, described("Filter.", {"status": "expired"})]
    dryRun: Annotated[
        Bool, Field(description="Count the dead letters without changing them.", examples=[True])
    ]


class DeadLetterPage(TypedDict):
    """A page of dead letters."""

    deadLetters: Annotated[
        list[ReceiptDocument],
        described(
            "The receipts of dead letters.",
            [
                {
                    "id": "019abc12-3456-7def-8123-000000000001",
                    "action": "track",
                    "userId": "user-1",
                    "status": "expired",
                    "acceptedAt": "2026-01-31T12:00:00Z",
                    "attempts": 1,
                    "settledAt": "2026-01-31T12:00:01Z",
                    "leanplum": {"success": True},
                    "href": "/v1/receipts/019abc12-3456-7def-8123-000000000001",
                }
            ],
        ),
    ]
    nextCursor: NotRequired[
        Annotated[
            str,
            Field(
                description="Value of `cursor` for the next page; absent on the last page.",
                examples=["1042"],
            ),
        ]
    ]


class ReceiptPage(TypedDict):
    """A page of receipts, newest first."""

    receipts: Annotated[
        list[ReceiptDocument],
        described(
            "The receipts.",
            [
                {
                    "id": "019abc12-3456-7def-8123-000000000001",
                    "action": "track",
                    "userId": "user-1",
                    "status": "delivered",
                    "acceptedAt": "2026-01-31T12:00:00Z",
                    "attempts": 1,
                    "settledAt": "2026-01-31T12:00:01Z",
                    "leanplum": {"success": True},
                    "href": "/v1/receipts/019abc12-3456-7def-8123-000000000001",
                }
            ],
        ),
    ]
    nextCursor: NotRequired[
        Annotated[
            str,
            Field(
                description="Value of `cursor` for the next page; absent on the last page.",
                examples=["1042"],
            ),
        ]
    ]


class Replayed(TypedDict):
    """The number of dead letters that matched, and that went back into the queue."""

    matched: Annotated[int, described("Number of dead letters that matched.", 2)]
    replayed: Annotated[int, described("Number of those that went back into the queue.", 2)]
    dryRun: Annotated[bool, described("Whether they were only counted.", False)]


class Discarded(TypedDict):
    """The number of dead letters that matched, and that were discarded."""

    matched: Annotated[int, described("Number of dead letters that matched.", 2)]
    discarded: Annotated[int, described("Number of those that were discarded.", 2)]
    dryRun: Annotated[bool, described("Whether they were only counted.", False)]


class ProblemShape(TypedDict):
    """A problem document (RFC 9457)."""

    type: Annotated[
        str,
        Field(
            examples=["/problems/validation"],
            description="URL of the problem type, a page of the gateway.",
        ),
    ]
    title: Annotated[str, described("Name of the problem type.", "Validation failed")]
    status: Annotated[int, described("HTTP status.", 422)]
    detail: Annotated[
        str, described("What is wrong, where, and what to do.", "1 error in the body; see errors.")
    ]
    instance: NotRequired[
        Annotated[str, Field(description="Id of the request.", examples=["4bf92f35"])]
    ]
    errors: NotRequired[
        Annotated[
            list[FaultShape],
            described(
                "Every error in the request.",
                [{"pointer": "/event", "detail": "is required", "code": "required"}],
            ),
        ]
    ]
    ids: NotRequired[
        Annotated[
            list[str | None],
            Field(
                description="Set if a write may have been accepted: the ids with which to send its "
                "items again, in order; null for an item that was not accepted.",
                examples=[["order-1:paid", None]],
            ),
        ]
    ]


class BatchResult(TypedDict):
    """The result of one item of a batch."""

    index: Annotated[int, described("Position of the item in the batch, from 0.", 0)]
    id: NotRequired[
        Annotated[str, described("Id of the item.", "019abc12-3456-7def-8123-000000000001")]
    ]
    status: Annotated[
        Literal["accepted", "duplicate", "rejected"], described("Outcome of the item.", "accepted")
    ]
    href: NotRequired[
        Annotated[
            str,
            described(
                "Path of its receipt; absent if it was rejected.",
                "/v1/receipts/019abc12-3456-7def-8123-000000000001",
            ),
        ]
    ]
    enrichment: NotRequired[
        Annotated[
            EnrichmentDocument,
            described(
                "Changes that enrichment made to the item; absent if it made none.",
                {"steps": ["time"]},
            ),
        ]
    ]
    violations: NotRequired[Violations]
    problem: NotRequired[
        Annotated[
            ProblemShape,
            described(
                "Why the item was rejected.",
                {
                    "type": "/problems/validation",
                    "title": "Validation failed",
                    "status": 422,
                    "detail": "1 error in the body; see errors.",
                },
            ),
        ]
    ]


class BatchAnswer(TypedDict):
    """The result of a batch."""

    accepted: Annotated[int, described("Number of accepted items.", 1)]
    duplicates: Annotated[int, described("Number of duplicates.", 0)]
    rejected: Annotated[int, described("Number of rejected items.", 0)]
    results: Annotated[
        list[BatchResult],
        described(
            "Result of each item, in order.",
            [{"index": 0, "id": "019abc12-3456-7def-8123-000000000001", "status": "accepted"}],
        ),
    ]


class PreviewResult(TypedDict):
    """The preview of one item."""

    index: Annotated[int, described("Position of the item, from 0.", 0)]
    leanplum: NotRequired[
        Annotated[
            dict[str, Any],
            Field(
                description="The call that Leanplum would receive, without keys.",
                examples=[{"action": "track", "userId": "user-1", "event": "Purchase"}],
            ),
        ]
    ]
    enrichment: NotRequired[
        Annotated[
            EnrichmentDocument,
            described(
                "Changes that enrichment made to the item; absent if it made none.",
                {"steps": ["time"]},
            ),
        ]
    ]
    violations: NotRequired[Violations]
    problem: NotRequired[
        Annotated[
            ProblemShape,
            described(
                "Why the item would be rejected.",
                {
                    "type": "/problems/validation",
                    "title": "Validation failed",
                    "status": 422,
                    "detail": "1 error in the body; see errors.",
                },
            ),
        ]
    ]


class PreviewAnswer(TypedDict):
    """The previews of the items, in order."""

    results: Annotated[
        list[PreviewResult],
        described(
            "Preview of each item, in order.",
            [
                {
                    "index": 0,
                    "leanplum": {"action": "track", "userId": "user-1", "event": "Purchase"},
                }
            ],
        ),
    ]


class Pages(TypedDict):
    """The pages of the gateway."""

    name: Annotated[str, Field(description="Name of the product.", examples=["Leanplum gateway"])]
    version: Annotated[str, Field(description="Version of the gateway.", examples=["0.1.0"])]
    links: Annotated[
        dict[str, str],
        Field(
            description="Path of each page by its name.",
            examples=[{"docs": "/docs", "console": "/console", "problems": "/problems"}],
        ),
    ]


class PartState(TypedDict):
    """The state of one part of the gateway."""

    ok: Annotated[bool, described("Whether the part works.", True)]
    detail: NotRequired[
        Annotated[
            str,
            described(
                "What is wrong, or worth knowing.",
                "The database cannot commit now; nothing was accepted.",
            ),
        ]
    ]


class Readiness(TypedDict):
    """The readiness of the gateway, part by part."""

    ready: Annotated[bool, described("Whether items can be accepted.", True)]
    parts: Annotated[
        dict[str, PartState],
        described(
            "State of each part by name.", {"database": {"ok": True}, "delivery": {"ok": True}}
        ),
    ]


class KeyState(TypedDict):
    """The state of a Leanplum key; `accepted` is absent if it was not tested or not conclusive."""

    configured: Annotated[bool, described("Whether the key is set.", True)]
    accepted: NotRequired[Annotated[bool, described("Whether Leanplum accepts the key.", True)]]
    detail: NotRequired[
        Annotated[
            str,
            described("Leanplum's error, or why the key was not tested.", "Invalid client key."),
        ]
    ]


class AppState(TypedDict):
    """A configured app and its Leanplum keys, by kind."""

    name: Annotated[str, described("Name of the app.", "default")]
    appId: Annotated[str, described("Leanplum's id of the app.", "app_sandbox")]
    keys: Annotated[
        dict[str, KeyState],
        described("State of its Leanplum keys by kind.", {"production": {"configured": True}}),
    ]


class AppList(TypedDict):
    """The configured apps."""

    apps: Annotated[
        list[AppState],
        described(
            "The apps.",
            [
                {
                    "name": "default",
                    "appId": "app_sandbox",
                    "keys": {"production": {"configured": True}},
                }
            ],
        ),
    ]


class CheckedApp(TypedDict):
    """The result of testing an app's keys against Leanplum, by kind."""

    name: Annotated[str, described("Name of the app.", "default")]
    keys: Annotated[
        dict[str, KeyState],
        described(
            "Result for its Leanplum keys by kind.",
            {"production": {"configured": True, "accepted": True}},
        ),
    ]


ScopeName: Any = Literal[tuple(scope.value for scope in Scope)]
KeyName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=KEY_NAME,
        strict=True,
        description="Name of the key's owner.",
        examples=["shop backend"],
    ),
]
Scopes = Annotated[
    list[ScopeName],
    Field(
        min_length=1,
        max_length=len(Scope),
        description="Scopes of the key.",
        examples=[["events:write"]],
    ),
]
AppNames = Annotated[
    Annotated[list[Annotated[str, Field(pattern=APP_NAME, strict=True)]], Field(min_length=1)]
    | None,
    Field(description="Apps that the key may use; null for all apps.", examples=[["default"]]),
]
Rate = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=10**9)] | None,
    Field(description="Items per second; null for the gateway's default.", examples=[50]),
]
Burst = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=10**9)] | None,
    Field(
        description="Burst size in items; null for the gateway's default, in proportion to the "
        "key's own rate if it has one.",
        examples=[250],
    ),
]
Expiry = Annotated[
    Time | None,
    Field(description="Expiry of the key; null for never.", examples=["2030-01-31T12:00:00Z"]),
]
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
            examples=[3600],
        ),
    ]


class KeySecret(TypedDict):
    """A valid key under the id; there are two while a rotation overlaps."""

    lastFour: Annotated[str, described("Last four characters.", "x7Qa")]
    expiresAt: Annotated[
        WhenOrNever, described("End of its validity; null for never.", "2026-01-31T12:00:00Z")
    ]


class KeyDocument(TypedDict):
    """A caller key, without the key itself."""

    id: Annotated[
        str,
        Field(examples=["key_0123456789abcdef"], description="Id of the key; it is not secret."),
    ]
    name: Annotated[str, described("Name of the key's owner.", "shop backend")]
    scopes: Annotated[list[ScopeName], described("Scopes of the key.", ["events:write"])]
    apps: Annotated[
        list[str] | None, described("Apps that the key may use; null for all apps.", ["default"])
    ]
    ratePerSecond: Annotated[
        int | None, described("Items per second; null for the gateway's default.", 50)
    ]
    rateBurst: Annotated[
        int | None, described("Burst size in items; null for the gateway's default.", 250)
    ]
    lastFour: Annotated[str, described("Last four characters of the key.", "x7Qa")]
    createdAt: Annotated[
        str,
        Field(
            json_schema_extra={"format": "date-time"},
            description="Time of creation.",
            examples=["2026-01-31T12:00:00Z"],
        ),
    ]
    expiresAt: Annotated[
        WhenOrNever, described("Expiry of the key; null for never.", "2026-01-31T12:00:00Z")
    ]
    revokedAt: Annotated[
        WhenOrNever,
        described("Time of the revocation; null for a valid key.", "2026-01-31T12:00:00Z"),
    ]
    lastUsedAt: Annotated[
        WhenOrNever,
        Field(
            description="Time of the last use, to within ten seconds.",
            examples=["2026-01-31T12:00:00Z"],
        ),
    ]
    secrets: Annotated[
        list[KeySecret],
        described(
            "The keys that are valid under this id; two while a rotation overlaps.",
            [{"lastFour": "x7Qa", "expiresAt": "2030-01-31T12:00:00Z"}],
        ),
    ]


class MadeKey(KeyDocument):
    """A new caller key."""

    key: Annotated[
        str, Field(description="The key itself. It is shown only once.", examples=["lpgw_EXAMPLE"])
    ]


class RotatedKey(KeyDocument):
    """A rotated caller key."""

    key: Annotated[
        str | None,
        Field(
            description="The new key. It is shown only once: null if the rotation is a repeat.",
            examples=["lpgw_EXAMPLE"],
        ),
    ]


# Without null: FastAPI drops it from examples.
EXAMPLE_KEY = {
    "id": "key_0123456789abcdef",
    "name": "shop backend",
    "scopes": ["events:write"],
    "apps": ["default"],
    "ratePerSecond": 50,
    "rateBurst": 250,
    "lastFour": "x7Qa",
    "createdAt": "2026-01-31T12:00:00Z",
    "expiresAt": "2030-01-31T12:00:00Z",
    "revokedAt": "2026-03-01T12:00:00Z",
    "lastUsedAt": "2026-02-28T12:00:00Z",
    "secrets": [{"lastFour": "x7Qa", "expiresAt": "2030-01-31T12:00:00Z"}],
}


class KeyPage(TypedDict):
    """A page of caller keys, oldest first."""

    keys: Annotated[list[KeyDocument], described("The keys.", [EXAMPLE_KEY])]
    nextCursor: NotRequired[
        Annotated[
            str,
            Field(
                description="Value of `cursor` for the next page; absent on the last page.",
                examples=["1769860800000-key_0123456789abcdef"],
            ),
        ]
    ]


class AuditRecord(TypedDict):
    """An audit record and its position in the log."""

    recordId: Annotated[
        int, Field(description="Position in the log, from 1 without gaps.", examples=[42])
    ]
    record: Annotated[
        dict[str, Any],
        Field(
            description="The record: OCSF API Activity (class 6003).",
            examples=[{"class_uid": 6003, "activity_name": "POST /v1/events"}],
        ),
    ]


class AuditPage(TypedDict):
    """A page of audit records."""

    records: Annotated[
        list[AuditRecord],
        described("The records.", [{"recordId": 42, "record": {"class_uid": 6003}}]),
    ]
    nextCursor: NotRequired[
        Annotated[
            str,
            Field(
                description="Value of `cursor` for the next page; absent on the last page. An "
                "empty page may have one.",
                examples=["42"],
            ),
        ]
    ]


class AuditCheckpoint(TypedDict):
    """A signed checkpoint: the number of sealed records, and the root of their tree."""

    size: Annotated[int, Field(description="Number of sealed records.", examples=[42])]
    rootHash: Annotated[
        Base64,
        Field(
            description="Root hash of their Merkle tree (RFC 6962).",
            examples=["47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="],
        ),
    ]
    sealedAt: Annotated[
        str,
        Field(
            json_schema_extra={"format": "date-time"},
            description="Time of the seal.",
            examples=["2026-01-31T12:00:00Z"],
        ),
    ]
    note: Annotated[
        str,
        Field(
            description="C2SP tlog-checkpoint, signed with Ed25519.",
            examples=[EXAMPLE_NOTE],
        ),
    ]
    publicKey: Annotated[
        str,
        Field(
            description="Key that verifies the signature: `name+id+key`.",
            examples=["leanplum-gateway/f8489ab77f3ab326+9c54962d+ASdwZg=="],
        ),
    ]


class InclusionProof(TypedDict):
    """A proof that the record is in the checkpoint's log (RFC 9162 §2.1.3.2)."""

    recordId: Annotated[int, described("Position of the record.", 42)]
    record: Annotated[
        str,
        Field(
            description="The record's text. Its leaf hash is SHA-256 of a zero byte and this text.",
            examples=['{"class_uid":6003}'],
        ),
    ]
    leafIndex: Annotated[int, described("Index of its leaf: the position minus 1.", 41)]
    leafHash: Base64
    hashes: Annotated[
        list[Base64],
        described(
            "Hashes from the leaf to the root.", ["47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="]
        ),
    ]
    checkpoint: Annotated[
        AuditCheckpoint,
        described(
            "The newest checkpoint.",
            {
                "size": 42,
                "rootHash": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
                "sealedAt": "2026-01-31T12:00:00Z",
                "note": EXAMPLE_NOTE,
                "publicKey": "leanplum-gateway/f8489ab77f3ab326+9c54962d+ASdwZg==",
            },
        ),
    ]


class ConsistencyProof(TypedDict):
    """A proof that the log of `to` records extends that of `from` (RFC 9162 §2.1.4.2)."""

    hashes: Annotated[
        list[Base64],
        described("Hashes of the proof.", ["47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="]),
    ]


class PlanEntry(TypedDict):
    """An event, state or attribute of a tracking plan.

    The schema describes an item's fields, or an attribute's value.
    """

    name: Annotated[str, described("Name.", "Purchase")]
    mode: Annotated[
        Literal["off", "warn", "enforce"], described("What happens to violations.", "enforce")
    ]
    description: NotRequired[Annotated[str, described("Description.", "A customer paid.")]]
    owner: NotRequired[Annotated[str, described("Owner.", "checkout")]]
    schema: Annotated[
        dict[str, Any],
        described(
            "JSON Schema of the fields, or of the value.", {"type": "object", "required": ["value"]}
        ),
    ]
    examples: Annotated[list[Any], described("Examples.", [{"value": 9.99}])]


class TrackingPlan(TypedDict):
    """The tracking plan of an app."""

    loaded: Annotated[bool, described("Whether a plan is loaded.", True)]
    version: NotRequired[Annotated[str, described("Version of the plan.", "2026-01")]]
    digest: NotRequired[
        Annotated[
            str,
            Field(
                description="SHA-256 of the plan's content.",
                examples=["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
            ),
        ]
    ]
    files: NotRequired[Annotated[list[str], described("Files of the plan.", ["plan.yaml"])]]
    unknown: NotRequired[
        Annotated[
            dict[str, str],
            Field(
                description="Policy for names that are not in the plan, by kind.",
                examples=[{"events": "warn"}],
            ),
        ]
    ]
    definitions: NotRequired[
        Annotated[
            dict[str, Any],
            described("JSON Schemas that entries refer to, by name.", {"sku": {"type": "string"}}),
        ]
    ]
    events: NotRequired[
        Annotated[
            list[PlanEntry],
            described(
                "Events of the plan.",
                [
                    {
                        "name": "Purchase",
                        "mode": "enforce",
                        "schema": {"type": "object"},
                        "examples": [],
                    }
                ],
            ),
        ]
    ]
    states: NotRequired[Annotated[list[PlanEntry], described("States of the plan.", [])]]
    attributes: NotRequired[Annotated[list[PlanEntry], described("Attributes of the plan.", [])]]
    refused: Annotated[
        list[str],
        Field(description="Errors in the plan's files; empty if there are none.", examples=[[]]),
    ]


class PlanViolation(TypedDict):
    """A kind of violation of the plan, and how often it occurred."""

    kind: Annotated[
        Literal["events", "states", "attributes"], described("Kind of the name.", "events")
    ]
    name: Annotated[
        str, Field(description="Name of the event, state or attribute.", examples=["Purchase"])
    ]
    code: Annotated[str, Field(examples=["plan-required"], description="Kind of the violation.")]
    keyId: Annotated[str, described("Caller key that sent the items.", "key_0123456789abcdef")]
    count: Annotated[int, described("How often it occurred.", 3)]
    firstSeen: Annotated[
        str,
        Field(
            json_schema_extra={"format": "date-time"},
            description="Time of the first occurrence.",
            examples=["2026-01-31T12:00:00Z"],
        ),
    ]
    lastSeen: Annotated[
        str,
        Field(
            json_schema_extra={"format": "date-time"},
            description="Time of the last occurrence.",
            examples=["2026-01-31T12:00:00Z"],
        ),
    ]
    pointer: Annotated[
        str,
        Field(
            description="Place in the item that violated the plan last.", examples=["/params/sku"]
        ),
    ]


class PlanViolations(TypedDict):
    """The violations of the tracking plan."""

    violations: Annotated[
        list[PlanViolation],
        described(
            "The violations, latest first.",
            [
                {
                    "kind": "events",
                    "name": "Purchase",
                    "code": "plan-required",
                    "keyId": "key_0123456789abcdef",
                    "count": 3,
                    "firstSeen": "2026-01-31T12:00:00Z",
                    "lastSeen": "2026-01-31T12:00:00Z",
                    "pointer": "/params/sku",
                }
            ],
        ),
    ]


class CountedName(TypedDict):
    """A name and when it was first seen."""

    name: Annotated[str, described("The name.", "Purchase")]
    firstSeen: Annotated[
        str,
        Field(
            json_schema_extra={"format": "date-time"},
            description="Time at which it was first seen.",
            examples=["2026-01-31T12:00:00Z"],
        ),
    ]


class NamesOfKind(TypedDict):
    """The names of one kind."""

    count: Annotated[int, described("Number of names.", 1)]
    limit: Annotated[int, Field(description="Number of names that Leanplum keeps.", examples=[500])]
    names: Annotated[
        list[CountedName],
        described("The names.", [{"name": "Purchase", "firstSeen": "2026-01-31T12:00:00Z"}]),
    ]


class Taxonomy(TypedDict):
    """The names that an app uses."""

    app: Annotated[str, described("Name of the app.", "default")]
    policy: Annotated[
        Literal["off", "warn", "enforce"],
        described("What happens to names beyond the limits.", "warn"),
    ]
    warnFrom: Annotated[
        float,
        Field(
            description="Share of a limit from which on new names cause warnings.", examples=[0.9]
        ),
    ]
    events: Annotated[
        NamesOfKind,
        described(
            "Names of events.",
            {
                "count": 1,
                "limit": 500,
                "names": [{"name": "Purchase", "firstSeen": "2026-01-31T12:00:00Z"}],
            },
        ),
    ]
    states: Annotated[
        NamesOfKind, described("Names of states.", {"count": 0, "limit": 500, "names": []})
    ]
    params: Annotated[
        NamesOfKind, described("Names of parameters.", {"count": 0, "limit": 500, "names": []})
    ]
    attributes: Annotated[
        NamesOfKind, described("Names of attributes.", {"count": 0, "limit": 500, "names": []})
    ]


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
