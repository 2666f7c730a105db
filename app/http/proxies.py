"""The origin and the path prefix of requests that come through proxies. Pure.

X-Forwarded-For and Forwarded (RFC 7239) name the client; X-Forwarded-Prefix names the prefix.
Anybody may write these headers, so only what a trusted proxy added counts. The search starts at the
peer and goes from hop to hop towards the client, as long as each hop is a trusted proxy. It ends at
the first address that is not one, and at a hop that cannot be parsed: the hops before it may be
forged.
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from app.urls import MAX_PREFIX, parse_path_prefix

Network = IPv4Network | IPv6Network
Headers = Iterable[tuple[bytes, bytes]]

# Hops that are examined, nearest first.
MOST_HOPS = 32
UNREADABLE = [""]  # the hops of a header that cannot be parsed
MAPPED = IPv6Network("::ffff:0:0/96")
EVERY_IPV4 = IPv4Network("0.0.0.0/0")

# A port is a number, or a name that hides one (RFC 7239, obfport).
_PORT = r":(?:(\d{1,5})|_[A-Za-z0-9._-]+)"
_BRACKETED = re.compile(rf"\[([^\[\]]*)\](?:{_PORT})?")
_WITH_PORT = re.compile(rf"([0-9.]+){_PORT}")
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105  # RFC 9110's token, no secret
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# More lenient than RFC 7239: many senders do not quote an address with a colon.
_PAIR = re.compile(rf'\s*({_TOKEN})=({_QUOTED}|[^\s",;]*)\s*')


class Origin(NamedTuple):
    """The origin of a request.

    `address` is the address nearest to the client that can be relied on: lock-outs and the audit
    use it. `named` is the client that a trusted proxy names, or None. `sender` is the client that
    is named, or the peer if that is not a proxy; None if only proxies are known.
    """

    address: str
    named: str | None
    sender: str | None


@lru_cache(maxsize=4096)
def is_address(text: str) -> bool:
    """Tell whether a text is an IP address, and not a name that a proxy chose."""
    return _address(text) is not None


def plain(address: str) -> str:
    """Return an address without an IPv4 mapping (::ffff:10.0.0.1) or a zone; other text as is."""
    parsed = _address(address)
    return address if parsed is None else str(parsed)


class TrustedProxies:
    """The networks whose hosts are trusted to name the client for which they forward."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(form for network in networks for form in _forms(network))

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Tell whether the address is that of a trusted proxy."""
        parsed = _address(address)
        return parsed is not None and self._covers(parsed)

    def origin(self, peer: str, headers: Headers) -> Origin:
        """Return the origin of a request, by its peer and its headers."""
        nearest = plain(peer)
        if not self.trusts(nearest):
            return Origin(nearest, None, nearest)
        for hop in _hops(headers):
            address = _hop_address(hop)
            if address is None:
                break
            nearest = str(address)
            if not self._covers(address):
                return Origin(nearest, nearest, nearest)
        return Origin(nearest, None, None)

    def _covers(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _forms(network: Network) -> list[Network]:
    """Return the networks with which an address is compared: mapped IPv4 addresses become IPv4."""
    if isinstance(network, IPv6Network):
        if network.subnet_of(MAPPED):
            mapped = network.network_address.ipv4_mapped
            return [ip_network(f"{mapped}/{network.prefixlen - 96}")]
        if network.supernet_of(MAPPED):
            return [network, EVERY_IPV4]
    return [network]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address in a text; None if it is not one."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            # A zone has a meaning only on the host that wrote it.
            return IPv6Address(int(address))
    return address


def _hop_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a hop, which may have a port; None if it names no address."""
    match = _BRACKETED.fullmatch(text)
    if match is not None and ":" not in match[1]:
        return None
    match = match or _WITH_PORT.fullmatch(text)
    if match is None:
        return _address(text)
    if match[2] is not None and int(match[2]) > 65_535:
        return None
    return _address(match[1])


def _hops(headers: Headers) -> list[str]:
    """Return the hops that the headers name, nearest first.

    X-Forwarded-For takes precedence over Forwarded, unless it names nobody. Nearly every proxy
    adds to the former, and a proxy that does not know the latter passes on what the client wrote.
    """
    chains: dict[bytes, list[bytes]] = {b"x-forwarded-for": [], b"forwarded": []}
    for name, value in headers:
        if name in chains:
            chains[name].append(value)
    hops: list[str] = []
    for line in reversed(chains[b"x-forwarded-for"]):
        hops += _list_members(line.decode("latin-1"))
    if not hops:
        for line in reversed(chains[b"forwarded"]):
            hops += reversed(_forwarded_hops(line.decode("latin-1")))
    return hops[:MOST_HOPS]


