"""What must never be stored or sent on: dropped, masked, or replaced by a keyed hash, before anything else sees it.

A rule is over the path of a value (`params.card_no`: the field, then the keys, with dots), over the value itself, or
over both. It reaches every value beneath its path, nested or with dots in its key; names are no values. What says whom
and what an item is about (`FREE`) is under no rule.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from app.patterns import Pattern, any_of, encoded

Verb = Literal["drop", "mask", "hash"]
STRONGEST: tuple[Verb, ...] = ("drop", "mask", "hash")
MASK = "***"
SIGN = "h_"
TAG, CHECK = 15, 5  # bytes: of the value's hash; of what shows that it is one of ours
FORM = re.compile(r"h_[A-Za-z0-9_-]{27}\Z")
DEEPEST = 64  # what is nested more deeply is dropped: nobody looks in there
MOST_PATHS = 8_192  # whose rules are remembered
LONGEST_PATH = 1_000  # characters; what has a longer one is dropped likewise
# An item's paths together may be as long as this, and so many times as long as its names. Only what is named like
# {"a very long name": {"a": 1, "b": 2, …}} has more, and is dropped from there on: looking would take too long.
FREE_PATH_CHARACTERS = 20_000
PATH_SHARE = 16
# Under no rule: whom and what an item is about, and what Leanplum's protocol lives on.
FREE = frozenset({
    "action", "id", "userId", "deviceId", "newUserId", "time", "createDisposition", "messageId", "campaignId",
    "newsfeedMessageId", "newsfeedMessages", "reqId", "uuid", "appId", "clientKey", "apiVersion", "client",
    "sdkVersion", "devMode", "token", "ct",
})  # fmt: skip
# Fields that are objects; SDKs send them as JSON text.
OBJECTS = frozenset({
    "params", "userAttributes", "userAttributeValuesToAdd", "userAttributeValuesToRemove",
    "userAttributeValuesToIncrement", "values", "vars", "trafficSource", "deviceAttributes", "devices", "events",
    "states", "data",
})  # fmt: skip
_DROPPED = object()


@dataclass(frozen=True)
class Rule:
    """One rule. `paths` and `values` are searched for; a rule without `paths` is over every path. A pattern of `paths`
    takes a dot for the end of a path: what is over `a` is over `a.b` (`compiled(at_dots=True)`)."""

    verb: Verb
    paths: tuple[Pattern, ...] = ()
    values: Pattern | None = None
    actions: frozenset[str] | None = None  # None: all

    def over(self, path: bytes) -> bool:
        """Whether the path, or what it is beneath, is one of the rule's."""
        return not self.paths or any(pattern.found_in(path) for pattern in self.paths)


class Pseudonyms:
    """Keyed hashes of values. One has a form that shows it to be ours, so that it is never hashed again, and nothing
    that only looks like it passes for it."""

    def __init__(self, key: bytes) -> None:
        self._tags = hashlib.blake2b(key=key, digest_size=TAG, person=b"value")
        self._checks = hashlib.blake2b(key=key, digest_size=CHECK, person=b"check")

    def of(self, text: str) -> str:
        """The hash of a text: 29 characters."""
        if self.made(text):
            return text
        tag = _digest(self._tags, text.encode("utf-8", "surrogatepass"))
        return SIGN + base64.urlsafe_b64encode(tag + _digest(self._checks, tag)).decode()[:27]

    def made(self, text: str) -> bool:
        """Whether a text is a hash that was made here."""
        if not FORM.match(text):
            return False
        both = base64.urlsafe_b64decode(text[len(SIGN) :] + "=")
        return hmac.compare_digest(both[TAG:], _digest(self._checks, both[:TAG]))


def _digest(start: Any, data: bytes) -> bytes:
    made = start.copy()
    made.update(data)
    found: bytes = made.digest()
    return found


def is_covered(value: str) -> bool:
    """Whether a text is what a rule left of a value, as far as its form tells."""
    return value == MASK or FORM.match(value) is not None


