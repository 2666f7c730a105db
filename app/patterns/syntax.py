r"""Parsing a pattern as Python does, and writing it for RE2.

Python and RE2 differ in what they take for a letter or a space, in where `$` matches, and in the
cases of letters. So Python's own parser reads the pattern, every class of characters becomes the
exact characters that Python matches, and RE2 gets those. Two things are limited to ASCII: the
digits of `\d`, and the letters at which `\b` finds a boundary. What no engine of linear time can do
(look-around, back-references) is refused by name.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

# Python's own parser, which has no public name; tests/patterns checks the attributes used here.
_PARSER: Any = import_module("re._parser")
MAX_LENGTH = 10_000  # characters of a pattern
LAST = 0x10FFFF  # the last code point
MAX_REPETITIONS = 1_000  # of one counted repetition, in RE2
LAST_ASCII = 127

Ranges = tuple[tuple[int, int], ...]  # of code points, in order, both ends included


class PatternRefused(ValueError):
    """A pattern is refused; the text says why, and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of a class."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequential:
    """Parts in order."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Alternatives:
    """One of several parts."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Repeated:
    """A part that is repeated; `most` is None if there is no upper bound."""

    part: "Node"
    least: int
    most: int | None


# What must hold between two characters, as bits of an integer (an IntFlag is slow to count with).
TEXT_BEGIN, LINE_BEGIN, TEXT_END, LINE_END, BOUNDARY, NO_BOUNDARY = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class Assertion:
    """A condition between two characters: as RE2 writes it, and its bit."""

    text: str
    bit: int


Node = Characters | Sequential | Alternatives | Repeated | Assertion


def parse(pattern: str, flags: int = re.IGNORECASE, *, at_dots: bool = False) -> Node:
    """Parse a pattern. Raises PatternRefused.

    `at_dots`: where the text must end, a dot may follow instead.
    """
    if len(pattern) > MAX_LENGTH:
        raise PatternRefused(
            f"is too long: a pattern has at most {MAX_LENGTH:,} characters; write several rules"
        )
    try:
        parsed = _PARSER.parse(pattern, flags)
        node = _Converter(at_dots).sequence(parsed, parsed.state.flags)
    except re.error as error:
        raise PatternRefused(f"is not a regular expression: {error}") from None
    except (RecursionError, OverflowError):
        raise PatternRefused(
            "is not a regular expression: it is nested too deeply, or a number is too large"
        ) from None
    has_other_letters = any(ord(char) > LAST_ASCII and char.isalnum() for char in pattern)
    if has_other_letters and _has_boundary(node):
        raise PatternRefused(
            r"has \b or \B beside letters that are not ASCII; write (^|\W) and (\W|$) instead"
        )
    return node


_REFUSED = {
    "ASSERT": "a look-around",
    "ASSERT_NOT": "a look-around",
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a condition on a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
}


