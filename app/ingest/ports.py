"""The interface between validation and the steps around it: enrichment before, checks after.

An `ItemSteps` object is made for each call, because what it works with (the caller, the app, the
clock, the end user's address) belongs to the call. Validation uses it in two orders: a valid body
is validated first and enriched then; a body with a fault is enriched first, since enrichment may
correct the fault. Pure.
"""

from typing import Any, Protocol

import orjson
from pydantic import TypeAdapter, ValidationError

from app.leanplum.values import Text, Time
from app.model import NO_NOTES, Notes

# Item fields that only enrichment reads; they are neither stored nor sent on.
ENRICHMENT_FIELDS: dict[str, TypeAdapter[Any]] = {
    "sentAt": TypeAdapter(Time),
    "ip": TypeAdapter(Text),
    "userAgent": TypeAdapter(Text),
}
_NAMES = frozenset(ENRICHMENT_FIELDS)


def pop_enrichment_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Remove the valid enrichment fields from an item and return them.

    Invalid ones stay in the item, so that validation reports them.
    """
    if _NAMES.isdisjoint(fields):
        return {}
    removed: dict[str, Any] = {}
    for name, adapter in ENRICHMENT_FIELDS.items():
        if name not in fields:
            continue
        try:
            removed[name] = adapter.validate_python(fields[name])
        except ValidationError:
            continue
        del fields[name]
    return removed


class ItemSteps(Protocol):
    """The steps around validation, for the items of one call."""

    @property
    def has_checks(self) -> bool:
        """True when `check` does anything."""
        ...

    def enrich(self, action: str, fields: dict[str, Any]) -> Notes:
        """Enrich an item in place and return notes on what changed.

        `fields` is any JSON object, validated or not. Idempotent; raises nothing.
        """
        ...

    def check(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Check enriched fields that passed validation; return the notes with violations added.

        Raises Invalid when a violation is enforced.
        """
        ...


class NoSteps:
    """The steps of a call without enrichment and checks."""

    has_checks = False

    def enrich(self, action: str, fields: dict[str, Any]) -> Notes:
        """Remove the enrichment fields, which no later step knows."""
        pop_enrichment_fields(fields)
        return NO_NOTES

    def check(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Return the notes unchanged."""
        return notes


NO_STEPS = NoSteps()


def render_notes(notes: Notes) -> str | None:
    """Return the notes as the JSON text that a receipt shows; None when they are empty."""
    document: dict[str, Any] = {}
    if notes.time_correction:
        document["timeCorrection"] = {"seconds": notes.time_correction}
    enrichment: dict[str, Any] = {}
    if notes.steps:
        enrichment["steps"] = notes.steps
    if notes.warnings:
        enrichment["warnings"] = notes.warnings
    if enrichment:
        document["enrichment"] = enrichment
    if notes.violations:
        document["violations"] = [fault.document() for fault in notes.violations]
    return orjson.dumps(document).decode() if document else None
