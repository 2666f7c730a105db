"""The configuration of a simulator: keys, sandbox content, message texts, and choices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

NEWSFEED = "Newsfeed Message"


class ClientKeyKind(StrEnum):
    """The kinds of client key; the kind decides which actions are allowed (fact sheet §2)."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"
    DATA_EXPORT = "data export"
    CONTENT_READ_ONLY = "content read-only"


@dataclass(frozen=True)
class SandboxMessage:
    """A message (campaign) that exists from the start; unless `matches`, it targets nobody."""

    id: int
    name: str
    kind: str = "Push Notification"
    matches: bool = True
    draft: bool = False


@dataclass(frozen=True)
class SandboxVariant:
    """A variant of an A/B test, and the variables that it sets."""

    id: int
    name: str
    percent: float
    variables: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class SandboxAbTest:
    """An A/B test that exists from the start."""

    id: int
    name: str
    variants: tuple[SandboxVariant, ...] = field(default=())
    draft: bool = False


@dataclass(frozen=True)
class SandboxCategory:
    """A category of messages from which users can unsubscribe."""

    id: int
    name: str
    description: str = ""


SANDBOX_MESSAGES = (
    SandboxMessage(1001, "Welcome", "Email"),
    SandboxMessage(1002, "Reminder"),
    SandboxMessage(1003, "Nobody matches", matches=False),
    SandboxMessage(1004, "News", NEWSFEED),
    SandboxMessage(1005, "Not yet sent", draft=True),
)

SANDBOX_AB_TESTS = (
    SandboxAbTest(
        2001,
        "Button colour",
        (
            SandboxVariant(3001, "Control", 50.0),
            SandboxVariant(3002, "Green", 50.0, ({"name": "c", "value": "green"},)),
        ),
    ),
    SandboxAbTest(2002, "Not yet begun", (SandboxVariant(3003, "Control", 100.0),), draft=True),
)

SANDBOX_CATEGORIES = (
    SandboxCategory(4001, "Offers", "Discounts and sales"),
    SandboxCategory(4002, "News"),
)


@dataclass(frozen=True)
class Texts:
    """Messages in responses: those of fact sheet §4 are verbatim, others are inferred."""

    user_not_found: str = "User not found; request skipped."
    message_entity_not_found: str = "Message entity not found"
    message_not_found: str = "Message not found."
    file_not_found: str = "File not found."
    upload_too_large: str = "Upload exceeds the limit of files or bytes"
    storage_full: str = "No room for further files"
    job_not_found: str = "Job not found."
    export_too_old: str = "You cannot export data older than 60 days"
    no_matching_data: str = "No matching data found."
    quota_exceeded: str = "Daily limit of {action} reached ({limit})"
    not_alone: str = "Action must be alone in its request: {name}"
    ab_test_not_found: str = "A/B test not found."
    variant_not_found: str = "Variant not found."
    postback_not_found: str = "Postback not found."
    too_many_postbacks: str = "Too many postbacks (limit {limit})"
    variables_too_large: str = "Variables exceed 1 MB"
    past_event: str = "Past event detected ({days} days ago). Rewriting timestamp."
    clock_skew: str = "Device clock skew detected ({days} days behind). Rewriting timestamp."
    anomaly: str = "Anomaly detected: time skew. User will be excluded from analytics."
    invalid_counter: str = "{kind} '{name}' {field} is invalid."
    no_user: str = "Invalid app/user combination"
    wrong_key: str = "Invalid access key"
    unknown_app: str = "App not found"
    dev_mode_refused: str = "Development mode requested but not permitted"
    redirected: str = "App endpoint configuration mismatch."
    device_lock: str = "Request failed due to concurrent requests to the same profile ID"
    dev_mode_rate: str = "Per device rate limit exceeded."
    dev_mode_rate_sdk: str = "Too Many Requests."
    missing: str = "Missing required parameter: {name}"
    invalid: str = "Invalid value for parameter: {name}"
    unreadable: str = "Malformed request: {reason}"
    unknown_action: str = "Unknown action: {name}"
    too_many_users: str = "Too many users in multi: {count} (limit {limit})"
    too_many_actions: str = "Too many actions in multi: {count} (limit {limit})"
    blocked: str = "User is blocked."
    inactive: str = "Event ignored: the user has no active session."
    bad_request: str = "Bad request"
    not_allowed: str = "Request not allowed"
    too_large: str = "Batch exceeds the limit of users or actions"


EXPORTS_PER_DAY = {"exportData": 24, "exportUsers": 40, "exportReport": 100}


@dataclass(frozen=True)
class SimulatorConfig:
    """A simulated app, and the choices where the sources of the fact sheet conflict."""

    app_id: str = "app_sandbox"
    production_key: str = "prod_sandbox"
    development_key: str = "dev_sandbox"
    data_export_key: str = "exp_sandbox"
    content_read_only_key: str = "cro_sandbox"
    strict_dev_mode: bool = False
    """Refuse devMode with the production key (fact sheet §2: sources conflict)."""
    lock_users: Literal["429", "queue"] = "429"
    """Refuse or delay a second call for a user in flight (fact sheet §5: the docs say both)."""
    deduplicate: bool = True
    """Execute a known (uuid, reqId) only once (fact sheet §0.7: the SDKs rely on it)."""
    mixed_status: Literal[200, 404] = 200
    """HTTP status of a multi with a failed action (fact sheet §3.7: 404 in 2015, 200 in 2017)."""
    texts: Texts = field(default_factory=Texts)
    users: tuple[str, ...] = ()
    """Ids of users who exist from the start."""
    messages: tuple[SandboxMessage, ...] = SANDBOX_MESSAGES
    ab_tests: tuple[SandboxAbTest, ...] = SANDBOX_AB_TESTS
    unsubscribe_categories: tuple[SandboxCategory, ...] = SANDBOX_CATEGORIES
    job_states: tuple[str, ...] = ("PENDING", "RUNNING", "FINISHED")
    """States of a job, one for each request for it; the last one stays."""
    exports_per_day: Mapping[str, int] = field(default_factory=lambda: dict(EXPORTS_PER_DAY))
    quota_status: int = 403
    """HTTP status of an export beyond the daily limit (I)."""
    migrate_state: bool = False
    """Add a top-level `migrateState` to every envelope, as newer servers do (fact sheet §4)."""
    latency_seconds: float = 0.0
    """Delay of every call."""
    keep_requests: int = 10_000
    """Size of the journal of calls."""
    seed: int | None = None
    """Seed of the random draws for faults with a probability."""
