"""Ids that the gateway makes are UUIDv7 (RFC 9562 §5.7) that tell where their item is."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import ids
from app.encryption import NO_ENCRYPTION

MILLISECONDS = st.integers(0, 2**48 - 1)
CHANCE = st.integers(0, 2**26 - 1)
SEQ = st.integers(0, 2**48 - 1)


@given(MILLISECONDS, CHANCE, SEQ)
def test_a_made_id_is_a_uuid_of_version_7_that_begins_with_the_time(
    now: int, chance: int, seq: int
) -> None:
    made = uuid.UUID(ids.made(ids.new_prefix(now, chance), seq))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == now


@given(MILLISECONDS, CHANCE, SEQ)
def test_a_made_id_is_read_back_to_its_prefix_and_sequence_number(
    now: int, chance: int, seq: int
) -> None:
    prefix = ids.new_prefix(now, chance)
    assert ids.parse(ids.made(prefix, seq)) == (prefix, seq)


@given(MILLISECONDS, CHANCE, CHANCE)
def test_different_chance_makes_different_prefixes(now: int, one: int, other: int) -> None:
    assert (ids.new_prefix(now, one) == ids.new_prefix(now, other)) is (one == other)


def test_chance_is_drawn_anew_for_each_prefix() -> None:
    assert len({ids.new_prefix(0) for _ in range(100)}) > 90


@pytest.mark.parametrize(
    "text",
    [
        "",
        "order:1",
        "018bcfe5-6800-4000-8000-000000000001",
        "018bcfe5-6800-7000-c000-000000000001",
        "018BCFE5-6800-7000-8000-000000000001",
        "018bcfe5-6800-7000-8000-000000000001\n",
        " 018bcfe5-6800-7000-8000-000000000001",
        "018bcfe5680070008000000000000001",
    ],
)
def test_what_has_not_the_form_of_a_made_id_is_none(text: str) -> None:
    assert ids.parse(text) is None


def test_the_digest_tells_contents_apart_whose_parts_only_run_together() -> None:
    assert NO_ENCRYPTION.digest("ab", "c", "d") != NO_ENCRYPTION.digest("a", "bc", "d")
    assert NO_ENCRYPTION.digest("a", "b", "c") == NO_ENCRYPTION.digest("a", "b", "c")
