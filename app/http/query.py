"""The query of a call: each parameter must be one that the call declares."""

from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError

UNKNOWN = "is no query parameter here; check its spelling"
MOST_FAULTS = 10


async def declared(request: Request) -> None:
    """Refuse a call whose query has a parameter that it does not declare.

    A misspelt filter would find everything, and a misspelt `fullErasure` would leave data behind.
    """
    if not request.scope["query_string"]:
        return
    unknown = sorted(set(request.query_params) - _declared(request.scope["route"]))
    if unknown:
        found = [{"loc": ("query", name), "msg": UNKNOWN} for name in unknown[:MOST_FAULTS]]
        raise RequestValidationError(found)


def _declared(route: Any) -> set[str]:
    """Return the names in the signature of the route's endpoint and in its documentation."""
    documented = (route.openapi_extra or {}).get("parameters", ())
    in_query = {one["name"] for one in documented if one["in"] == "query"}
    return in_query | {one.alias for one in route.dependant.query_params}
