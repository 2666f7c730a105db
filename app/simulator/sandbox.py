"""What exists in the simulated app from the start: messages, A/B tests, unsubscribe categories."""

from dataclasses import dataclass, field
from typing import Any

NEWSFEED = "Newsfeed Message"


@dataclass(frozen=True)
class SandboxMessage:
    """A message (campaign) that exists in the simulated app; with `matches` off its targeting fits
    nobody.
    """

    id: int
    name: str
    kind: str = "Push Notification"
    matches: bool = True
    draft: bool = False


@dataclass(frozen=True)
class SandboxVariant:
    """One variant of an A/B test, and the variables that it sets."""

    id: int
    name: str
    percent: float
    variables: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class SandboxAbTest:
    """An A/B test that exists in the simulated app."""

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
