"""The format of a plan file: YAML with line numbers, and the fields that it may have.

Scalars are read as YAML 1.2 defines them: `off` and `NO` are strings, and so is a date. JSON is
valid YAML, so JSON files are read the same way.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.model import APP_NAME

Path = tuple[str | int, ...]
MAX_NODES = 200_000  # in one file; what an alias repeats is counted each time
DECIMAL = re.compile(r"[-+]?[0-9]+")
_Loader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

# --- fields -----------------------------------------------------------------------------------

Mode = Literal["off", "warn", "enforce"]
UnknownPolicy = Literal["allow", "warn", "enforce"]
Kind = Literal["events", "states", "attributes"]
KINDS: tuple[Kind, ...] = ("events", "states", "attributes")
SINGULAR: dict[Kind, str] = {"events": "event", "states": "state", "attributes": "attribute"}
Schema = dict[str, Any] | bool
Definitions = dict[str, Schema]
STRICT = ConfigDict(extra="forbid", frozen=True)

# `Login:` without a value is a definition too: null means an empty mapping.
_NullAsEmpty = BeforeValidator(lambda value: {} if value is None else value)
_IntAsText = BeforeValidator(lambda value: str(value) if type(value) is int else value)
NonEmptyText = Annotated[str, Field(min_length=1, strict=True)]
VersionText = Annotated[str, Field(min_length=1, max_length=100, strict=True)]
AppName = Annotated[str, Field(pattern=APP_NAME)]


class Definition(BaseModel):
    """The fields that all definitions share."""

    model_config = STRICT
    description: NonEmptyText | None = None
    owner: NonEmptyText | None = None
    mode: Mode | None = None
    examples: list[Any] = Field(default_factory=list)


class StateDefinition(Definition):
    """The definition of a state: schemas of its parameters and its info."""

    params: Schema | None = None
    info: Schema | None = None
    required: list[Literal["params", "info"]] = Field(default_factory=list)


class EventDefinition(Definition):
    """The definition of an event: schemas of its parameters, value, currency and info."""

    params: Schema | None = None
    value: Schema | None = None
    currencyCode: Schema | None = None  # noqa: N815  # the name of the API field
    info: Schema | None = None
    required: list[Literal["params", "value", "currencyCode", "info"]] = Field(default_factory=list)


class AttributeDefinition(Definition):
    """The definition of a user attribute: the schema of its value."""

    schema_: Annotated[Schema, Field(alias="schema")] = True


class UnknownPolicies(BaseModel):
    """The policies for names that the plan does not define."""

    model_config = STRICT
    events: UnknownPolicy = "allow"
    states: UnknownPolicy = "allow"
    attributes: UnknownPolicy = "allow"


Events = Annotated[dict[str, Annotated[EventDefinition, _NullAsEmpty]], _NullAsEmpty]
States = Annotated[dict[str, Annotated[StateDefinition, _NullAsEmpty]], _NullAsEmpty]
Attributes = Annotated[dict[str, Annotated[AttributeDefinition, _NullAsEmpty]], _NullAsEmpty]


class PlanFile(BaseModel):
    """The content of one plan file."""

    model_config = STRICT
    version: Annotated[VersionText | None, _IntAsText] = None
    apps: Annotated[list[AppName], Field(min_length=1)] | None = None
    mode: Mode = "warn"
    unknown: UnknownPolicies | None = None
    definitions: Annotated[Definitions, _NullAsEmpty] = Field(default_factory=dict)
    events: Events = Field(default_factory=dict)
    states: States = Field(default_factory=dict)
    attributes: Attributes = Field(default_factory=dict)


# --- parsing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanFinding:
    """A finding about a plan file: its place (file name, line, path in the file) and a sentence.

    `line` is 0 when it is unknown. A `fatal` finding keeps the plan from being loaded.
    """

    file: str
    line: int
    path: str
    detail: str
    fatal: bool = True

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.path}: {self.detail}" if self.path else f"{where}: {self.detail}"


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """A plan file and the line of each path in it."""

    name: str
    plan: PlanFile
    lines: dict[Path, int]

    def finding(self, path: Sequence[str | int], detail: str, *, fatal: bool = True) -> PlanFinding:
        """Return a finding at a path of this file."""
        line = _line_of(path, self.lines)
        return PlanFinding(self.name, line, _joined(path), detail, fatal)


def parse(name: str, text: str) -> ParsedFile | list[PlanFinding]:
    """Parse the text of the plan file `name`; return everything wrong with its form if it fails."""
    lines: dict[Path, int] = {}
    content = _load_yaml(name, text, lines)
    if isinstance(content, PlanFinding):
        return [content]
    if not isinstance(content, dict):
        detail = "is not a plan: expected a mapping of version, events, states, attributes …"
        return [PlanFinding(name, 0, "", detail)]
    try:
        return ParsedFile(name, PlanFile.model_validate(content), lines)
    except ValidationError as error:
        return list(_findings_of(error, name, lines))


def _findings_of(
    error: ValidationError, name: str, lines: dict[Path, int]
) -> Iterator[PlanFinding]:
    for found in error.errors(include_input=False, include_url=False):
        path, detail = [*found["loc"]], _DETAILS.get(found["type"], found["msg"])
        if path[-1:] == ["bool"]:
            # A schema that is neither an object nor a boolean is reported for both; once is enough.
            continue
        if path[-1:] == ["dict[str,any]"]:
            path, detail = path[:-1], "must be a JSON Schema: an object, true or false"
        line = _line_of(path, lines)
        yield PlanFinding(name, line, _joined(path), detail[0].lower() + detail[1:])


_DETAILS = {
    "extra_forbidden": "unknown field; check its spelling",
    "string_pattern_mismatch": "must be an app's name: 1 to 64 characters of A-Z a-z 0-9 _ -",
    "string_type": "must be a string; put it in quotes",
}


def _line_of(path: Sequence[str | int], lines: dict[Path, int]) -> int:
    """Return the line of a path, or of the nearest path above it that is in the file."""
    nearest = tuple(path)
    while nearest and nearest not in lines:
        nearest = nearest[:-1]
    return lines.get(nearest, 1)


def _joined(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


# --- YAML -------------------------------------------------------------------------------------


class _Yaml12Loader(_Loader):  # type: ignore[misc]
    """PyYAML's parser without the implicit types of YAML 1.1."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML expects a class attribute


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", [*"tTfF"]),
    ("int", r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$", [*"-+0123456789"]),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", [*"-+0123456789."]),
):
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


