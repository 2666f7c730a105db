"""Apply the arguments of a whole batch to each of its entries (fact sheet §12). Pure.

`client`, `sdkVersion` and `apiVersion` count where an entry does not say otherwise. Development
mode counts where either says so: an entry that is sent on without the call that it came in must not
become production traffic.
"""

from collections.abc import Mapping
from typing import Any

from app.compat.leanplum_sdk.request import truthy

DEVELOPMENT = "devMode"
OF_EACH_ENTRY = (DEVELOPMENT, "client", "sdkVersion", "apiVersion")


def for_entries(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of a batch that count for each entry."""
    return {name: args[name] for name in OF_EACH_ENTRY if not _absent(args.get(name))}


def applied(shared: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an entry with the arguments that it shares; the same object where nothing is new."""
    added = {name: value for name, value in shared.items() if _counts(name, value, entry)}
    return {**entry, **added} if added else entry


def _counts(name: str, value: Any, entry: Mapping[str, Any]) -> bool:
    own = entry.get(name)
    if name == DEVELOPMENT and truthy(value):
        return not truthy(own)
    return _absent(own)


def _absent(value: Any) -> bool:
    return value is None or value == ""
