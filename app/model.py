"""The shared domain types, all frozen.

An *item* is one event or user update. A *subject* is the user or device that an item is about: `u`
+ user id, or `d` + device id if no user is named. Leanplum locks one subject at a time, so order
and one-call-at-a-time are kept per subject. Times are milliseconds since the epoch (`…_at`) unless
said otherwise.
"""

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pydantic import SecretStr

from app.errors import Fault


class Scope(StrEnum):
    """A permission of a caller key."""

    EVENTS_WRITE = "events:write"
    USERS_WRITE = "users:write"
    USERS_READ = "users:read"
    USERS_ERASE = "users:erase"
    MESSAGES_SEND = "messages:send"
    CONTENT_READ = "content:read"
    CONTENT_WRITE = "content:write"
    EXPORTS_RUN = "exports:run"
    SDK = "sdk"
    RECEIPTS_READ = "receipts:read"
    DEAD_LETTERS_MANAGE = "dead-letters:manage"
    AUDIT_READ = "audit:read"
    KEYS_MANAGE = "keys:manage"
    CONSOLE_READ = "console:read"


class KeyKind(StrEnum):
    """The kinds of Leanplum's client keys, which decide what may be called.

    Source: Leanplum's documentation, Authentication.
    """

    PRODUCTION = "production"
    DEVELOPMENT = "development"
    DATA_EXPORT = "data export"
    CONTENT_READ_ONLY = "content read-only"

    @property
    def setting(self) -> str:
        """The setting that has the key."""
        return f"LEANPLUM_{self.name}_KEY"


class Status(StrEnum):
    """The states of an item."""

    ACCEPTED = "accepted"
    RETRYING = "retrying"
    HELD = "held"
    DELIVERED = "delivered"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


STATUSES = tuple(Status)
# The states of an item that has left the queue
FINAL = (Status.DELIVERED, Status.SKIPPED, Status.REJECTED, Status.EXPIRED, Status.UNKNOWN)
# The states of dead letters: they keep their body, and operators replay or discard them.
DEAD = frozenset({Status.REJECTED, Status.EXPIRED, Status.UNKNOWN})


def count_by_status(statuses: Sequence[Status]) -> dict[str, int]:
    """Return how many there are of each status that occurs."""
    if statuses and statuses.count(statuses[0]) == len(statuses):  # nearly always
        return {statuses[0].value: len(statuses)}
    return {status.value: count for status in STATUSES if (count := statuses.count(status))}


_NOT_OF_A_LINE = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
# A line of text, and not a blank one
KEY_NAME = rf"^[^{_NOT_OF_A_LINE}]*[^\s{_NOT_OF_A_LINE}][^{_NOT_OF_A_LINE}]*$"
APP_NAME = r"^[A-Za-z0-9_-]{1,64}$"
ENCRYPTED_PREFIX = "~"  # begins an encrypted text; no JSON text begins with it
ERASES = "deleteUser"  # the action that erases its subject here, too
ERASURE_RECORD = "erasureRecord"  # of a deletion's notes: the number of its audit record


@dataclass(frozen=True, slots=True)
class App:
    """One Leanplum app and its keys, by their kind."""

    name: str
    app_id: str
    keys: Mapping[KeyKind, SecretStr]
    api_url: str
    # Items a second that all its callers may send together; None: no limit
    rate_per_second: int | None = None
    rate_burst: int | None = None
    in_file: bool = False  # whether it is configured in the apps file
    # Actions at /api that are relayed, not accepted for later
    sdk_relayed: frozenset[str] = frozenset()
    # Actions at /api that are passed on although they are not known
    sdk_extra: frozenset[str] = frozenset()

    def setting(self, kind: KeyKind) -> str:
        """Return the name of the setting for its key of this kind."""
        return f"{kind.name.lower()}_key of [apps.{self.name}]" if self.in_file else kind.setting


@dataclass(frozen=True, slots=True)
class Caller:
    """A backend that calls the gateway, as identified by its key.

    `key_id` is not secret. `apps` has the names of the apps that it may use; None means all. Its
    own limits are in items; None means the gateway's.
    """

    key_id: str
    name: str
    scopes: frozenset[Scope]
    apps: frozenset[str] | None = None
    rate_per_second: int | None = None
    rate_burst: int | None = None

    def may_use(self, app: str) -> bool:
        """Return whether the key is for this app."""
        return self.apps is None or app in self.apps