class _NotSupported(Exception):
    """YAML that is valid, but has no place in a plan."""

    def __init__(self, line: int, detail: str) -> None:
        super().__init__(detail)
        self.line, self.detail = line, detail


def _load_yaml(name: str, text: str, lines: dict[Path, int]) -> Any:
    """Return the data of a YAML text and fill `lines`; return a PlanFinding if it fails."""
    try:
        node = yaml.compose(text, Loader=_Yaml12Loader)
        return None if node is None else _Converter(lines).value(node, ())
    except _NotSupported as error:
        return PlanFinding(name, error.line, "", error.detail)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        return PlanFinding(name, line, "", f"is not YAML: {error.problem or error.context}")
    except yaml.YAMLError:
        return PlanFinding(name, 0, "", "is not YAML: it has a character that YAML does not allow")
    except RecursionError:
        return PlanFinding(name, 0, "", "is nested too deeply")


class _Converter:
    """Converts YAML nodes to values and records their lines."""

    def __init__(self, lines: dict[Path, int]) -> None:
        self._lines, self._count = lines, 0
        self._open: set[int] = set()  # the nodes around the current one, by identity

    def value(self, node: Any, path: Path) -> Any:
        """Return the value of a node."""
        self._count += 1
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        if self._count > MAX_NODES:
            raise _NotSupported(line, f"has more than {MAX_NODES} values")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, line)
        if id(node) in self._open:
            raise _NotSupported(line, "has an alias inside the node that it refers to")
        self._open.add(id(node))
        value: Any
        if isinstance(node, yaml.SequenceNode):
            value = [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        else:
            value = self._mapping(node, path)
        self._open.discard(id(node))
        return value

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _NotSupported(line, "a key must be a string")
            # The text as written: the name 404 is a string, although YAML reads a number.
            key = str(key_node.value)
            if key in mapping:
                raise _NotSupported(line, f"duplicate key {_joined((*path, key))}")
            self._lines[(*path, key)] = line
            mapping[key] = self.value(value_node, (*path, key))
        return mapping


def _scalar(node: Any, line: int) -> Any:
    kind, text = node.tag.rpartition(":")[2], str(node.value)
    match kind:
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return _integer(text, line)
        case "float":
            return float(text)
    raise _NotSupported(line, f"the tag {node.tag} is not supported")


def _integer(text: str, line: int) -> int:
    base = 10 if DECIMAL.fullmatch(text) else 16
    # Python refuses to convert very long decimal texts, so they are never converted.
    value = int(text, base) if len(text) < 100 else 2**64
    if not -(2**63) <= value < 2**63:
        raise _NotSupported(line, "integers must fit in 64 bits")
    return value
