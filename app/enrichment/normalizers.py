"""How things are written: addresses and numbers to reach somebody, currencies, locales, time
zones.
"""

from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import phonenumbers
from babel import Locale
from babel.core import get_locale_identifier, parse_locale
from babel.numbers import list_currencies

from app.enrichment.draft import Draft, Run
from app.enrichment.privacy import is_covered
from app.enrichment.timestamps import seconds
from app.leanplum.mapping import DETECT

CHANGES_AT = 900  # seconds
# Characters; what is longer is no phone number, locale or zone, and is not kept in memory as one
LONGEST = 250
NO_PHONE = "userAttributes.{}: is no phone number that can be written as E.164; it is left as it is"
UNKNOWN_CURRENCY = "currencyCode: is not in ISO 4217"
UNKNOWN_LOCALE = "locale: is not one that is known, as en_US is; it is left as it is"
UNKNOWN_ZONE = "timezone: is not in the IANA time zone database; it is left as it is"


def contact(emails: Sequence[str], phones: Sequence[str], region: str | None) -> Run:
    """E-mail addresses trimmed and in lower case, phone numbers as E.164, in the user attributes of
    these names. `region` (ISO 3166) is where a number without a country's code is from; without it
    such a number is left.
    """

    def run(draft: Draft) -> bool:
        attributes = draft.fields.get("userAttributes")
        if not isinstance(attributes, dict):
            return False
        changed = False
        for name in emails:
            if isinstance(value := attributes.get(name), str) and (made := _email(value)) != value:
                attributes[name], changed = made, True
        for name in phones:
            if isinstance(value := attributes.get(name), str) and not is_covered(value):
                if (made_of := phone(value, region)) is None:
                    draft.warn(NO_PHONE.format(name))
                elif made_of != value:
                    attributes[name], changed = made_of, True
        return changed

    return run


def contact_as_written(
    name: str, value: str, emails: Sequence[str], phones: Sequence[str], region: str | None
) -> str:
    """Return what `contact` makes of the user attribute of this name."""
    if name in emails:
        return _email(value)
    return (phone(value, region) if name in phones else None) or value


def field_as_written(name: str, value: str) -> str:
    """Return what the steps for currencies, locales and time zones make of the field of this
    name.
    """
    if name == "currencyCode":
        mended = value.strip().upper()
        return mended if mended in CURRENCIES else value
    known = _locale if name == "locale" else _zone
    return (known(value) if len(value) <= LONGEST else None) or value


def without(names: Set[str]) -> Callable[[Any], bool]:
    """Whether an object has none of these keys."""
    return lambda value: not isinstance(value, dict) or names.isdisjoint(value)


def _email(value: str) -> str:
    trimmed = value.strip()
    return trimmed.lower() if "@" in trimmed else value


def phone(value: str, region: str | None) -> str | None:
    """A phone number as E.164; None for what can't be one."""
    return _phone(value, region) if len(value) <= LONGEST else None


@lru_cache(4_096)
def _phone(value: str, region: str | None) -> str | None:
    try:
        number = phonenumbers.parse(value, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


CURRENCIES = frozenset(list_currencies())  # the codes of ISO 4217, those of the past too


def is_currency(value: Any) -> bool:
    """Whether it is a code of ISO 4217."""
    return isinstance(value, str) and value in CURRENCIES


def currency(default: str | None) -> Run:
    """A code in lower case is mended; where a value has none, `default` is its currency. Warns of
    unknown codes.
    """

    def run(draft: Draft) -> bool:
        fields = draft.fields
        code = fields.get("currencyCode")
        if (
            code is None
            and default is not None
            and fields.get("value") is not None
            and "currencyCode" not in fields
        ):
            fields["currencyCode"] = default
            return True
        if not isinstance(code, str) or code in CURRENCIES:
            return False
        mended = code.strip().upper()
        if mended not in CURRENCIES:
            draft.warn(UNKNOWN_CURRENCY)
            return False
        fields["currencyCode"] = mended
        return True

    return run


def is_locale(value: Any) -> bool:
    """Whether a locale is written as Leanplum does."""
    return isinstance(value, str) and len(value) <= LONGEST and _locale(value) == value


def locale(draft: Draft) -> bool:
    """`en-us` as Leanplum writes it: en_US."""
    told = draft.fields.get("locale")
    if not isinstance(told, str) or told == DETECT or is_covered(told):
        return False
    made = _locale(told) if len(told) <= LONGEST else None
    if made is None:
        draft.warn(UNKNOWN_LOCALE)
    elif made != told:
        draft.fields["locale"] = made
        return True
    return False


@lru_cache(4_096)
def _locale(told: str) -> str | None:
    try:
        parts = parse_locale(told.strip().replace("-", "_"))
    except ValueError:
        return None
    language, territory = parts[:2]
    known = Locale("en")
    if language not in known.languages or (
        territory is not None and territory not in known.territories
    ):
        return None
    return get_locale_identifier(parts)


@cache
def _zones() -> dict[str, str]:
    """Every name of the IANA database, by itself in lower case."""
    return {name.lower(): name for name in available_timezones() | {"UTC"}}


def timezone(draft: Draft) -> bool:
    """The zone's name as the IANA database writes it, and its offset from UTC at the item's
    time.
    """
    fields = draft.fields
    told = fields.get("timezone")
    if not isinstance(told, str) or told == DETECT or is_covered(told):
        return False
    name = _zone(told) if len(told) <= LONGEST else None
    if name is None:
        draft.warn(UNKNOWN_ZONE)
        return False
    changed = name != told
    fields["timezone"] = name
    if "timezoneOffsetSeconds" not in fields:
        at = seconds(fields["time"]) if "time" in fields else draft.facts.received_at / 1000
        if at is not None and (offset := _offset(name, int(at // CHANGES_AT))) is not None:
            draft.make("timezoneOffsetSeconds", offset)
            changed = True
    return changed


@lru_cache(4_096)
def _zone(told: str) -> str | None:
    return _zones().get(told.strip().replace(" ", "_").lower())


@lru_cache(4_096)
def _offset(name: str, quarter: int) -> int | None:
    """The offset in a quarter of an hour since the epoch: no zone changes its own but at the start
    of one.
    """
    try:
        offset = (
            datetime.fromtimestamp(quarter * CHANGES_AT, UTC).astimezone(ZoneInfo(name)).utcoffset()
        )
    except (OverflowError, ValueError, OSError):
        # a time at the end of the calendar, or a zone without data
        return None
    return None if offset is None else offset // timedelta(seconds=1)