def _list_members(line: str) -> list[str]:
    """Return the members of one X-Forwarded-For line, last one first, without empty ones."""
    members = (member.strip() for member in reversed(line.split(",")))
    return [_unquoted(member) for member in members if member]


def _forwarded_hops(line: str) -> list[str]:
    """Return the `for` parameter of each element of one Forwarded line; "" if it has none.

    A line that RFC 7239 does not allow is a single hop that cannot be parsed.
    """
    hops: list[str] = []
    named: str | None = None
    empty, position = True, 0
    while position <= len(line):
        pair = _PAIR.match(line, position)
        if pair is not None:
            empty, position = False, pair.end()
            if pair[1].lower() == "for":
                if named is not None:
                    return UNREADABLE
                named = _unquoted(pair[2])
        else:
            position += len(line[position:]) - len(line[position:].lstrip())
        separator = line[position : position + 1]
        if separator not in {"", ",", ";"}:
            return UNREADABLE
        if separator != ";":
            if not empty:
                hops.append(named or "")
            named, empty = None, True
        position += 1
    return hops


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


PREFIX_HEADER = b"x-forwarded-prefix"
VARY_BY_PREFIX = {"Vary": "X-Forwarded-Prefix"}  # of pages with links, for shared caches
# First segments of the gateway's own paths. A prefix that begins with one of them is removed only
# if one of them follows: a proxy may have removed it already.
OWN = frozenset({"api", "api-batch", "assets", "console", "docs", "livez", "metrics"})
OWN |= {"openapi.json", "problems", "readyz", "redoc", "segment", "v1"}


class Prefixes:
    """The path prefix of requests: GATEWAY_ROOT_PATH, or a trusted proxy's X-Forwarded-Prefix."""

    def __init__(self, root: str, proxies: TrustedProxies) -> None:
        self._root, self._proxies = root, proxies

    def __bool__(self) -> bool:
        return bool(self._root or self._proxies)

    def enter(
        self, peer: str, scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes]
    ) -> str:
        """Return the prefix of a request, and remove it from the path in the ASGI scope."""
        prefix = self._root
        if PREFIX_HEADER in headers and self._proxies.trusts(peer):
            prefix = forwarded_prefix(scope["headers"]) or prefix
        for candidate in dict.fromkeys((prefix, self._root)):
            if candidate and _remove_prefix(scope, candidate):
                break
        return prefix


def forwarded_prefix(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the prefix in X-Forwarded-Prefix, the outer proxy's part first.

    Return "" if there is none, or if a part is not a plain path: the prefix is written into pages
    and the Location header.
    """
    values = [value for name, value in headers if name == PREFIX_HEADER]
    members = [member.strip() for member in b",".join(values).decode("latin-1").split(",")]
    parts = [member for member in members if member]
    if not all(part.startswith("/") for part in parts):
        return ""
    try:
        prefix = "".join(map(parse_path_prefix, parts))
    except ValueError:
        return ""
    return prefix if len(prefix) <= MAX_PREFIX else ""


def _remove_prefix(scope: MutableMapping[str, Any], prefix: str) -> bool:
    """Remove the prefix from the path and the raw path; tell whether they had it."""
    path: str = scope["path"]
    if not path.startswith(prefix) or path[len(prefix) : len(prefix) + 1] not in {"", "/"}:
        return False
    rest = path[len(prefix) :] or "/"
    if _first_segment(prefix) in OWN and _first_segment(rest) not in OWN:
        return False
    segments = scope["raw_path"].split(b"/", prefix.count("/") + 1)
    begin = b"/".join(segments[: prefix.count("/") + 1])
    if unquote_to_bytes(begin) != prefix.encode():
        return False  # one of its slashes is escaped, so it is another path
    scope["path"], scope["raw_path"] = rest, scope["raw_path"][len(begin) :] or b"/"
    return True


def _first_segment(path: str) -> str:
    """Return the first segment of a path."""
    return path[1:].partition("/")[0]
