"""What must never be stored or sent on: dropped, masked, or replaced by a keyed hash, before
anything else sees it.

A rule is over the path of a value (`params.card_no`: the field, then the keys, with dots), over the
value itself, or over both. It reaches every value beneath its path, nested or with dots in its key;
names are no values. What says whom and what an item is about (`FREE`) is under no rule.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
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
# An item's paths together may be as long as this, and so many times as long as its names. Only what
# is named like {"a very long name": {"a": 1, "b": 2, …}} has more, and is dropped from there on:
# looking would take too long.
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
# A rule over a user's attribute is over what other fields make of it, and one over a device's field
# is over the same field of a user's devices.
INCREMENTS = "userAttributeValuesToIncrement"
SAME_AS = {
    "userAttributeValuesToAdd": "userAttributes",
    "userAttributeValuesToRemove": "userAttributes",
    INCREMENTS: "userAttributes",
    "devices": "",
}
NUMBER = re.compile(r"\s*[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?\s*\Z")
LONGEST_NUMBER = 1_000  # characters; no longer text is read as a number
EXACT = 2**53  # above it a float has other digits than the number that was written
BEGINS = frozenset('{["')  # of a text that may hold an object or a list
DROPPED = object()


@dataclass(frozen=True)
class Rule:
    """One rule. `paths` and `values` are searched for; a rule without `paths` is over every path. A
    pattern of `paths` takes a dot for the end of a path: what is over `a` is over `a.b`
    (`compiled(at_dots=True)`).
    """

    verb: Verb
    paths: tuple[Pattern, ...] = ()
    values: Pattern | None = None
    actions: frozenset[str] | None = None  # None: all

    def over(self, path: bytes) -> bool:
        """Whether the path, or what it is beneath, is one of the rule's."""
        return not self.paths or any(pattern.found_in(path) for pattern in self.paths)


class Pseudonyms:
    """Keyed hashes of values. One has a form that shows it to be ours, so that it is never hashed
    again, and nothing that only looks like it passes for it.
    """

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
        # Most values are none that a rule looks for: one search finds that out, instead of one for
        # each rule.
        self._any = any_of(tuple(rule.values for rule in rules if rule.values is not None))
        self._known: dict[str, tuple[Verb | None, tuple[Rule, ...]]] = {}

    def apply(self, fields: dict[str, Any], *, texts: bool = False) -> bool:
        """Whether anything was changed. `texts`: objects may stand there as JSON text."""
        changed, budget = False, _Budget()
        for name in [name for name in fields if name not in FREE]:
            before = fields[name]
            if texts and isinstance(before, str):
                after = self._covered_text(name, before, budget)
            else:
                after = self._covered(name, before, 0, budget)
            if after is DROPPED:
                del fields[name]
            else:
                fields[name] = after
            changed = changed or after is not before
        return changed

    def cell(self, path: str, text: str) -> str:
        """Return the rest of a cell of CSV in the column of this path; "" where it is dropped."""
        if not text or path in FREE:
            return text
        left = self._covered_text(path, text, _Budget())
        return "" if left is DROPPED else str(left)

    def is_over(self, path: str) -> bool:
        """Return whether a rule is over a path, whatever stands there."""
        return self._over(path)[0] is not None

    def rewritten(self, path: str, value: str, made: str) -> Any:
        """Return the rest of a value that is about to be written as `made`, where a rule looks for
        how it was written. Where `made` is under a rule as well, the value stays, and `made` is
        looked at then.
        """
        if made == value:
            return self._covered(path, value, 0, _Budget())
        by_value = self._over(path)[1]
        verbs = self._fitting(by_value, value)
        if not verbs or self._fitting(by_value, made):
            return value
        return self._by(min(verbs, key=STRONGEST.index), made)

    def _covered_text(self, name: str, told: str, budget: _Budget) -> Any:
        """Return the rest of a text that may be JSON."""
        if name in OBJECTS:
            value = _opened(told)
            after = value if value is DROPPED else self._covered(name, value, 0, budget)
            return after if after is DROPPED or value is told else _closed(after)
        after = self._covered(name, told, 0, budget)
        if after is not told or told.lstrip()[:1] not in BEGINS:
            return after
        value = _opened(told)
        if value is DROPPED or value is told:  # a text like any other
            return told
        inside = self._covered(name, value, 0, budget)
        if inside is DROPPED:
            return inside
        return told if inside is value and _is_plain(told) else _closed(inside)

    def _covered(self, path: str, value: Any, depth: int, budget: _Budget) -> Any:
        """What is left of a value: itself where no rule reaches it."""
        verb, by_value = self._over(path)
        if verb == "drop":
            return DROPPED
        if isinstance(value, dict | list):
            if depth >= DEEPEST:
                return DROPPED
            if isinstance(value, dict):
                return self._inside(path, value, depth, budget)
            return self._each(path, value, depth, budget)
        if value is None:  # says nothing, and may stay: it clears an attribute
            return value
        if by_value and not self._is_left(value) and (fitting := self._fitting(by_value, value)):
            verb = min([verb, *fitting] if verb is not None else fitting, key=STRONGEST.index)
        if verb is not None and path.partition(".")[0] == INCREMENTS:  # which takes numbers alone
            return DROPPED
        return value if verb is None else self._by(verb, value)

    def _fitting(self, rules: Sequence[Rule], value: Any) -> list[Verb]:
        """Return the verbs of the rules that find a value."""
        found: list[Verb] = []
        for form in _forms(value):
            text = encoded(form)
            if self._any is None or self._any.found_in(text):
                found += [rule.verb for rule in rules if _says(rule, text)]
        return found

    def _inside(self, path: str, value: dict[str, Any], depth: int, budget: _Budget) -> Any:
        if not budget.allows(path, value):
            return DROPPED
        made = {
            key: self._covered(f"{path}.{key}", inner, depth + 1, budget)
            for key, inner in value.items()
        }
        if all(made[key] is value[key] for key in made):
            return value
        return {key: inner for key, inner in made.items() if inner is not DROPPED}

    def _each(self, path: str, value: list[Any], depth: int, budget: _Budget) -> Any:
        made = [self._covered(path, inner, depth + 1, budget) for inner in value]
        if all(one is other for one, other in zip(made, value, strict=True)):
            return value
        return [inner for inner in made if inner is not DROPPED]

    def _by(self, verb: Verb, value: Any) -> Any:
        """A single value under a rule."""
        if verb == "drop":
            return DROPPED
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
        """The strongest rule that is over a path, whatever stands there; and the rules that look at
        what does.
        """
        if (known := self._known.get(path)) is not None:
            return known
        if len(path) > LONGEST_PATH:
            return "drop", ()
        paths = [encoded(one) for one in _names_of(path)]
        over = [rule for rule in self._rules if any(map(rule.over, paths))]
        verbs = [rule.verb for rule in over if rule.values is None]
        found = (
            min(verbs, key=STRONGEST.index, default=None),
            tuple(one for one in over if one.values is not None),
        )
        if len(self._known) >= MOST_PATHS:
            self._known.clear()
        self._known[path] = found
        return found


