"""The enrichment file (GATEWAY_ENRICHMENT_FILE, TOML) as models, and everything wrong with it.

It has settings for all, for an app (`[apps.NAME]`) and for a caller (`[callers.KEY_ID]`). A
narrower section overrides single settings; privacy rules of all sections apply together.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import phonenumbers
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app import patterns
from app.enrichment import normalizers, privacy, reshape
from app.enrichment.privacy import FREE, MASK, OBJECTS, Rule
from app.errors import StartRefused
from app.ingest import (
    ENRICHMENT_FIELDS,
    SegmentRules,
)
from app.leanplum.actions import ACCEPTED_ACTIONS, ACTIONS
from app.leanplum.values import Scalar
from app.model import APP_NAME
from app.patterns import Pattern, compile_pattern

SETTING = "GATEWAY_ENRICHMENT_FILE"
STEPS = (
    "privacy", "flatten", "rename", "values", "time", "location", "device", "defaults", "contact",
    "currency", "locale", "timezone",
)  # fmt: skip
ENRICHED = (*ACCEPTED_ACTIONS, "start")
ALL_ACTIONS = "*"
IDENTITY_FIELDS = frozenset({"action", "id", "userId", "deviceId", "newUserId", "time"})
# Fields that later steps set: a rename of one would also rename, the next time, what they have set.
DERIVED_FIELDS = frozenset({
    "country", "region", "city", "location", "timezoneOffsetSeconds", "currencyCode", "systemName",
    "systemVersion", "browserName", "browserVersion", "deviceModel",
})  # fmt: skip
RULED_FIELDS = OBJECTS.union(*(action.shape.__annotations__ for action in ACTIONS.values())) - FREE


# --- values -----------------------------------------------------------------------------------


def _enriched_action(name: str) -> str:
    if name not in ENRICHED and name != ALL_ACTIONS:
        raise ValueError(f"must be * (for every action) or one of {', '.join(ENRICHED)}")
    return name


def _any_action(name: str) -> str:
    if name not in ACTIONS and name != ALL_ACTIONS:
        raise ValueError(f"must be * (for every action) or one of {', '.join(ACTIONS)}")
    return name


def _currency(code: str) -> str:
    if code not in normalizers.CURRENCIES:
        raise ValueError("must be an ISO 4217 currency code such as EUR")
    return code


def _region(code: str) -> str:
    if code not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError("must be an ISO 3166 country code such as DE")
    return code


def _value_pattern(text: Any) -> Pattern:
    if not isinstance(text, str):
        raise ValueError("must be a regular expression as a string")
    return compile_pattern(text)


def _path_pattern(text: Any) -> Pattern:
    """Compile a regular expression over paths; a rule also applies below the paths it matches."""
    if not isinstance(text, str):
        raise ValueError("must be a regular expression as a string")
    pattern = compile_pattern(text, at_dots=True)
    _check_reach(pattern, text)
    return pattern


def _key_glob(glob: str) -> str:
    _check_reach(patterns.compile_glob(glob), glob)
    return glob


def _check_reach(pattern: Pattern, text: str) -> None:
    """Raise ValueError for a pattern that matches only paths to which no rule applies."""
    free = [name for name in FREE if pattern.search(name)]
    if free and not any(map(pattern.search, _ruled_paths(free))):
        raise ValueError(f"{text} is under no rule: it says whom or what the item is about")


def _ruled_paths(names: Iterable[str]) -> Iterator[str]:
    """Yield paths to which rules apply: the other fields, and fields of these names in objects."""
    yield from RULED_FIELDS
    yield from (f"{outer}.{name}" for outer in OBJECTS for name in names)


ValuePattern = Annotated[Pattern, BeforeValidator(_value_pattern)]
PathPattern = Annotated[Pattern, BeforeValidator(_path_pattern)]
KeyGlob = Annotated[str, AfterValidator(_key_glob)]
EnrichedAction = Annotated[str, AfterValidator(_enriched_action)]
AnyAction = Annotated[str, AfterValidator(_any_action)]
CurrencyCode = Annotated[str, AfterValidator(_currency)]
RegionCode = Annotated[str, AfterValidator(_region)]
PathText = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[^\x00]+)?$")]
AppName = Annotated[str, Field(pattern=APP_NAME)]


# --- models -----------------------------------------------------------------------------------

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class CurrencyConfig(BaseModel):
    """`default`: for a value without a currency. `unknown`: what to do with other codes."""

    model_config = STRICT
    default: CurrencyCode | None = None
    unknown: Literal["warn", "refuse"] = "warn"


class ContactConfig(BaseModel):
    """The user attributes with e-mail addresses and phone numbers.

    `region` applies to phone numbers without a country code.
    """

    model_config = STRICT
    emails: list[str] = ["email"]
    phones: list[str] = ["phone"]
    region: RegionCode | None = None


class FlattenConfig(BaseModel):
    """The fields whose nested objects become keys with dots."""

    model_config = STRICT
    fields: list[Literal["params", "userAttributes"]] = ["params", "userAttributes"]


class PrivacyRuleConfig(BaseModel):
    """One privacy rule.

    `keys`: globs over the path of a value; `paths`: regular expressions over it; `values`: a
    regular expression over the value.
    """

    model_config = STRICT
    do: privacy.Verb
    keys: list[KeyGlob] = []
    paths: list[PathPattern] = []
    values: ValuePattern | None = None
    actions: list[AnyAction] = [ALL_ACTIONS]

    def compiled(self) -> Rule:
        """Return the rule with its patterns."""
        globs = map(patterns.compile_glob, self.keys)
        actions = None if ALL_ACTIONS in self.actions else frozenset(self.actions)
        return Rule(self.do, (*globs, *self.paths), self.values, actions)


class Section(BaseModel):
    """The settings for all, for one app, or for one caller."""

    model_config = STRICT
    steps: dict[Literal[STEPS], bool] = {}  # type: ignore[valid-type]  # names of a table
    currency: CurrencyConfig | None = None
    contact: ContactConfig | None = None
    flatten: FlattenConfig | None = None
    renames: dict[EnrichedAction, dict[PathText, PathText]] = {}
    values: dict[EnrichedAction, dict[PathText, dict[str, Scalar]]] = {}
    defaults: dict[EnrichedAction, dict[PathText, Scalar | list[Scalar]]] = {}
    privacy: list[PrivacyRuleConfig] = []
    segment: SegmentRules | None = None

    def is_on(self, step: str) -> bool:
        """Return whether a step is on, which is the default."""
        return bool(self.steps.get(step, True))


class EnrichmentFile(Section):
    """The content of the file."""

    apps: dict[AppName, Section] = {}
    callers: dict[str, Section] = {}


def parse(text: str) -> EnrichmentFile:
    """Parse the text of the file. Raises StartRefused with a line for each fault."""
    try:
        return EnrichmentFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise StartRefused(f"{SETTING}: is not TOML: {error}") from None
    except ValidationError as error:
        lines: list[str] = []
        for found in error.errors(include_input=False, include_url=False):
            place, detail = ".".join(map(str, found["loc"])), found["msg"]
            lines.append(f"{SETTING}: {place}: {detail.removeprefix('Value error, ')}")
        raise StartRefused(*lines) from None


# --- sections ---------------------------------------------------------------------------------


def merge(sections: list[Section]) -> Section:
    """Merge sections into one; later ones are narrower and override earlier ones."""
    merged: dict[str, Any] = {
        "steps": {},
        "currency": CurrencyConfig(),
        "contact": ContactConfig(),
        "flatten": FlattenConfig(),
        "segment": SegmentRules(),
        "privacy": [],
        "renames": {},
        "values": {},
        "defaults": {},
    }
    for section in sections:
        merged["steps"].update(section.steps)
        merged["privacy"] += section.privacy
        for name in ("currency", "contact", "flatten", "segment"):
            merged[name] = getattr(section, name) or merged[name]
        for name in ("renames", "values", "defaults"):
            for action, table in getattr(section, name).items():
                merged[name].setdefault(action, {}).update(table)
    return Section.model_construct(**merged)


def for_action(table: Mapping[str, Mapping[str, Any]], action: str) -> dict[str, Any]:
    """Return the entries of a table for an action: those for every action, then its own.

    Entries for every action are left out if the action has no such field.
    """
    fields = fields_of(action)
    shared = table.get(ALL_ACTIONS, {})
    entries = {path: value for path, value in shared.items() if _field(path) in fields}
    return entries | dict(table.get(action, {}))


def fields_of(action: str) -> frozenset[str]:
    """Return the fields of an action that are sent on."""
    return frozenset(ACTIONS[action].shape.__annotations__) - ENRICHMENT_FIELDS.keys()


def _field(path: str) -> str:
    return path.partition(".")[0]


def faults(section: Section) -> Iterator[str]:
    """Yield what is wrong with a merged section beyond its single values."""
    for index, rule in enumerate(section.privacy):
        if not (rule.keys or rule.paths or rule.values):
            yield f"privacy.{index}: needs keys, paths or values"
    for action in ENRICHED:
        yield from _rename_faults(action, section)
        yield from _value_faults(action, section)
        for name in ("defaults", "values"):
            for path in getattr(section, name).get(action, {}):
                if _field(path) not in fields_of(action):
                    yield f"{name}.{action}.{path}: {action} has no field {_field(path)}"
                elif path in IDENTITY_FIELDS:
                    yield f"{name}.{action}.{path}: only the caller can set this field"


def _rename_faults(action: str, section: Section) -> Iterator[str]:
    renames = for_action(section.renames, action)
    targets = [*renames.values(), *for_action(section.defaults, action)]
    for old, new in renames.items():
        at = f"renames.{action}.{old}"
        if old in FREE or old in DERIVED_FIELDS:
            yield f"{at}: {old} can't be renamed: it is Leanplum's own, and other steps use it"
        if _field(new) not in fields_of(action):
            yield f"{at}: {action} has no field {new}"
        if any(_overlap(old, target) for target in targets):
            yield (
                f"{at}: another rename or a default leads to {old}: "
                "a second enrichment would change the item again"
            )


def _overlap(path: str, other: str) -> bool:
    """Return whether one of two paths is the other or below it."""
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _value_faults(action: str, section: Section) -> Iterator[str]:
    for path, replacements in for_action(section.values, action).items():
        at = f"values.{action}.{path}"
        for value, replacement in replacements.items():
            next_value = replacements.get(reshape.map_key(replacement) or "")
            if next_value is not None and not reshape.is_same(next_value, replacement):
                yield (
                    f"{at}.{value}: leads to {replacement}, which leads on to {next_value}: "
                    "a second enrichment would change the item again"
                )
            if value == MASK:
                yield f"{at}.{value}: is what privacy rules leave of a value"
