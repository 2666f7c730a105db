"""The gateway without a part, to measure its cost: `python -m bench.servers.without PART …`.

The arguments of the gateway follow. In the product none of these parts can be turned off.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from app.audit import records
from app.audit.records import UserPseudonyms
from app.cli.main import main
from app.http.rate_limiting import RateLimiter
from app.outbox import accept


async def _skip_limits(
    limiter: Any, context: Any, caller: Any, count: int, *, lends: bool = False
) -> None:
    context.rate_headers = ()


def without_limits() -> None:
    """Remove rate limits and their headers."""
    RateLimiter.take = _skip_limits  # type: ignore[method-assign,assignment]


def without_audit() -> None:
    """Remove audit records, and the hashes of users for them; nothing is ever sealed."""
    records.insert = lambda cursor, macs, records: 0
    accept._record = lambda acceptance, taken, accepted: ""
    UserPseudonyms.of_all = lambda self, app, subjects: []  # type: ignore[method-assign]


def without_memory() -> None:
    """Remove the audit's memory of users, as if each call were about other users."""
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
