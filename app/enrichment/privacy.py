"""Privacy rules: values that are dropped, masked, or replaced by a keyed hash before anything else.

A rule applies to the path of a value (`params.card_no`: the field, then the keys, with dots), to
the value itself, or to both. It applies to every value below its path, nested or with dots in its
key; names are not values. No rule applies to the fields that say whom and what an item is about
(`FREE`).
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import orjson

from app.patterns import Pattern, any_of, encoded

Verb = Literal["drop", "mask", "hash"]
STRENGTH: tuple[Verb, ...] = ("drop", "mask", "hash")  # strongest first
MASK = "***"
HASH_PREFIX = "h_"
TAG_BYTES, CHECK_BYTES = 15, 5  # of a value's hash; of the proof that the hash was made here
HASH = re.compile(r"h_[A-Za-z0-9_-]{27}\Z")
MAX_DEPTH = 64  # deeper values are dropped, because they are not examined
MAX_CACHED_PATHS = 8_192
MAX_PATH_LENGTH = 1_000  # characters; values with a longer path are dropped, too
# The paths of one item together may be as long as FREE_PATH_CHARACTERS plus PATH_SHARE times its
# names. Only input like {"a very long name": {"a": 1, "b": 2, …}} has more, and is dropped from
# there on: matching would take too long.
FREE_PATH_CHARACTERS = 20_000
PATH_SHARE = 16
# Under no rule: whom and what an item is about, and what Leanplum's protocol needs.
FREE = frozenset({
    "action", "id", "userId", "deviceId", "newUserId", "time", "createDisposition", "messageId",
    "campaignId", "newsfeedMessageId", "newsfeedMessages", "reqId", "uuid", "appId", "clientKey",
    "apiVersion", "client", "sdkVersion", "devMode", "token", "ct",
})  # fmt: skip
# Fields that are objects; SDKs send them as JSON text.
OBJECTS = frozenset({
    "params", "userAttributes", "userAttributeValuesToAdd", "userAttributeValuesToRemove",
    "userAttributeValuesToIncrement", "values", "vars", "trafficSource", "deviceAttributes",
    "devices", "events", "states", "data",
})  # fmt: skip
# A rule for a user's attribute also applies to the other fields that change the attribute, and one
# for a device's field to the same field of a user's devices.
INCREMENTS = "userAttributeValuesToIncrement"
ALIASES = {
    "userAttributeValuesToAdd": "userAttributes",
    "userAttributeValuesToRemove": "userAttributes",
    INCREMENTS: "userAttributes",
    "devices": "",
}
NUMBER = re.compile(r"\s*[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?\s*\Z")
MAX_NUMBER_LENGTH = 1_000  # characters; longer texts are not read as numbers
MAX_EXACT = 2**53  # a larger float may have other digits than the number that was sent
JSON_STARTS = frozenset('{["')  # the first character of a text that may hold an object or a list
DROPPED = object()


@dataclass(frozen=True)
class Rule:
    """One privacy rule; without `paths` it applies to every path, without `values` to every value.

    A path pattern takes a dot for the end of a path: a rule for `a` applies to `a.b`
    (`compile_pattern(at_dots=True)`).
    """

    verb: Verb
    paths: tuple[Pattern, ...] = ()
    values: Pattern | None = None
    actions: frozenset[str] | None = None  # None: all

    def covers(self, path: bytes) -> bool:
        """Return whether the rule applies to a path, by itself or by a path above it."""
        return not self.paths or any(pattern.found_in(path) for pattern in self.paths)


class ValueHasher:
    """Makes keyed hashes of values.

    A hash proves that it was made with the key, so that it is never hashed again, and a text that
    only looks like one is.
    """

    def __init__(self, key: bytes) -> None:
        self._tags = hashlib.blake2b(key=key, digest_size=TAG_BYTES, person=b"value")
        self._checks = hashlib.blake2b(key=key, digest_size=CHECK_BYTES, person=b"check")

    def hash(self, text: str) -> str:
        """Return the hash of a text, 29 characters; a hash is returned as it is."""
        if self.is_hash(text):
            return text
        tag = _digest(self._tags, text.encode("utf-8", "surrogatepass"))
        check = _digest(self._checks, tag)
        return HASH_PREFIX + base64.urlsafe_b64encode(tag + check).decode()[:27]

    def is_hash(self, text: str) -> bool:
        """Return whether a text is a hash made with this key."""
        if not HASH.match(text):
            return False
        content = base64.urlsafe_b64decode(text[len(HASH_PREFIX) :] + "=")
        tag, check = content[:TAG_BYTES], content[TAG_BYTES:]
        return hmac.compare_digest(check, _digest(self._checks, tag))


def _digest(keyed: Any, data: bytes) -> bytes:
    copy = keyed.copy()
    copy.update(data)
    digest: bytes = copy.digest()
    return digest


def is_covered(value: str) -> bool:
    """Return whether a text has the form of what a rule leaves of a value."""
    return value == MASK or HASH.match(value) is not None


class PathRules(NamedTuple):
    """The rules for one path.

    `verb`: of the strongest rule that applies to every value; `by_value`: rules that examine it.
    """

    verb: Verb | None
    by_value: tuple[Rule, ...] = ()


class _PathBudget:
    """How much longer the paths of one item may be than its names."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = FREE_PATH_CHARACTERS

    def allows(self, path: str, names: Iterable[str]) -> bool:
        """Return whether the names in the object at a path may still be examined."""
        self._left += sum(PATH_SHARE * len(name) - len(path) for name in names)
        return self._left >= 0


