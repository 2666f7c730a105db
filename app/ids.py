"""Item ids. One that the gateway makes is a UUIDv7 (RFC 9562 §5.7) that tells where its item is, so
none is stored.

All items of one acceptance share the first four groups (time and chance); the last group is the
item's sequence number.

Ids of users and devices have one text each, whichever way they are written: order, locks and
erasures go by that text.
"""

import random
import re
import zlib

MADE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
PREFIX_LENGTH = 24
# What lanes are leased by: more would be more to renew, fewer would spread worse over deliverers
SHARDS = 64


def new_prefix(now_ms: int, chance: int | None = None) -> str:
    """The first four groups of a UUIDv7, with their last dash: 48 bits of time, 26 bits of
    chance.
    """
    bits = random.getrandbits(26) if chance is None else chance
    time = f"{now_ms:012x}"
    return f"{time[:8]}-{time[8:]}-7{bits >> 14:03x}-{0x8000 | (bits & 0x3FFF):04x}-"


def made(prefix: str, seq: int) -> str:
    """The id of item `seq` of the acceptance with `prefix`."""
    return f"{prefix}{seq:012x}"


def parse(item_id: str) -> tuple[str, int] | None:
    """(prefix, sequence number) where the id has the form of one made here, else None."""
    if not MADE.match(item_id):
        return None
    return item_id[:PREFIX_LENGTH], int(item_id[PREFIX_LENGTH:], 16)


# White space, control characters and invisible signs. NUL is left in: an id that has one is
# refused.
_EDGE_RANGES = (
    *(
        range(0x01, 0x21),
        range(0x7F, 0xA1),
        range(0xAD, 0xAE),
        range(0x061C, 0x061D),
        range(0x1680, 0x1681),
    ),
    *(range(0x180E, 0x180F), range(0x2000, 0x2010), range(0x2028, 0x2030), range(0x205F, 0x2070)),
    *(range(0x3000, 0x3001), range(0xFEFF, 0xFF00)),
)
EDGES = "".join(chr(code) for codes in _EDGE_RANGES for code in codes)


def plain(text: str) -> str:
    """Return the id of a user or device without white space and invisible signs around it."""
    # Nearly all, at a fifth of the cost
    if not text or ("!" <= text[0] <= "~" and "!" <= text[-1] <= "~"):
        return text
    return text.strip(EDGES)


def text_of(value: object) -> str | None:
    """Return the id of a user or device as text: of a whole number its digits, also where it is
    written as 77.0 or 7.7e1. "" says that none is given; None, that this is no id.
    """
    if isinstance(value, str):
        return plain(value)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def lane(app: str, subject: str) -> int:
    """The lane of a user or device: 32 bits, so two of many may share one, and then wait for each
    other.
    """
    return zlib.crc32(subject.encode(), zlib.crc32(app.encode()))


def shard(lane: int) -> int:
    """The shard that a lane is in."""
    return lane % SHARDS


def share(app: str, key_id: str) -> int:
    """The number that a caller's fair share of an app is kept under: what is held for one app keeps
    nothing of another waiting. Two that had the same number would share one.
    """
    return zlib.crc32(key_id.encode(), zlib.crc32(app.encode()))
