"""The construction of the pipelines that the enrichment file declares, for every app and caller."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.enrichment import client_facts, config, normalizers, privacy, reshape, timestamps
from app.enrichment.config import Section
from app.enrichment.draft import (
    EnrichmentFacts,
    EnrichmentStep,
    FieldPath,
    ItemDraft,
    field_path,
    locate,
    set_if_absent,
)
from app.enrichment.normalizers import ContactFields
from app.enrichment.pipeline import Pipeline, is_flat, run_steps
from app.enrichment.privacy import PrivacyGuard, ValueHasher
from app.ingest.segment_context import SegmentRules
from app.leanplum.actions import ACTIONS

# Fields of an item that later steps write in another way.
NORMALIZED = frozenset({"locale", "timezone", "currencyCode"})


def build_pipeline(section: Section, hasher: ValueHasher) -> Pipeline:
    """Return the pipeline of a merged section."""
    assert section.currency is not None
    rules: list[privacy.Rule] = []
    if section.is_on("privacy"):
        rules = [rule.compiled() for rule in section.privacy]
    refuses = section.currency.unknown == "refuse" and section.is_on("currency")
    return Pipeline(
        steps={
            action: [
                step
                for step in _StepBuilder(action, section, hasher).steps()
                if section.is_on(step.name)
            ]
            for action in config.ENRICHED
        },
        guards={action: privacy.guard_for(rules, hasher, action) for action in ACTIONS},
        guard_of_unknown=PrivacyGuard(rules, hasher) if rules else None,
        sets_location=section.is_on("location"),
        refuses_unknown_currency=refuses,
        segment=section.segment or SegmentRules(),
    )


class _StepBuilder:
    """Builds the steps for one action of a merged section."""

    def __init__(self, action: str, section: Section, hasher: ValueHasher) -> None:
        assert section.contact is not None
        assert section.currency is not None
        assert section.flatten is not None
        self._takes = config.fields_of(action)
        contact = section.contact
        self._contact = ContactFields(contact.emails, contact.phones, contact.region)
        self._default_currency = section.currency.default
        self._flattened = [name for name in section.flatten.fields if name in self._takes]
        self._renames = [(old, field_path(new)) for old, new in _by_path(section.renames, action)]
        self._maps = _by_path(section.values, action)
        self._defaults = _by_path(section.defaults, action)
        rules = [rule.compiled() for rule in section.privacy]
        self._guard = privacy.guard_for(rules, hasher, action)

    def steps(self) -> Iterator[EnrichmentStep]:
        """Yield the steps in the order that the package's docstring shows."""
        takes = self._takes
        if self._guard is not None:
            yield self._privacy_as_sent(self._guard)
        if self._renames and self._guard is not None:
            yield self._contact_step()
            yield _privacy_step(self._guard)
        names = frozenset(self._flattened)
        yield EnrichmentStep("flatten", reshape.flatten(self._flattened), names, True, is_flat)
        if self._renames:
            old_fields = frozenset(old[0] for old, _ in self._renames)
            yield EnrichmentStep("rename", reshape.rename(self._renames), old_fields, True)
        yield from self._values()
        yield EnrichmentStep("time", timestamps.correct_time, frozenset({"time"}))
        if "country" in takes:
            # Idle without an address: CallEnricher uses another predicate with one.
            yield EnrichmentStep("location", client_facts.set_location, is_idle=_always)
        if "systemName" in takes:
            yield EnrichmentStep("device", client_facts.set_device)
        if self._defaults:
            run = reshape.set_defaults(self._defaults)
            yield EnrichmentStep("defaults", run, revalidate=True)
        if "userAttributes" in takes:
            yield self._contact_step()
        if "currencyCode" in takes:
            yield self._currency_step()
        if "locale" in takes:
            locale = frozenset({"locale"})
            is_locale = normalizers.is_locale
            yield EnrichmentStep("locale", normalizers.normalize_locale, locale, is_idle=is_locale)
            zone = frozenset({"timezone"})
            yield EnrichmentStep("timezone", normalizers.normalize_timezone, zone)
        yield from self._values()
        if self._guard is not None:
            yield _privacy_step(self._guard)

    def _values(self) -> Iterator[EnrichmentStep]:
        if self._maps:
            fields = frozenset(path[0] for path, _ in self._maps)
            yield EnrichmentStep("values", reshape.map_values(self._maps), fields, True)

    def _contact_step(self) -> EnrichmentStep:
        contact = self._contact
        return EnrichmentStep(
            "contact",
            normalizers.normalize_contact(contact),
            frozenset({"userAttributes"}),
            is_idle=normalizers.lacks_keys({*contact.emails, *contact.phones}),
        )

    def _currency_step(self) -> EnrichmentStep:
        run = normalizers.normalize_currency(self._default_currency)
        if self._default_currency is not None:
            return EnrichmentStep("currency", run, frozenset({"currencyCode", "value"}))
        fields = frozenset({"currencyCode"})
        return EnrichmentStep("currency", run, fields, is_idle=normalizers.is_currency)

    def _privacy_as_sent(self, guard: PrivacyGuard) -> EnrichmentStep:
        """Return the step that applies rules over values to what later steps write differently.

        The rules see these values as they were sent; what is hashed is what later steps write.
        """
        contact = self._contact

        def run(draft: ItemDraft) -> bool:
            covered: list[tuple[dict[str, Any], str, Any]] = []
            fields = draft.fields
            for name in NORMALIZED & fields.keys():
                value = fields[name]
                if isinstance(value, str):
                    normal = normalizers.normal_field(name, value)
                    left = guard.cover_before_rewrite(name, value, normal)
                    covered.append((fields, name, left))
            attributes = fields.get("userAttributes")
            if not isinstance(attributes, dict):
                attributes = {}
            for name in (*contact.emails, *contact.phones):
                value = attributes.get(name)
                if isinstance(value, str):
                    normal = normalizers.normal_attribute(name, value, contact)
                    path = f"userAttributes.{name}"
                    left = guard.cover_before_rewrite(path, value, normal)
                    covered.append((attributes, name, left))
            changed = [_put_back(inner, name, left) for inner, name, left in covered]
            return any(changed)

        rewritten = (NORMALIZED | {"userAttributes"}) & self._takes
        return EnrichmentStep("privacy", run, rewritten, True)


