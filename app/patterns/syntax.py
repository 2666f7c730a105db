r"""Reading a pattern as Python reads it, and writing it as RE2 takes it.

Python and RE2 differ in what they call a letter or a space, in where `$` is, and in the cases of
letters. So Python's own parser reads the pattern, every class of characters becomes the exact
characters that Python takes there, and RE2 is told those. Two things are ASCII's alone: the digits
of `\d`, and the letters by which `\b` tells words. What no engine of linear time can do
(look-around, back-references) is refused by its name.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

_PARSER: Any = import_module("re._parser")  # the standard library's, without a public name
LONGEST = 10_000  # characters of a pattern
LAST = 0x10FFFF
REPETITIONS = 1_000  # what RE2 takes of one counted repetition
ASCII_ONLY = 127

Ranges = tuple[tuple[int, int], ...]  # of code points, in order, both ends included


class PatternRefused(ValueError):
    """A pattern that is not taken; the text says why, and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of these."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequential:
    """One part after the other."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Alternatives:
    """One of the parts."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Repeated:
    """A part again and again. `most` is None where there is no end."""

    part: "Node"
    least: int
    most: int | None


# What must hold at a place between two characters: bits of a number. An IntFlag would make counting
# states slow.
TEXT_BEGIN, LINE_BEGIN, TEXT_END, LINE_END, BOUNDARY, NO_BOUNDARY = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the text; `text` is how RE2 writes it."""

    text: str
    at: int


Node = Characters | Sequential | Alternatives | Repeated | Position


def parse(pattern: str, flags: int = re.IGNORECASE, *, at_dots: bool = False) -> Node:
    """Read a pattern. `at_dots`: where the text may end, it may go on with a dot as well. Raises
    PatternRefused.
    """
    if len(pattern) > LONGEST:
        raise PatternRefused(
            f"is too long: a pattern has at most {LONGEST:,} characters; write several rules"
        )
    try:
        read = _PARSER.parse(pattern, flags)
        made = _Reader(at_dots).sequence(read, read.state.flags)
    except re.error as error:
        raise PatternRefused(f"is not a regular expression: {error}") from None
    except (RecursionError, OverflowError):
        raise PatternRefused(
            "is not a regular expression: it is nested too deeply, or a number is too large"
        ) from None
    if _has_boundary(made) and any(ord(one) > ASCII_ONLY and one.isalnum() for one in pattern):
        raise PatternRefused(
            r"has \b or \B beside letters that are not ASCII; write (^|\W) and (\W|$) instead"
        )
    return made


_REFUSED = {
    "ASSERT": "a look-around",
    "ASSERT_NOT": "a look-around",
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a condition on a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
}


class _Reader:
    """From what Python's parser tells to nodes."""

    def __init__(self, at_dots: bool) -> None:
        self._dot = r"\.|" if at_dots else ""

    def sequence(self, items: Any, flags: int) -> Node:
        """The parts in their order."""
        return Sequential(tuple(self._node(str(kind), value, flags) for kind, value in items))

    def _node(self, kind: str, value: Any, flags: int) -> Node:
        if kind in _REFUSED:
            raise PatternRefused(
                f"has {_REFUSED[kind]}, which can't be searched for in linear time; write the pattern without it"
            )
        match kind:
            case "BRANCH":
                return Alternatives(tuple(self.sequence(branch, flags) for branch in value[1]))
            case "SUBPATTERN":
                _, added, removed, inner = value
                return self.sequence(inner, (flags | added) & ~removed)
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, part = value
                return self._repeated(least, most, part, flags)
            case "AT":
                return self._position(str(value), flags)
            case "ANY":
                return Characters(_inverted(() if flags & re.DOTALL else ((10, 10),)))
            case "LITERAL" | "NOT_LITERAL" | "IN":
                return _characters(kind, value, flags)
        raise PatternRefused("is not a regular expression that is taken here")

    def _repeated(self, least: int, most: Any, part: Any, flags: int) -> Node:
        end = None if most is _PARSER.MAXREPEAT else int(most)
        if max(least, end or 0) > REPETITIONS:
            raise PatternRefused(
                f"repeats something more than {REPETITIONS:,} times; write a smaller number, or +"
            )
        return Repeated(self.sequence(part, flags), least, end)

    def _position(self, name: str, flags: int) -> Position:
        if name == "AT_BEGINNING" and flags & re.MULTILINE:
            return Position("(?m:^)", LINE_BEGIN)
        if name in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return Position(r"\A", TEXT_BEGIN)
        if name == "AT_END" and flags & re.MULTILINE:
            return Position(rf"(?:{self._dot}(?m:$))", LINE_END)
        if name == "AT_END":
            return Position(rf"(?:\n?(?:{self._dot}\z))", TEXT_END)
        if name == "AT_END_STRING":
            return Position(rf"(?:{self._dot}\z)", TEXT_END)
        if name == "AT_BOUNDARY":
            return Position(r"\b", BOUNDARY)  # by ASCII's letters, in RE2
        return Position(r"\B", NO_BOUNDARY)


