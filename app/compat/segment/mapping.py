"""Mapping of a message to the fields of one of Leanplum's actions. Pure.

The module implements the table of docs/segment.md. Each kind of message becomes one item. A value
for which Leanplum has a parameter goes there and nowhere else; other values become params (of
events and states) or user attributes.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app.compat.segment import plain_values
from app.compat.segment.request import COMMON, TYPES, Message
from app.errors import Fault, Invalid
from app.ingest.segment_context import SegmentRules
from app.leanplum.values import CURRENCY, MAX_PARAMS
from app.model import NO_NOTES, Notes

LEANPLUM = "Leanplum"  # the destination's name in a message's `integrations`
PARAMS, ATTRIBUTES = "params", "userAttributes"
Fields = dict[str, Any]
ApplyPrivacy = Callable[[str, Fields], Notes]
"""Removes from an action's fields, in place, what must not be stored."""


def keep_everything(action: str, fields: Fields) -> Notes:
    """Remove nothing, for an app without privacy rules."""
    return NO_NOTES


@dataclass(frozen=True, slots=True)
class MappedMessage:
    """An action and its fields, not yet validated.

    `subject` is the user whose earlier items come first, when that is not the first id in the
    fields. `notes` say what had to be changed.
    """

    action: str
    fields: Fields
    subject: str | None = None
    notes: Notes = NO_NOTES


@dataclass(slots=True)
class MessageDraft:
    """A message while it is mapped, with what was changed so far."""

    action: str
    message: Message
    context: Message
    rules: SegmentRules
    apply_privacy: ApplyPrivacy
    steps: tuple[str, ...] = ()
    renamed: list[str] = field(default_factory=list)
    dropped: int = 0
    subject: str | None = None

    def flatten(self, home: str, nested: Mapping[str, Any]) -> Fields:
        """Return the values of the field `home`, with flat names, after the privacy rules.

        It is called before any of them moves to a parameter of its own, so that privacy rules see
        all of them by Segment's names.
        """
        renamed = list[str]()
        fields: Fields = {home: plain_values.flatten(nested, renamed)}
        self.steps = self.apply_privacy(self.action, fields).steps or self.steps
        kept = fields.get(home)
        if not isinstance(kept, dict):
            return {}
        self.renamed += [name for name in renamed if name in kept]
        lists = home == ATTRIBUTES
        return {name: plain_values.to_value(value, lists=lists) for name, value in kept.items()}

    def keep_permitted(self, home: str, value: Any, key: str = "") -> Any:
        """Return the part of a value that privacy rules permit; None when nothing is left.

        The value goes into the field `home`, under `key` if there is one.
        """
        if self.apply_privacy is keep_everything or value is None:
            return value
        fields: Fields = {home: {key: value} if key else value}
        self.steps = self.apply_privacy(self.action, fields).steps or self.steps
        kept = fields.get(home)
        return kept.get(key) if key and isinstance(kept, dict) else kept

    def make_name(self, home: str, text: str) -> str:
        """Return a name that Leanplum takes for the field `home`; notes never show the text."""
        name = plain_values.to_name(text)
        if name != text:
            self.renamed.append(home)
        return name

    def limit_params(self, values: Mapping[str, Any]) -> Fields:
        """Return as many params as Leanplum takes, without those that are null."""
        params = {name: value for name, value in values.items() if value is not None}
        self.dropped += max(0, len(params) - MAX_PARAMS)
        return {PARAMS: dict([*params.items()][:MAX_PARAMS])} if params else {}

    @property
    def notes(self) -> Notes:
        """The changes to the message, for the receipt."""
        warnings = list[str]()
        if self.renamed:
            names = ", ".join(self.renamed[:5])
            warnings.append(f"Names were changed to such as Leanplum takes: {names}")
        if self.dropped:
            warnings.append(
                f"{self.dropped} properties were left out: Leanplum takes {MAX_PARAMS}."
            )
        return Notes(self.steps, tuple(warnings)) if self.steps or warnings else NO_NOTES


