"""What the file of GATEWAY_ENRICHMENT_FILE declares (TOML): for all, for an app (`[apps.NAME]`),
for a caller (`[callers.KEY_ID]`). The narrower one wins, setting by setting; privacy rules add
up.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import phonenumbers
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app import patterns
from app.enrichment import normalizers, privacy, reshape
from app.enrichment.privacy import FREE, MASK, OBJECTS, Rule
from app.errors import StartRefused
from app.ingest.ports import EXTRAS
from app.ingest.segment_context import SegmentRules
from app.leanplum.actions import ACTIONS, LATER
from app.leanplum.values import Scalar
from app.model import APP_NAME
from app.patterns import Pattern, compiled

FILE = "GATEWAY_ENRICHMENT_FILE"
STEPS = (
    "privacy", "flatten", "rename", "values", "time", "location", "device", "defaults", "contact", "currency", "locale",
    "timezone",
)  # fmt: skip
ENRICHED = (*LATER, "start")
ALL = "*"
WHOM = frozenset({"action", "id", "userId", "deviceId", "newUserId", "time"})


def _action(name: str) -> str:
    if name not in ENRICHED and name != ALL:
        raise ValueError(f"takes {ALL} (for every action) or one of {', '.join(ENRICHED)}")
    return name


def _any_action(name: str) -> str:
    if name not in ACTIONS and name != ALL:
        raise ValueError(f"takes {ALL} (for every action) or one of {', '.join(ACTIONS)}")
    return name


def _currency(code: str) -> str:
    if code not in normalizers.CURRENCIES:
        raise ValueError("must be an ISO 4217 currency code such as EUR")
    return code


def _region(code: str) -> str:
    if code not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError("takes a country's code of ISO 3166, as in DE")
    return code


def _expression(text: Any) -> Pattern:
    """A regular expression over a value."""
    if not isinstance(text, str):
        raise ValueError("takes a regular expression as text")
    return compiled(text)


def _path_expression(text: Any) -> Pattern:
    """A regular expression over a path: the path is under the rule as well if what it is beneath
    is.
    """
    if not isinstance(text, str):
        raise ValueError("takes a regular expression as text")
    return _reaching(compiled(text, at_dots=True), text)


def _keys(glob: str) -> str:
    _reaching(patterns.glob(glob), glob)
    return glob


def _reaching(pattern: Pattern, text: str) -> Pattern:
    """Refuse a pattern of paths that is over fields alone that no rule is over."""
    free = [name for name in FREE if pattern.search(name)]
    if free and not any(map(pattern.search, _reachable(free))):
        raise ValueError(f"{text} is under no rule: it says whom or what the item is about")
    return pattern


def _reachable(names: Iterable[str]) -> Iterator[str]:
    """Yield paths that are under rules: the other fields of all actions, and such names inside
    objects.
    """
    yield from RULED_FIELDS
    yield from (f"{outer}.{name}" for outer in OBJECTS for name in names)


RULED_FIELDS = OBJECTS.union(*(action.shape.__annotations__ for action in ACTIONS.values())) - FREE


Expression = Annotated[Pattern, BeforeValidator(_expression)]
PathExpression = Annotated[Pattern, BeforeValidator(_path_expression)]
ActionName = Annotated[str, AfterValidator(_action)]
Path = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[^\x00]+)?$")]
CLOSED = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class Currency(BaseModel):
    """`default`: of a value without a currency. `unknown`: what becomes of a code that is not in
    ISO 4217.
    """

    model_config = CLOSED
    default: Annotated[str, AfterValidator(_currency)] | None = None
    unknown: Literal["warn", "refuse"] = "warn"


class Contact(BaseModel):
    """The user attributes that are e-mail addresses or phone numbers, and where numbers without a
    code are from.
    """

    model_config = CLOSED
    emails: list[str] = ["email"]
    phones: list[str] = ["phone"]
    region: Annotated[str, AfterValidator(_region)] | None = None


class Flatten(BaseModel):
    """The fields whose objects become keys with dots."""

    model_config = CLOSED
    fields: list[Literal["params", "userAttributes"]] = ["params", "userAttributes"]


class PrivacyRule(BaseModel):
    """`keys`: globs over the path of a value; `paths`: regular expressions over it; `values`: one
    over the value.
    """

    model_config = CLOSED
    do: privacy.Verb
    keys: list[Annotated[str, AfterValidator(_keys)]] = []
    paths: list[PathExpression] = []
    values: Expression | None = None
    actions: list[Annotated[str, AfterValidator(_any_action)]] = [ALL]

    def made(self) -> Rule:
        """The rule itself."""
        globs = map(patterns.glob, self.keys)
        actions = None if ALL in self.actions else frozenset(self.actions)
        return Rule(self.do, (*globs, *self.paths), self.values, actions)


class Section(BaseModel):
    """What is declared for all, for one app, or for one caller."""

    model_config = CLOSED
    steps: dict[Literal[STEPS], bool] = {}  # type: ignore[valid-type]
    currency: Currency | None = None
    contact: Contact | None = None
    flatten: Flatten | None = None
    renames: dict[ActionName, dict[Path, Path]] = {}
    values: dict[ActionName, dict[Path, dict[str, Scalar]]] = {}
    defaults: dict[ActionName, dict[Path, Scalar | list[Scalar]]] = {}
    privacy: list[PrivacyRule] = []
    segment: SegmentRules | None = None


class Declared(Section):
    """The whole file."""

    apps: dict[Annotated[str, Field(pattern=APP_NAME)], Section] = {}
    callers: dict[str, Section] = {}


def declared(raw: Mapping[str, Any]) -> Declared:
    """The file's content as what it declares. Raises StartRefused with a line for each fault."""
    try:
        return Declared.model_validate(raw)
    except ValidationError as error:
        told = error.errors(include_input=False, include_url=False)
        raise StartRefused(
            *(
                f"{FILE}: {'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}"
                for one in told
            )
        ) from None


