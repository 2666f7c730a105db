"""Searching for patterns with RE2: in time proportional to the text, whatever pattern and text
are.
"""

import fnmatch
import re
from functools import lru_cache
from typing import Any, Final

import re2

from app.patterns import state_count, syntax
from app.patterns.syntax import PatternRefused

# RE2 keeps the states of a pattern in this memory. `states.check` sees to it that they have room.
MEMORY_BYTES = 96 * 1024 * 1024
_NOWHERE: Final = (-1, -1)
_BOTH: Any = re2._re2.RE2.Anchor.ANCHOR_BOTH


class Pattern:
    """A pattern that is ready to be searched for."""

    __slots__ = ("_match", "node", "text")

    def __init__(self, text: str, node: syntax.Node, matcher: Any) -> None:
        self.text, self.node, self._match = text, node, matcher.Match

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def found_in(self, text: bytes) -> bool:
        """Return whether the pattern is somewhere in a text, which is UTF-8 (see `encoded`)."""
        found: Any = self._match(_BOTH, text, 0, len(text))[0]
        return bool(found != _NOWHERE)

    def search(self, text: str) -> bool:
        """Return whether the pattern is somewhere in a text."""
        return self.found_in(encoded(text))


def encoded(text: str) -> bytes:
    """A text as patterns are searched for in it. Surrogates that stand alone are no UTF-8, but
    found all the same.
    """
    return text.encode("utf-8", "surrogatepass")


@lru_cache(1_024)
def compile_pattern(text: str, *, flags: int = re.IGNORECASE, at_dots: bool = False) -> Pattern:
    """Make a pattern ready, whatever the case of letters. `at_dots`: what must be at the text's end
    may also be before a dot, so that one search over `a.b.c` does for `a`, `a.b` and `a.b.c`.
    Raises PatternRefused.

    What may come before and after the pattern is part of it, and RE2 asked whether it is the whole
    text: so its states are plain sets of places, which `states.check` counts, and it never has to
    find out where a match begins.
    """
    node = syntax.parse(text, flags, at_dots=at_dots)
    state_count.check(node)
    return Pattern(text, node, _matcher(node))


@lru_cache(256)
def any_of(patterns: tuple[Pattern, ...]) -> Pattern | None:
    """One pattern that is found wherever one of these is; None where it would be too large, or
    there are not two.
    """
    node = syntax.Alternatives(tuple(pattern.node for pattern in patterns))
    if len(patterns) < 2:
        return None
    try:
        state_count.check(node, most_steps=UNION_STEPS)
        return Pattern("|".join(pattern.text for pattern in patterns), node, _matcher(node))
    except PatternRefused:
        return None


UNION_STEPS = 50_000


def _matcher(node: syntax.Node) -> Any:
    options: Any = re2.Options()
    options.never_capture = True
    options.longest_match = True
    options.log_errors = False
    options.max_mem = MEMORY_BYTES
    matcher = re2._re2.RE2(rf"\C*(?:{syntax.written(node)})\C*".encode(), options)
    if not matcher.ok():
        raise PatternRefused(state_count.TOO_LARGE)
    return matcher


def compile_glob(text: str) -> Pattern:
    """Make ready a shell's pattern (`*`, `?`, `[ab]`, `[!ab]`) of a whole path, or of what comes
    before one of its dots, whatever the case of letters. Raises PatternRefused.
    """
    pieces = re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", text)
    whole = "".join(
        _of_piece(piece) if index % 2 else re.escape(piece) for index, piece in enumerate(pieces)
    )
    return compile_pattern(rf"\A(?:{whole})\Z", flags=re.IGNORECASE | re.DOTALL, at_dots=True)


def _of_piece(piece: str) -> str:
    if piece[0] == "*":
        return ".*"
    return "." if piece == "?" else fnmatch.translate(piece).removeprefix("(?s:")[: -len(r")\Z")]


def check_size(text: str) -> None:
    """Raises PatternRefused for a JSON Schema's pattern that would need too many states. What
    neither Python can read, nor that can be told in its words, is left to the engine that is to
    search for it.
    """
    told = _UNICODE_CLASS.sub(r"\\w", text).replace("(?<", "(?P<")
    try:
        node = syntax.parse(told, 0)
    except PatternRefused:
        return
    state_count.check(node, most_ranges=SCHEMA_RANGES, most_steps=SCHEMA_STEPS)


_UNICODE_CLASS = re.compile(r"\\[pP](?:\{\^?\w{1,64}\}|\w)")
# jsonschema-rs takes more ranges than RE2 does, but is slower where many places are held at once.
SCHEMA_RANGES, SCHEMA_STEPS = 200_000, 300_000
