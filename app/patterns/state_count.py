"""How much an engine of linear time has to keep in mind for a pattern.

Such an engine walks over a text once, in a state for each set of places in the pattern where it may
be. A state is made when a text first leads to it. A pattern of few characters may have millions:
then every byte makes a new one, and the time for a megabyte grows from milliseconds to minutes. So
the states are counted before a pattern is taken.
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
    Characters,
    Node,
    PatternRefused,
    Position,
    Ranges,
    Repeated,
    Sequential,
)

MOST_PLACES = 5_000  # characters of a pattern, repetitions written out
MOST_RANGES = 32_000  # of all places together; \w alone has some 750
MOST_STEPS = 1_000_000  # places looked at while the states are counted
MOST_BYTES = 32 * 1024 * 1024  # of the engine's memory that all states may take
# Of one state: it leads somewhere for each kind of byte
STATE_BYTES, ASCII_STATE_BYTES = 1_000, 250
RANGE_BYTES = 6  # of one range of characters in a state

# A range that ends with ASCII, or goes on to the last character, tells none beyond from another
ASCII_END = 128
ASCII = range(ASCII_END)

TOO_LARGE = (
    "is too large: what it repeats could make searching slow; write smaller repetitions, "
    "or + and * instead of numbers, or several rules"
)

ALWAYS = 0
Masks = dict[int, int]  # places, each a bit, by what must hold between the characters before them


def check(node: Node, most_ranges: int = MOST_RANGES, most_steps: int = MOST_STEPS) -> None:
    """Raises PatternRefused where a pattern has too many places, ranges of characters in them, or
    states.
    """
    places = _Places(most_ranges, most_steps)
    whole = places.of(node)
    _count(places, whole)


class _Part(NamedTuple):
    """A part of a pattern: where it may be empty, where it begins, and where it ends."""

    empty: frozenset[int]
    first: Masks
    last: Masks


NOTHING = _Part(frozenset({ALWAYS}), {}, {})


@dataclass(slots=True)
class _Places:
    """The places of a pattern, and which may follow which (Glushkov's construction)."""

    most_ranges: int = MOST_RANGES
    most_steps: int = MOST_STEPS
    characters: list[Ranges] = field(default_factory=list)
    follow: list[Masks] = field(default_factory=list)
    ranges: int = 0
    ascii: bool = True  # whether no character beyond ASCII is told from another
    steps: int = 0

    def spend(self, steps: int) -> None:
        """Count what is done. Raises PatternRefused where it is too much."""
        self.steps += steps
        if self.steps > self.most_steps:
            raise PatternRefused(TOO_LARGE)

    def of(self, node: Node) -> _Part:
        """The places of a node, added to the others."""
        match node:
            case Characters(ranges):
                return self._place(ranges)
            case Position(_, at):
                return _Part(frozenset({at}), {}, {})
            case Sequential(parts):
                return self._in_order(self.of(part) for part in parts)
            case Alternatives(parts):
                made = [self.of(part) for part in parts]
                empty = frozenset[int]().union(*(one.empty for one in made))
                return _Part(
                    empty, _merged(one.first for one in made), _merged(one.last for one in made)
                )
            case Repeated(part, least, most):
                return self._repeated(part, least, most)

    def _place(self, ranges: Ranges) -> _Part:
        self.ranges += len(ranges)
        self.ascii = self.ascii and all(
            low <= ASCII_END and high in (*ASCII, LAST) for low, high in ranges
        )
        if len(self.follow) >= MOST_PLACES or self.ranges > self.most_ranges:
            raise PatternRefused(TOO_LARGE)
        bit = {ALWAYS: 1 << len(self.follow)}
        self.characters.append(ranges)
        self.follow.append({})
        return _Part(frozenset(), bit, bit)

    def _in_order(self, parts: Iterable[_Part]) -> _Part:
        whole = NOTHING
        for part in parts:
            self._link(whole.last, part.first)
            whole = _Part(
                frozenset(one | other for one in whole.empty for other in part.empty),
                _merged([whole.first, _through(whole.empty, part.first)]),
                _merged([part.last, _through(part.empty, whole.last)]),
            )
        return whole

    def _repeated(self, node: Node, least: int, most: int | None) -> _Part:
        if most is not None:
            must = [self.of(node) for _ in range(least)]
            return self._in_order([*must, *(_optional(self.of(node)) for _ in range(most - least))])
        copies = [self.of(node) for _ in range(max(least, 1))]
        self._link(copies[-1].last, copies[-1].first)
        whole = self._in_order(copies)
        return whole if least else _optional(whole)

    def _link(self, last: Masks, first: Masks) -> None:
        for before, ends in last.items():
            self.spend(ends.bit_count() + 1)
            for after, begins in first.items():
                for place in _bits(ends):
                    follow, at = self.follow[place], before | after
                    follow[at] = follow.get(at, 0) | begins


def _optional(part: _Part) -> _Part:
    return part._replace(empty=part.empty | {ALWAYS})


def _through(conditions: Iterable[int], masks: Masks) -> Masks:
    """Return the states reached by a part that is empty under these conditions."""
    return _merged({at | condition: mask} for condition in conditions for at, mask in masks.items())


def _merged(several: Iterable[Masks]) -> Masks:
    made: Masks = {}
    for masks in several:
        for at, mask in masks.items():
            made[at] = made.get(at, 0) | mask
    return made


# --- states -----------------------------------------------------------------------------------------------------------


class _Atom(NamedTuple):
    """Characters that no part of the pattern tells from each other: the places that take them, and
    what they are.
    """

    places: int
    word: bool
    newline: bool


class _State(NamedTuple):
    """Where a search may be: the places that may come next, whether a match may end here, and the
    character before.
    """

    next: tuple[tuple[int, int], ...]
    ends: frozenset[int]
    word: bool = False
    newline: bool = False
    start: bool = False


def _count(places: _Places, whole: _Part) -> None:
    """Walk through all states. Nothing is looked for once there is a match, whatever comes."""
    atoms, first = _atoms(places.characters), tuple(whole.first.items())
    state_bytes = ASCII_STATE_BYTES if places.ascii else STATE_BYTES
    state, taken = _State(first, whole.empty, start=True), 0
    seen, waiting = {state}, [state]
    while waiting:
        state = waiting.pop()
        for atom in atoms:
            if any(_holds(at, state, atom) for at in state.ends):
                continue
            then = _after(places, whole, state, atom)
            if then not in seen:
                seen.add(then)
                waiting.append(then)
                ranges = sum(
                    len(places.characters[place]) for _, mask in then.next for place in _bits(mask)
                )
                taken += state_bytes + RANGE_BYTES * ranges
                if taken > MOST_BYTES:
                    raise PatternRefused(TOO_LARGE)


def _after(places: _Places, whole: _Part, state: _State, atom: _Atom) -> _State:
    """The state after one more character."""
    moving = 0
    for at, mask in state.next:
        if _holds(at, state, atom):
            moving |= mask & atom.places
    places.spend(moving.bit_count() + 1)
    then = dict(whole.first)
    for place in _bits(moving):
        for at, mask in places.follow[place].items():
            then[at] = then.get(at, 0) | mask
    ends = whole.empty.union(at for at, mask in whole.last.items() if mask & moving)
    return _State(tuple(sorted(then.items())), ends, atom.word, atom.newline)


def _holds(at: int, state: _State, atom: _Atom) -> bool:
    """Whether the place between what comes before a state and the next character is as it must
    be.
    """
    if not at:
        return True
    if at & TEXT_BEGIN and not state.start:
        return False
    if at & LINE_BEGIN and not (state.start or state.newline):
        return False
    if at & TEXT_END or (at & LINE_END and not atom.newline):
        return False
    boundary = state.word != atom.word
    return not (at & (NO_BOUNDARY if boundary else BOUNDARY))


_WORD = tuple((low, high) for low, high in ((48, 57), (65, 90), (95, 95), (97, 122)))


def _atoms(characters: Sequence[Ranges]) -> list[_Atom]:
    """The characters that the pattern tells apart."""
    of_class: dict[Ranges, int] = {_WORD: 0, ((10, 10),): 0}
    for place, ranges in enumerate(characters):
        of_class[ranges] = of_class.get(ranges, 0) | 1 << place
    changes: dict[int, int] = {0: 0}
    for index, ranges in enumerate(of_class):
        for low, high in ranges:
            changes[low] = changes.get(low, 0) ^ 1 << index
            changes[high + 1] = changes.get(high + 1, 0) ^ 1 << index
    classes, found = 0, set[int]()
    for at in sorted(changes):
        classes ^= changes[at]
        found.add(classes)
    places = list(of_class.values())
    return [
        _Atom(_union(places[index] for index in _bits(mask)), bool(mask & 1), bool(mask & 2))
        for mask in found
    ]


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _union(masks: Iterable[int]) -> int:
    made = 0
    for mask in masks:
        made |= mask
    return made
