"""How Segment's messages become Leanplum's actions, as far as that can be chosen: `[segment]` of
the configuration. Pure.
"""

import string
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

STATE_WORDS = ("name", "category", "type")


def _template(text: str) -> str:
    """A state's name with words in braces that are filled in."""
    parts = [
        (word, form or conversion) for _, word, form, conversion in string.Formatter().parse(text)
    ]
    words = [word for word, _ in parts if word is not None]
    if not words or not set(words) <= set(STATE_WORDS) or any(more for _, more in parts):
        raise ValueError(
            f"takes a text with {', '.join(f'{{{word}}}' for word in STATE_WORDS)} in it"
        )
    return text


State = Annotated[str, AfterValidator(_template)]
Named = Annotated[str, Field(min_length=1, max_length=139)]


class SegmentRules(BaseModel):
    """The choices, with their defaults. `group_prefix`: of the user attributes that a group's
    traits become. `events`: Leanplum's name for an event of Segment's. `page_state`,
    `screen_state`: templates of a state's name. `anonymous`: what an anonymousId is to Leanplum.
    `login`: whether identify with both ids merges the anonymous user.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    group_prefix: Annotated[str, Field(min_length=1, max_length=64)] = "group_"
    events: dict[Named, Named] = {}
    page_state: State = "{name}"
    screen_state: State = "{name}"
    anonymous: Literal["device", "user"] = "device"
    login: bool = True
