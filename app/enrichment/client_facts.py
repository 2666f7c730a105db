"""Steps that derive fields from the end user's address and user agent.

The address itself is neither stored nor sent on.
"""

from functools import lru_cache
from typing import Any

from app.enrichment.draft import GeoPlace, ItemDraft
from app.leanplum.mapping import DETECT

MAX_CACHED_AGENTS = 4_096  # each takes about 2 kB of memory, and 0.2 ms to be parsed
MAX_AGENT_LENGTH = 2_000  # characters; longer texts are ignored
NAME_AND_VERSION = (("systemName", "systemVersion"), ("browserName", "browserVersion"))


def set_location(draft: ItemDraft) -> bool:
    """Set country, region, city and location if the caller sends none of them.

    The item's own `ip` comes before the address of the call. An address that the database does not
    know counts as none.
    """
    if draft.facts.address is None and "ip" not in draft.extras:
        return False
    fields = draft.fields
    if any(fields.get(name, DETECT) != DETECT for name in GeoPlace._fields):
        return False
    place = _place_of(draft)
    if place is None:
        return False
    for name, value in zip(GeoPlace._fields, place, strict=True):
        if value is not None:
            draft.derive(name, value, fields.get(name))
    return True


def set_requested_location(draft: ItemDraft) -> bool:
    """Set the location only if an SDK asks Leanplum to detect it; nothing else is changed there."""
    is_requested = any(draft.fields.get(name) == DETECT for name in GeoPlace._fields)
    return is_requested and set_location(draft)


def _place_of(draft: ItemDraft) -> GeoPlace | None:
    for address in (draft.extras.get("ip"), draft.facts.address):
        place = draft.facts.find_place(address) if address else None
        if place is not None and any(place):
            return place
    return None


def set_device(draft: ItemDraft) -> bool:
    """Set systemName, browserName, their versions and deviceModel where the caller sends none.

    A version belongs to its name: none is added to another name that the caller sends.
    """
    agent = draft.extras.get("userAgent")
    if not agent or len(agent) > MAX_AGENT_LENGTH:
        return False
    fields, device, changed = draft.fields, dict(parse_agent(agent)), False
    for name, version in NAME_AND_VERSION:
        if name in fields and fields[name] != device.get(name):
            device.pop(version, None)
    for name, value in device.items():
        if name not in fields:
            fields[name] = value
            changed = True
    return changed


@lru_cache(MAX_CACHED_AGENTS)
def parse_agent(agent: str) -> tuple[tuple[str, str], ...]:
    """Return Leanplum's fields for a user agent. The first call takes a third of a second."""
    # Imported here: it takes 33 MB, and many callers never send a user agent.
    from ua_parser import parse

    parsed = parse(agent)
    device: dict[str, str | None] = {}
    if parsed.os is not None:
        device["systemName"] = parsed.os.family
        device["systemVersion"] = _version(parsed.os)
    if parsed.user_agent is not None:
        device["browserName"] = parsed.user_agent.family
        device["browserVersion"] = _version(parsed.user_agent)
    if parsed.device is not None:
        device["deviceModel"] = parsed.device.model or parsed.device.family
    return tuple((name, value) for name, value in device.items() if value)


def _version(parsed: Any) -> str:
    """Return the known numbers of a version, joined by dots."""
    parts: list[str] = []
    for part in (parsed.major, parsed.minor, parsed.patch):
        if not part:
            break
        parts.append(part)
    return ".".join(parts)
