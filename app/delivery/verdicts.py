"""Verdicts: the decision on one item after one answer. Pure."""

from dataclasses import dataclass, replace

from app.model import (
    ConfigRefused,
    Done,
    Ignored,
    ItemRefused,
    Outcome,
    Postponed,
    Settled,
    Status,
    Trouble,
    Verdict,
)

DELIVERED = Settled(Status.DELIVERED)  # the verdict of nearly all items, made once


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait between tries, and when to give up; in seconds."""

    window: float = 86_400.0
    least: float = 2.0
    most: float = 900.0
    held: float = 15.0
    # Between probes of an open circuit: how late a recovery may be noticed
    probe: float = 60.0
    # Actions whose items are not sent again once an answer was lost
    not_twice: frozenset[str] = frozenset()

    def bounded(self, longest: float) -> "RetryPolicy":
        """Return this policy with no pause longer than `longest` seconds."""
        pauses = {name: getattr(self, name) for name in ("least", "most", "held", "probe")}
        return replace(self, **{name: min(pause, longest) for name, pause in pauses.items()})

    def wait(self, attempt: int, chance: float, at_least: float = 0.0) -> float:
        """Return the seconds to wait before try `attempt` + 1: exponential backoff, full jitter.

        They are between `least` / 2 and a bound that doubles with each attempt up to `most`, and
        never less than `at_least`. `chance` is in [0, 1).
        """
        bound = min(self.most, self.least * 2.0 ** min(attempt, 30))
        return max(at_least, self.least / 2 + chance * (bound - self.least / 2))


def judge(
    outcome: Outcome,
    *,
    action: str,
    age: float,
    attempt: int,
    policy: RetryPolicy,
    chance: float,
    alone: bool = True,
) -> Verdict:
    """Return the verdict on one item after one answer.

    `age`: seconds since the item was accepted or last replayed. `attempt` counts from 0. `alone`:
    only items of its own user were sent; a failure beside other users' items may be theirs, so the
    item is tried again without backoff, after Leanplum's Retry-After, with fewer others.
    """
    match outcome:
        case Done(None):
            return DELIVERED
        case Done(warning):
            return Settled(Status.DELIVERED, {"success": True, "warning": warning})
        case Ignored(reason, is_error):
            field = "error" if is_error else "warning"
            return Settled(Status.SKIPPED, {"success": True, field: reason})
        case ItemRefused(reason):
            return Settled(Status.REJECTED, {"success": False, "error": reason})
        case ConfigRefused(reason):
            return Postponed(
                Status.HELD, policy.held, {"success": False, "error": reason}, counts=False
            )
        case Trouble(reason, lost=True) if action in policy.not_twice:
            return Settled(Status.UNKNOWN, {"success": False, "error": reason})
        case Trouble(reason) if age > policy.window:
            return Settled(Status.EXPIRED, {"success": False, "error": reason})
        case Trouble(reason, after, throttled=False) if not alone:
            return Postponed(Status.RETRYING, after, {"success": False, "error": reason})
        case Trouble(reason, after, throttled):
            wait = policy.wait(attempt, chance, at_least=after)
            return Postponed(
                Status.RETRYING, wait, {"success": False, "error": reason}, counts=not throttled
            )