def merged(sections: list[Section]) -> Section:
    """One section of several, the later ones narrower."""

    def last(name: str) -> Any:
        return next(
            (found for one in reversed(sections) if (found := getattr(one, name)) is not None), None
        )

    return Section.model_construct(
        steps={name: on for one in sections for name, on in one.steps.items()},
        currency=last("currency") or Currency(),
        contact=last("contact") or Contact(),
        flatten=last("flatten") or Flatten(),
        renames=_tables(sections, "renames"),
        values=_tables(sections, "values"),
        defaults=_tables(sections, "defaults"),
        privacy=[rule for one in sections for rule in one.privacy],
        segment=last("segment") or SegmentRules(),
    )


def _tables(sections: list[Section], name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for one in sections:
        for action, table in getattr(one, name).items():
            found.setdefault(action, {}).update(table)
    return found


def of_action(table: Mapping[str, Mapping[str, Any]], action: str) -> dict[str, Any]:
    """What a table says of an action: of every one, then of itself. What is for every action is
    left out where the action has no such field.
    """
    fields = fields_of(action)
    for_all = {
        path: told for path, told in table.get(ALL, {}).items() if path.partition(".")[0] in fields
    }
    return for_all | dict(table.get(action, {}))


def fields_of(action: str) -> frozenset[str]:
    """The fields that an action takes, and sends on."""
    return frozenset(ACTIONS[action].shape.__annotations__) - EXTRAS.keys()


def faults(section: Section) -> Iterator[str]:
    """What is wrong in a merged section beyond its single values."""
    for index, rule in enumerate(section.privacy):
        if not (rule.keys or rule.paths or rule.values):
            yield f"privacy.{index}: needs keys, paths or values"
    for action in ENRICHED:
        yield from _renames(action, section)
        yield from _values(action, section)
        for name in ("defaults", "values"):
            for path in getattr(section, name).get(action, {}):
                if (field := path.partition(".")[0]) not in fields_of(action):
                    yield f"{name}.{action}.{path}: {action} takes no {field}"
                elif path in WHOM:
                    yield f"{name}.{action}.{path}: only the caller can say that"


# What later steps make of themselves: to rename it would rename, next time, what is new.
MADE = frozenset({
    "country", "region", "city", "location", "timezoneOffsetSeconds", "currencyCode", "systemName", "systemVersion",
    "browserName", "browserVersion", "deviceModel",
})  # fmt: skip


def _renames(action: str, section: Section) -> Iterator[str]:
    renames = of_action(section.renames, action)
    said = [*renames.values(), *of_action(section.defaults, action)]
    for old, new in renames.items():
        at = f"renames.{action}.{old}"
        if old in FREE or old in MADE:
            yield f"{at}: {old} can't be renamed: it is Leanplum's own field, which other steps go by"
        if new.partition(".")[0] not in fields_of(action):
            yield f"{at}: {action} takes no {new}"
        if any(_within(old, other) or _within(other, old) for other in said):
            yield f"{at}: another rename, or a default, leads to {old}: enriching twice would not be as enriching once"


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.")


def _values(action: str, section: Section) -> Iterator[str]:
    for path, told in of_action(section.values, action).items():
        at = f"values.{action}.{path}"
        for value, made in told.items():
            again = told.get(reshape.text(made) or "")
            if again is not None and not reshape.same(again, made):
                yield f"{at}.{value}: leads to {made}, which leads on to {again}: enriching twice would not be as once"
            if value == MASK:
                yield f"{at}.{value}: is what privacy rules leave of a value"
