"""The names of events and states of items, by which receipts are searched. Pure."""

from collections.abc import Mapping
from typing import Any

# By action: the field with the name. These names are counted for the app as well
# (`tracking/names.py`); no other field of an item is one.
NAME_FIELDS = {"track": "event", "trackGeofence": "event", "advance": "state"}
MAX_CHARACTERS = 139  # of a name that Leanplum accepts; what an SDK sends may be longer


def event_name(action: str, fields: Mapping[str, Any]) -> str | None:
    """Return the name of the event or state of an item; None if it has none.

    Names that cannot be stored or that are longer than Leanplum accepts count as none.
    """
    name = fields.get(NAME_FIELDS.get(action, ""))
    if not isinstance(name, str) or not 0 < len(name) <= MAX_CHARACTERS or "\0" in name:
        return None
    return name
