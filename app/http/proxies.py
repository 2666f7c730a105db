"""Find who sent a request that came through proxies: X-Forwarded-For and Forwarded (RFC 7239).
Pure.

Anybody may write these headers, so only what a trusted proxy added counts. The walk starts at the
peer and goes from hop to hop towards the client, as long as each hop is a trusted proxy. It ends at
the first address that is none, and at a hop that can't be read: whatever stands before that one may
be made up.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
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

from app.urls import MOST_PREFIX, path_prefix

Network = IPv4Network | IPv6Network
Headers = Iterable[tuple[bytes, bytes]]

# The hops that are looked at, nearest first.
MOST_HOPS = 32
MAPPED = IPv6Network("::ffff:0:0/96")
EVERY_IPV4 = IPv4Network("0.0.0.0/0")

# A port is a number, or a name that a proxy has made up for one (RFC 7239, obfport).
_PORT = r":(?:(\d{1,5})|_[A-Za-z0-9._-]+)"
_BRACKETED = re.compile(rf"\[([^\[\]]*)\](?:{_PORT})?")
_WITH_PORT = re.compile(rf"([0-9.]+){_PORT}")
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105  # RFC 9110's token, no secret
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# Bare values are read more kindly than RFC 7239 asks: many senders quote no address with a colon.
_PAIR = re.compile(rf'\s*({_TOKEN})=({_QUOTED}|[^\s",;]*)\s*')


class Origin(NamedTuple):
    """Where a request came from.

    `address` is the nearest address to the client that can be relied on: it is locked out, and the
    audit has it. `named` is the client as a trusted proxy names it, None where none does. `sender`
    is whose request it is: the client that is named, or the peer where that is no proxy; None where
    only proxies are known.
    """

    address: str
    named: str | None
    sender: str | None


def plain(address: str) -> str:
    """Return an address without an IPv4 mapping (::ffff:10.0.0.1) or a zone; else as it is."""
    found = _address(address)
    return address if found is None else str(found)


class TrustedProxies:
    """The networks whose hosts are believed when they name whom they forward for."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(form for network in networks for form in _forms(network))

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Return whether the address is a trusted proxy's."""
        found = _address(address)
        return found is not None and self._covers(found)

    def origin(self, peer: str, headers: Headers) -> Origin:
        """Return where a request came from, by its peer and its headers."""
        nearest = plain(peer)
        if not self.trusts(nearest):
            return Origin(nearest, None, nearest)
        for hop in _hops(headers):
            found = _node(hop)
            if found is None:
                break
            nearest = str(found)
            if not self._covers(found):
                return Origin(nearest, nearest, nearest)
        return Origin(nearest, None, None)

    def _covers(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _forms(network: Network) -> list[Network]:
    """Return the network in the forms in which addresses are looked for: a mapped IPv4 address is
    looked for as the IPv4 address that it is."""
    if isinstance(network, IPv6Network):
        if network.subnet_of(MAPPED):
            mapped = network.network_address.ipv4_mapped
            return [ip_network(f"{mapped}/{network.prefixlen - 96}")]
        if network.supernet_of(MAPPED):
            return [network, EVERY_IPV4]
    return [network]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a text is; None where it is none."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return found.ipv4_mapped
        if found.scope_id is not None:
            # A zone means something on the host that wrote it, and nowhere else.
            return IPv6Address(int(found))
    return found


def _node(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a hop, which may have a port; None where it names no address."""
    found = _BRACKETED.fullmatch(text)
    if found is not None and ":" not in found[1]:
        return None
    found = found or _WITH_PORT.fullmatch(text)
    if found is None:
        return _address(text)
    if found[2] is not None and int(found[2]) > 65_535:
        return None
    return _address(found[1])


def _hops(headers: Headers) -> list[str]:
    """Return the hops that the headers name, nearest first.

    X-Forwarded-For goes before Forwarded, unless it names nobody. Nearly every proxy adds to the
    former, and one that does not know the latter passes it on as the client wrote it.
    """
    chains: dict[bytes, list[bytes]] = {b"x-forwarded-for": [], b"forwarded": []}
    for name, value in headers:
        if name in chains:
            chains[name].append(value)
    hops: list[str] = []
    for line in reversed(chains[b"x-forwarded-for"]):
        hops += _listed(line.decode("latin-1"))
    if not hops:
        for line in reversed(chains[b"forwarded"]):
            hops += reversed(list(_elements(line.decode("latin-1"))))
    return hops[:MOST_HOPS]


def _listed(line: str) -> list[str]:
    """Return the members of one X-Forwarded-For line, the last one first; empty ones are left
    out.
    """
    members = (member.strip() for member in reversed(line.split(",")))
    return [_unquoted(member) for member in members if member]


def _elements(line: str) -> Iterator[str]:
    """Yield whom each element of one Forwarded line is for; "" for an element that does not say.

    A line that is not as RFC 7239 has it is one hop that can't be read.
    """
    found: list[str] = []
    named: str | None = None
    empty, at = True, 0
    while at <= len(line):
        pair = _PAIR.match(line, at)
        if pair is not None:
            empty, at = False, pair.end()
            if pair[1].lower() == "for":
                if named is not None:
                    yield ""
                    return
                named = _unquoted(pair[2])
        else:
            at += len(line[at:]) - len(line[at:].lstrip())
        end = line[at : at + 1]
        if end not in {"", ",", ";"}:
            yield ""
            return
        if end != ";":
            if not empty:
                found.append(named or "")
            named, empty = None, True
        at += 1
    yield from found


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


HEADER = b"x-forwarded-prefix"
VARY_BY_PREFIX = {"Vary": "X-Forwarded-Prefix"}  # of pages with links in them, for shared caches
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
