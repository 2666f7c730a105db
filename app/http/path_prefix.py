"""The path prefix under which callers find the gateway, where a proxy offers it as one path of a
site. Pure.

The proxy may take the prefix off before it forwards a request, or leave it in the path. Links of
the answer begin with the prefix in either case.
"""

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from app.http.client_address import TrustedProxies
from app.urls import MOST_PREFIX, path_prefix

HEADER = b"x-forwarded-prefix"
VARY = {"Vary": "X-Forwarded-Prefix"}  # of pages with links in them, for shared caches
# What the gateway's own paths begin with. A prefix that begins with one of them is taken off only
# where one of them follows: a proxy may have taken it off already.
OWN = frozenset({"api", "api-batch", "assets", "docs", "livez", "metrics", "openapi.json"})
OWN |= {"problems", "readyz", "redoc", "segment", "v1"}


class Prefixes:
    """Finds the prefix of each request: GATEWAY_ROOT_PATH, or X-Forwarded-Prefix of a trusted
    proxy.
    """

    def __init__(self, root: str, proxies: TrustedProxies) -> None:
        self._root, self._proxies = root, proxies

    def __bool__(self) -> bool:
        return bool(self._root or self._proxies)

    def enter(
        self, peer: str, scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes]
    ) -> str:
        """Return the prefix of a request, and take it off the path in the ASGI scope, where it is
        there.
        """
        prefix = self._root
        if HEADER in headers and self._proxies.trusts(peer):
            prefix = forwarded_prefix(scope["headers"]) or prefix
        for one in dict.fromkeys((prefix, self._root)):
            if one and _take_off(scope, one):
                break
        return prefix


def forwarded_prefix(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the prefix that X-Forwarded-Prefix names, the outer proxy's part first.

    The prefix is "" where there is none, and where any part is not a plain path: what is returned
    stands in pages and in Location.
    """
    value = b",".join(value for name, value in headers if name == HEADER).decode("latin-1")
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not all(part.startswith("/") for part in parts):
        return ""
    try:
        found = "".join(map(path_prefix, parts))
    except ValueError:
        return ""
    return found if len(found) <= MOST_PREFIX else ""


def _take_off(scope: MutableMapping[str, Any], prefix: str) -> bool:
    """Take the prefix off the path and the raw path; return whether it was there."""
    path: str = scope["path"]
    if not path.startswith(prefix) or path[len(prefix) : len(prefix) + 1] not in {"", "/"}:
        return False
    rest = path[len(prefix) :] or "/"
    if _first(prefix) in OWN and _first(rest) not in OWN:
        return False
    segments = scope["raw_path"].split(b"/", prefix.count("/") + 1)
    begin = b"/".join(segments[: prefix.count("/") + 1])
    if unquote_to_bytes(begin) != prefix.encode():  # a slash of it is escaped: it is another path
        return False
    scope["path"], scope["raw_path"] = rest, scope["raw_path"][len(begin) :] or b"/"
    return True


def _first(path: str) -> str:
    """Return the first segment of a path."""
    return path[1:].partition("/")[0]
