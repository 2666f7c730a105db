"""Reading bodies: compression under a limit, and JSON as kindly as can be."""

import gzip
import random
import time
import zlib
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Malformed, Refusal, TooLarge, UnsupportedMediaType
from app.http.body import MAX_DEPTH, parse_json, require_media_type
from app.http.decompression import decompress

LIMIT = 1_000_000
TEXT = b'{"userId":"u","event":"e"}'
NOISE = random.Random(7).randbytes(300_000)


def zstd(body: bytes, **options: int | bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(body)  # type: ignore[arg-type]


def malformed(body: bytes, encoding: str) -> bool:
    try:
        decompress(body, encoding, LIMIT)
    except Malformed:
        return True
    return False


PACKED = {
    "gzip": gzip.compress(NOISE),
    "x-gzip": gzip.compress(NOISE),
    "zstd": zstd(NOISE, write_checksum=True),
}


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", " gzip ", "x-gzip", "zstd", "ZSTD"])
def test_what_was_packed_comes_out_as_it_was(encoding: str) -> None:
    assert decompress(PACKED[encoding.strip().lower()], encoding, LIMIT) == NOISE


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_what_was_not_packed_stays(encoding: str) -> None:
    assert decompress(TEXT, encoding, LIMIT) == TEXT


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "compress", "zip", "gzip;q=1"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        decompress(TEXT, encoding, LIMIT)


def test_several_members_of_gzip_and_frames_of_zstd_are_one_body() -> None:
    assert (
        decompress(gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b"), "gzip", LIMIT)
        == b"ab"
    )
    assert decompress(zstd(b"a") + zstd(b"b"), "zstd", LIMIT) == b"ab"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_exactly_the_limit_is_taken_and_one_byte_more_is_not(encoding: str) -> None:
    packed = PACKED[encoding]
    assert len(decompress(packed, encoding, len(NOISE))) == len(NOISE)
    with pytest.raises(TooLarge):
        decompress(packed, encoding, len(NOISE) - 1)


def test_a_bomb_is_not_unpacked_whole() -> None:
    """A tenth of a gigabyte of zeros: refused in the time and the memory of the limit."""
    packer = zlib.compressobj(9, wbits=31)
    gzip_bomb = b"".join([packer.compress(bytes(10_000_000)) for _ in range(10)]) + packer.flush()
    zstd_bomb = b"".join([zstd(bytes(10_000_000))] * 10)
    began = time.perf_counter()
    for encoding, bomb in [("gzip", gzip_bomb), ("zstd", zstd_bomb)]:
        with pytest.raises(TooLarge):
            decompress(bomb, encoding, LIMIT)
    assert time.perf_counter() - began < 0.5


def test_a_zstd_window_that_would_take_a_gigabyte_of_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(
        window_log=27, compression_level=1, write_content_size=False
    )
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(Malformed):
        decompress(packer.compress(NOISE) + packer.flush(), "zstd", LIMIT)


@pytest.mark.parametrize("cut", [1, 5, 10, 15, 5_000, -1, -4, -8, -9])
@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_packed_body_that_was_cut_off_is_malformed_and_never_taken_in_part(
    encoding: str, cut: int
) -> None:
    with pytest.raises(Malformed):
        decompress(PACKED[encoding][:cut], encoding, LIMIT)


def test_a_zstd_body_that_was_cut_off_between_blocks_is_malformed() -> None:
    """Blocks hold 128 KiB: cut after the first, the rest reads as a whole (shorter) NDJSON body."""
    packed = zstd(b"\n".join(b"%d" % number for number in range(100_000)))
    for cut in range(len(packed) // 4, len(packed), len(packed) // 8):
        with pytest.raises(Malformed):
            decompress(packed[:cut], "zstd", LIMIT)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_garbage_is_malformed_wherever_it_stands(encoding: str) -> None:
    packed = PACKED[encoding]
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    bodies = {
        "none packed": TEXT,
        "a byte": b"\0",
        "behind": packed + b"garbage",
        "half a member behind": packed + packed[:20],
        "inside": bytes(flipped),
    }
    for where, body in bodies.items():
        assert malformed(body, encoding), where


def test_a_wrong_checksum_is_malformed() -> None:
    for encoding, at in (("gzip", -8), ("zstd", -1)):
        wrong = bytearray(PACKED[encoding])
        wrong[at] ^= 1
        with pytest.raises(Malformed):
            decompress(bytes(wrong), encoding, LIMIT)


def test_many_empty_members_take_no_more_time_than_their_bytes() -> None:
    """Each member must not cost a copy of all that follow it: 5 MiB of them would stop the gateway
    for minutes.
    """
    began = time.perf_counter()
    with suppress(Malformed):  # to refuse so many is right too
        assert decompress(gzip.compress(b"", mtime=0) * 120_000, "gzip", LIMIT) == b""
    assert time.perf_counter() - began < 1.5


@given(st.binary(max_size=200), st.sampled_from(["gzip", "zstd"]))
def test_any_bytes_unpack_or_are_refused(body: bytes, encoding: str) -> None:
    try:
        decompress(body, encoding, LIMIT)
    except Refusal:
        return


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", '{"a":}', "nul", "{'a':1}", "[1,]", '{"a":1}x', "\ufeff{}", "\x00", '"\n"'],
)
def test_what_is_not_json_is_malformed_and_told_by_line_and_column(text: str) -> None:
    with pytest.raises(Malformed, match=r"not valid JSON: line \d+, column \d+"):
        parse_json(text.encode())


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
    ],
)
def test_what_cannot_be_read_for_another_reason_is_told_by_its_reason(
    body: bytes, word: str
) -> None:
    with pytest.raises(Malformed, match=word):
        parse_json(body)