class _Budget:
    """How much longer the paths of one item may be than its names."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = FREE_PATH_CHARACTERS

    def allows(self, path: str, names: Iterable[str]) -> bool:
        """Whether what stands in the object at a path is still to be looked at."""
        self._left += sum(PATH_SHARE * len(name) - len(path) for name in names)
        return self._left >= 0


class Guard:
    """Applies rules to the fields of an item, in place."""

    def __init__(self, rules: Sequence[Rule], pseudonyms: Pseudonyms) -> None:
        self._rules, self._pseudonyms = rules, pseudonyms
        # Most values are none that a rule looks for: one search finds that out, instead of one for each rule.
        self._any = any_of(tuple(rule.values for rule in rules if rule.values is not None))
        self._known: dict[str, tuple[Verb | None, tuple[Rule, ...]]] = {}

    def apply(self, fields: dict[str, Any], *, texts: bool = False) -> bool:
        """Whether anything was changed. `texts`: objects may stand there as JSON text."""
        changed, budget = False, _Budget()
        for name in [name for name in fields if name not in FREE]:
            before = fields[name]
            value = _opened(before) if texts and name in OBJECTS and isinstance(before, str) else before
            after = value if value is _DROPPED else self._covered(name, value, 0, budget)
            if after is not _DROPPED and value is not before:
                after = _closed(after)
            if after is _DROPPED:
                del fields[name]
            else:
                fields[name] = after
            changed = changed or after is not before
        return changed

    def _covered(self, path: str, value: Any, depth: int, budget: _Budget) -> Any:
        """What is left of a value: itself where no rule reaches it."""
        verb, by_value = self._over(path)
        if verb == "drop":
            return _DROPPED
        if isinstance(value, dict | list):
            if depth >= DEEPEST:
                return _DROPPED
            if isinstance(value, dict):
                return self._inside(path, value, depth, budget)
            return self._each(path, value, depth, budget)
        if value is None:  # says nothing, and may stay: it clears an attribute
            return value
        if by_value and not self._is_left(value):
            text = encoded(_text(value))
            suspect = self._any is None or self._any.found_in(text)
            if suspect and (fitting := [rule.verb for rule in by_value if _says(rule, text)]):
                verb = min([verb, *fitting] if verb is not None else fitting, key=STRONGEST.index)
        return value if verb is None else self._by(verb, value)

    def _inside(self, path: str, value: dict[str, Any], depth: int, budget: _Budget) -> Any:
        if not budget.allows(path, value):
            return _DROPPED
        made = {key: self._covered(f"{path}.{key}", inner, depth + 1, budget) for key, inner in value.items()}
        if all(made[key] is value[key] for key in made):
            return value
        return {key: inner for key, inner in made.items() if inner is not _DROPPED}

    def _each(self, path: str, value: list[Any], depth: int, budget: _Budget) -> Any:
        made = [self._covered(path, inner, depth + 1, budget) for inner in value]
        if all(one is other for one, other in zip(made, value, strict=True)):
            return value
        return [inner for inner in made if inner is not _DROPPED]

    def _by(self, verb: Verb, value: Any) -> Any:
        """A single value under a rule."""
        if verb == "drop":
            return _DROPPED
        if value == MASK:
            return value
        if verb == "mask":
            return MASK
        hashed = self._pseudonyms.of(_text(value))
        return value if hashed == value else hashed

    def _is_left(self, value: Any) -> bool:
        """Whether a value is what a rule left of another."""
        return isinstance(value, str) and (value == MASK or self._pseudonyms.made(value))

    def _over(self, path: str) -> tuple[Verb | None, tuple[Rule, ...]]:
        """The strongest rule that is over a path, whatever stands there; and the rules that look at what does."""
        if (known := self._known.get(path)) is not None:
            return known
        if len(path) > LONGEST_PATH:
            return "drop", ()
        told = encoded(path)
        over = [rule for rule in self._rules if rule.over(told)]
        verbs = [rule.verb for rule in over if rule.values is None]
        found = (min(verbs, key=STRONGEST.index, default=None), tuple(one for one in over if one.values is not None))
        if len(self._known) >= MOST_PATHS:
            self._known.clear()
        self._known[path] = found
        return found


def _says(rule: Rule, text: bytes) -> bool:
    assert rule.values is not None
    return rule.values.found_in(text)


def _text(value: Any) -> str:
    """A single value as text: itself, or its JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _opened(told: str) -> Any:
    """The JSON that a text holds. A text that can't be read is dropped: nobody knows what is in it."""
    value: Any = told
    for _ in range(3):
        if not isinstance(value, str):
            return value
        if not value.strip():
            return told
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return _DROPPED
    return value if not isinstance(value, str) else _DROPPED


def _closed(value: Any) -> Any:
    """The same as text again."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)


def guarding(rules: Sequence[Rule], pseudonyms: Pseudonyms, action: str) -> Guard | None:
    """What applies the rules that are for an action; None where there are none."""
    mine = [rule for rule in rules if rule.actions is None or action in rule.actions]
    return Guard(mine, pseudonyms) if mine else None
