"""The search for patterns with RE2: its time is proportional to the text for every pattern."""

import fnmatch
import re
from functools import lru_cache
from typing import Any, Final

import re2

from app.patterns import state_count, syntax
from app.patterns.syntax import PatternRefused

# RE2 keeps the states of a pattern in this memory; `state_count.check` makes sure that they fit.
MEMORY_BYTES = 96 * 1024 * 1024
UNION_STEPS = 50_000
# jsonschema-rs takes more ranges than RE2, but is slower where many positions are active at once.
SCHEMA_RANGES, SCHEMA_STEPS = 200_000, 300_000
_NOT_FOUND: Final = (-1, -1)
_ANCHOR_BOTH: Any = re2._re2.RE2.Anchor.ANCHOR_BOTH
_UNICODE_CLASS = re.compile(r"\\[pP](?:\{\^?\w{1,64}\}|\w)")


class Pattern:
    """A compiled pattern."""

    __slots__ = ("_match", "node", "text")

    def __init__(self, text: str, node: syntax.Node, matcher: Any) -> None:
        self.text, self.node, self._match = text, node, matcher.Match

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def found_in(self, text: bytes) -> bool:
        """Return whether the pattern is found anywhere in a text, given in UTF-8 (`encoded`)."""
        span: Any = self._match(_ANCHOR_BOTH, text, 0, len(text))[0]
        return bool(span != _NOT_FOUND)

    def search(self, text: str) -> bool:
        """Return whether the pattern is found anywhere in a text."""
        return self.found_in(encoded(text))


def encoded(text: str) -> bytes:
    """Return a text as patterns search it: UTF-8, in which lone surrogates are found as well."""
    return text.encode("utf-8", "surrogatepass")


@lru_cache(1_024)
def compile_pattern(text: str, *, flags: int = re.IGNORECASE, at_dots: bool = False) -> Pattern:
    """Compile a pattern, ignoring case. Raises PatternRefused.

    `at_dots`: what must be at the text's end may also be before a dot, so that one search over
    `a.b.c` covers `a`, `a.b` and `a.b.c`.
    """
    node = syntax.parse(text, flags, at_dots=at_dots)
    state_count.check(node)
    return Pattern(text, node, _matcher(node))


@lru_cache(256)
def any_of(patterns: tuple[Pattern, ...]) -> Pattern | None:
    """Return one pattern that is found where any of these is.

    None if there are fewer than two, or if it would be too large.
    """
    if len(patterns) < 2:
        return None
    node = syntax.Alternatives(tuple(pattern.node for pattern in patterns))
    try:
        state_count.check(node, max_steps=UNION_STEPS)
        return Pattern("|".join(pattern.text for pattern in patterns), node, _matcher(node))
    except PatternRefused:
        return None


def _matcher(node: syntax.Node) -> Any:
    """Return RE2's matcher of a node.

    The text before and after a match is part of the expression, and RE2 matches the whole text. So
    its states are plain sets of positions, which `state_count` counts, and it never searches for
    the beginning of a match.
    """
    options: Any = re2.Options()
    options.never_capture = True
    options.longest_match = True
    options.log_errors = False
    options.max_mem = MEMORY_BYTES
    matcher = re2._re2.RE2(rf"\C*(?:{syntax.to_re2(node)})\C*".encode(), options)
    if not matcher.ok():
        raise PatternRefused(state_count.TOO_LARGE)
    return matcher


def compile_glob(text: str) -> Pattern:
    """Compile a glob (`*`, `?`, `[ab]`, `[!ab]`) over a path, ignoring case.

    It matches a whole path, or the part before one of its dots. Raises PatternRefused.
    """
    # Wildcards are at the odd places.
    pieces = re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", text)
    for place in range(len(pieces)):
        translate = _translate_wildcard if place % 2 else re.escape
        pieces[place] = translate(pieces[place])
    whole = rf"\A(?:{''.join(pieces)})\Z"
    return compile_pattern(whole, flags=re.IGNORECASE | re.DOTALL, at_dots=True)


def _translate_wildcard(piece: str) -> str:
    if piece[0] == "*":
        return ".*"
    if piece == "?":
        return "."
    return fnmatch.translate(piece).removeprefix("(?s:")[: -len(r")\Z")]


def check_size(text: str) -> None:
    """Check that a pattern of a JSON Schema does not need too many states.

    Patterns that Python cannot parse are left to the engine that searches for them. Raises
    PatternRefused.
    """
    python_text = _UNICODE_CLASS.sub(r"\\w", text).replace("(?<", "(?P<")
    try:
        node = syntax.parse(python_text, 0)
    except PatternRefused:
        return
    state_count.check(node, max_ranges=SCHEMA_RANGES, max_steps=SCHEMA_STEPS)
