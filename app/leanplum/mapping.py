"""Items and other actions as requests to Leanplum. Pure: items in, a request out.

Many items become one `multi`; one item may be a call of its own. Source: Leanplum's docs, "multi
(JSON)": appId, clientKey, apiVersion, time (of the request), data (a list of actions).

A client asks Leanplum to detect where a call comes from by the value "(detect)". Leanplum looks at
the address of the call, which is the gateway's. So "(detect)" is sent on only with the end user's
own address in a header; otherwise the field is left out (fact sheet §12.8).
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

import orjson

from app.ids import MADE
from app.leanplum.actions import key_for, sent_alone
from app.model import App, Item, KeyKind

API_VERSION = "1.0.6"
# Items of many users share a call, so no header tells whose it is
NO_HEADERS: Mapping[str, str] = {}
NAMESPACE = uuid.UUID("7d0f9a1e-6d4c-5e0b-9a67-0c6f3b7f2a11")
# Texts in the few bodies that are parsed; all others are copied into the call as text
PARSED_TEXTS = ('"time":', '"reqId":', '"clientKey":', '"(detect)"')

DETECT = "(detect)"
PLACE_FIELDS = ("country", "region", "city", "location")
LOCALE_FIELD = "locale"
ADDRESS_HEADER, LANGUAGE_HEADER = "X-Forwarded-For", "Accept-Language"
MAX_LANGUAGE = 500  # bytes of Accept-Language that are looked at or sent on
LANGUAGE_RANGE = re.compile(
    r"([A-Za-z]{2,3})(?:-[A-Za-z]{4})?(?:-([A-Za-z]{2}|\d{3}))?(?:-[A-Za-z0-9-]+)?"
)
# Networks of proxies, and others whose addresses say nothing of a place
NOT_PUBLIC = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/127",
        "fc00::/7",
        "fe80::/10",
    )
]


class LeanplumRequest(NamedTuple):
    """One call to Leanplum: the action in its URL, its body, and the `reqId`s of its items."""

    action: str
    body: bytes
    request_ids: Sequence[str]


def key_kind(items: Sequence[Item]) -> KeyKind:
    """Return the kind of key that a call with these items takes."""
    return key_for(items[0].action, items[0].body)


def request_for(app: App, items: Sequence[Item], now: float) -> LeanplumRequest:
    """Return the call that sends `items` at `now` (epoch seconds).

    Raises KeyError where the app has no key of the kind that is needed.
    """
    key = app.keys[key_kind(items)].get_secret_value()
    head = credentials(app, key)
    entries = [entry_for(item, key) for item in items]
    request_ids = [request_id for request_id, _ in entries]
    data = ",".join([text for _, text in entries]).encode()
    if sent_alone(items[0].action, items[0].body):
        body = orjson.dumps(head)[:-1] + b"," + data[1:]
        return LeanplumRequest(items[0].action, body, request_ids)
    text = orjson.dumps(head | {"time": now, "data": []})
    return LeanplumRequest("multi", text[:-2] + data + b"]}", request_ids)


def credentials(app: App, key: str) -> dict[str, str]:
    """Return the fields that every call has: the app's id, its client key, the API's version."""
    return {"appId": app.app_id, "clientKey": key, "apiVersion": API_VERSION}


def body_for(app: App, action: str, args: Mapping[str, Any], key: str, now: float) -> bytes:
    """Return the body of one action that is no item.

    Its time is `now` (epoch seconds), unless its arguments have one.
    """
    return orjson.dumps(
        {
            **credentials(app, key),
            "action": action,
            "time": now,
            **without_detection(args, NO_HEADERS),
        }
    )


def entry_for(item: Item, key: str) -> tuple[str, str]:
    """Return the `reqId` of one item, and its entry in a call.

    By the `reqId` Leanplum recognizes a repeat, and its answer names the item. It is an SDK's own,
    or made of the item's id alone, so every attempt has the same one.

    The gateway wrote and checked the item's body itself, so its text is copied in unparsed, which
    saves most of the time that building a call takes.
    """
    body = item.body
    for text in PARSED_TEXTS:
        if text in body:
            return _entry_with_own_fields(item, orjson.loads(body), key)
    sent_id = _generated_id(item)
    rest = f",{body[1:]}" if len(body) > 2 else "}"
    head = f'{{"action":"{item.action}","reqId":"{sent_id}","uuid":"{sent_id}"'
    return sent_id, f'{head},"time":{_seconds(item.accepted_at)}{rest}'


@lru_cache(maxsize=256)  # items that were accepted together have one time
def _seconds(time_ms: int) -> str:
    return repr(time_ms / 1000)


def _entry_with_own_fields(item: Item, fields: dict[str, Any], key: str) -> tuple[str, str]:
    """Return the `reqId` and the entry of an item whose body has a time or fields of SDKs.

    Those fields are in the fact sheet (§7). Leanplum recognizes a repeat by reqId and uuid. Where
    an SDK gives only a reqId, which many items may share, the uuid must be the item's own.
    """
    accepted_at, generated_id = item.accepted_at / 1000, _generated_id(item)
    own_id = fields.get("reqId")
    request_id = str(own_id) if own_id else generated_id
    entry = {
        "action": item.action,
        "reqId": request_id,
        "uuid": generated_id,
        "time": accepted_at,
    } | fields
    if fields.get("time", "") in (None, ""):
        # "now" was when the item was accepted, whenever it is sent
        entry["time"] = accepted_at
    if "clientKey" in fields:
        entry["clientKey"] = key
    return request_id, orjson.dumps(without_detection(entry, NO_HEADERS)).decode()


def _generated_id(item: Item) -> str:
    return item.id if MADE.match(item.id) else str(uuid.uuid5(NAMESPACE, f"{item.app}/{item.id}"))


def without_detection(fields: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields without those that ask for what Leanplum cannot detect.

    `headers` are those about the end user that are sent with the call.
    """
    undetectable = list[str]()
    if not is_public_address(headers.get(ADDRESS_HEADER)):
        undetectable += PLACE_FIELDS
    if LANGUAGE_HEADER not in headers:
        undetectable.append(LOCALE_FIELD)
    removed = [name for name in undetectable if fields.get(name) == DETECT]
    if not removed:
        return dict(fields)
    return {name: value for name, value in fields.items() if name not in removed}


