"""Names of actions as callers write them: which are known, and which a server might take for a
known one. Pure.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Set
from urllib.parse import unquote

from app.leanplum.actions import ACTIONS, Action

LONGEST = 100  # characters of a name that a setting may allow, and that a message repeats
DECODINGS = 3
PART = re.compile(r"[a-z0-9]+")
ADVICE = "GATEWAY_SDK_EXTRA_ACTIONS allows further actions by their exact names."


def folded(name: str) -> str:
    """Return the letters and digits of a name without case, width, accents, percent-encoding or
    white space.

    It folds more than any server is known to: what it takes for a known action needs that action's
    scope.
    """
    text = name.strip()[:LONGEST]
    for _ in range(DECODINGS):
        text = unquote(text)
    plain = unicodedata.normalize("NFKD", text).upper().casefold()
    return "".join(PART.findall(plain))


def _shortened(name: str) -> Iterator[str]:
    """Yield a name, and all that one deletion makes of it."""
    yield name
    for at in range(len(name)):
        yield name[:at] + name[at + 1 :]


_FOLDED: Mapping[str, Action] = {folded(name): action for name, action in ACTIONS.items()}
# By the forms that one deletion leaves, two names are compared with a few look-ups, however many
# actions there are.
_NEAR: Mapping[str, str] = {
    form: action.name for folded_name, action in _FOLDED.items() for form in _shortened(folded_name)
} | {form: action.name for form, action in _FOLDED.items()}
_LONGEST_NEAR = max(map(len, _FOLDED)) + 1


def resembled(name: str) -> Action | None:
    """Return the known action that a server might take `name` for: itself, or one that folds to
    it.
    """
    known = ACTIONS.get(name)
    return _FOLDED.get(folded(name)) if known is None else known


def suggested(name: str) -> str | None:
    """Return the known name that was probably meant: one that folds to the same, or is a letter
    away.
    """
    form = folded(name)
    if not form or len(form) > _LONGEST_NEAR:
        return None
    return next((_NEAR[near] for near in _shortened(form) if near in _NEAR), None)


def shown(name: str) -> str:
    """Return at most `LONGEST` printable characters of a name, for a message."""
    head = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in name[:LONGEST]
    )
    return head if len(name) <= LONGEST else f"{head}…"


def allowed(name: str, extra: Set[str]) -> bool:
    """Return whether an action is passed on at all: it is known, or a setting names it exactly."""
    return name in ACTIONS or name in extra


def unknown(name: str) -> str:
    """Return the message that refuses an action."""
    meant = suggested(name)
    hint = f"; did you mean {meant}?" if meant is not None else "."
    return f'The action "{shown(name)}" is not known to this gateway{hint} {ADVICE}'


def name_of_extra(name: str) -> str:
    """Return a name that a setting allows. Raises ValueError for what is no name of an action."""
    if not name or len(name) > LONGEST or not name.isprintable() or any(map(str.isspace, name)):
        raise ValueError(
            f"takes names of at most {LONGEST} printable characters without spaces; not {shown(name)!r}"
        )
    known = resembled(name)
    if known is not None and known.name == "multi" and name != "multi":
        raise ValueError(
            f"{name} can't be allowed: a batch under another name would hide what is in it"
        )
    return name
