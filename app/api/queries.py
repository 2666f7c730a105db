"""What the endpoints that find things have in common."""

from fastapi import Request

from app.errors import Fault, Invalid

MOST_FAULTS = 10


def refuse_unknown(request: Request) -> None:
    """Raise Invalid where the query has a parameter that is none here: a misspelt filter would find everything."""
    known = {one.alias for one in request.scope["route"].dependant.query_params}
    if unknown := sorted(set(request.query_params) - known):
        detail = "is no query parameter here; check its spelling"
        raise Invalid(tuple(Fault(name, detail, "parameter", "parameter") for name in unknown[:MOST_FAULTS]))