def end_user_headers(address: str | None, language: str) -> dict[str, str]:
    """Return the headers that tell Leanplum about the end user."""
    headers = dict[str, str]()
    if address and _parse_address(address) is not None:
        headers[ADDRESS_HEADER] = address
    if language.strip() and language.isprintable():
        headers[LANGUAGE_HEADER] = language[:MAX_LANGUAGE]
    return headers


def is_public_address(address: str | None) -> bool:
    """Return whether an address may be an end user's on the Internet."""
    parsed = _parse_address(address or "")
    if parsed is None:
        return False
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return not any(parsed in network for network in NOT_PUBLIC)


def _parse_address(address: str) -> Any:
    try:
        return ip_address(address)
    except ValueError:
        return None


def preferred_locale(language: str) -> str | None:
    """Return the locale that Accept-Language (RFC 9110 §12.5.4) prefers, as in en_US, or None."""
    best_weight, best_locale = 0.0, None
    for choice in language[:MAX_LANGUAGE].split(","):
        tag, _, parameters = choice.partition(";")
        match, weight = LANGUAGE_RANGE.fullmatch(tag.strip()), _weight(parameters)
        if match is None or weight <= best_weight:
            continue
        region = f"_{match[2].upper()}" if match[2] else ""
        best_weight, best_locale = weight, match[1].lower() + region
    return best_locale


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    return float(value) if re.fullmatch(r"[01](\.\d{0,3})?", value.strip()) else 0.0
