"""The answer to a call, as far as it is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.compat.leanplum_sdk.response import Entry


@dataclass(slots=True)
class Reply:
    """The answer to a call, as far as it is known: one for each entry, and what stands beside
    them.
    """

    entries: list[Entry | None]
    status: int = 200
    beside: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None
    # The headers that tell Leanplum of the end user
    end_user: Mapping[str, str] = field(default_factory=dict)

    def tell(self, at: Sequence[int], found: Sequence[Entry]) -> None:
        """The answers of the entries at these places."""
        for index, entry in zip(at, found, strict=True):
            self.entries[index] = entry
