"""Details of problems about URLs that no route matches, with the route that was meant. Pure."""

import re
from collections.abc import Collection, Mapping, Sequence

from app import suggestions

LONGEST = 100  # characters of a path that is shown
MOST_SEGMENTS = 8  # of a path for which a route is suggested
# A segment that may be part of a route. Others may be ids or secrets and are not repeated.
ROUTE_WORD = re.compile(r"[a-z][a-z-]{0,30}|v\d", re.ASCII)
HIDDEN = "…"


def unknown_route(method: str, path: str, prefix: str, routes: Collection[str]) -> str:
    """Return the detail about a path that none of the routes' templates matches."""
    meant = _meant(path, routes)
    hint = "; /docs lists all routes" if meant is None else f"; did you mean {prefix}{meant}?"
    return f"No route matches {method} {shown_path(path, prefix)}{hint}"


def shown_path(path: str, prefix: str) -> str:
    """Return a path as it may be shown: without what may be an id or a secret."""
    segments = path[:LONGEST].split("/")
    shown = [part if not part or ROUTE_WORD.fullmatch(part) else HIDDEN for part in segments]
    return prefix + "/".join(shown) + (HIDDEN if len(path) > LONGEST else "")


def _meant(path: str, routes: Collection[str]) -> str | None:
    """Return the template that was probably meant; None if none is close.

    The path is also tried with another version, and with the start of a route put before it.
    """
    segments = [segment for segment in path.split("/", MOST_SEGMENTS + 1) if segment]
    if not segments or len(segments) > MOST_SEGMENTS or segments == ["v1"]:
        return None
    templates = {route: route.strip("/").split("/") for route in routes}
    alternatives = (["v1", *segments], ["v1", *segments[1:]], ["segment", *segments])
    meant = _closest(segments, templates, whole=len(segments) == 1)
    for other in alternatives:
        meant = meant or _closest(other, templates, whole=True)
    return meant


def _closest(
    segments: Sequence[str], templates: Mapping[str, Sequence[str]], *, whole: bool
) -> str | None:
    """Return the template whose parts are spelled most like the segments, one after the other.

    Without `whole` the template may go on after the last segment.
    """
    routes = [
        route
        for route, parts in templates.items()
        if len(parts) == len(segments) or (len(parts) > len(segments) and not whole)
    ]
    for depth, segment in enumerate(segments):
        parts_here = {route: templates[route][depth] for route in routes}
        words = frozenset(part for part in parts_here.values() if "{" not in part)
        word = suggestions.closest(segment, words)
        if word is None:
            routes = [route for route, part in parts_here.items() if "{" in part]
        else:
            routes = [route for route, part in parts_here.items() if part == word]
    return min(routes, key=lambda route: (len(templates[route]), route), default=None)