def _privacy_step(guard: PrivacyGuard) -> EnrichmentStep:
    return EnrichmentStep("privacy", lambda draft: guard.apply(draft.fields), revalidate=True)


def _always(value: Any) -> bool:
    return True


def _put_back(inner: dict[str, Any], name: str, left: Any) -> bool:
    """Put what a rule left of a value in its place; return whether that changes anything."""
    if name not in inner or left is inner[name]:
        return False
    if left is privacy.DROPPED:
        del inner[name]
    else:
        inner[name] = left
    return True


def _by_path(table: Mapping[str, Mapping[str, Any]], action: str) -> list[tuple[FieldPath, Any]]:
    own = config.for_action(table, action)
    return [(field_path(path), value) for path, value in own.items()]


# --- all pipelines ----------------------------------------------------------------------------


PROBE_FACTS = EnrichmentFacts(received_at=1_800_000_000_000)


def unstable_values(pipeline: Pipeline, section: Section) -> Iterator[str]:
    """Yield the configured values that are invalid, or that other steps would change again."""
    for action in config.ENRICHED:
        for path, value in config.for_action(section.defaults, action).items():
            fault = _probe(pipeline, action, path, value)
            if fault is not None:
                yield f"defaults.{action}.{path}: {fault}"
        for path, replacements in config.for_action(section.values, action).items():
            for value in replacements.values():
                fault = _probe(pipeline, action, path, value)
                if fault is not None:
                    yield f"values.{action}.{path}: {fault}"


def _probe(pipeline: Pipeline, action: str, text: str, value: Any) -> str | None:
    """Return what is wrong with a configured value; None if nothing is."""
    path = field_path(text)
    fields: dict[str, Any] = {}
    set_if_absent(fields, path, value)
    if any(error["loc"][:1] == (path[0],) for error in _errors(action, fields)):
        return "Leanplum does not accept this value there"
    steps = [step for step in pipeline.steps[action] if step.name != "privacy"]
    run_steps(steps, ItemDraft(action, fields, PROBE_FACTS, {}))
    place = locate(fields, path)
    if place is None or place[0][place[1]] != value:
        return "other steps would change this value again: write it as they do"
    return None


def _errors(action: str, fields: dict[str, Any]) -> list[Any]:
    try:
        TypeAdapter(ACTIONS[action].shape).validate_python(fields)
    except ValidationError as error:
        return list(error.errors(include_url=False, include_input=False))
    return []
