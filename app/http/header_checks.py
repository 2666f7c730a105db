"""Heads of requests that two readers would read differently: who calls, and where to, must not
depend on which of two headers is looked at. Pure.
"""

import re
from collections.abc import Mapping, Sequence

from app.callers.key_format import PREFIX
from app.errors import Fault

SINGLE = (  # RFC 9112 §3.2 for Host; the others decide who calls, about what, and what the body is
    b"host",
    b"authorization",
    b"x-api-key",
    b"x-leanplum-app",
    b"idempotency-key",
    b"content-type",
)
# RFC 3986 §3.2.2
HOST = re.compile(rb"[0-9A-Za-z._~%!$&'()*+;=-]*(?::[0-9]*)?|\[[0-9A-Fa-fvV:.%_~-]+\](?::[0-9]*)?")
_OURS = PREFIX.encode()


def fault(
    version: str, headers: Sequence[tuple[bytes, bytes]], last: Mapping[bytes, bytes]
) -> Fault | None:
    """Why a request with these headers is refused, naming the header; None where nothing is wrong.

    `last`: the headers by name. It is as long as `headers` where none comes twice, as nearly
    always.
    """
    host = last.get(b"host")
    if host is None:
        if version == "1.1":  # HTTP/1.0 has none
            return _at("Host", "The request has no Host header.")
    elif HOST.fullmatch(host) is None:
        return _at("Host", "The Host header is not a host, or a host and a port.")
    if len(last) != len(headers) and (twice := _twice(headers)) is not None:
        return _at(twice, f"The request has more than one {twice} header.")
    if (
        b"x-api-key" in last
        and b"authorization" in last
        and _two_keys(last[b"authorization"], last[b"x-api-key"])
    ):
        return _at(
            "X-API-Key",
            "The Authorization and X-API-Key headers have different keys: send one of them.",
        )
    return None


def _at(header: str, detail: str) -> Fault:
    return Fault(header, detail, "header", "header")


def _twice(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    names = [name for name, _ in headers]
    found = next((name for name in SINGLE if names.count(name) > 1), None)
    if found is None:
        return None
    return "-".join(part.capitalize() for part in found.decode().split("-")).replace("Api", "API")


def _two_keys(authorization: bytes, key: bytes) -> bool:
    """Return whether both have a caller key and the keys differ. A proxy's own X-API-Key is none of
    ours.
    """
    scheme, _, other = authorization.partition(b" ")
    ours = key.strip().startswith(_OURS) and scheme.lower() == b"bearer"
    return ours and other.strip() != key.strip()
