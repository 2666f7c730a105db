"""Keys are found in bytes of any kind, in any pieces, at a bounded price."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.callers import key_format
from app.callers.key_scanner import MAX_DIFFERENT, MAX_STARTS, KeyScanner

KEY = key_format.make()


def found(body: bytes, step: int = 65_536) -> list[str]:
    scanner = KeyScanner()
    return [key for at in range(0, len(body), step) for key in scanner.feed(body[at : at + step])]


@pytest.mark.parametrize(
    "escaped", ["_", "%5F", "%5f", "\\u005f", "\\u005F", "\\\\u005f", "\\\\\\\\u005F"]
)
@pytest.mark.parametrize(
    "around",
    ['{"clientKey":"%s"}', "a=b&clientKey=%s", "%s", "%%22%s%%22", "lpgw_%s", "%s0", "é%s\r\n"],
)
def test_a_key_is_found_however_its_underscore_is_written(escaped: str, around: str) -> None:
    body = (around % KEY.replace("_", escaped)).encode()
    assert found(body) == [KEY]


@given(
    st.binary(max_size=60),
    st.binary(max_size=60),
    st.integers(1, 90),
    st.sampled_from(["_", "%5f", "\\\\\\\\u005f"]),
)
def test_a_key_is_found_across_pieces_of_any_size(
    before: bytes, behind: bytes, step: int, escaped: str
) -> None:
    assert found(before + KEY.replace("_", escaped).encode() + behind, step) == [KEY]


def test_each_key_is_told_once_and_what_is_mistyped_never() -> None:
    other, wrong = key_format.make(), KEY[:-1] + ("a" if KEY[-1] != "a" else "b")
    body = b'"%s","%s","%s"' % (KEY.encode(), wrong.encode(), other.encode())
    assert found(body * 1_000) == [KEY, other]


def test_a_key_repeated_in_each_of_ten_thousand_entries_exhausts_nothing() -> None:
    scanner = KeyScanner()
    assert scanner.feed(b'{"clientKey":"%s"},' % KEY.encode() * 10_000) == [KEY]
    assert not scanner.exhausted


@pytest.mark.parametrize(
    "body",
    [
        b"lpgw" * (MAX_STARTS + 1),
        b"".join(b"lpgw_%036d" % number for number in range(MAX_DIFFERENT + 1)),
    ],
    ids=["beginnings", "texts of the form"],
)
def test_after_too_many_that_might_be_keys_nothing_is_found_any_more(body: bytes) -> None:
    scanner = KeyScanner()
    scanner.feed(body)
    assert scanner.exhausted
    assert scanner.feed(KEY.encode()) == []


@pytest.mark.parametrize(
    "unit", [b"lpgw", b"lpgw_", b"lpg", b"lpgw_" + b"a" * 35 + b"-", b"[", b"lpgw" + b"\\" * 8]
)
def test_no_text_takes_long(unit: bytes) -> None:
    body = unit * (8_000_000 // len(unit))
    began = time.process_time()
    found(body)
    assert time.process_time() - began < 0.5
