"""Suggestions of the known name that a caller probably meant: "did you mean userId?". Pure."""

import difflib
from collections.abc import Collection
from functools import lru_cache

LONGEST = 64  # characters of a name that is compared: difflib takes quadratic time
SHORTEST = 3  # letters and digits; shorter names are all alike
CLOSE = 0.75  # similarity, from 0 to 1, from which on a name is suggested


def hint(name: str, known: Collection[str]) -> str:
    """Return the end of a sentence about an unknown name: `; did you mean X?`, or nothing."""
    meant = closest(name, frozenset(known))
    return "" if meant is None else f"; did you mean {meant}?"


@lru_cache(maxsize=1024)
def closest(name: str, known: frozenset[str]) -> str | None:
    """Return the known name that is spelled most like this one; None if none is close.

    Names that differ only in case and punctuation, as user_id and userId do, count as equal.
    """
    if len(name) > LONGEST:
        return None
    by_letters = {_letters(other): other for other in sorted(known)}
    letters = _letters(name)
    if letters in by_letters:
        return by_letters[letters]
    if len(letters) < SHORTEST:
        return None
    candidates = [other for other in by_letters if len(other) >= SHORTEST]
    alike = difflib.get_close_matches(letters, candidates, 1, CLOSE)
    return by_letters[alike[0]] if alike else None


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()
