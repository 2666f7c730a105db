"""What items go through beside the rules: enrichment before them, the tracking plan after them.
Pure.

One refiner is made for each call, since what it knows (the caller, the app, the clock, the end
user's address) is the call's. The steps are the same on both ways through the rules: a good body
passes the rules first and is refined then; a body with a fault is refined first, since that may
mend it.
"""

from typing import Any, Protocol

import orjson
from pydantic import TypeAdapter, ValidationError

from app.leanplum.values import Text, Time
from app.model import NO_NOTES, Notes

# Fields that are only for enrichment: used up, never stored or sent on.
EXTRAS: dict[str, TypeAdapter[Any]] = {
    "sentAt": TypeAdapter(Time),
    "ip": TypeAdapter(Text),
    "userAgent": TypeAdapter(Text),
}
_NAMES = frozenset(EXTRAS)


def take(fields: dict[str, Any]) -> dict[str, Any]:
    """Take what is for enrichment only out of an item. What is none of its kind is left, for the
    rules to find.
    """
    if _NAMES.isdisjoint(fields):
        return {}
    found: dict[str, Any] = {}
    for name, adapter in EXTRAS.items():
        if name in fields:
            try:
                found[name] = adapter.validate_python(fields[name])
            except ValidationError:
                continue
            del fields[name]
    return found


class Refiner(Protocol):
    """The steps beside the rules, for the items of one call."""

    @property
    def judges(self) -> bool:
        """Whether `judge` does anything."""
        ...

    def refine(self, action: str, fields: dict[str, Any]) -> Notes:
        """Change `fields` in place: any JSON object, whether it passed the rules or not.
        Idempotent; raises nothing.
        """
        ...

    def judge(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Hold refined fields, that passed the rules, against what is beyond them; with what was
        found noted. Raises Invalid where it is more than a note.
        """
        ...


class Plain:
    """Nothing beside the rules."""

    judges = False

    def refine(self, action: str, fields: dict[str, Any]) -> Notes:
        """Takes out what is for enrichment only."""
        take(fields)
        return NO_NOTES

    def judge(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Finds nothing."""
        return notes


PLAIN = Plain()


def told(notes: Notes) -> str | None:
    """The notes as receipts tell them: a JSON object's text; None where there is nothing to
    tell.
    """
    lists = {"steps": notes.steps, "warnings": notes.warnings}
    enrichment = {name: found for name, found in lists.items() if found}
    moved = {"seconds": notes.time_correction} if notes.time_correction else {}
    parts: dict[str, Any] = {
        "timeCorrection": moved,
        "enrichment": enrichment,
        "violations": [fault.document() for fault in notes.violations],
    }
    found = {name: part for name, part in parts.items() if part}
    return orjson.dumps(found).decode() if found else None
