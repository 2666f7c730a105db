"""What the end user's device is, by its user agent."""

from functools import lru_cache
from typing import Any

from app.enrichment.draft import Draft

MOST_AGENTS = 4_096  # remembered: each takes about 2 kB, and 0.2 ms to be read
LONGEST = 2_000  # characters; a user agent that is longer is none
PAIRS = (("systemName", "systemVersion"), ("browserName", "browserVersion"))


def device(draft: Draft) -> bool:
    """systemName, systemVersion, browserName, browserVersion and deviceModel, as far as the caller
    does not say them. A version goes with its name: to a name of the caller's own none is added.
    """
    agent = draft.extras.get("userAgent")
    if not agent or len(agent) > LONGEST:
        return False
    fields, found, changed = draft.fields, dict(read(agent)), False
    for name, version in PAIRS:
        if fields.get(name, found.get(name)) != found.get(name):
            found.pop(version, None)
    for name, value in found.items():
        if name not in fields:
            fields[name] = value
            changed = True
    return changed


@lru_cache(MOST_AGENTS)
def read(agent: str) -> tuple[tuple[str, str], ...]:
    """What a user agent says, as Leanplum's fields. The first call takes a third of a second."""
    from ua_parser import parse  # here: it costs 33 MB, and many never send a user agent

    told = parse(agent)
    found: dict[str, str | None] = {}
    if told.os is not None:
        found |= {"systemName": told.os.family, "systemVersion": _version(told.os)}
    if told.user_agent is not None:
        found |= {
            "browserName": told.user_agent.family,
            "browserVersion": _version(told.user_agent),
        }
    if told.device is not None:
        found["deviceModel"] = told.device.model or told.device.family
    return tuple((name, value) for name, value in found.items() if value)


def _version(told: Any) -> str:
    """Its numbers, as far as they are known, with dots between."""
    parts: list[str] = []
    for part in (told.major, told.minor, told.patch):
        if not part:
            break
        parts.append(part)
    return ".".join(parts)
