"""A key in an address: it stays in the logs of every proxy, in browsers' histories and in
bookmarks. Pure.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from app.callers.key_format import LENGTH, PREFIX

NAMES = frozenset(
    {
        "key",
        "apikey",
        "xapikey",
        "clientkey",
        "accesskey",
        "accesstoken",
        "authtoken",
        "token",
        "authorization",
    }
    | {"bearer", "secret", "clientsecret", "password"}
)
KEY = re.compile(rb"%s[0-9A-Za-z]{%d}" % (PREFIX.encode(), LENGTH - len(PREFIX)))
HINT = (
    "There is a key in the address. Send it in a header (Authorization: Bearer KEY, or X-API-Key: KEY), and rotate "
    "this one: it is now in logs and histories."
)


class Leak(NamedTuple):
    """That there is a key; and the key, where it is one of ours."""

    key: str | None


def found(scope: Mapping[str, Any]) -> Leak | None:
    """The key in the path or the query of the request with this ASGI scope: what has a caller key's
    form, or is called like a key.
    """
    query: bytes = scope["query_string"]
    ours = KEY.search(unquote_to_bytes(scope["raw_path"] + b"?" + query))
    if ours is not None:
        return Leak(ours.group().decode())
    return Leak(None) if any(map(_named, query.split(b"&"))) else None


def _named(parameter: bytes) -> bool:
    name, _, value = parameter.partition(b"=")
    plain = unquote_to_bytes(name).decode("latin-1").lower().replace("_", "").replace("-", "")
    return bool(value) and plain in NAMES
