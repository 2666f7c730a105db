"""Privacy rules for relayed calls: for their arguments, their files, and the rows of an import."""

from collections.abc import Callable, Sequence
from typing import Any

from app.clock import now_ms
from app.enrichment.pipeline import CallEnricher
from app.enrichment.service import EnrichmentService
from app.errors import Fault, Forbidden, Invalid
from app.ingest import (
    import_rows,
    in_slices,
)
from app.leanplum.client import FilePart
from app.model import App, Caller

IN_A_BUCKET = (
    "must not be used while privacy rules are in force, since the gateway does not see the file; "
    "send the rows in the body instead"
)
FILE = "Forbidden: a privacy rule applies to this file, so it is not sent"
UNKNOWN_MEDIA_TYPE = "application/octet-stream"


class RelayedCallPrivacy:
    """Applies a caller's privacy rules to relayed calls."""

    def __init__(self, enrichment: EnrichmentService) -> None:
        self._enrichment = enrichment

    def apply(self, app: App, caller: Caller, action: str, fields: dict[str, Any]) -> None:
        """Take out of the arguments of a call, in place, what must not be sent on."""
        self._rules(app, caller).apply_privacy(action, fields)

    def files(
        self, app: App, caller: Caller, action: str, files: Sequence[FilePart]
    ) -> list[FilePart]:
        """Apply the rules to the names and media types of files; return the files.

        The content of files is not looked at. Raises Forbidden for a file that a rule covers as a
        whole.
        """
        rules = self._rules(app, caller)
        if not rules.has_privacy_rules:
            return list(files)
        permitted = list[FilePart]()
        for name, (filename, file, media_type) in files:
            if rules.covers_path(action, name):
                raise Forbidden(FILE)
            facts = {"filename": filename, "contentType": media_type}
            rules.apply_privacy(action, facts)
            if facts.get("contentType") != media_type:
                media_type = UNKNOWN_MEDIA_TYPE
            permitted.append((name, (facts.get("filename", name), file, media_type)))
        return permitted

    async def rows(
        self,
        app: App,
        caller: Caller,
        content: bytes,
        default_action: str,
        find_end: Callable[[str], int | None] | None,
    ) -> bytes:
        """Return the rows of an import without what must not be sent on.

        `find_end` returns until when an erased user or device is refused, and None for another; it
        is None when no erasure is in force.
        Raises Invalid, also when a row names an erased user.
        """
        if find_end is not None:
            await in_slices(import_rows.check_erased(content, find_end))
        rules = self._rules(app, caller)
        if not rules.has_privacy_rules:
            return content
        return b"".join(await in_slices(rules.cover_rows(content, default_action)))

    def refuse_bucket(self, app: App, caller: Caller) -> None:
        """Raise Invalid for an import from a bucket when there is a rule: none could apply it."""
        if self._rules(app, caller).has_privacy_rules:
            raise Invalid((Fault("/gcsBucket", IN_A_BUCKET, "privacy"),))

    def _rules(self, app: App, caller: Caller) -> CallEnricher:
        return self._enrichment.enricher(app.name, caller.key_id, now_ms())


async def permit_import(app: App, caller: Caller, default_action: str, rows: bytes = b"") -> None:
    """Check that a caller may import these rows; without rows, only the default action is known.

    Raises Forbidden; Invalid when the rows' actions cannot be read.
    """
    if default_action:
        import_rows.check_action(default_action, caller.scopes, app.sdk_extra)
    await in_slices(import_rows.check_actions(rows, caller.scopes, app.sdk_extra))
