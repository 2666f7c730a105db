"""Operators' patterns: as Python means them, in linear time, or refused in one line."""

import random
import re
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import re2
from jsonschema_rs import Draft202012Validator

from app.patterns import Pattern, PatternRefused, any_of, compile_glob, compile_pattern, encoded
from app.tracking.plan import json_schemas

MEBIBYTE = 1024 * 1024
MOST_SECONDS = 0.05  # of processor time, for a megabyte
ORDINARY = (
    r"[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}",
    r"^[\w.+-]+@[\w-]+\.[\w.-]+$",
    r"(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*)@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z0-9]+",
    r"^\d{13,19}$",
    r"\b(?:\d[ -]*?){13,16}\b",
    r"(?:\d{4}[- ]?){3}\d{4}",
    r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}",
    r"\+?\d{1,3}[ .-]?\(?\d{1,4}\)?[ .-]?\d{3,4}[ .-]?\d{3,6}$",
    r"(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}",
    r"[\w-]{3,24}\.[\w-]{6}\.[\w-]{10}",
    r"\d{3}-?\d{2}-?\d{4}",
    "|".join(f"word{number}x{number * 7}" for number in range(200)),
    r"password.{0,300}",
    r"(?x) secret \s* [:=]  # and what follows",
)
EVIL = (
    "(a+)+$", "(a|aa)+$", "(a|a)*b", "(.*)*x!", "(.*a){12}", "(x+x+)+y", "([a-z]+)*[0-9]", r"(\w+\s?)*!$",
    "(a?){100}a{100}c",
    ".*.*.*.*=z", "(?:[ab]{1,30}){1,30}c", "[ab]*a[ab]{8}c", "[a-z]{1,500}@!", r"^(?:\w+\s?)+!$", "(((((a*)*)*)*)*)*!",
    r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}!", "(ab|a|b|ba)*!", r"(?m)^(\s*\S+)*!$", "(a*)*|b!", "((a{0,30}){0,10}){0,3}!",
)  # fmt: skip
TOO_LARGE = (
    "(a{1,500}){1,500}", "(?:a{1,70}){1,70}c", "[ab]*a[ab]{20}c", r"\w{1,64}@\w{1,64}", ".{1000}x",
    "(?:(?:a?){50}){50}b",
    r"\b(?:\d[ -]*?){13,25}\bx", "a{1000}" * 6,
)  # fmt: skip
UNSUPPORTED = {
    r"(a)\1": "back-reference",
    r"(?P<a>.)(?P=a)": "back-reference",
    "(?=a)b": "look-around",
    "(?!a)b": "look-around",
    "(?<=a)b": "look-around",
    "(?<!a)b": "look-around",
    "(a)?(?(1)b|c)": "a condition on a group",
    "(?>a+)b": "an atomic group",
    "a++b": "a possessive repetition",
    "a{1001}": "more than 1,000 times",
    "a{2,5000}": "more than 1,000 times",
    "(": "is not a regular expression",
    "[": "is not a regular expression",
    "a**": "is not a regular expression",
    "(" * 6_000: "nested too deeply",
    "a{99999999999999999999}": "is not a regular expression",
    "x" * 10_001: "is too long",
    r"\bmüll\b": r"has \b or \B beside letters that are not ASCII",
}


def seconds(pattern: Pattern, text: bytes) -> float:
    began = time.thread_time()
    pattern.found_in(text)
    return time.thread_time() - began