def _has_boundary(node: Node) -> bool:
    match node:
        case Position(_, at):
            return bool(at & (BOUNDARY | NO_BOUNDARY))
        case Sequential(parts) | Alternatives(parts):
            return any(map(_has_boundary, parts))
        case Repeated(part):
            return _has_boundary(part)
        case Characters():
            return False


# --- characters -------------------------------------------------------------------------------------------------------


def _characters(kind: str, value: Any, flags: int) -> Characters:
    """Which characters a literal or a class takes, whatever their case where that does not
    matter.
    """
    items = [("LITERAL", value)] if kind != "IN" else [(str(name), one) for name, one in value]
    negated = kind == "NOT_LITERAL" or items[:1] == [("NEGATE", None)]
    fold = bool(flags & re.IGNORECASE)
    only_ascii = bool(flags & re.ASCII)
    found: list[tuple[int, int]] = []
    for name, one in items:
        if name == "LITERAL":
            found += _of_source(f"[{_escaped(one, one)}]", fold, only_ascii, one <= ASCII_ONLY)
        elif name == "RANGE":
            found += _of_source(f"[{_escaped(*one)}]", fold, only_ascii, one[1] <= ASCII_ONLY)
        elif name == "CATEGORY":
            found += _of_source(_CATEGORIES[str(one)], False, only_ascii, False)
    ranges = _joined(found)
    return Characters(_inverted(ranges) if negated else ranges)


_CATEGORIES = {
    # The digits of other scripts would make patterns of many digits large
    "CATEGORY_DIGIT": "[0-9]",
    "CATEGORY_NOT_DIGIT": "[^0-9]",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
# Beyond ASCII, these alone are cases of an ASCII letter.
_FEW = "".join(map(chr, range(ASCII_ONLY + 1))) + "\u0130\u0131\u017f\u212a"


@cache
def _all() -> str:
    """Every character there is, in order."""
    return array("I", range(LAST + 1)).tobytes().decode("utf-32", "surrogatepass")


@lru_cache(2_048)
def _of_source(source: str, fold: bool, only_ascii: bool, few: bool) -> Ranges:
    """The characters that Python's own engine finds for a class. `few`: it can only be one of
    `_FEW`.
    """
    flags = (re.IGNORECASE if fold else 0) | (re.ASCII if only_ascii else 0)
    found = re.finditer(source if few else f"(?:{source})+", _FEW if few else _all(), flags)
    if few:
        return tuple((ord(one[0]), ord(one[0])) for one in found)
    return tuple((one.start(), one.end() - 1) for one in found)


def _escaped(low: int, high: int) -> str:
    """A range for a class of Python's."""
    return f"\\U{low:08x}-\\U{high:08x}"


def _joined(ranges: Sequence[tuple[int, int]]) -> Ranges:
    made: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if made and low <= made[-1][1] + 1:
            made[-1] = (made[-1][0], max(high, made[-1][1]))
        else:
            made.append((low, high))
    return tuple(made)


def _inverted(ranges: Ranges) -> Ranges:
    """All others."""
    made, begin = [], 0
    for low, high in ranges:
        if begin < low:
            made.append((begin, low - 1))
        begin = high + 1
    if begin <= LAST:
        made.append((begin, LAST))
    return tuple(made)


# --- as RE2 writes it -------------------------------------------------------------------------------------------------


def written(node: Node) -> str:
    """The node as a pattern of RE2's."""
    return "".join(_written(node))


def _written(node: Node) -> Iterator[str]:
    match node:
        case Characters(ranges):
            yield _class(ranges)
        case Position(text):
            yield text
        case Sequential(parts):
            for part in parts:
                yield from _written(part)
        case Alternatives(parts):
            yield "(?:"
            for index, part in enumerate(parts):
                yield "|" if index else ""
                yield from _written(part)
            yield ")"
        case Repeated(part, least, None):
            yield f"(?:{written(part)}){{{least},}}"
        case Repeated(part, least, int(most)):
            # x{2,5} as xxx?x?x?: of where it is in such a row, an engine only has to keep the
            # first.
            inner = written(part)
            yield f"(?:{inner}){{{least}}}" if least else ""
            yield f"(?:(?:{inner})?){{{most - least}}}" if most > least else ""


@lru_cache(2_048)
def _class(ranges: Ranges) -> str:
    """A class of RE2's; one without a character is written as what never is."""
    if not ranges:
        return r"[^\x{0}-\x{10FFFF}]"
    return "[" + "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in ranges) + "]"
