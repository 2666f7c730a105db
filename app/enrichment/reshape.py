"""What things are called, what they say, and what is said where nothing is: as the configuration
has it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.enrichment.draft import Draft, Run, Spot, found_at, put
from app.ingest.json_pointers import Flattened, Renamed

# Objects in one another that are flattened; what is deeper is left, for the rules to refuse
DEEPEST = 32
TAKEN = "{}: {} is there already; both are left as they are"


def flatten(names: Sequence[str]) -> Run:
    """Objects in these fields become single keys, with dots: {"a": {"b": 1}} is {"a.b": 1}. One
    that would overwrite another key is left.
    """

    def run(draft: Draft) -> bool:
        changed = False
        for name in names:
            found = draft.fields.get(name)
            if isinstance(found, dict) and not is_flat(found):
                moved = tuple(_flattened(name, found))
                draft.moved += moved
                changed = changed or bool(moved)
        return changed

    return run


def is_flat(value: Any) -> bool:
    """Whether there is no object in an object."""
    if type(value) is dict:
        for inner in value.values():
            if type(inner) is dict:
                return False
    return True


def _flattened(field: str, outer: dict[str, Any]) -> Iterator[Flattened]:
    """Flatten a field, longest names first: what is in the way of one can only be longer, and may
    be gone by then.
    """
    nested = sorted(
        (key for key, value in outer.items() if type(value) is dict), key=len, reverse=True
    )
    for key in nested:
        if (leaves := _leaves(key, outer[key])) is None:
            continue
        names = {name for name, _ in leaves}
        if len(names) == len(leaves) and not any(name in outer for name in names):
            yield Flattened(field, key, outer.pop(key))
            outer.update(leaves)


def _leaves(path: str, value: dict[str, Any]) -> list[tuple[str, Any]] | None:
    """What is in an object that is no object, by its path; None where that is too deep."""
    try:
        return list(_walk(path, value, 1))
    except RecursionError:
        return None


def _walk(path: str, value: dict[str, Any], depth: int) -> Iterator[tuple[str, Any]]:
    if depth > DEEPEST:
        raise RecursionError
    for key, inner in value.items():
        if type(inner) is dict:
            yield from _walk(f"{path}.{key}", inner, depth + 1)
        else:
            yield f"{path}.{key}", inner


def rename(names: Sequence[tuple[Spot, Spot]]) -> Run:
    """What stands at the first place goes to the second, unless something is there."""

    def run(draft: Draft) -> bool:
        changed = False
        for old, new in names:
            if (found := found_at(draft.fields, old)) is None:
                continue
            if found_at(draft.fields, new) is not None or not put(
                draft.fields, new, found[0][found[1]]
            ):
                draft.warn(TAKEN.format(written(old), written(new)))
                continue
            del found[0][found[1]]
            draft.moved += (Renamed(_path(old), _path(new)),)
            changed = True
        return changed

    return run


def _path(at: Spot) -> tuple[str, ...]:
    return (at[0],) if at[1] is None else (at[0], at[1])


def values(maps: Sequence[tuple[Spot, Mapping[str, Any]]]) -> Run:
    """A value that a map has is what the map says instead; numbers and booleans are found by their
    JSON text.
    """

    def run(draft: Draft) -> bool:
        changed = False
        for at, told in maps:
            if (found := found_at(draft.fields, at)) is None:
                continue
            inner, key = found
            said = text(inner[key])
            if said is not None and said in told and not same(told[said], inner[key]):
                inner[key] = told[said]
                changed = True
        return changed

    return run


def same(one: Any, other: Any) -> bool:
    """Whether two single values are one in JSON, where 1 is not true."""
    return type(one) is type(other) and bool(one == other)


def text(value: Any) -> str | None:
    """A value as the key of a map; None for what is no single value."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bool | int | float):
        return None
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # more than 64 bits
        return None


def defaults(told: Sequence[tuple[Spot, Any]]) -> Run:
    """What is said where the caller says nothing."""

    def run(draft: Draft) -> bool:
        done = [put(draft.fields, at, _own(value)) for at, value in told]
        return any(done)

    return run


def _own(value: Any) -> Any:
    """A list of the item's own, so that no two items share one."""
    return list(value) if isinstance(value, list) else value


def written(at: Spot) -> str:
    """The path of a place."""
    return at[0] if at[1] is None else f"{at[0]}.{at[1]}"
