"""Caller keys of the bench."""

import zlib

from bench.keys import ALPHABET, PREFIX, base62, make_key, with_checksum


def test_a_number_is_written_most_significant_digit_first_and_padded_with_zeros() -> None:
    assert base62(61, 3) == "00z"
    assert base62(62, 3) == "010"
    assert base62(0, 6) == "000000"


def test_a_key_ends_in_six_digits_that_stand_for_the_crc_of_all_before_them() -> None:
    key = with_checksum(PREFIX + "a" * 30)
    digits = [ALPHABET.index(digit) for digit in key[-6:]]
    assert sum(digit * 62**place for place, digit in enumerate(reversed(digits))) == zlib.crc32(
        key[:-6].encode()
    )


def test_every_key_is_a_new_one_of_the_agreed_length() -> None:
    first, second = make_key(), make_key()
    assert first != second
    assert len(first) == len(second) == len(PREFIX) + 36
