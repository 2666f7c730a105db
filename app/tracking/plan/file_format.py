"""What a plan's file may say."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.model import APP_NAME
from app.tracking.plan.yaml_text import Text, Told

Mode = Literal["off", "warn", "enforce"]
Policy = Literal["allow", "warn", "enforce"]
Kind = Literal["events", "states", "attributes"]
KINDS: tuple[Kind, ...] = ("events", "states", "attributes")
ONE = {"events": "event", "states": "state", "attributes": "attribute"}  # one of a kind, in words
Words = Annotated[str, Field(min_length=1, strict=True)]
Schema = dict[str, Any] | bool
CLOSED = ConfigDict(extra="forbid", frozen=True)
# `Login:` alone is a definition, too
OrNothing = BeforeValidator(lambda value: {} if value is None else value)
Version = BeforeValidator(lambda value: str(value) if type(value) is int else value)


class Defined(BaseModel):
    """What every definition says of itself."""

    model_config = CLOSED
    description: Words | None = None
    owner: Words | None = None
    mode: Mode | None = None
    examples: list[Any] = Field(default_factory=list)


class DefinedState(Defined):
    """One state: what its parameters and its info must be."""

    params: Schema | None = None
    info: Schema | None = None
    required: list[Literal["params", "info"]] = Field(default_factory=list)


class DefinedEvent(Defined):
    """One event: what its parameters, value, currency and info must be."""

    params: Schema | None = None
    value: Schema | None = None
    currencyCode: Schema | None = None  # noqa: N815  # the callers' word
    info: Schema | None = None
    required: list[Literal["params", "value", "currencyCode", "info"]] = Field(default_factory=list)


class DefinedAttribute(Defined):
    """One user attribute: what its value must be."""

    schema_: Annotated[Schema, Field(alias="schema")] = True


class Unknown(BaseModel):
    """What becomes of names that the plan does not have."""

    model_config = CLOSED
    events: Policy = "allow"
    states: Policy = "allow"
    attributes: Policy = "allow"


class File(BaseModel):
    """One file of a plan."""

    model_config = CLOSED
    version: Annotated[
        Annotated[str, Field(min_length=1, max_length=100, strict=True)] | None, Version
    ] = None
    apps: Annotated[list[Annotated[str, Field(pattern=APP_NAME)]], Field(min_length=1)] | None = (
        None
    )
    mode: Mode = "warn"
    unknown: Unknown | None = None
    definitions: Annotated[dict[str, Schema], OrNothing] = Field(default_factory=dict)
    events: Annotated[dict[str, Annotated[DefinedEvent, OrNothing]], OrNothing] = Field(
        default_factory=dict
    )
    states: Annotated[dict[str, Annotated[DefinedState, OrNothing]], OrNothing] = Field(
        default_factory=dict
    )
    attributes: Annotated[dict[str, Annotated[DefinedAttribute, OrNothing]], OrNothing] = Field(
        default_factory=dict
    )


def of(text: Text) -> File | list[Told]:
    """The file that a text is, or everything that is wrong with its shape."""
    if not isinstance(text.content, dict):
        return [
            Told(text.file, 0, "", "is no plan: it takes version, events, states, attributes …")
        ]
    try:
        return File.model_validate(text.content)
    except ValidationError as error:
        return list(_faults(error, text))


def _faults(error: ValidationError, text: Text) -> Iterator[Told]:
    for one in error.errors(include_input=False, include_url=False):
        path, kind = [*one["loc"]], one["type"]
        sentence = _SENTENCES.get(kind, one["msg"])
        if path[-1:] == ["bool"]:
            continue  # a schema that is neither an object nor true nor false: said once
        if path[-1:] == ["dict[str,any]"]:
            path, sentence = path[:-1], "takes a JSON Schema: an object, true or false"
        yield text.told(path, sentence[0].lower() + sentence[1:])


_SENTENCES = {
    "extra_forbidden": "is not a field here; check its spelling",
    "string_pattern_mismatch": "takes the name of an app: 1 to 64 characters of A-Z a-z 0-9 _ -",
    "string_type": "takes text; put it in quotes",
}