class PrivacyGuard:
    """Applies privacy rules to the fields of an item, in place."""

    def __init__(self, rules: Sequence[Rule], hasher: ValueHasher) -> None:
        self._rules, self._hasher = rules, hasher
        # Most values match no rule: one search shows it, instead of one search for each rule.
        self._any = any_of(tuple(rule.values for rule in rules if rule.values is not None))
        self._path_cache: dict[str, PathRules] = {}

    def apply(self, fields: dict[str, Any], *, parse_text: bool = False) -> bool:
        """Apply the rules; return whether anything changed.

        `parse_text`: objects may be JSON text, as SDKs send them.
        """
        changed, budget = False, _PathBudget()
        for name in [name for name in fields if name not in FREE]:
            before = fields[name]
            if parse_text and isinstance(before, str):
                after = self._cover_text(name, before, budget)
            else:
                after = self._cover(name, before, 0, budget)
            if after is DROPPED:
                del fields[name]
            else:
                fields[name] = after
            changed = changed or after is not before
        return changed

    def cover_cell(self, path: str, text: str) -> str:
        """Return what is left of a CSV cell in the column of this path; "" if it is dropped."""
        if not text or path in FREE:
            return text
        left = self._cover_text(path, text, _PathBudget())
        return "" if left is DROPPED else str(left)

    def covers_path(self, path: str) -> bool:
        """Return whether a rule applies to every value at a path."""
        return self._rules_for(path).verb is not None

    def cover_before_rewrite(self, path: str, value: str, rewritten: str) -> Any:
        """Return what is left of a value that a later step will write as `rewritten`.

        Only rules that match the value as it was sent apply now. If one also matches `rewritten`,
        the value stays, because it is covered after the step.
        """
        if rewritten == value:
            return self._cover(path, value, 0, _PathBudget())
        by_value = self._rules_for(path).by_value
        verbs = self._matching(by_value, value)
        if not verbs or self._matching(by_value, rewritten):
            return value
        return self._replace(_strongest(verbs), rewritten)

    def _cover_text(self, name: str, text: str, budget: _PathBudget) -> Any:
        """Return what is left of a text that may be JSON."""
        if name in OBJECTS:
            value = _parse_nested(text)
            if value is DROPPED:
                return DROPPED
            covered = self._cover(name, value, 0, budget)
            return covered if covered is DROPPED or value is text else _to_json(covered)
        covered = self._cover(name, text, 0, budget)
        if covered is not text or text.lstrip()[:1] not in JSON_STARTS:
            return covered
        value = _parse_nested(text)
        if value is DROPPED or value is text:  # ordinary text
            return text
        inside = self._cover(name, value, 0, budget)
        if inside is DROPPED:
            return DROPPED
        return text if inside is value and _is_fully_examined(text) else _to_json(inside)

    def _cover(self, path: str, value: Any, depth: int, budget: _PathBudget) -> Any:
        """Return what is left of a value: the value itself if no rule applies to it."""
        verb, by_value = self._rules_for(path)
        if verb == "drop":
            return DROPPED
        if isinstance(value, dict | list):
            if depth >= MAX_DEPTH:
                return DROPPED
            if isinstance(value, dict):
                return self._cover_object(path, value, depth, budget)
            return self._cover_list(path, value, depth, budget)
        if value is None:  # it clears an attribute and says nothing
            return value
        if by_value and not self._is_left_by_rule(value):
            verbs = self._matching(by_value, value)
            if verb is not None:
                verbs.append(verb)
            verb = _strongest(verbs)
        if verb is None:
            return value
        if path.partition(".")[0] == INCREMENTS:  # only numbers are valid there
            return DROPPED
        return self._replace(verb, value)

    def _cover_object(
        self, path: str, value: dict[str, Any], depth: int, budget: _PathBudget
    ) -> Any:
        if not budget.allows(path, value):
            return DROPPED
        covered = {
            key: self._cover(f"{path}.{key}", inner, depth + 1, budget)
            for key, inner in value.items()
        }
        if all(covered[key] is value[key] for key in covered):
            return value
        return {key: inner for key, inner in covered.items() if inner is not DROPPED}

    def _cover_list(self, path: str, value: list[Any], depth: int, budget: _PathBudget) -> Any:
        covered = [self._cover(path, inner, depth + 1, budget) for inner in value]
        if all(after is before for after, before in zip(covered, value, strict=True)):
            return value
        return [inner for inner in covered if inner is not DROPPED]

    def _matching(self, rules: Sequence[Rule], value: Any) -> list[Verb]:
        """Return the verbs of the rules that match a value."""
        verbs: list[Verb] = []
        for form in _forms(value):
            text = encoded(form)
            if self._any is None or self._any.found_in(text):
                verbs += [rule.verb for rule in rules if _matches(rule, text)]
        return verbs

    def _replace(self, verb: Verb | None, value: Any) -> Any:
        """Return what a verb leaves of a scalar."""
        if verb == "drop":
            return DROPPED
        if value == MASK:
            return value
        if verb == "mask":
            return MASK
        hashed = self._hasher.hash(_text_of(value))
        return value if hashed == value else hashed

    def _is_left_by_rule(self, value: Any) -> bool:
        return isinstance(value, str) and (value == MASK or self._hasher.is_hash(value))

    def _rules_for(self, path: str) -> PathRules:
        cached = self._path_cache.get(path)
        if cached is not None:
            return cached
        if len(path) > MAX_PATH_LENGTH:
            return PathRules("drop")
        paths = [encoded(alias) for alias in _aliases(path)]
        covering = [rule for rule in self._rules if any(map(rule.covers, paths))]
        by_value = tuple(rule for rule in covering if rule.values is not None)
        verb = _strongest([rule.verb for rule in covering if rule.values is None])
        if len(self._path_cache) >= MAX_CACHED_PATHS:
            self._path_cache.clear()
        path_rules = self._path_cache[path] = PathRules(verb, by_value)
        return path_rules