def nested(levels: int, opened: str, closed: str, inside: str = "1") -> bytes:
    return (opened * levels + inside + closed * levels).encode()


FORMS = [("[", "]"), ('{"a":', "}"), ("[1,", "]")]


@pytest.mark.parametrize("inside", ["1", "NaN"], ids=["strict JSON", "kind reading"])
@pytest.mark.parametrize(("opened", "closed"), FORMS)
def test_so_many_levels_are_taken_and_one_more_is_not(
    opened: str, closed: str, inside: str
) -> None:
    parse_json(nested(MAX_DEPTH, opened, closed, inside))
    for levels in (MAX_DEPTH + 1, 200, 900, 1_100):
        with pytest.raises(Malformed, match=f"more than {MAX_DEPTH} levels"):
            parse_json(nested(levels, opened, closed, inside))


def test_depth_is_of_what_is_nested_and_not_of_what_is_beside_or_in_text() -> None:
    parse_json(b"[" + b"[],{}," * 1_000 + b"1]")
    parse_json(b'["' + b"[" * 1_000 + b'"]')


def test_more_objects_and_lists_than_anybody_sends_are_refused_before_they_are_made() -> None:
    began = time.process_time()
    with pytest.raises(TooLarge, match="objects, arrays"):
        parse_json(b"[" + b"[]," * 1_600_000 + b"1]")
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize("text", ["NaN", "[1e400]", '{"a":-Infinity}', r'"\ud800"', "9" * 4_000])
def test_what_the_rules_can_point_at_is_let_through(text: str) -> None:
    parse_json(text.encode())


@pytest.mark.parametrize(
    "found",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        " application/json ;x=y",
    ],
)
def test_a_media_type_is_known_by_its_name_alone(found: str) -> None:
    assert require_media_type(found, "application/json") == "application/json"


@pytest.mark.parametrize(
    "found", ["", "json", "text/plain", "application/jsonx", "application/x-ndjson", ";", "*/*"]
)
def test_another_media_type_is_refused_with_those_that_are_taken(found: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="application/json"):
        require_media_type(found, "application/json")
