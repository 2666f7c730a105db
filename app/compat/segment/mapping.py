"""From a message to the fields of one of Leanplum's actions. Pure: the table of docs/segment.md, as
code.

Each kind of message becomes one item. What Leanplum has a parameter for goes there and nowhere
else; the rest becomes params (of events and states) or user attributes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.compat.segment import plain_values
from app.compat.segment.message import (
    PARAMS,
    Fields,
    Guard,
    Making,
    first_text,
    object_of,
    unguarded,
    whom,
)
from app.compat.segment.request import COMMON, TYPES
from app.compat.segment.users import alias, group, identify
from app.errors import Fault, Invalid
from app.ingest.segment_context import SegmentRules
from app.leanplum.values import CURRENCY
from app.model import NO_NOTES, Notes

OURS = "Leanplum"  # our name in a message's `integrations`


@dataclass(frozen=True, slots=True)
class Mapped:
    """An action and its fields, not yet held against the rules. `subject`: whom it waits behind,
    where that is not whom its fields name first. `notes`: what had to be changed.
    """

    action: str
    fields: Fields
    subject: str | None = None
    notes: Notes = NO_NOTES


def mapped(
    message: Any, common: Mapping[str, Any], rules: SegmentRules, guard: Guard = unguarded
) -> Mapped | None:
    """What a message asks of Leanplum; None where it says that it is not for Leanplum. `common` is
    what its batch says for all. Raises Invalid, with pointers into the message.
    """
    if not isinstance(message, dict):
        raise Invalid((Fault("", "must be an object", "type"),))
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise Invalid((Fault("/type", f"must be one of {', '.join(TYPES)}", "choice"),))
    if not _wanted({**object_of(common, "integrations"), **object_of(message, "integrations")}):
        return None
    context = {**object_of(common, "context"), **object_of(message, "context")}
    action, make = _KINDS[kind]
    whole = {**{name: common[name] for name in COMMON if name in common}, **message}
    making = Making(action, whole, context, rules, guard)
    fields = make(making) | _shared(making)
    return Mapped(action, fields, making.subject, making.notes)


def _wanted(integrations: Mapping[str, Any]) -> bool:
    """Segment's rule: what is said of us, else what is said of all; options count as yes."""
    return integrations.get(OURS, integrations.get("All", True)) is not False


def _shared(making: Making) -> Fields:
    """When it happened, its id, and what is only for enrichment."""
    message = making.message
    fields: Fields = {}
    for name in ("timestamp", "originalTimestamp"):
        if message.get(name) is not None:
            if (at := plain_values.moment(message[name])) is None:
                raise Invalid((Fault(f"/{name}", "must be an ISO 8601 time", "time"),))
            fields["time"] = at
            break
    if (own_id := plain_values.item_id(message.get("messageId"))) is not None:
        fields["id"] = own_id
    if (sent := plain_values.moment(message.get("sentAt"))) is not None:
        fields["sentAt"] = sent
    for name in ("ip", "userAgent"):
        if told := first_text(making.context.get(name)):
            fields[name] = plain_values.value(told)
    return fields


# --- events and states ------------------------------------------------------------------------------------------------


def _track(making: Making) -> Fields:
    fields = whom(making)
    event = making.message.get("event")
    if isinstance(event, str):
        event = making.left("event", making.rules.events.get(event, event))
    if not isinstance(event, str) or not event:
        raise Invalid((Fault("/event", "is required: the name of the event", "required"),))
    fields["event"] = making.name("event", event)
    properties = making.flat(PARAMS, object_of(making.message, "properties"))
    for name in ("revenue", "value", "total"):
        if (worth := plain_values.number(properties.get(name))) is not None:
            fields["value"] = worth
            del properties[name]
            break
    currency = properties.get("currency")
    if isinstance(currency, str) and re.fullmatch(CURRENCY, currency.strip().upper()):
        fields["currencyCode"] = currency.strip().upper()
        del properties["currency"]
    if making.context.get("active") is False:
        fields["disposition"] = "passive"
    return fields | making.params(properties)


ABOUT_PAGES = ("url", "path", "referrer", "title", "search")


def _page(making: Making) -> Fields:
    """A page is a state. Leanplum makes no user for a state unless it is told to."""
    context = object_of(making.context, "page", "/context")
    around = {
        name: plain_values.value(context[name])
        for name in ABOUT_PAGES
        if first_text(context.get(name))
    }
    return _state(making, making.rules.page_state, around)


def _screen(making: Making) -> Fields:
    return _state(making, making.rules.screen_state, {})


def _state(making: Making, template: str, around: Fields) -> Fields:
    message = making.message
    properties = making.flat(PARAMS, object_of(message, "properties"))
    kind = str(message["type"]).capitalize()
    own_category = making.left(PARAMS, first_text(message.get("category")), "category")
    category = first_text(own_category, properties.get("category"))
    in_state = first_text(making.left("state", category))
    named = first_text(message.get("name"), properties.pop("name", None), message.get("event"))
    told = first_text(making.left("state", named))
    words = {"name": told or in_state or kind, "category": in_state, "type": kind}
    state = template.format_map(words).strip()
    params = {**around, **properties, **({"category": category} if category else {})}
    return {
        **whom(making),
        "state": making.name("state", state) or kind,
        "createDisposition": "CreateIfNeeded",
        **making.params(params),
    }


_KINDS: dict[str, tuple[str, Callable[[Making], Fields]]] = {
    "track": ("track", _track),
    "identify": ("setUserAttributes", identify),
    "page": ("advance", _page),
    "screen": ("advance", _screen),
    "group": ("setUserAttributes", group),
    "alias": ("setUserAttributes", alias),
}