def _strongest(verbs: Sequence[Verb]) -> Verb | None:
    return min(verbs, key=STRENGTH.index, default=None)


def _matches(rule: Rule, text: bytes) -> bool:
    return rule.values is not None and rule.values.found_in(text)


def _aliases(path: str) -> Iterator[str]:
    """Yield a path and the other path by which rules know the same value."""
    yield path
    field, dot, rest = path.partition(".")
    other = ALIASES.get(field)
    if other is None:
        return
    alias = f"{other}{dot}{rest}" if other else rest
    if alias and alias not in FREE:
        yield alias


def _text_of(value: Any) -> str:
    """Return a scalar as text: itself or its JSON. A whole float is written as an integer."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(Decimal(repr(value))))
    return json.dumps(value)


def _forms(value: Any) -> Iterator[str]:
    """Yield the texts in which rules search for a value.

    A number is searched as digits, however it was written, and so is a text that is a number.
    """
    text = _text_of(value)
    yield text
    if isinstance(value, float) and value.is_integer():
        if abs(value) > MAX_EXACT:
            yield str(int(value))
    elif isinstance(value, str):
        digits = _integer_digits(value)
        if digits is not None and digits != text:
            yield digits


def _integer_digits(text: str) -> str | None:
    """Return the digits of a text that is a whole number, such as "1.5e3"; None for any other."""
    if len(text) > MAX_NUMBER_LENGTH or not NUMBER.match(text):
        return None
    number = Decimal(text.strip())
    return str(int(number)) if number == number.to_integral_value() else None


def _parse_nested(text: str) -> Any:
    """Return the JSON in a text, which may be JSON text itself; blank text is returned as it is.

    Text that cannot be parsed is DROPPED, because its content cannot be examined.
    """
    value: Any = text
    for _ in range(3):
        if not isinstance(value, str):
            return value
        if not value.strip():
            return text
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return DROPPED
    return value if not isinstance(value, str) else DROPPED


def _is_fully_examined(text: str) -> bool:
    """Return whether a parsed JSON text shows all of its content.

    It does not if it is text in text, or an object has a name twice, of which only the last counts.
    """
    has_duplicates = False

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal has_duplicates
        fields = dict(pairs)
        has_duplicates = has_duplicates or len(fields) < len(pairs)
        return fields

    return not isinstance(json.loads(text, object_pairs_hook=collect), str) and not has_duplicates


def _to_json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(value)


def guard_for(rules: Sequence[Rule], hasher: ValueHasher, action: str) -> PrivacyGuard | None:
    """Return a guard with the rules for an action; None if there are none."""
    own = [rule for rule in rules if rule.actions is None or action in rule.actions]
    return PrivacyGuard(own, hasher) if own else None
