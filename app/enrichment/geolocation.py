"""Where the end user is, by their address. The address itself goes nowhere."""

from app.enrichment.draft import Draft, Place
from app.leanplum.mapping import DETECT


def location(draft: Draft) -> bool:
    """country, region, city and location, where the caller says none of them. The item's own `ip`
    goes before the address that a trusted proxy names; one that the database does not know is as
    none.
    """
    if draft.facts.address is None and "ip" not in draft.extras:
        return False
    fields = draft.fields
    if any(fields.get(name, DETECT) != DETECT for name in Place._fields):
        return False
    place = _find(draft)
    changed = False
    for name, value in zip(Place._fields, place or (), strict=False):
        if value is not None:
            draft.make(name, value, fields.get(name))
            changed = True
    return changed


def asked(draft: Draft) -> bool:
    """The same, only where the caller asks Leanplum to detect it: of an SDK, nothing else is
    touched.
    """
    return any(draft.fields.get(name) == DETECT for name in Place._fields) and location(draft)


def _find(draft: Draft) -> Place | None:
    for address in (draft.extras.get("ip"), draft.facts.address):
        if address and (place := draft.facts.place(address)) is not None and any(place):
            return place
    return None