def _says(rule: Rule, text: bytes) -> bool:
    assert rule.values is not None
    return rule.values.found_in(text)


def _names_of(path: str) -> Iterable[str]:
    """A path, and what else the same value is known by."""
    yield path
    field, dot, rest = path.partition(".")
    if (other := SAME_AS.get(field)) is not None:
        same = f"{other}{dot if other else ''}{rest}"
        if same and same not in FREE:
            yield same


def _text(value: Any) -> str:
    """A single value as text: itself, or its JSON. A float that is whole is as the whole number."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(Decimal(repr(value))))
    return json.dumps(value)


def _forms(value: Any) -> Iterable[str]:
    """The texts in which rules look for a value. A number is looked at as digits, however it was
    written, and a text that is a number is, too."""
    text = _text(value)
    yield text
    if isinstance(value, float) and value.is_integer():
        if abs(value) > EXACT:
            yield str(int(value))
    elif isinstance(value, str) and (whole := _whole(value)) is not None and whole != text:
        yield whole


def _whole(text: str) -> str | None:
    """The digits of a text that is a whole number, as "1.5e3" is; None for any other."""
    if len(text) > LONGEST_NUMBER or not NUMBER.match(text):
        return None
    number = Decimal(text.strip())
    return str(int(number)) if number == number.to_integral_value() else None


def _opened(told: str) -> Any:
    """The JSON that a text holds. A text that can't be read is dropped: nobody knows what is in
    it.
    """
    value: Any = told
    for _ in range(3):
        if not isinstance(value, str):
            return value
        if not value.strip():
            return told
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return DROPPED
    return value if not isinstance(value, str) else DROPPED


def _is_plain(told: str) -> bool:
    """Return whether all of a JSON text was looked at: no text in a text, and no name twice in an
    object, of which only the last counts."""
    repeated = False

    def looked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        made = dict(pairs)
        repeated = repeated or len(made) < len(pairs)
        return made

    return not isinstance(json.loads(told, object_pairs_hook=looked), str) and not repeated


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
