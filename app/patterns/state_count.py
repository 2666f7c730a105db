"""The number of states that an engine of linear time needs for a pattern.

Such an engine reads a text once. Its state is the set of positions in the pattern where the match
may be, and a state is built when a text first leads to it. A pattern of few characters may have
millions of states: then every byte builds one, and the time for a megabyte grows from milliseconds
to minutes. So the states are counted before a pattern is accepted.

Sets of positions are integers with a bit for each position.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.patterns.syntax import (
    BOUNDARY,
    LAST,
    LINE_BEGIN,
    LINE_END,
    NO_BOUNDARY,
    TEXT_BEGIN,
    TEXT_END,
    Alternatives,
    Assertion,
    Characters,
    Node,
    PatternRefused,
    Ranges,
    Repeated,
    Sequential,
)

MAX_POSITIONS = 5_000  # characters of a pattern with its repetitions written out
MAX_RANGES = 32_000  # of all positions together; \w alone has about 750
MAX_STEPS = 1_000_000  # positions examined while states are counted
MAX_BYTES = 32 * 1024 * 1024  # of the engine's memory that all states may take
# Memory of one state: it has a transition for each kind of byte.
STATE_BYTES, ASCII_STATE_BYTES = 1_000, 250
RANGE_BYTES = 6  # of one range of characters in a state

# A range that ends with ASCII or with the last character distinguishes none of the others.
ASCII_END = 128
ASCII = range(ASCII_END)

TOO_LARGE = (
    "is too large: what it repeats could make searching slow; write smaller repetitions, "
    "or + and * instead of numbers, or several rules"
)

# Assertions that must hold between two characters, as bits of an integer
ALWAYS = 0
# Sets of positions, by the assertions that must hold between the characters before them
Masks = dict[int, int]


def check(node: Node, max_ranges: int = MAX_RANGES, max_steps: int = MAX_STEPS) -> None:
    """Check that a pattern has not too many positions, ranges or states. Raises PatternRefused."""
    automaton = _Automaton(max_ranges, max_steps)
    whole = automaton.add(node)
    _count_states(automaton, whole)


class _Part(NamedTuple):
    """A part of a pattern: under which assertions it may be empty, its first and last positions."""

    empty: frozenset[int]
    first: Masks
    last: Masks


EMPTY = _Part(frozenset({ALWAYS}), {}, {})


@dataclass(slots=True)
class _Automaton:
    """The positions of a pattern, and which may follow which (Glushkov's construction)."""

    max_ranges: int = MAX_RANGES
    max_steps: int = MAX_STEPS
    characters: list[Ranges] = field(default_factory=list)  # by position
    follow: list[Masks] = field(default_factory=list)  # by position
    ranges: int = 0
    is_ascii: bool = True  # whether characters beyond ASCII are all treated alike
    steps: int = 0

    def spend(self, steps: int) -> None:
        """Count work done. Raises PatternRefused if it is too much."""
        self.steps += steps
        if self.steps > self.max_steps:
            raise PatternRefused(TOO_LARGE)

    def add(self, node: Node) -> _Part:
        """Add the positions of a node and return it as a part."""
        match node:
            case Characters(ranges):
                return self._position(ranges)
            case Assertion(_, bit):
                return _Part(frozenset({bit}), {}, {})
            case Sequential(parts):
                return self._in_order(self.add(part) for part in parts)
            case Alternatives(parts):
                added = [self.add(part) for part in parts]
                return _Part(
                    empty=frozenset[int]().union(*(part.empty for part in added)),
                    first=_merged(part.first for part in added),
                    last=_merged(part.last for part in added),
                )
            case Repeated(part, least, most):
                return self._repeated(part, least, most)

    def _position(self, ranges: Ranges) -> _Part:
        self.ranges += len(ranges)
        for low, high in ranges:
            if low > ASCII_END or (high not in ASCII and high != LAST):
                self.is_ascii = False
        if len(self.follow) >= MAX_POSITIONS or self.ranges > self.max_ranges:
            raise PatternRefused(TOO_LARGE)
        mask = {ALWAYS: 1 << len(self.follow)}
        self.characters.append(ranges)
        self.follow.append({})
        return _Part(frozenset(), mask, mask)

    def _in_order(self, parts: Iterable[_Part]) -> _Part:
        whole = EMPTY
        for part in parts:
            self._link(whole.last, part.first)
            whole = _Part(
                empty=frozenset(one | other for one in whole.empty for other in part.empty),
                first=_merged([whole.first, _through(whole.empty, part.first)]),
                last=_merged([part.last, _through(part.empty, whole.last)]),
            )
        return whole

    def _repeated(self, node: Node, least: int, most: int | None) -> _Part:
        if most is not None:
            copies = [self.add(node) for _ in range(least)]
            optional = (_optional(self.add(node)) for _ in range(most - least))
            return self._in_order([*copies, *optional])
        copies = [self.add(node) for _ in range(max(least, 1))]
        self._link(copies[-1].last, copies[-1].first)
        whole = self._in_order(copies)
        return whole if least else _optional(whole)

    def _link(self, last: Masks, first: Masks) -> None:
        """Let the first positions of a part follow the last ones of another."""
        for before, ends in last.items():
            self.spend(ends.bit_count() + 1)
            for after, begins in first.items():
                for position in _bits(ends):
                    follow, condition = self.follow[position], before | after
                    follow[condition] = follow.get(condition, 0) | begins


def _optional(part: _Part) -> _Part:
    return part._replace(empty=part.empty | {ALWAYS})


def _through(conditions: Iterable[int], masks: Masks) -> Masks:
    """Return the positions beyond a part that is empty under these conditions."""
    return _merged(
        {own | condition: mask} for condition in conditions for own, mask in masks.items()
    )


def _merged(several: Iterable[Masks]) -> Masks:
    merged: Masks = {}
    for masks in several:
        for condition, mask in masks.items():
            merged[condition] = merged.get(condition, 0) | mask
    return merged


# --- states -----------------------------------------------------------------------------------


class _Atom(NamedTuple):
    """Characters that a pattern treats alike: the positions that match them, and what they are."""

    positions: int
    is_word: bool
    is_newline: bool


class _State(NamedTuple):
    """A state of a search: possible next positions, ends of a match, and the character before."""

    next: tuple[tuple[int, int], ...]
    ends: frozenset[int]
    is_word: bool = False
    is_newline: bool = False
    is_start: bool = False


def _count_states(automaton: _Automaton, whole: _Part) -> None:
    """Visit all states. A state with a certain match is final: the search ends there."""
    atoms, first = _atoms(automaton.characters), tuple(whole.first.items())
    state_bytes = ASCII_STATE_BYTES if automaton.is_ascii else STATE_BYTES
    start, total_bytes = _State(first, whole.empty, is_start=True), 0
    seen, waiting = {start}, [start]
    while waiting:
        state = waiting.pop()
        for atom in atoms:
            if any(_holds(condition, state, atom) for condition in state.ends):
                continue
            following = _next_state(automaton, whole, state, atom)
            if following in seen:
                continue
            seen.add(following)
            waiting.append(following)
            ranges = 0
            for _, mask in following.next:
                ranges += sum(len(automaton.characters[position]) for position in _bits(mask))
            total_bytes += state_bytes + RANGE_BYTES * ranges
            if total_bytes > MAX_BYTES:
                raise PatternRefused(TOO_LARGE)


def _next_state(automaton: _Automaton, whole: _Part, state: _State, atom: _Atom) -> _State:
    """Return the state after one more character."""
    matched = 0
    for condition, mask in state.next:
        if _holds(condition, state, atom):
            matched |= mask & atom.positions
    automaton.spend(matched.bit_count() + 1)
    following = dict(whole.first)
    for position in _bits(matched):
        for condition, mask in automaton.follow[position].items():
            following[condition] = following.get(condition, 0) | mask
    ends = whole.empty.union(condition for condition, mask in whole.last.items() if mask & matched)
    return _State(tuple(sorted(following.items())), ends, atom.is_word, atom.is_newline)


def _holds(condition: int, state: _State, atom: _Atom) -> bool:
    """Return whether assertions hold between the character before a state and the next one."""
    if not condition:
        return True
    if condition & TEXT_BEGIN and not state.is_start:
        return False
    if condition & LINE_BEGIN and not (state.is_start or state.is_newline):
        return False
    if condition & TEXT_END:
        return False
    if condition & LINE_END and not atom.is_newline:
        return False
    is_boundary = state.is_word != atom.is_word
    return not (condition & (NO_BOUNDARY if is_boundary else BOUNDARY))


_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_NEWLINE: Ranges = ((10, 10),)


def _atoms(characters: Sequence[Ranges]) -> list[_Atom]:
    """Return the kinds of characters that a pattern distinguishes."""
    positions_of: dict[Ranges, int] = {_WORD: 0, _NEWLINE: 0}
    for position, ranges in enumerate(characters):
        positions_of[ranges] = positions_of.get(ranges, 0) | 1 << position
    # Sweep over all characters: a class's bit changes where one of its ranges begins or ends.
    changes: dict[int, int] = {0: 0}
    for index, ranges in enumerate(positions_of):
        for low, high in ranges:
            changes[low] = changes.get(low, 0) ^ 1 << index
            changes[high + 1] = changes.get(high + 1, 0) ^ 1 << index
    classes, kinds = 0, set[int]()
    for character in sorted(changes):
        classes ^= changes[character]
        kinds.add(classes)
    positions = list(positions_of.values())
    return [
        _Atom(_union(positions[index] for index in _bits(kind)), bool(kind & 1), bool(kind & 2))
        for kind in kinds
    ]


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _union(masks: Iterable[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union