def map_message(
    message: Any,
    common: Mapping[str, Any],
    rules: SegmentRules,
    apply_privacy: ApplyPrivacy = keep_everything,
) -> MappedMessage | None:
    """Return the action of a message; None when it is not meant for Leanplum.

    `common` are the fields that its batch has for all messages. Raises Invalid, with pointers into
    the message.
    """
    if not isinstance(message, dict):
        raise Invalid((Fault("", "must be an object", "type"),))
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise Invalid((Fault("/type", f"must be one of {', '.join(TYPES)}", "choice"),))
    if not _is_wanted(
        {**get_object(common, "integrations"), **get_object(message, "integrations")}
    ):
        return None
    context = {**get_object(common, "context"), **get_object(message, "context")}
    action, map_kind = _KINDS[kind]
    whole = {**{name: common[name] for name in COMMON if name in common}, **message}
    draft = MessageDraft(action, whole, context, rules, apply_privacy)
    fields = map_kind(draft) | _map_shared(draft)
    return MappedMessage(action, fields, draft.subject, draft.notes)


def _is_wanted(integrations: Mapping[str, Any]) -> bool:
    """Return whether `integrations` selects Leanplum, by name or else by `All`.

    Options of an integration select it, too.
    """
    return integrations.get(LEANPLUM, integrations.get("All", True)) is not False


def _map_shared(draft: MessageDraft) -> Fields:
    """Return the time and the id of a message, and the fields that only enrichment uses."""
    message = draft.message
    fields: Fields = {}
    for name in ("timestamp", "originalTimestamp"):
        if message.get(name) is not None:
            time = plain_values.to_epoch_seconds(message[name])
            if time is None:
                raise Invalid((Fault(f"/{name}", "must be an ISO 8601 time", "time"),))
            fields["time"] = time
            break
    item_id = plain_values.make_item_id(message.get("messageId"))
    if item_id is not None:
        fields["id"] = item_id
    sent_at = plain_values.to_epoch_seconds(message.get("sentAt"))
    if sent_at is not None:
        fields["sentAt"] = sent_at
    for name in ("ip", "userAgent"):
        text = first_text(draft.context.get(name))
        if text:
            fields[name] = plain_values.to_value(text)
    return fields


def get_object(parent: Mapping[str, Any], name: str, path: str = "") -> Message:
    """Return the object of this name, or an empty one; PHP writes an empty object as a list.

    Raises Invalid for any other value, with a pointer that starts with `path`.
    """
    value = parent.get(name)
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise Invalid((Fault(f"{path}/{name}", "must be an object", "type"),))
    return value


def first_text(*values: Any) -> str:
    """Return the first value that is a text and not blank; "" when there is none."""
    return next((value for value in values if isinstance(value, str) and value.strip()), "")


def _map_ids(draft: MessageDraft) -> Fields:
    """Return userId and anonymousId as Leanplum's user and device; one of them is enough (§3)."""
    user = plain_values.to_subject_id(draft.message.get("userId"))
    device = plain_values.make_device_id(draft.message.get("anonymousId"))
    if draft.rules.anonymous == "user":
        user = user or plain_values.to_subject_id(draft.message.get("anonymousId"))
        device = None
    fields: Fields = {}
    if user:
        fields["userId"] = user
    if device:
        fields["deviceId"] = device
    if not fields:
        raise Invalid((Fault("", "userId or anonymousId is required", "missing-subject"),))
    return fields


# --- events and states ---------------------------------------------------------------------------


def _map_track(draft: MessageDraft) -> Fields:
    fields = _map_ids(draft)
    event = draft.message.get("event")
    if isinstance(event, str):
        event = draft.keep_permitted("event", draft.rules.events.get(event, event))
    if not isinstance(event, str) or not event:
        raise Invalid((Fault("/event", "is required: the name of the event", "required"),))
    fields["event"] = draft.make_name("event", event)
    properties = draft.flatten(PARAMS, get_object(draft.message, "properties"))
    for name in VALUE_PROPERTIES:
        value = plain_values.to_number(properties.get(name))
        if value is not None:
            fields["value"] = value
            del properties[name]
            break
    currency = properties.get("currency")
    if isinstance(currency, str) and re.fullmatch(CURRENCY, currency.strip().upper()):
        fields["currencyCode"] = currency.strip().upper()
        del properties["currency"]
    if draft.context.get("active") is False:
        fields["disposition"] = "passive"
    return fields | draft.limit_params(properties)


VALUE_PROPERTIES = ("revenue", "value", "total")
PAGE_FIELDS = ("url", "path", "referrer", "title", "search")