class NewItem(NamedTuple):
    """A validated item that is not on disk yet.

    `body` is the text of the JSON object that Leanplum gets, without the fields that the gateway
    adds when it sends (action, time, reqId, uuid). If the caller gave an `id`, its keys are sorted,
    so that one content has one text. `notes` is the text of a JSON object for the receipt; None for
    most. `content` is compared to detect a repeat of an `id`, if that is not `body` itself.
    `event` is the name of the event or state, by which receipts are searched.
    """

    subject: str
    action: str
    body: str
    id: str | None = None
    notes: str | None = None
    content: str | None = None
    event: str | None = None


@dataclass(frozen=True, slots=True)
class Notes:
    """The effects of enrichment and plan checks on one item, without values of the user's.

    `reshaped`: a change that must be validated again. `said`: fields that depend on the moment
    alone (clock, address), as the caller sent them; None if the caller did not. `violations`:
    permitted violations of the tracking plan or of reserved names. `time_correction`: seconds by
    which an SDK's entry was moved, since its clock was wrong. `moved`: values that moved to another
    field, in the order of the steps.
    """

    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    reshaped: bool = False
    said: Mapping[str, Any] = field(default_factory=dict)
    violations: tuple[Fault, ...] = ()
    time_correction: float | None = None
    moved: Sequence[Any] = ()


NO_NOTES = Notes()


NOTHING_REFUSED: Mapping[str, int] = MappingProxyType({})
NOBODY_ERASED: Mapping[str, str] = MappingProxyType({})


class Acceptance(NamedTuple):
    """The items of one call, committed together.

    Generated item ids are UUIDv7 (RFC 9562): `prefix`, which all items of the call share, and the
    item's sequence number as the last twelve hex digits.
    """

    app: str
    key_id: str
    request_id: str
    operation: str
    address: str
    accepted_at: int
    prefix: str
    items: list[NewItem]
    refused: int = 0
    batch: bool = False
    users: Sequence[str] = ()  # the keyed hashes of whom it is about, for the audit
    # Leanplum's actions that were refused, and how often
    refused_actions: Mapping[str, int] = NOTHING_REFUSED
    # By subject, the keyed hashes of those whom it erases
    erased_users: Mapping[str, str] = NOBODY_ERASED
    traceparent: str | None = None  # of the call's span, if it is sampled (W3C Trace Context)


class CallRecord(NamedTuple):
    """One call to Leanplum, for the audit.

    `status` is that of the response, None if there was none; `seqs` are its items; `about` says
    what and whom it was about. `split`: it was refused as a whole, and its items were sent again in
    smaller calls.
    """

    status: int | None
    seqs: Collection[int]
    about: Mapping[str, Any]
    split: bool = False


Kind = Literal["accepted", "duplicate", "conflict", "erased"]
# The decision on one NewItem, after its id: accepted as new, a duplicate, in conflict with other
# content under the same id, or refused since its subject was erased (then the id may be "").
Taken = tuple[str, Kind]


class Removed(NamedTuple):
    """The number of items that an erasure removed, by kind.

    `waiting` items were not sent; `in_flight` items were being sent, which is finished; `receipts`
    are of other items; `ids` were remembered against duplicates.
    """

    waiting: int = 0
    in_flight: int = 0
    dead_letters: int = 0
    receipts: int = 0
    ids: int = 0

    def document(self) -> dict[str, int]:
        """Return the numbers as JSON, for receipts and for the audit."""
        return {
            "waiting": self.waiting,
            "inFlight": self.in_flight,
            "deadLetters": self.dead_letters,
            "receipts": self.receipts,
            "ids": self.ids,
        }


class Erasure(NamedTuple):
    """The erasure of one subject: what was removed, and the number of its audit record."""

    removed: Removed
    record_id: int


class Item(NamedTuple):
    """An item that waits in the outbox."""

    seq: int
    id: str
    app: str
    subject: str
    action: str
    body: str
    accepted_at: int
    attempts: int
    next_attempt_at: int
    lane: int = 0  # of its subject: what order and one-call-at-a-time are kept by
    caller: int = 0  # whose fair share it counts to
    # When it was accepted, or last sent again by an operator: what its age is counted from
    queued_at: int = 0
    traceparent: str | None = None  # of the span of the call that brought it

    @property
    def undecryptable(self) -> bool:
        """True if the body could not be decrypted here."""
        return self.body[:1] == ENCRYPTED_PREFIX


class ItemPage(NamedTuple):
    """Items in the order of acceptance; `whole` if there were no more to read.

    `part_end`: if only a part of the range was searched, the number at which that part ends.
    """

    items: list[Item]
    whole: bool
    part_end: int | None = None

    @property
    def read_upto(self) -> int:
        """The number up to which a page that is not whole was read."""
        return self.items[-1].seq if self.part_end is None else self.part_end


