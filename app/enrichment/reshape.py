"""Steps that change names and values as configured: flatten, rename, values, defaults."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.enrichment.draft import FieldPath, ItemDraft, RunStep, locate, set_if_absent, written
from app.ingest.faults import Flattened, Renamed

# Levels of nesting that are flattened; deeper objects are left for validation to report.
MAX_DEPTH = 32
TAKEN = "{}: {} already exists; both are left as they are"


def flatten(names: Sequence[str]) -> RunStep:
    """Return a step that flattens objects in these fields: {"a": {"b": 1}} becomes {"a.b": 1}.

    An object that would overwrite another key is left as it is.
    """

    def run(draft: ItemDraft) -> bool:
        changed = False
        for name in names:
            value = draft.fields.get(name)
            if isinstance(value, dict):
                moved = tuple(_flatten_field(name, value))
                draft.moved += moved
                changed = changed or bool(moved)
        return changed

    return run


def _flatten_field(field: str, outer: dict[str, Any]) -> Iterator[Flattened]:
    """Flatten a field in place and yield the moves.

    Longest names first: only a longer key can be in the way of an object, and it may be gone then.
    """
    nested = [key for key, value in outer.items() if type(value) is dict]
    for key in sorted(nested, key=len, reverse=True):
        leaves = _leaves(key, outer[key])
        if leaves is None:
            continue
        names = {name for name, _ in leaves}
        if len(names) == len(leaves) and outer.keys().isdisjoint(names):
            yield Flattened(field, key, outer.pop(key))
            outer.update(leaves)


def _leaves(path: str, value: dict[str, Any]) -> list[tuple[str, Any]] | None:
    """Return the paths and values of all leaves of an object; None if it is too deep."""
    try:
        return list(_walk(path, value, 1))
    except RecursionError:
        return None


def _walk(path: str, value: dict[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise RecursionError
    for key, inner in value.items():
        if type(inner) is dict:
            yield from _walk(f"{path}.{key}", inner, depth + 1)
        else:
            yield f"{path}.{key}", inner


def rename(renames: Sequence[tuple[FieldPath, FieldPath]]) -> RunStep:
    """Return a step that moves the value at each first path to the second, if nothing is there."""

    def run(draft: ItemDraft) -> bool:
        changed = False
        for old, new in renames:
            place = locate(draft.fields, old)
            if place is None:
                continue
            inner, key = place
            is_taken = locate(draft.fields, new) is not None
            if is_taken or not set_if_absent(draft.fields, new, inner[key]):
                draft.warn(TAKEN.format(written(old), written(new)))
                continue
            del inner[key]
            draft.moved += (Renamed(_steps(old), _steps(new)),)
            changed = True
        return changed

    return run


def _steps(path: FieldPath) -> tuple[str, ...]:
    name, key = path
    return (name,) if key is None else (name, key)


def map_values(maps: Sequence[tuple[FieldPath, Mapping[str, Any]]]) -> RunStep:
    """Return a step that replaces values by maps; numbers and booleans are keyed by their JSON."""

    def run(draft: ItemDraft) -> bool:
        changed = False
        for path, replacements in maps:
            place = locate(draft.fields, path)
            if place is None:
                continue
            inner, key = place
            text = map_key(inner[key])
            if text is None or text not in replacements:
                continue
            if not is_same(replacements[text], inner[key]):
                inner[key] = replacements[text]
                changed = True
        return changed

    return run


def is_same(one: Any, other: Any) -> bool:
    """Return whether two scalars are the same in JSON, where 1 is not true."""
    return type(one) is type(other) and bool(one == other)


def map_key(value: Any) -> str | None:
    """Return a scalar as the key of a map; None for a value that cannot be one."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bool | int | float):
        return None
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer of more than 64 bits
        return None


def set_defaults(defaults: Sequence[tuple[FieldPath, Any]]) -> RunStep:
    """Return a step that sets values where the caller sends none."""

    def run(draft: ItemDraft) -> bool:
        changed = False
        for path, value in defaults:
            # A list is copied, so that no two items share one.
            own = list(value) if isinstance(value, list) else value
            changed = set_if_absent(draft.fields, path, own) or changed
        return changed

    return run