def _map_page(draft: MessageDraft) -> Fields:
    """Map a page to a state."""
    page = get_object(draft.context, "page", "/context")
    page_params = {
        name: plain_values.to_value(page[name])
        for name in PAGE_FIELDS
        if first_text(page.get(name))
    }
    return _map_state(draft, draft.rules.page_state, page_params)


def _map_screen(draft: MessageDraft) -> Fields:
    return _map_state(draft, draft.rules.screen_state, {})


def _map_state(draft: MessageDraft, template: str, context_params: Fields) -> Fields:
    message = draft.message
    properties = draft.flatten(PARAMS, get_object(message, "properties"))
    kind = str(message["type"]).capitalize()
    own_category = draft.keep_permitted(PARAMS, first_text(message.get("category")), "category")
    category = first_text(own_category, properties.get("category"))
    permitted_category = first_text(draft.keep_permitted("state", category))
    name = first_text(message.get("name"), properties.pop("name", None), message.get("event"))
    permitted_name = first_text(draft.keep_permitted("state", name))
    words = {
        "name": permitted_name or permitted_category or kind,
        "category": permitted_category,
        "type": kind,
    }
    state = template.format_map(words).strip()
    params = {**context_params, **properties}
    if category:
        params["category"] = category
    return {
        **_map_ids(draft),
        "state": draft.make_name("state", state) or kind,
        # Leanplum makes no user for a state without this.
        "createDisposition": "CreateIfNeeded",
        **draft.limit_params(params),
    }


# --- users ---------------------------------------------------------------------------------------


def _map_login(draft: MessageDraft) -> Fields:
    """Return the ids of an identify; one with both ids merges the anonymous user into the known.

    It waits behind the known user's items, so that no later one makes the device that user's before
    the merge. Earlier items of the device that arrive later are the known user's as well, since
    Leanplum infers the user of a device.
    """
    user = plain_values.to_subject_id(draft.message.get("userId"))
    anonymous = plain_values.to_subject_id(draft.message.get("anonymousId"))
    if not (draft.rules.login and user and anonymous):
        return _map_ids(draft)
    if draft.rules.anonymous == "user":
        return {"userId": anonymous, "newUserId": user}
    device = plain_values.make_device_id(anonymous)
    if device is None:
        return {"userId": user}
    draft.subject = f"u{user}"
    return {"deviceId": device, "newUserId": user}


def _to_country(value: Any) -> str | None:
    is_code = isinstance(value, str) and re.fullmatch("[A-Za-z]{2}", value)
    return value.upper() if is_code else None


def _to_nonempty_text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


class UserParameter(NamedTuple):
    """A parameter of Leanplum's users, and where a message may have its value.

    `convert` returns None for a value that does not fit. Traits come before the context.
    """

    name: str
    convert: Callable[[Any], Any]
    traits: tuple[str, ...]
    context: tuple[str, ...]


USER_PARAMETERS = (
    UserParameter("created", plain_values.to_epoch_seconds, ("createdAt", "created_at"), ()),
    UserParameter("country", _to_country, ("address.country", "country"), ("location.country",)),
    UserParameter(
        "region",
        _to_nonempty_text,
        ("address.state", "address.region", "region"),
        ("location.region",),
    ),
    UserParameter("city", _to_nonempty_text, ("address.city", "city"), ("location.city",)),
    UserParameter("locale", _to_nonempty_text, ("locale",), ("locale",)),
    UserParameter("timezone", _to_nonempty_text, ("timezone",), ("timezone",)),
)


def _map_identify(draft: MessageDraft) -> Fields:
    ids = _map_login(draft)
    context_traits = get_object(draft.context, "traits", "/context")
    traits = {**context_traits, **get_object(draft.message, "traits")}
    attributes = draft.flatten(ATTRIBUTES, traits)
    fields = ids | _take_parameters(draft, attributes) | {ATTRIBUTES: attributes}
    devices = _map_device(draft.context, ids.get("deviceId"))
    if devices:
        fields["devices"] = devices
    return fields


