"""Steps that normalize how values are written: e-mail, phone, currency, locale, time zone."""

from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import phonenumbers
from babel import Locale
from babel.core import get_locale_identifier, parse_locale
from babel.numbers import list_currencies

from app.enrichment.draft import ItemDraft, Predicate, RunStep
from app.enrichment.privacy import is_covered
from app.enrichment.timestamps import seconds
from app.leanplum.mapping import DETECT

QUARTER_HOUR = 900  # seconds
# Longer texts are no phone number, locale or zone, and must not fill the caches.
MAX_LENGTH = 250
NO_PHONE = "userAttributes.{}: not a valid phone number (E.164); left as it is"
UNKNOWN_CURRENCY = "currencyCode: is not in ISO 4217"
UNKNOWN_LOCALE = "locale: unknown; a valid one is en_US, for example; left as it is"
UNKNOWN_ZONE = "timezone: is not in the IANA time zone database; left as it is"

# --- e-mail and phone -------------------------------------------------------------------------


class ContactFields(NamedTuple):
    """The user attributes with e-mail addresses and phone numbers.

    `region` (ISO 3166) applies to numbers without a country code; without it they are left.
    """

    emails: Sequence[str]
    phones: Sequence[str]
    region: str | None


def normalize_contact(contact: ContactFields) -> RunStep:
    """Return a step that trims and lowercases e-mail addresses and writes phones as E.164."""

    def run(draft: ItemDraft) -> bool:
        attributes = draft.fields.get("userAttributes")
        if not isinstance(attributes, dict):
            return False
        changed = False
        for name in contact.emails:
            value = attributes.get(name)
            if isinstance(value, str):
                email = _normal_email(value)
                changed = changed or email != value
                attributes[name] = email
        for name in contact.phones:
            value = attributes.get(name)
            if not isinstance(value, str) or is_covered(value):
                continue
            phone = normal_phone(value, contact.region)
            if phone is None:
                draft.warn(NO_PHONE.format(name))
            elif phone != value:
                attributes[name], changed = phone, True
        return changed

    return run


def normal_attribute(name: str, value: str, contact: ContactFields) -> str:
    """Return a user attribute as `normalize_contact` writes it."""
    if name in contact.emails:
        return _normal_email(value)
    if name in contact.phones:
        return normal_phone(value, contact.region) or value
    return value


def lacks_keys(names: Set[str]) -> Predicate:
    """Return a predicate that is true for values that are no object with any of these keys."""
    return lambda value: not isinstance(value, dict) or names.isdisjoint(value)


def _normal_email(value: str) -> str:
    trimmed = value.strip()
    return trimmed.lower() if "@" in trimmed else value


def normal_phone(value: str, region: str | None) -> str | None:
    """Return a phone number as E.164; None for an invalid one."""
    return _e164(value, region) if len(value) <= MAX_LENGTH else None


@lru_cache(4_096)
def _e164(value: str, region: str | None) -> str | None:
    try:
        number = phonenumbers.parse(value, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


# --- currency, locale, time zone --------------------------------------------------------------

CURRENCIES = frozenset(list_currencies())  # the codes of ISO 4217, including historic ones


def normal_field(name: str, value: str) -> str:
    """Return a currencyCode, locale or timezone as the steps write it."""
    if name == "currencyCode":
        code = value.strip().upper()
        return code if code in CURRENCIES else value
    if len(value) > MAX_LENGTH:
        return value
    known = _normal_locale(value) if name == "locale" else _normal_zone(value)
    return known or value


def is_currency(value: Any) -> bool:
    """Return whether a value is a code of ISO 4217."""
    return isinstance(value, str) and value in CURRENCIES


def normalize_currency(default: str | None) -> RunStep:
    """Return a step that trims and uppercases the currency code and warns of unknown codes.

    An item with a value and without a code gets the default.
    """

    def run(draft: ItemDraft) -> bool:
        fields = draft.fields
        if "currencyCode" not in fields:
            if default is None or fields.get("value") is None:
                return False
            fields["currencyCode"] = default
            return True
        code = fields["currencyCode"]
        if not isinstance(code, str) or code in CURRENCIES:
            return False
        normal = code.strip().upper()
        if normal not in CURRENCIES:
            draft.warn(UNKNOWN_CURRENCY)
            return False
        fields["currencyCode"] = normal
        return True

    return run


def is_locale(value: Any) -> bool:
    """Return whether a locale is written as Leanplum writes it."""
    return isinstance(value, str) and len(value) <= MAX_LENGTH and _normal_locale(value) == value


def normalize_locale(draft: ItemDraft) -> bool:
    """Write the locale as Leanplum does: en_US for en-us."""
    value = draft.fields.get("locale")
    if not isinstance(value, str) or value == DETECT or is_covered(value):
        return False
    locale = _normal_locale(value) if len(value) <= MAX_LENGTH else None
    if locale is None:
        draft.warn(UNKNOWN_LOCALE)
        return False
    draft.fields["locale"] = locale
    return locale != value


@lru_cache(4_096)
def _normal_locale(text: str) -> str | None:
    try:
        parts = parse_locale(text.strip().replace("-", "_"))
    except ValueError:
        return None
    language, territory = parts[:2]
    known = Locale("en")
    if language not in known.languages:
        return None
    if territory is not None and territory not in known.territories:
        return None
    return get_locale_identifier(parts)


def normalize_timezone(draft: ItemDraft) -> bool:
    """Write the zone as the IANA database does, and set its offset from UTC at the item's time."""
    fields = draft.fields
    value = fields.get("timezone")
    if not isinstance(value, str) or value == DETECT or is_covered(value):
        return False
    zone = _normal_zone(value) if len(value) <= MAX_LENGTH else None
    if zone is None:
        draft.warn(UNKNOWN_ZONE)
        return False
    fields["timezone"] = zone
    changed = zone != value
    if "timezoneOffsetSeconds" not in fields:
        time: float | None = draft.facts.received_at / 1000
        if "time" in fields:
            time = seconds(fields["time"])
        offset = None if time is None else _offset(zone, int(time // QUARTER_HOUR))
        if offset is not None:
            draft.derive("timezoneOffsetSeconds", offset)
            changed = True
    return changed


@cache
def _zones() -> dict[str, str]:
    """Return the names of the IANA database by their lower case."""
    return {name.lower(): name for name in available_timezones() | {"UTC"}}


@lru_cache(4_096)
def _normal_zone(text: str) -> str | None:
    return _zones().get(text.strip().replace(" ", "_").lower())


@lru_cache(4_096)
def _offset(zone: str, quarter: int) -> int | None:
    """Return a zone's offset in a quarter of an hour since the epoch.

    Offsets only change where one begins.
    """
    try:
        time = datetime.fromtimestamp(quarter * QUARTER_HOUR, UTC)
        offset = time.astimezone(ZoneInfo(zone)).utcoffset()
    except (OverflowError, ValueError, OSError):
        # A time at the end of the calendar, or a zone without data
        return None
    return None if offset is None else offset // timedelta(seconds=1)
