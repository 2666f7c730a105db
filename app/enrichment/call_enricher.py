"""The refiner of one call: the caller's recipe, and what is known of the call."""

from collections.abc import Iterator
from typing import Any

from app.enrichment import geolocation, normalizers
from app.enrichment import row_privacy as rows
from app.enrichment.draft import Draft, Facts
from app.enrichment.pipeline import Recipe, refined
from app.errors import Fault, Invalid
from app.ingest.ports import take
from app.ingest.segment_context import SegmentRules
from app.model import NO_NOTES, Notes

PRIVACY = Notes(("privacy",))


class Enriching:
    """Enrichment as the seam wants it (`intake/refining.py`)."""

    __slots__ = ("_facts", "_idle", "_recipe", "judges")

    def __init__(self, recipe: Recipe, facts: Facts) -> None:
        self._recipe, self._facts = recipe, facts
        self._idle = recipe.idle if facts.address is None else recipe.idle_located
        self.judges = recipe.refuses

    @property
    def segment(self) -> SegmentRules:
        """How Segment's messages are mapped for this caller."""
        return self._recipe.segment

    def refine(self, action: str, fields: dict[str, Any]) -> Notes:
        """Take the item through its steps; most need none, which is seen at a glance."""
        if self._idle[action](fields):
            return NO_NOTES
        return refined(
            self._recipe.courses[action].steps, Draft(action, fields, self._facts, take(fields))
        )

    def judge(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Refuses unknown currencies where that is configured."""
        if self.judges and fields.get("currencyCode", "EUR") not in normalizers.CURRENCIES:
            raise Invalid(
                (
                    Fault(
                        "/currencyCode", "must be an ISO 4217 currency code such as EUR", "currency"
                    ),
                )
            )
        return notes

    @property
    def ruled(self) -> bool:
        """Whether there is a privacy rule."""
        return self._recipe.ruled

    def privacy(self, action: str, fields: dict[str, Any]) -> Notes:
        """The privacy rules alone. Objects may stand in `fields` as JSON text."""
        guard = self._recipe.guard(action)
        return PRIVACY if guard is not None and guard.apply(fields, texts=True) else NO_NOTES

    def is_ruled(self, action: str, path: str) -> bool:
        """Whether a privacy rule is over a path, whatever stands there."""
        guard = self._recipe.guard(action)
        return guard is not None and guard.is_over(path)

    def rows(self, content: bytes, default_action: str) -> Iterator[bytes]:
        """The lines of an import's CSV without what rules take out. Raises Invalid."""
        return rows.guarded(content, default_action, self._recipe.guard)

    def guard(self, action: str, entry: dict[str, Any]) -> Notes:
        """For an entry in Leanplum's own protocol, which is passed on as it is: the privacy rules,
        and the place where the SDK asks that it be detected.
        """
        done = []
        if self._recipe.locates:
            draft = Draft(action, entry, self._facts, {})
            done += ["location"] if geolocation.asked(draft) else []
        guard = self._recipe.guard(action)
        if guard is not None and guard.apply(entry, texts=True):
            done.append("privacy")
        return Notes(tuple(done)) if done else NO_NOTES
