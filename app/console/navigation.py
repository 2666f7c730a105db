"""The table of the console's pages, in the order in which they are shown."""

from typing import NamedTuple

from app.model import Scope


class Page(NamedTuple):
    """A page of the console: its title, its path below `/console`, and the scope that it needs."""

    title: str
    path: str
    scope: Scope = Scope.CONSOLE_READ

    def contains(self, path: str) -> bool:
        """Return whether a path below `/console` is that of the page, or below it."""
        return path == self.path or (self.path != "" and path.startswith(f"{self.path}/"))


PAGES = (
    Page("Overview", ""),
    Page("Find", "/find", Scope.RECEIPTS_READ),
    Page("Live", "/live", Scope.RECEIPTS_READ),
    Page("Dead letters", "/dead-letters", Scope.DEAD_LETTERS_MANAGE),
    Page("Keys", "/keys", Scope.KEYS_MANAGE),
    Page("Audit", "/audit", Scope.AUDIT_READ),
    Page("Tracking plan", "/tracking-plan", Scope.CONTENT_READ),
    Page("Preview", "/preview"),
)