def _take_parameters(draft: MessageDraft, traits: Fields) -> Fields:
    """Return the user's parameters; those from traits are removed from the traits."""
    fields: Fields = {}
    names = ("location", "locale", "timezone")
    nested: Fields = {name: draft.context[name] for name in names if name in draft.context}
    permitted = draft.keep_permitted("", plain_values.flatten(nested, []))
    context: Fields = {}
    if isinstance(permitted, dict):
        context = {name: plain_values.to_value(value) for name, value in permitted.items()}
    for parameter in USER_PARAMETERS:
        trait = _find_fitting(parameter, traits, parameter.traits)
        source, name = traits, trait
        if trait is None:
            source, name = context, _find_fitting(parameter, context, parameter.context)
        if name is None:
            continue
        fields[parameter.name] = parameter.convert(source[name])
        if trait is not None:
            del traits[trait]
    latitude = plain_values.to_number(context.get("location.latitude"))
    longitude = plain_values.to_number(context.get("location.longitude"))
    if latitude is not None and longitude is not None:
        fields["location"] = f"{latitude},{longitude}"
    return fields


def _find_fitting(parameter: UserParameter, values: Fields, names: Iterable[str]) -> str | None:
    """Return the first of the names whose value fits the parameter; None without one."""
    return next((name for name in names if parameter.convert(values.get(name)) is not None), None)


class DeviceParameter(NamedTuple):
    """A parameter of Leanplum's devices, and the paths in the context that may have its value."""

    name: str
    paths: tuple[tuple[str, str], ...]


DEVICE_PARAMETERS = (
    DeviceParameter("appVersion", (("app", "version"), ("app", "build"))),
    DeviceParameter("systemName", (("os", "name"),)),
    DeviceParameter("systemVersion", (("os", "version"),)),
    DeviceParameter("deviceModel", (("device", "model"),)),
    DeviceParameter("deviceName", (("device", "name"),)),
)
PUSH_TOKENS = {"ios": "iosPushToken", "android": "gcmRegistrationId"}


def _map_device(context: Mapping[str, Any], device_id: str | None) -> list[Fields]:
    """Return a list of the device that the context describes; empty without a description."""
    if device_id is None:
        return []
    parts = {
        name: context[name]
        for name in ("app", "os", "device")
        if isinstance(context.get(name), dict)
    }
    fields: Fields = {}
    for parameter in DEVICE_PARAMETERS:
        values = (parts.get(part, {}).get(name) for part, name in parameter.paths)
        text = next(filter(None, map(plain_values.to_id_text, values)), None)
        if text:
            fields[parameter.name] = plain_values.to_value(text)
    device = parts.get("device", {})
    kind, token = first_text(device.get("type")).lower(), first_text(device.get("token"))
    if token and kind in PUSH_TOKENS:
        fields[PUSH_TOKENS[kind]] = plain_values.to_value(token)
    return [{"deviceId": device_id, **fields}] if fields else []


def _map_group(draft: MessageDraft) -> Fields:
    group = plain_values.to_id_text(draft.message.get("groupId"))
    if not group:
        raise Invalid((Fault("/groupId", "is required: the id of the group", "required"),))
    traits = {"id": group, **get_object(draft.message, "traits")}
    prefixed = {f"{draft.rules.group_prefix}{name}": value for name, value in traits.items()}
    return _map_ids(draft) | {ATTRIBUTES: draft.flatten(ATTRIBUTES, prefixed)}


def _map_alias(draft: MessageDraft) -> Fields:
    """Map an alias to a login: the previous id becomes the new one.

    The previous id is a device's when it is the message's own anonymousId.
    """
    message = draft.message
    user = plain_values.to_subject_id(message.get("userId"))
    anonymous = plain_values.to_subject_id(message.get("anonymousId"))
    previous = plain_values.to_subject_id(message.get("previousId")) or anonymous
    if not user or not previous:
        raise Invalid((Fault("", "previousId and userId are required", "required"),))
    device: str | None = None
    if previous == anonymous and draft.rules.anonymous == "device":
        device = plain_values.make_device_id(previous)
    if device is None:
        return {"userId": previous, "newUserId": user}
    draft.subject = f"u{user}"
    return {"deviceId": device, "newUserId": user}


_KINDS: dict[str, tuple[str, Callable[[MessageDraft], Fields]]] = {
    "track": ("track", _map_track),
    "identify": ("setUserAttributes", _map_identify),
    "page": ("advance", _map_page),
    "screen": ("advance", _map_screen),
    "group": ("setUserAttributes", _map_group),
    "alias": ("setUserAttributes", _map_alias),
}
