"""Ids of items, users and devices, and the lanes and shards that are derived from them.

An id that the gateway generates is a UUIDv7 (RFC 9562 §5.7) that says where its item is, so it is
not stored. All items of one acceptance share the first four groups (time and random bits); the last
group is the item's sequence number.

An id of a user or device has one text, however it is written: order, locks and erasures go by that
text.
"""

import os
import random
import re
import zlib
from collections.abc import Callable
from functools import cache
from hashlib import blake2b

MADE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
PREFIX_LENGTH = 24
# What lanes are leased by: more would be more to renew, fewer would spread worse over deliverers
SHARDS = 64


def new_prefix(now_ms: int, chance: int | None = None) -> str:
    """Return the first four groups of a UUIDv7, with their last dash.

    They have 48 bits of time and 26 random bits (`chance`).
    """
    bits = random.getrandbits(26) if chance is None else chance
    time = f"{now_ms:012x}"
    return f"{time[:8]}-{time[8:]}-7{bits >> 14:03x}-{0x8000 | (bits & 0x3FFF):04x}-"


def made(prefix: str, seq: int) -> str:
    """Return the id of item `seq` of the acceptance with `prefix`."""
    return f"{prefix}{seq:012x}"


def parse(item_id: str) -> tuple[str, int] | None:
    """Return (prefix, sequence number) if the id has the form of a generated one, else None."""
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
    """Return the id of a user or device as text.

    A whole number gives its digits, also if it is written as 77.0 or 7.7e1. "" means that none is
    given; None, that the value is no id.
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
    """Return the lane of a user or device, as 32 bits.

    Two of many may share a lane, and then wait for each other.
    """
    return zlib.crc32(subject.encode(), zlib.crc32(app.encode()))


def request_checksum(request_id: str) -> int:
    """Return a checksum of a request id, as 32 bits."""
    return zlib.crc32(request_id.encode())


def shard(lane: int) -> int:
    """Return the shard that a lane is in."""
    return lane % SHARDS


def share(app: str, key_id: str) -> int:
    """Return the number under which a caller's fair share of an app is kept.

    Items held for one app delay nothing of another. Two callers with the same number share one.
    """
    return zlib.crc32(key_id.encode(), zlib.crc32(app.encode()))


# --- ids of items that come with an SDK's `reqId` ---
#
# Such an id is `sdk:`, a hash of the reqId, a hash of the uuid, and digits that distinguish two
# items. All items of one reqId are a range of ids: the length is fixed, and behind the prefix there
# are only digits. So `id BETWEEN` the bounds means the same in every collation, and the primary key
# finds it. Letters would not do: in Danish, `aa` sorts behind `z`. SDKs compare reqIds without
# regard to case, and so does this module.

SDK_PREFIX = "sdk:"
REQUEST_BYTES, REQUEST_DIGITS = 12, 29
UUID_DIGITS = 10
LAST_BYTES, LAST_DIGITS = 8, 20
SDK_LENGTH = len(SDK_PREFIX) + REQUEST_DIGITS + UUID_DIGITS + LAST_DIGITS
_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
Bounds = tuple[str, str]  # the least id and the greatest
Random = Callable[[int], bytes]


def sdk_item_id(action: str, req_id: str, uuid: str, random: Random = os.urandom) -> str:
    """Return the id of an item with this reqId.

    A repeat gets the same id if the SDK identifies each action: by a uuid, or by a reqId that is a
    UUID itself. Any other reqId may be that of many items, so each gets an id of its own.
    """
    last = _of_action(action) if names_one_action(req_id, uuid) else _last(random(LAST_BYTES))
    return _of_request(req_id.lower()) + _of_uuid(uuid) + last


def names_one_action(req_id: str, uuid: str) -> bool:
    """Return whether a reqId with this uuid ("" if none) identifies a single action."""
    return bool(req_id) and (bool(uuid) or _UUID.fullmatch(req_id.lower()) is not None)


def sdk_item_id_for_content(item_id: str, action: str, content: str) -> str:
    """Return another id of the same reqId and uuid, for an item with other content.

    A repeat gets the same id.
    """
    digest = blake2b(f"{action}\0{content}".encode(), digest_size=LAST_BYTES).digest()
    return item_id[:-LAST_DIGITS] + _last(digest)


def sdk_item_id_bounds(req_id: str, uuid: str | None) -> Bounds:
    """Return the bounds of the ids of all items with this reqId, and uuid if one is given."""
    start = _of_request(req_id.lower())
    if uuid is not None:
        start += _of_uuid(uuid)
    return start.ljust(SDK_LENGTH, "0"), start.ljust(SDK_LENGTH, "9")


def _of_request(req_id: str) -> str:
    digest = blake2b(req_id.encode(), digest_size=REQUEST_BYTES).digest()
    return SDK_PREFIX + str(int.from_bytes(digest)).zfill(REQUEST_DIGITS)


def _of_uuid(uuid: str) -> str:
    """Return a checksum, which is enough: two uuids with the same one have different contents."""
    return str(zlib.crc32(uuid.lower().encode())).zfill(UUID_DIGITS)


@cache
def _of_action(action: str) -> str:
    """Return the last part of a repeatable id. Few actions exist, so each is hashed once."""
    return _last(blake2b(action.encode(), digest_size=LAST_BYTES).digest())


def _last(digest: bytes) -> str:
    return str(int.from_bytes(digest)).zfill(LAST_DIGITS)
