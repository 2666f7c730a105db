"""The word by which a client asks Leanplum to find out where a call comes from. Pure.

Leanplum looks at the address of the call, which is the gateway's. So the word is sent on only with
the end user's own address beside it; otherwise the field is left out (fact sheet §12.8).
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

DETECT = "(detect)"
PLACE = ("country", "region", "city", "location")
LOCALE = "locale"
ADDRESS, LANGUAGE = "X-Forwarded-For", "Accept-Language"
MAX_LANGUAGE = 500  # bytes of Accept-Language that are looked at or sent on
RANGE = re.compile(r"([A-Za-z]{2,3})(?:-[A-Za-z]{4})?(?:-([A-Za-z]{2}|\d{3}))?(?:-[A-Za-z0-9-]+)?")
OF_NO_USER = [  # networks in which proxies are, and whose addresses say nothing of a place
    ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
        "::/127", "fc00::/7", "fe80::/10",
    )
]  # fmt: skip


def undetected(fields: Mapping[str, Any], kept: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields without those that ask for what Leanplum can't see; `kept` has the headers
    that let it see.
    """
    blind = [
        *(() if is_place(kept.get(ADDRESS)) else PLACE),
        *(() if LANGUAGE in kept else (LOCALE,)),
    ]
    if all(fields.get(name) != DETECT for name in blind):
        return dict(fields)
    return {
        name: value for name, value in fields.items() if not (value == DETECT and name in blind)
    }


def headers(address: str | None, language: str) -> dict[str, str]:
    """Return the headers that tell Leanplum of the end user."""
    found = {ADDRESS: address} if address and _parsed(address) is not None else {}
    return found | (
        {LANGUAGE: language[:MAX_LANGUAGE]} if language.strip() and language.isprintable() else {}
    )


def is_place(address: str | None) -> bool:
    """Whether an address may be an end user's on the Internet."""
    parsed = _parsed(address or "")
    if parsed is None:
        return False
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return not any(parsed in network for network in OF_NO_USER)


def _parsed(address: str) -> Any:
    try:
        return ip_address(address)
    except ValueError:
        return None


def locale_of(language: str) -> str | None:
    """Return the locale that Accept-Language (RFC 9110 §12.5.4) prefers, as in en_US; None where it
    names none.
    """
    best: tuple[float, str] | None = None
    for one in language[:MAX_LANGUAGE].split(","):
        tag, _, parameters = one.partition(";")
        found, weight = RANGE.fullmatch(tag.strip()), _weight(parameters)
        if found is not None and weight > 0 and (best is None or weight > best[0]):
            region = f"_{found[2].upper()}" if found[2] else ""
            best = (weight, found[1].lower() + region)
    return None if best is None else best[1]


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    return float(value) if re.fullmatch(r"[01](\.\d{0,3})?", value.strip()) else 0.0
