"""Caller keys as requests carry them: in headers, and by mistake in URLs. Pure.

Headers with any other text may belong to a proxy.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from app.callers.key_format import LENGTH, PREFIX
from app.errors import Unauthorized
from app.http.request import RequestContext

NAMES_OF_KEYS = frozenset(
    {
        "accesskey",
        "accesstoken",
        "apikey",
        "authorization",
        "authtoken",
        "bearer",
        "clientkey",
        "clientsecret",
        "key",
        "password",
        "secret",
        "token",
        "xapikey",
    }
)
KEY = re.compile(rb"%s[0-9A-Za-z]{%d}" % (PREFIX.encode(), LENGTH - len(PREFIX)))


class LeakedCredential(NamedTuple):
    """A credential found in the URL; `key` is set only for keys of this gateway."""

    key: str | None


def leaked_credential(scope: Mapping[str, Any]) -> LeakedCredential | None:
    """Return the credential in the path or query of the request with this ASGI scope.

    A credential has the form of a caller key, or is a query parameter with the name of one.
    """
    query: bytes = scope["query_string"]
    match = KEY.search(unquote_to_bytes(scope["raw_path"] + b"?" + query))
    if match is not None:
        return LeakedCredential(match.group().decode())
    if any(_is_named_like_a_key(parameter) for parameter in query.split(b"&")):
        return LeakedCredential(None)
    return None


def _is_named_like_a_key(parameter: bytes) -> bool:
    name, _, value = parameter.partition(b"=")
    plain = unquote_to_bytes(name).decode("latin-1").lower().replace("_", "").replace("-", "")
    return bool(value) and plain in NAMES_OF_KEYS


def sent_key(context: RequestContext) -> str:
    """Return the key by which the request is authenticated. Raises Unauthorized."""
    credential = context.credential.decode("latin-1")
    if credential == "\0":
        raise Unauthorized("Missing API key: send Authorization: Bearer KEY or X-API-Key: KEY.")
    if credential.startswith("\0"):
        return credential[1:].strip()
    scheme, _, key = credential.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized("The Authorization header must have the form: Bearer KEY.")
    return key.strip()


def key_in_headers(context: RequestContext) -> str:
    """Return the credential that has the form of a caller key; "" if there is none.

    Clients send a key as Bearer, as the user name of Basic, or as X-API-Key.
    """
    authorization = context.headers.get(b"authorization", b"")
    scheme, _, text = authorization.partition(b" ")
    candidates = [context.header(b"x-api-key").strip()]
    if scheme.lower() == b"bearer":
        candidates.insert(0, text.decode("latin-1").strip())
    elif scheme.lower() == b"basic":
        candidates.insert(0, _basic_user(text))
    return next((text for text in candidates if text.startswith(PREFIX)), "")


def shows_key(context: RequestContext) -> bool:
    """Tell whether a call under /v1, where a key is required, has a header for one."""
    if not context.path.startswith("/v1/"):
        return False
    authorization = context.headers.get(b"authorization")
    if authorization is None:
        return b"x-api-key" in context.headers
    return authorization.partition(b" ")[0].lower() == b"bearer"


def _basic_user(text: bytes) -> str:
    """Return the user name of Basic (RFC 7617); "" if it cannot be decoded."""
    try:
        return base64.b64decode(text.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""
