"""The gateway without one of its parts: `python -m bench.servers.without PART serve …`, for what
that part costs.

The switches are here, not in the product: none of these parts can be turned off there.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from app.audit import records
from app.audit.records import UserPseudonyms
from app.cli.main import main
from app.http.rate_limiting import RateLimiter
from app.outbox import accept


async def _take_nothing(
    limiter: Any, context: Any, caller: Any, count: int, *, lends: bool = False
) -> None:
    context.rate_headers = ()


def without_limits() -> None:
    """Nothing is taken from any bucket, and no header tells of one."""
    RateLimiter.take = _take_nothing  # type: ignore[method-assign,assignment]


def without_audit() -> None:
    """No record is made, nor a user's hash for one; nothing is ever sealed."""
    records.insert = lambda cursor, macs, records: None
    accept._record = lambda acceptance, taken, accepted: ""
    UserPseudonyms.of_all = lambda self, app, subjects: []  # type: ignore[method-assign]


def without_memory() -> None:
    """The audit knows no user from a moment ago, as where each call is about others."""
    of_all = UserPseudonyms.of_all

    def anew(self: UserPseudonyms, app: str, subjects: Iterable[str]) -> list[str]:
        self.forget()
        return of_all(self, app, subjects)

    UserPseudonyms.of_all = anew  # type: ignore[method-assign]


WITHOUT: dict[str, Callable[[], None]] = {
    "limits": without_limits,
    "audit": without_audit,
    "memory": without_memory,
}

if __name__ == "__main__":
    WITHOUT[sys.argv.pop(1)]()
    main()
