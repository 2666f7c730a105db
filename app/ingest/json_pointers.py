"""JSON Pointers (RFC 6901) into a body as it was sent, before enrichment moved values. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from app.errors import Fault

Path = tuple[str, ...]


class Renamed(NamedTuple):
    """A value that was moved from `old` to `new`."""

    old: Path
    new: Path


class Flattened(NamedTuple):
    """An object under `key` in a field whose values became keys with dots of the field."""

    field: str
    key: str
    nested: Mapping[str, Any]


Move = Renamed | Flattened


def pointer(parts: Sequence[str]) -> str:
    """Return a JSON Pointer; what is not valid Unicode in a key is replaced by "?"."""
    text = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
    return text.encode("utf-8", "replace").decode()


def parts(text: str) -> Path:
    """Return the steps of a JSON Pointer."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])


def as_sent(fault: Fault, moves: Sequence[Move]) -> Fault:
    """Return a fault with its pointer into the body as it was sent, before the moves."""
    if not moves:
        return fault
    path = parts(fault.pointer)
    for move in reversed(moves):
        path = _renamed(path, move) if isinstance(move, Renamed) else _flattened(path, move)
    return replace(fault, pointer=pointer(path))


def _renamed(path: Path, move: Renamed) -> Path:
    length = len(move.new)
    return move.old + path[length:] if path[:length] == move.new else path


def _flattened(path: Path, move: Flattened) -> Path:
    if len(path) < 2 or path[0] != move.field or not path[1].startswith(f"{move.key}."):
        return path
    inside = leaf(move.nested, path[1][len(move.key) + 1 :])
    return path if inside is None else (move.field, move.key, *inside, *path[2:])


def leaf(nested: Mapping[str, Any], name: str) -> Path | None:
    """Return the path of the value whose keys, joined by dots, are `name`; None without one."""
    if name in nested and not isinstance(nested[name], dict):
        return (name,)
    for key, inner in nested.items():
        if not isinstance(inner, dict) or not name.startswith(f"{key}."):
            continue
        inside = leaf(inner, name[len(key) + 1 :])
        if inside is not None:
            return (key, *inside)
    return None
