"""Forms are decoded as the standard library decodes them, at a bounded price."""

import time
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.compat import body_formats
from app.errors import Malformed

TOKENS = [
    "%",
    "=",
    "&",
    "+",
    "4",
    "1",
    "C",
    "3",
    "A",
    "9",
    "é",
    "\n",
    "\r",
    "a",
    "%C3%A9",
    "%E2%82",
    "==",
    "%3D",
    "%0A",
]
MORE = ["%zz", " ", "_", "\x00", "%F0%9F%98%80", "%25", "%2B", "=\n", "🙂"]


@given(st.lists(st.sampled_from(TOKENS + MORE), max_size=40).map("".join), st.integers(3, 50))
def test_a_form_is_decoded_as_the_standard_library_does(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_formats, "SLICE", size)
        assert list(body_formats.parse_form(text.encode(), 100)) == parse_qsl(
            text, keep_blank_values=True
        )


def test_as_many_fields_as_may_be_are_taken_and_one_more_is_not() -> None:
    assert len(list(body_formats.parse_form(b"&".join([b"a=b"] * 100), 100))) == 100
    with pytest.raises(ValueError, match="100"):
        list(body_formats.parse_form(b"&".join([b"a=b"] * 101), 100))


def test_megabytes_of_escapes_cost_little() -> None:
    began = time.process_time()
    assert body_formats.unquote(b"%41" * 3_000_000) == "A" * 3_000_000
    assert time.process_time() - began < 1


def test_megabytes_of_signs_that_begin_no_escape_are_refused_at_once() -> None:
    began = time.process_time()
    with pytest.raises(Malformed):
        body_formats.unquote(b"%" * 20_000_000)
    assert time.process_time() - began < 1
