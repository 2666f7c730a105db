"""Keys of this gateway in the headers of a call, however a client sends them. Pure.

A header with any other text may be a proxy's own.
"""

import base64
import binascii

from app.callers.key_format import PREFIX
from app.http.request import Context


def in_headers(context: Context) -> str:
    """Return the text that begins as this gateway's keys do: of Bearer, of Basic's user name or of
    X-API-Key; "" where there is none."""
    authorization = context.headers.get(b"authorization", b"")
    scheme, _, text = authorization.partition(b" ")
    kind = scheme.lower()
    bearer = text.decode("latin-1").strip() if kind == b"bearer" else ""
    shown = (bearer, _user(text) if kind == b"basic" else "", context.header(b"x-api-key").strip())
    return next((one for one in shown if one.startswith(PREFIX)), "")


def use(context: Context, key: str) -> None:
    """Have a key count instead of what the headers have."""
    context.headers.pop(b"authorization", None)
    context.headers[b"x-api-key"] = key.encode("latin-1", "replace")


def _user(text: bytes) -> str:
    """Return the user name of Basic (RFC 7617); "" where it can't be read."""
    try:
        return base64.b64decode(text.strip(), validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""