class Backlog(NamedTuple):
    """The waiting items of a caller after a number, for which a deliverer had no room yet."""

    app: str
    after: int


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """The parts of the queue that a deliverer wants to read.

    `shards` restricts the request to lanes of these shards; None means all.
    """

    shards: frozenset[int] | None = None
    fresh: bool = False  # read only the callers with waiting items, and the end of the queue
    replays: int = 0  # read the lanes of items that were replayed after this number of replays
    # Read the waiting items of these lanes, in the first part of their range
    lanes: frozenset[int] = frozenset()
    lanes_from: int = 0  # their first sequence number
    lanes_upto: int = 0  # their last sequence number
    tail: int | None = None  # read items with a sequence number above this one
    leave_out: frozenset[int] = frozenset()  # leave these callers out of the tail
    backlogs: tuple[tuple[int, int, int], ...] = ()  # (caller, after, limit)
    # By app: the sequence number at which the first backlog of its callers begins
    unread_after: Mapping[str, int] = field(default_factory=dict)
    contended: frozenset[str] = frozenset()  # apps of which several callers have a backlog
    # Lanes whose items are skipped, wherever they are: earlier ones need not be looked for. Others
    # may be added while it is read, so look into it only.
    skipped: Container[int] = frozenset()
    limit: int = 5_000


class ReplayedLane(NamedTuple):
    """The first and the last item of a lane that operators have sent again."""

    app: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ReadResult:
    """The result of a ReadRequest, in the order in which it was read."""

    request: ReadRequest
    last: int  # the newest sequence number when reading began
    replays: int  # how often an operator has sent items again
    callers: dict[int, Backlog] = field(default_factory=dict)
    lanes: ItemPage | None = None
    replayed: dict[int, ReplayedLane] = field(default_factory=dict)  # by lane
    tail: ItemPage | None = None
    backlogs: list[tuple[int, ItemPage]] = field(default_factory=list)
    # By lane: none of its unread items has a lower number
    earlier: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """The shards that a deliverer holds, and how many of them others should have."""

    shards: frozenset[int]
    surplus: int = 0
    lost: int = 0  # attempts of deliverers that are gone
    # Items that left the queue with them, as unknown, by app
    unknown: Mapping[str, int] = field(default_factory=dict)
    # False: others took it for gone meanwhile, and may have sent what it has in memory
    renewed: bool = True
    at: int = 0  # the time of the clock by which leases end

    @property
    def settled(self) -> int:
        """The number of items that left the queue."""
        return sum(self.unknown.values())


@dataclass(frozen=True, slots=True)
class Receipt:
    """The state of one item, as its caller may see it."""

    seq: int
    id: str
    action: str
    subject: str
    status: Status
    accepted_at: int
    attempts: int
    settled_at: int | None
    next_attempt_at: int | None
    leanplum: dict[str, Any] | None
    notes: dict[str, Any] | None = None
    event: str | None = None
    leanplum_unreadable: bool = False  # whether what Leanplum said can't be decrypted here

    @property
    def settled(self) -> bool:
        """True if the item has a final status (a replay can reopen it)."""
        return self.settled_at is not None


# What Leanplum said of one item sent (an outcome), read from an answer by `leanplum/replies.py`.


@dataclass(frozen=True, slots=True)
class Done:
    """Leanplum accepted the item; `warning` if it changed something."""

    warning: str | None = None


DONE = Done()  # nearly always


@dataclass(frozen=True, slots=True)
class Ignored:
    """Leanplum answered success and did nothing.

    `by_field`: its field `ignored` says so, whatever its text.
    """

    reason: str
    is_error: bool = False
    by_field: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class ItemRefused:
    """Leanplum refuses this item for good."""

    reason: str


@dataclass(frozen=True, slots=True)
class ConfigRefused:
    """Leanplum refuses our key or app: no item's fault."""

    reason: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """A temporary failure: worth another try, not before `after` seconds.

    `throttled`: Leanplum asked to slow down, which does not count as an attempt. `lost`: it was
    sent, and the outcome will never be known.
    """

    reason: str
    after: float = 0.0
    throttled: bool = False
    lost: bool = False


Outcome = Done | Ignored | ItemRefused | ConfigRefused | Trouble

# What we make of it (a verdict), decided by `delivery/verdicts.py`.


@dataclass(frozen=True, slots=True)
class Settled:
    """The verdict that an item is finished: its final status, and Leanplum's answer."""

    status: Status
    leanplum: dict[str, Any] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Postponed:
    """The verdict that an item stays, `retrying` or `held`, for `wait` seconds.

    `counts`: whether it counts in the item's `attempts`.
    """

    status: Status
    wait: float
    leanplum: dict[str, Any]
    counts: bool = True


Verdict = Settled | Postponed
