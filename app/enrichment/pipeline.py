"""The steps that the items of one caller of one app go through, in their order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.enrichment import config, devices, geolocation, normalizers, privacy, reshape, timestamps
from app.enrichment.config import Declared, Section
from app.enrichment.draft import Draft, Facts, Run, Spot, Step, found_at, put, spot
from app.enrichment.privacy import Pseudonyms
from app.errors import StartRefused
from app.ingest.ports import EXTRAS
from app.ingest.segment_context import SegmentRules
from app.leanplum.actions import ACTIONS
from app.model import NO_NOTES, Notes

Idle = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Course:
    """The steps for one action. `idle`: whether none of them has anything to do about an item's
    fields, as with most items; `idle_located`: the same in a call that has an address.
    """

    steps: tuple[Step, ...]
    idle: Idle
    idle_located: Idle


class Recipe:
    """The steps by action."""

    def __init__(self, section: Section, pseudonyms: Pseudonyms) -> None:
        self.courses = {action: _course(action, section, pseudonyms) for action in config.ENRICHED}
        self.idle = {action: course.idle for action, course in self.courses.items()}
        self.idle_located = {action: course.idle_located for action, course in self.courses.items()}
        rules = (
            [rule.made() for rule in section.privacy] if section.steps.get("privacy", True) else []
        )
        self._guards = {action: privacy.guarding(rules, pseudonyms, action) for action in ACTIONS}
        # What is not known may be taken for anything: all rules are over it.
        self._guard = privacy.Guard(rules, pseudonyms) if rules else None
        self.ruled = bool(rules)
        self.locates: bool = section.steps.get("location", True)
        self.segment = section.segment or SegmentRules()
        assert section.currency is not None
        self.refuses: bool = section.currency.unknown == "refuse" and section.steps.get(
            "currency", True
        )

    def guard(self, action: str) -> privacy.Guard | None:
        """The privacy rules alone, for what goes another way: any action, known or not."""
        return self._guards.get(action, self._guard)


def refined(steps: Sequence[Step], draft: Draft) -> Notes:
    """Take an item through the steps."""
    fields = draft.fields
    done: tuple[str, ...] = ()
    reshaped = False
    for name, run, needs, reshapes, _ in steps:
        if (needs is None or not needs.isdisjoint(fields)) and run(draft):
            done += (name,) if name not in done else ()
            reshaped = reshaped or reshapes
    if not done and not draft.warnings:
        return NO_NOTES
    return Notes(done, draft.warnings, reshaped, draft.said, moved=draft.moved)


def _course(action: str, section: Section, pseudonyms: Pseudonyms) -> Course:
    steps = tuple(
        step for step in _steps(action, section, pseudonyms) if section.steps.get(step.name, True)
    )
    idle = (
        _busy if any(step.fields is None and step.idle is None for step in steps) else _idle(steps)
    )
    return Course(steps, idle, _busy if any(step.name == "location" for step in steps) else idle)


def _busy(fields: dict[str, Any]) -> bool:
    """There is something to do about each item."""
    return False


def _idle(steps: Sequence[Step]) -> Idle:
    """There is something to do about a field that is there, unless its step sees that its value is
    well. It is asked of each item, and written to cost little.
    """
    always = frozenset[str](EXTRAS).union(
        *(step.fields or () for step in steps if step.idle is None)
    )
    glances = [
        (name, step.idle) for step in steps if step.idle is not None for name in step.fields or ()
    ]
    none_of = always.isdisjoint

    def idle(fields: dict[str, Any]) -> bool:
        if not none_of(fields):
            return False
        for name, well in glances:  # noqa: SIM110 (a generator would double what this costs)
            if name in fields and not well(fields[name]):
                return False
        return True

    return idle


def _steps(action: str, section: Section, pseudonyms: Pseudonyms) -> Iterator[Step]:
    """Every step that has to do with the action, in the order that the package's docstring
    tells.
    """
    takes = config.fields_of(action)
    guard = privacy.guarding([rule.made() for rule in section.privacy], pseudonyms, action)
    guards = (
        [Step("privacy", lambda draft: guard.apply(draft.fields), None, True)]
        if guard is not None
        else []
    )
    renames = _spots(config.of_action(section.renames, action))
    maps = list(_spots(config.of_action(section.values, action)))
    contact, currency, flat = section.contact, section.currency, section.flatten
    assert contact is not None
    assert currency is not None
    assert flat is not None
    contacts = Step(
        "contact",
        normalizers.contact(contact.emails, contact.phones, contact.region),
        frozenset({"userAttributes"}),
        idle=normalizers.without({*contact.emails, *contact.phones}),
    )
    if guard is not None:
        rewritten = (REWRITTEN | {"userAttributes"}) & takes
        yield Step("privacy", _as_sent(guard, contact), rewritten, True)
    values = Step("values", reshape.values(maps), frozenset(at[0] for at, _ in maps), True)
    default = [(at, value) for at, value in _spots(config.of_action(section.defaults, action))]
    renamed = [(old, spot(new)) for old, new in renames]
    if renamed and guards:
        yield from (contacts, *guards)
    flattened = [name for name in flat.fields if name in takes]
    yield Step("flatten", reshape.flatten(flattened), frozenset(flattened), True, reshape.is_flat)
    if renamed:
        yield Step("rename", reshape.rename(renamed), frozenset(old[0] for old, _ in renamed), True)
    if maps:
        yield values
    yield Step("time", timestamps.time, frozenset({"time"}))
    if "country" in takes:
        yield Step("location", geolocation.location, idle=lambda value: True)
    if "systemName" in takes:
        yield Step("device", devices.device)
    if default:
        yield Step("defaults", reshape.defaults(default), None, True)
    if "userAttributes" in takes:
        yield contacts
    if "currencyCode" in takes:
        made = normalizers.currency(currency.default)
        if currency.default is None:
            yield Step("currency", made, frozenset({"currencyCode"}), idle=normalizers.is_currency)
        else:
            yield Step("currency", made, frozenset({"currencyCode", "value"}))
    if "locale" in takes:
        yield Step("locale", normalizers.locale, frozenset({"locale"}), idle=normalizers.is_locale)
        yield Step("timezone", normalizers.timezone, frozenset({"timezone"}))
    if maps:
        yield values
    yield from guards


REWRITTEN = frozenset({"locale", "timezone", "currencyCode"})


def _as_sent(guard: privacy.Guard, contact: config.Contact) -> Run:
    """Apply the rules over values to what later steps write otherwise, where it stands as it was
    sent. What is hashed is what they write.
    """
    names = (*contact.emails, *contact.phones)

    def run(draft: Draft) -> bool:
        fields, left = draft.fields, list[tuple[dict[str, Any], str, Any]]()
        for name in REWRITTEN & fields.keys():
            if isinstance(value := fields[name], str):
                made = normalizers.field_as_written(name, value)
                left.append((fields, name, guard.rewritten(name, value, made)))
        found = fields.get("userAttributes")
        attributes: dict[str, Any] = found if isinstance(found, dict) else {}
        for name in names:
            if isinstance(value := attributes.get(name), str):
                made = normalizers.contact_as_written(
                    name, value, contact.emails, contact.phones, contact.region
                )
                left.append(
                    (attributes, name, guard.rewritten(f"userAttributes.{name}", value, made))
                )
        changed = [_set(inner, name, value) for inner, name, value in left]
        return any(changed)

    return run


def _set(inner: dict[str, Any], name: str, value: Any) -> bool:
    """Put what rules left of a value in its place; whether that is something else."""
    if value is inner[name]:
        return False
    if value is privacy.DROPPED:
        del inner[name]
    else:
        inner[name] = value
    return True


def _spots(table: Mapping[str, Any]) -> list[tuple[Spot, Any]]:
    return [(spot(path), told) for path, told in table.items()]


# --- the whole file ---------------------------------------------------------------------------------------------------


class Cookbook:
    """What the file declares, as recipes. Raises StartRefused with a line for each fault."""

    def __init__(self, declared: Declared, pseudonyms: Pseudonyms) -> None:
        self._declared, self._pseudonyms = declared, pseudonyms
        self._recipes: dict[tuple[str, str], Recipe] = {}
        found: dict[str, str] = {}
        for app in (None, *declared.apps):
            for key_id in (None, *declared.callers):
                self._look(app, key_id, found)
        if found:
            raise StartRefused(*(f"{config.FILE}: {at}{line}" for line, at in found.items()))

    def recipe(self, app: str, key_id: str) -> Recipe:
        """The steps for a caller of an app."""
        key = (
            app if app in self._declared.apps else "",
            key_id if key_id in self._declared.callers else "",
        )
        if (known := self._recipes.get(key)) is None:
            known = self._recipes[key] = Recipe(self._section(*key), self._pseudonyms)
        return known

    def _section(self, app: str, key_id: str) -> Section:
        narrower = [self._declared.apps.get(app), self._declared.callers.get(key_id)]
        return config.merged([self._declared, *(one for one in narrower if one is not None)])

    def _look(self, app: str | None, key_id: str | None, found: dict[str, str]) -> None:
        """Add what is wrong, with the first place where it shows."""
        section = self._section(app or "", key_id or "")
        at = "".join(
            f"{name}.{of}: " for name, of in (("apps", app), ("callers", key_id)) if of is not None
        )
        for line in list(config.faults(section)) or unstable(
            Recipe(section, self._pseudonyms), section
        ):
            found.setdefault(line, at)


def unstable(recipe: Recipe, section: Section) -> Iterator[str]:
    """What is configured and would be changed by the steps themselves when they ran again, or break
    the rules.
    """
    for action in config.ENRICHED:
        told = config.of_action(section.defaults, action).items()
        mapped = config.of_action(section.values, action).items()
        for where, path, value in [
            *(("defaults", path, value) for path, value in told),
            *(("values", path, value) for path, values in mapped for value in values.values()),
        ]:
            if fault := _probed(recipe, action, path, value):
                yield f"{where}.{action}.{path}: {fault}"


NOW = Facts(received_at=1_800_000_000_000)


def _probed(recipe: Recipe, action: str, path: str, value: Any) -> str | None:
    at, fields = spot(path), dict[str, Any]()
    put(fields, at, value)
    if any(error["loc"][:1] == (at[0],) for error in _errors(action, fields)):
        return "Leanplum does not take this value there"
    before = [step for step in recipe.courses[action].steps if step.name != "privacy"]
    refined(before, Draft(action, fields, NOW, {}))
    found = found_at(fields, at)
    if found is None or found[0][found[1]] != value:
        return "other steps would change this value again: write it as they do"
    return None


def _errors(action: str, fields: dict[str, Any]) -> list[Any]:
    try:
        TypeAdapter(ACTIONS[action].shape).validate_python(fields)
    except ValidationError as error:
        return list(error.errors(include_url=False, include_input=False))
    return []
