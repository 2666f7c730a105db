"""A writer of tiny MaxMind databases (MaxMind DB File Format Specification 2.0): enough for a few
networks.
"""

import struct
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple


class Whole(NamedTuple):
    """A whole number of one of the format's kinds: 5, 6, 9 for 16, 32, 64 bits."""

    kind: int
    number: int


BERLIN: dict[str, Any] = {
    "country": {"iso_code": "DE", "names": {"en": "Germany"}},
    "city": {"names": {"de": "Berlin", "en": "Berlin"}},
    "subdivisions": [{"iso_code": "BE", "names": {"en": "State of Berlin"}}],
    "location": {"latitude": 52.5, "longitude": 13.25},
}
FRANCE: dict[str, Any] = {"country": {"iso_code": "FR"}}
PLACES: dict[str, dict[str, Any]] = {
    "203.0.113.0/24": BERLIN,
    "2001:db8::/32": BERLIN,
    "198.51.100.0/24": FRANCE,
}


def write(path: Path, networks: Mapping[str, Any]) -> Path:
    """A database with what is known of each network, put into its place at once."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(database(networks))
    return fresh.replace(path)


def database(networks: Mapping[str, Any]) -> bytes:
    tree: list[list[Any]] = [[None, None]]
    content = b""
    for network, found in networks.items():
        _insert(tree, _bits(network), len(content))
        content += _encoded(found)
    count = len(tree)
    records = b"".join(_record(one, count) for node in tree for one in node)
    metadata = {
        "node_count": Whole(6, count), "record_size": Whole(5, 24), "ip_version": Whole(5, 6),
        "database_type": "Tests-City", "languages": ["en"], "binary_format_major_version": Whole(5, 2),
        "binary_format_minor_version": Whole(5, 0), "build_epoch": Whole(9, 1_700_000_000),
        "description": {"en": "tests"},
    }  # fmt: skip
    return records + b"\0" * 16 + content + b"\xab\xcd\xefMaxMind.com" + _encoded(metadata)


def _bits(network: str) -> str:
    """IPv4 networks stand at ::/96."""
    told = ip_network(network)
    length = told.prefixlen + (96 if told.version == 4 else 0)
    return f"{int(told.network_address):0128b}"[:length]


def _insert(tree: list[list[Any]], bits: str, offset: int) -> None:
    at = 0
    for bit in map(int, bits[:-1]):
        if tree[at][bit] is None:
            tree.append([None, None])
            tree[at][bit] = len(tree) - 1
        at = tree[at][bit]
    tree[at][int(bits[-1])] = ("data", offset)


def _record(one: Any, count: int) -> bytes:
    number = count if one is None else one if isinstance(one, int) else count + 16 + one[1]
    return struct.pack(">I", number)[1:]


def _encoded(value: Any) -> bytes:
    match value:
        case str():
            text = value.encode()
            return _head(2, len(text)) + text
        case float():
            return _head(3, 8) + struct.pack(">d", value)
        case Whole(kind, number):
            packed = struct.pack(">Q", number).lstrip(b"\0")
            return _head(kind, len(packed)) + packed
        case dict():
            return _head(7, len(value)) + b"".join(
                _encoded(key) + _encoded(inner) for key, inner in value.items()
            )
        case _:
            return _head(11, len(value)) + b"".join(map(_encoded, value))


def _head(kind: int, size: int) -> bytes:
    assert size < 29
    return bytes([kind << 5 | size]) if kind <= 7 else bytes([size, kind - 7])