def texts(size: int = MEBIBYTE) -> Iterator[bytes]:
    """Texts that make engines slow: one letter, few letters by chance, near misses, and what is not
    ASCII.
    """
    chance = random.Random(1)
    yield b"a" * size
    yield (b"a" * 34 + b"!") * (size // 35)
    yield b"a@" * (size // 2)
    yield b"aaa.aaa@" * (size // 8)
    for letters in ("ab", "AB12", "0123456789 -", "abcxyz .@", "éüжя中a_9 ", "\n a"):
        yield "".join(chance.choices(letters, k=size // 2)).encode()
    yield "".join(map(chr, range(0x20, 0xD800))).encode() * (size // 160_000)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [*ORDINARY, *EVIL])
def test_no_pattern_over_any_text_takes_longer_than_50_ms_for_a_megabyte(pattern: str) -> None:
    made = compile_pattern(pattern)
    slowest = max(
        (min(seconds(made, text) for _ in range(2)) * MEBIBYTE / len(text), text[:20])
        for text in texts()
    )
    assert slowest[0] < MOST_SECONDS, slowest


def piece(chance: random.Random, depth: int) -> str:
    """A pattern by chance."""
    if depth == 0 or chance.random() < 0.3:
        return chance.choice(
            ["a", "b", "[ab]", ".", r"\w", r"\d", r"\s", "[^a]", r"\b", "@", "é", "x?", "^"]
        )
    inner = [piece(chance, depth - 1) for _ in range(chance.randint(1, 3))]
    joined = chance.choice(["", "|"]).join(inner)
    many = chance.choice(["", "", "*", "+", "?", "{2}", "{1,9}", "{0,40}", "{3,}", "*?", "{12}"])
    return f"(?:{joined}){many}"


@pytest.mark.slow
def test_patterns_by_chance_find_what_python_finds_and_are_as_fast() -> None:
    """Half a megabyte each; against Python only over short texts, where it does not take for
    ever.
    """
    chance, until, tried = random.Random(7), time.thread_time() + 5, 0
    long_texts = list(texts(MEBIBYTE // 8))
    while time.thread_time() < until:
        pattern = piece(chance, 3) + chance.choice(["", "$"])
        try:
            made = compile_pattern(pattern)
        except PatternRefused:
            continue
        tried += 1
        text = chance.choice(long_texts)
        took = min(seconds(made, text) for _ in range(2))
        # An eighth of a megabyte, and the states once
        assert took < MOST_SECONDS / 4, (pattern, text[:30])
        python = re.compile(pattern, re.IGNORECASE)
        for short in ("", "a", "abé a@", "ab\n", "A B\nb", "aaaaaaab", "é1 x"):
            if r"\b" not in pattern or short.isascii():
                assert made.search(short) == (python.search(short) is not None), (pattern, short)
    assert tried > 50


@pytest.mark.parametrize("pattern", [*TOO_LARGE, *UNSUPPORTED])
def test_what_can_t_be_searched_for_in_linear_time_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(PatternRefused) as refused:
        compile_pattern(pattern)
    assert UNSUPPORTED.get(pattern, "is too large") in str(refused.value)
    assert "\n" not in str(refused.value)


# --- what patterns mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("straße", "STRAßE"),
        ("É", "é"),
        ("k", "\u212a"),
        ("\u017f", "S"),
        ("[à-ü]", "Ö"),
        ("привет", "ПРИВЕТ"),
        (r"^\w+$", "jürgen"),
        (r"^\w+@\w+\.рф$", "мир@почта.рф"),
        (r"^[^\W\d_]+$", "Łódź"),
        (r"^a\sb$", "a\u00a0b"),
        (r"^\d{3}$", "123\n"),
        (r"\A\d{3}\Z", "123"),
        ("(?m)^b$", "a\nb\nc"),
        ("(?s)a.b", "a\nb"),
        ("(?-i:A)b", "AB"),
        ("(?x) a  b  # both", "ab"),
        ("(?P<name>a)(?#why)b", "ab"),
        (r"\u00fc\xe9\N{SNOWMAN}", "ÜÉ☃"),
        (r"a{,2}b", "b"),
        (r"[]a]", "]"),
        (r"[\b]", "\b"),
        (r"\bcard\b", "my card!"),
        ("\ud800", "a\ud800"),
        ("", ""),
        (".", "🎉"),
    ],
)
def test_a_pattern_finds_what_python_would_whatever_the_case(pattern: str, text: str) -> None:
    assert re.search(pattern, text, re.IGNORECASE)
    assert compile_pattern(pattern).search(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"\A\d{3}\Z", "123\n"),
        ("(?-i:A)", "a"),
        ("a.b", "a\nb"),
        (r"\S", " \u00a0"),
        (r"\W", "ü"),
        ("[^é]", "É"),
        ("^b", "a\nb"),
    ],
)
def test_a_pattern_finds_nothing_where_python_would_not(pattern: str, text: str) -> None:
    assert not re.search(pattern, text, re.IGNORECASE)
    assert not compile_pattern(pattern).search(text)


def test_two_things_are_ascii_alone_digits_and_the_letters_by_which_words_end() -> None:
    assert not compile_pattern(r"\d").search("٣")
    assert compile_pattern(r"\w").search("٣")
    assert compile_pattern(r"r\b").search("rü")


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("params.card", "params.card.no", True),
        ("params.card", "params.cards", False),
        ("a*", "A.b", True),
        ("*.email", "userAttributes.email.x", True),
        ("*.email", "userAttributes.emails", False),
        ("a?c", "abc", True),
        ("[!x]", "y", True),
        ("[!x]", "x", False),
        ("[a-c]x", "BX", True),
        ("[]]", "]", True),
        ("a[", "a[", True),
        ("a.c", "abc", False),
        ("a**b", "a.b.c", True),
    ],
)
def test_a_glob_is_of_the_whole_path_or_of_what_it_is_beneath(
    pattern: str, path: str, found: bool
) -> None:
    assert compile_glob(pattern).search(path) is found


@pytest.mark.parametrize(
    ("pattern", "found"),
    [(r"\.ssn$", True), (r"\.ssn\Z", True), (r"\.ss$", False), ("(?m)n$", True)],
)
def test_a_dot_is_an_end_of_a_path(pattern: str, found: bool) -> None:
    assert compile_pattern(pattern, at_dots=True).search("params.ssn.last") is found


# --- schemas ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["pattern", "patternProperties"])
@pytest.mark.parametrize("pattern", ["(a{1,100}){1,100}c", "[ab]*a[ab]{20}c"])
def test_a_schema_with_a_pattern_that_could_be_slow_is_refused_where_it_stands(
    keyword: str, pattern: str
) -> None:
    schema: dict[str, Any] = {
        "items": {keyword: pattern if keyword == "pattern" else {pattern: True}}
    }
    found = list(json_schemas.schema_faults(schema, {}))
    assert [path[:2] for path, _ in found] == [("items", keyword)]
    assert "is too large" in found[0][1]


@pytest.mark.parametrize(
    "pattern",
    [r"^[A-Z]-[0-9]+$", r"^\p{L}{1,50}$", r"^(?<year>\d{4})-\d\d$", r"^[\w.]+@\w+$", "(a+)+$"],
)
def test_a_schema_s_ordinary_pattern_is_taken_and_fast(pattern: str) -> None:
    assert list(json_schemas.schema_faults({"pattern": pattern}, {})) == []
    validator: Draft202012Validator = json_schemas.compile_schema({"pattern": pattern}, {})
    for text in texts():
        words = text.decode("utf-8", "replace")
        validator.is_valid(words)
        began = time.thread_time()
        validator.is_valid(words)
        assert (time.thread_time() - began) * MEBIBYTE / len(text) < MOST_SECONDS


def test_a_text_is_searched_as_it_is_stored() -> None:
    assert encoded("é\ud800") == b"\xc3\xa9\xed\xa0\x80"


def test_one_search_for_several_patterns_finds_what_one_of_them_finds_and_no_more() -> None:
    patterns = tuple(compile_pattern(pattern) for pattern in (r"^\d{3}$", "b|c", r"\bx\b"))
    union = any_of(patterns)
    assert union is not None
    for text in ("123", "1234", "abc", "a", "x y", "xy", "", "12\n", "123\n"):
        assert union.search(text) == any(pattern.search(text) for pattern in patterns)
    assert any_of(patterns[:1]) is None


# What app/patterns/syntax.py reads of Python's parser, and the names of its opcodes there.
PARSER_ATTRIBUTES = ("parse", "MAXREPEAT")
PARSER_OPCODES = (
    *("ANY", "ASSERT", "ASSERT_NOT", "AT", "ATOMIC_GROUP", "BRANCH", "CATEGORY", "GROUPREF"),
    *("GROUPREF_EXISTS", "IN", "LITERAL", "MAX_REPEAT", "MIN_REPEAT", "NEGATE", "NOT_LITERAL"),
    *("POSSESSIVE_REPEAT", "RANGE", "SUBPATTERN"),
    *("AT_BEGINNING", "AT_BEGINNING_STRING", "AT_BOUNDARY", "AT_END", "AT_END_STRING"),
    *("AT_NON_BOUNDARY", "CATEGORY_DIGIT", "CATEGORY_NOT_DIGIT", "CATEGORY_SPACE"),
    *("CATEGORY_NOT_SPACE", "CATEGORY_WORD", "CATEGORY_NOT_WORD"),
)


@pytest.mark.parametrize("name", PARSER_ATTRIBUTES)
def test_pythons_parser_has_the_attribute(name: str) -> None:
    assert hasattr(import_module("re._parser"), name), f"re._parser.{name} is gone"


@pytest.mark.parametrize("name", PARSER_OPCODES)
def test_pythons_parser_has_the_opcode(name: str) -> None:
    opcode = getattr(import_module("re._constants"), name, None)
    assert str(opcode) == name, f"re._constants.{name} is gone"


def test_a_parsed_pattern_has_its_flags_and_pairs_of_opcode_and_value() -> None:
    parsed = import_module("re._parser").parse("(?i:a)", 0)
    assert hasattr(parsed, "state"), "re._parser.SubPattern.state is gone"
    assert hasattr(parsed.state, "flags"), "re._parser.State.flags is gone"
    ((opcode, value),) = parsed
    assert str(opcode) == "SUBPATTERN"
    assert len(value) == 4, "re._parser's SUBPATTERN has other values"


@pytest.mark.parametrize("name", ["RE2", "RE2.Anchor.ANCHOR_BOTH"])
def test_re2_has_the_attribute(name: str) -> None:
    found = re2._re2
    for part in name.split("."):
        assert hasattr(found, part), f"re2._re2.{name} is gone"
        found = getattr(found, part)
