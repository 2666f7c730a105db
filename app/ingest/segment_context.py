"""The options of mapping Segment's messages: `[segment]` of the enrichment file. Pure."""

import string
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

STATE_WORDS = ("name", "category", "type")


def _template(text: str) -> str:
    """Check a template of a state's name: text with {name}, {category} or {type} in it."""
    words: list[str] = []
    has_format = False
    for _, word, form, conversion in string.Formatter().parse(text):
        if word is not None:
            words.append(word)
        has_format = has_format or bool(form or conversion)
    if not words or not set(words) <= set(STATE_WORDS) or has_format:
        placeholders = ", ".join(f"{{{word}}}" for word in STATE_WORDS)
        raise ValueError(f"must be a text with {placeholders} in it")
    return text


State = Annotated[str, AfterValidator(_template)]
Named = Annotated[str, Field(min_length=1, max_length=139)]


class SegmentRules(BaseModel):
    """The choices, with their defaults.

    `group_prefix`: of the user attributes that a group's traits become.
    `events`: Leanplum's names of Segment's events.
    `page_state`, `screen_state`: templates of a state's name.
    `anonymous`: what an anonymousId is to Leanplum.
    `login`: whether an identify message with both ids merges the anonymous user.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    group_prefix: Annotated[str, Field(min_length=1, max_length=64)] = "group_"
    events: dict[Named, Named] = {}
    page_state: State = "{name}"
    screen_state: State = "{name}"
    anonymous: Literal["device", "user"] = "device"
    login: bool = True
