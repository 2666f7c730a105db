"""The enrichment pipeline of one caller of one app, and its use for the items of one call."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from app.enrichment.client_facts import set_requested_location
from app.enrichment.draft import EnrichmentFacts, EnrichmentStep, ItemDraft
from app.enrichment.normalizers import CURRENCIES
from app.enrichment.privacy import PrivacyGuard
from app.errors import Fault, Invalid
from app.ingest import (
    ENRICHMENT_FIELDS,
    SegmentRules,
    import_rows,
    pop_enrichment_fields,
)
from app.model import NO_NOTES, Notes

IsIdle = Callable[[dict[str, Any]], bool]
PRIVACY_NOTES = Notes(("privacy",))


class Pipeline:
    """The steps by action, and the privacy rules for everything that is not made into an item.

    `guards`: by action; `guard_of_unknown`: for unknown actions, to which all rules apply, because
    an unknown action may be taken for any other.
    `is_idle`: by action, whether an item's fields need no step, which is so for most items;
    `is_idle_with_address`: the same in a call with an address, which sets the location.
    """

    def __init__(
        self,
        *,
        steps: Mapping[str, Sequence[EnrichmentStep]],
        guards: Mapping[str, PrivacyGuard | None],
        guard_of_unknown: PrivacyGuard | None,
        sets_location: bool,
        refuses_unknown_currency: bool,
        segment: SegmentRules,
    ) -> None:
        self.steps, self.guards, self.guard_of_unknown = steps, guards, guard_of_unknown
        self.sets_location = sets_location
        self.refuses_unknown_currency = refuses_unknown_currency
        self.segment = segment
        self.is_idle = {action: _idle_predicate(own) for action, own in steps.items()}
        self.is_idle_with_address = dict(self.is_idle)
        for action, own in steps.items():
            if any(step.name == "location" for step in own):
                self.is_idle_with_address[action] = _never

    @property
    def has_privacy_rules(self) -> bool:
        """True when there is any privacy rule."""
        return self.guard_of_unknown is not None

    def guard(self, action: str) -> PrivacyGuard | None:
        """Return the privacy rules for any action, known or not; None if there are none."""
        return self.guards.get(action, self.guard_of_unknown)


def _never(fields: dict[str, Any]) -> bool:
    """Return False: every item needs a step."""
    return False


def _idle_predicate(steps: Sequence[EnrichmentStep]) -> IsIdle:
    """Return the predicate that is true for an item's fields that no step has to do with.

    A field that is present needs its step, unless the step's own predicate is true for its value.
    """
    if any(step.fields is None and step.is_idle is None for step in steps):
        return _never
    needing = set[str](ENRICHMENT_FIELDS)
    predicates: list[tuple[str, Callable[[Any], bool]]] = []
    for step in steps:
        if step.is_idle is None:
            needing |= step.fields or set()
        else:
            predicates += [(name, step.is_idle) for name in step.fields or ()]
    has_none_of = frozenset(needing).isdisjoint

    def is_idle(fields: dict[str, Any]) -> bool:
        if not has_none_of(fields):
            return False
        # Runs for each item: a generator with all() would double its cost.
        for name, is_fine in predicates:
            if name in fields and not is_fine(fields[name]):
                return False
        return True

    return is_idle


def is_flat(value: Any) -> bool:
    """Return whether a value is no object with an object in it."""
    if type(value) is dict:
        for inner in value.values():
            if type(inner) is dict:
                return False
    return True


def run_steps(steps: Sequence[EnrichmentStep], draft: ItemDraft) -> Notes:
    """Run the steps on an item; return notes on those that changed something."""
    fields = draft.fields
    done: tuple[str, ...] = ()
    revalidate = False
    for name, run, needed_fields, revalidates, _ in steps:
        is_needed = needed_fields is None or not needed_fields.isdisjoint(fields)
        if is_needed and run(draft):
            if name not in done:
                done += (name,)
            revalidate = revalidate or revalidates
    if not done and not draft.warnings:
        return NO_NOTES
    return Notes(done, draft.warnings, revalidate, draft.said, moved=draft.moved)


class CallEnricher:
    """The enrichment of one call's items; implements `ingest.validate.ItemSteps`."""

    __slots__ = ("_facts", "_is_idle", "_pipeline", "has_checks")

    def __init__(self, pipeline: Pipeline, facts: EnrichmentFacts) -> None:
        self._pipeline, self._facts = pipeline, facts
        self._is_idle = pipeline.is_idle
        if facts.address is not None:
            self._is_idle = pipeline.is_idle_with_address
        self.has_checks = pipeline.refuses_unknown_currency

    @property
    def segment(self) -> SegmentRules:
        """The mapping of Segment's messages for this caller."""
        return self._pipeline.segment

    def enrich(self, action: str, fields: dict[str, Any]) -> Notes:
        """Run the steps on an item, in place. Most items need none, which one predicate shows."""
        if self._is_idle[action](fields):
            return NO_NOTES
        draft = ItemDraft(action, fields, self._facts, pop_enrichment_fields(fields))
        return run_steps(self._pipeline.steps[action], draft)

    def check(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Refuse unknown currencies, where that is configured. Raises Invalid."""
        if self.has_checks and fields.get("currencyCode", "EUR") not in CURRENCIES:
            detail = "must be an ISO 4217 currency code such as EUR"
            raise Invalid((Fault("/currencyCode", detail, "currency"),))
        return notes

    @property
    def has_privacy_rules(self) -> bool:
        """True when there is any privacy rule."""
        return self._pipeline.has_privacy_rules

    def apply_privacy(self, action: str, fields: dict[str, Any]) -> Notes:
        """Apply only the privacy rules, in place. Objects in `fields` may be JSON text."""
        guard = self._pipeline.guard(action)
        if guard is not None and guard.apply(fields, parse_text=True):
            return PRIVACY_NOTES
        return NO_NOTES

    def covers_path(self, action: str, path: str) -> bool:
        """Return whether a privacy rule applies to every value at a path."""
        guard = self._pipeline.guard(action)
        return guard is not None and guard.covers_path(path)

    def cover_rows(self, content: bytes, default_action: str) -> Iterator[bytes]:
        """Yield the lines of an import's CSV with the privacy rules applied. Raises Invalid."""
        return import_rows.cover_rows(content, default_action, self._pipeline.guard)

    def enrich_sdk_entry(self, action: str, entry: dict[str, Any]) -> Notes:
        """Enrich an entry of an SDK, which is otherwise passed on as it is, in place.

        Only the privacy rules apply, and the location is set if the SDK asks for its detection.
        """
        done: list[str] = []
        if self._pipeline.sets_location:
            draft = ItemDraft(action, entry, self._facts, {})
            if set_requested_location(draft):
                done.append("location")
        guard = self._pipeline.guard(action)
        if guard is not None and guard.apply(entry, parse_text=True):
            done.append("privacy")
        return Notes(tuple(done)) if done else NO_NOTES
