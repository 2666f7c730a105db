"""What becomes of an item after an answer. Pure."""

from dataclasses import dataclass

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

DELIVERED = Settled(Status.DELIVERED)  # nearly always


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait and when to give up; seconds."""

    window: float = 86_400.0
    least: float = 2.0
    most: float = 900.0
    held: float = 15.0
    # Actions of which nothing is sent again once its answer was lost
    not_twice: frozenset[str] = frozenset()

    def wait(self, attempt: int, chance: float, at_least: float = 0.0) -> float:
        """Exponential backoff with full jitter: before try `attempt` + 1, between `least` / 2 and
        the doubled bound. `chance` is in [0, 1).
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
    """What becomes of one item after one answer; `age` in seconds since it was accepted, `attempt`
    counts from 0. `alone`: only its own user's items were sent. What failed beside others may be
    another's fault, and is tried again at once, with fewer others.
    """
    match outcome:
        case Done(None):
            return DELIVERED
        case Done(warning):
            return Settled(Status.DELIVERED, {"success": True, "warning": warning})
        case Ignored(reason, is_error):
            return Settled(
                Status.SKIPPED, {"success": True, "error" if is_error else "warning": reason}
            )
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