class _Converter:
    """Converts the result of Python's parser to nodes."""

    def __init__(self, at_dots: bool) -> None:
        self._dot = r"\.|" if at_dots else ""

    def sequence(self, items: Any, flags: int) -> Node:
        """Return a sequence of Python's items as a node."""
        return Sequential(tuple(self._node(str(kind), value, flags) for kind, value in items))

    def _node(self, kind: str, value: Any, flags: int) -> Node:
        if kind in _REFUSED:
            raise PatternRefused(
                f"has {_REFUSED[kind]}, which can't be searched for in linear time; "
                "write the pattern without it"
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
                return self._assertion(str(value), flags)
            case "ANY":
                return Characters(_inverted(() if flags & re.DOTALL else ((10, 10),)))
            case "LITERAL" | "NOT_LITERAL" | "IN":
                return _characters(kind, value, flags)
        raise PatternRefused("is not a supported regular expression")

    def _repeated(self, least: int, most: Any, part: Any, flags: int) -> Node:
        end = None if most is _PARSER.MAXREPEAT else int(most)
        if max(least, end or 0) > MAX_REPETITIONS:
            raise PatternRefused(
                f"repeats something more than {MAX_REPETITIONS:,} times; "
                "write a smaller number, or +"
            )
        return Repeated(self.sequence(part, flags), least, end)

    def _assertion(self, name: str, flags: int) -> Assertion:
        if name == "AT_BEGINNING" and flags & re.MULTILINE:
            return Assertion("(?m:^)", LINE_BEGIN)
        if name in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            return Assertion(r"\A", TEXT_BEGIN)
        if name == "AT_END" and flags & re.MULTILINE:
            return Assertion(rf"(?:{self._dot}(?m:$))", LINE_END)
        if name == "AT_END":
            return Assertion(rf"(?:\n?(?:{self._dot}\z))", TEXT_END)
        if name == "AT_END_STRING":
            return Assertion(rf"(?:{self._dot}\z)", TEXT_END)
        if name == "AT_BOUNDARY":
            return Assertion(r"\b", BOUNDARY)  # in RE2, between ASCII letters
        return Assertion(r"\B", NO_BOUNDARY)


def _has_boundary(node: Node) -> bool:
    match node:
        case Assertion(_, bit):
            return bool(bit & (BOUNDARY | NO_BOUNDARY))
        case Sequential(parts) | Alternatives(parts):
            return any(map(_has_boundary, parts))
        case Repeated(part):
            return _has_boundary(part)
        case Characters():
            return False


# --- characters -------------------------------------------------------------------------------


def _characters(kind: str, value: Any, flags: int) -> Characters:
    """Return the characters that a literal or a class matches, in any case if case is ignored."""
    items = [("LITERAL", value)]
    if kind == "IN":
        items = [(str(name), item) for name, item in value]
    is_negated = kind == "NOT_LITERAL" or items[:1] == [("NEGATE", None)]
    ignores_case = bool(flags & re.IGNORECASE)
    only_ascii = bool(flags & re.ASCII)
    found: list[tuple[int, int]] = []
    for name, item in items:
        if name == "CATEGORY":
            found += _matched(_CATEGORIES[str(item)], False, only_ascii, False)
        elif name in ("LITERAL", "RANGE"):
            low, high = item if name == "RANGE" else (item, item)
            source = f"[{_escaped(low, high)}]"
            found += _matched(source, ignores_case, only_ascii, high <= LAST_ASCII)
    ranges = _joined(found)
    return Characters(_inverted(ranges) if is_negated else ranges)


_CATEGORIES = {
    # The digits of other scripts would make patterns of many digits large.
    "CATEGORY_DIGIT": "[0-9]",
    "CATEGORY_NOT_DIGIT": "[^0-9]",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
# ASCII, and the only other characters that are cases of an ASCII letter
_FEW = "".join(map(chr, range(LAST_ASCII + 1))) + "\u0130\u0131\u017f\u212a"


@cache
def _all_characters() -> str:
    """Return every character, in order."""
    return array("I", range(LAST + 1)).tobytes().decode("utf-32", "surrogatepass")


@lru_cache(2_048)
def _matched(source: str, ignores_case: bool, only_ascii: bool, is_ascii: bool) -> Ranges:
    """Return the characters that Python's engine finds for a class.

    `is_ascii`: all of the class are ASCII, so that only the characters of `_FEW` can match.
    """
    flags = (re.IGNORECASE if ignores_case else 0) | (re.ASCII if only_ascii else 0)
    if is_ascii:
        return tuple((ord(match[0]), ord(match[0])) for match in re.finditer(source, _FEW, flags))
    matches = re.finditer(f"(?:{source})+", _all_characters(), flags)
    return tuple((match.start(), match.end() - 1) for match in matches)


def _escaped(low: int, high: int) -> str:
    """Return a range as it is written in a class of Python's."""
    return f"\\U{low:08x}-\\U{high:08x}"


def _joined(ranges: Sequence[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def _inverted(ranges: Ranges) -> Ranges:
    """Return all other characters."""
    others, begin = [], 0
    for low, high in ranges:
        if begin < low:
            others.append((begin, low - 1))
        begin = high + 1
    if begin <= LAST:
        others.append((begin, LAST))
    return tuple(others)


# --- RE2 --------------------------------------------------------------------------------------


def to_re2(node: Node) -> str:
    """Return a node as a pattern of RE2's."""
    return "".join(_re2_parts(node))


def _re2_parts(node: Node) -> Iterator[str]:
    match node:
        case Characters(ranges):
            yield _class(ranges)
        case Assertion(text):
            yield text
        case Sequential(parts):
            for part in parts:
                yield from _re2_parts(part)
        case Alternatives(parts):
            yield "(?:"
            for index, part in enumerate(parts):
                yield "|" if index else ""
                yield from _re2_parts(part)
            yield ")"
        case Repeated(part, least, None):
            yield f"(?:{to_re2(part)}){{{least},}}"
        case Repeated(part, least, int(most)):
            # x{2,5} is written as xxx?x?x?: in such a row an engine only keeps the first position.
            inner = to_re2(part)
            yield f"(?:{inner}){{{least}}}" if least else ""
            yield f"(?:(?:{inner})?){{{most - least}}}" if most > least else ""


@lru_cache(2_048)
def _class(ranges: Ranges) -> str:
    """Return a class of RE2's; an empty one is written as a class that never matches."""
    if not ranges:
        return r"[^\x{0}-\x{10FFFF}]"
    return "[" + "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in ranges) + "]"
