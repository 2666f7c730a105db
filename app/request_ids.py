"""The ids of items that came with an SDK's `reqId`: all items of one reqId are a range of ids.
Pure.

An id is `sdk:`, a hash of the reqId, a hash of the uuid, and what tells items of the two apart. It
has a fixed length, and behind the prefix it has digits alone: `id BETWEEN` the bounds of a reqId
means the same in every collation, and the primary key finds it. Letters would not do: in Danish,
`aa` sorts behind `z`. SDKs compare reqIds without regard to case, and so does this module.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from zlib import crc32

PREFIX = "sdk:"
REQUEST_BYTES, REQUEST_DIGITS = 12, 29
UUID_DIGITS = 10
LAST_BYTES, LAST_DIGITS = 8, 20
LENGTH = len(PREFIX) + REQUEST_DIGITS + UUID_DIGITS + LAST_DIGITS
UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
Bounds = tuple[str, str]  # the least id and the greatest
Random = Callable[[int], bytes]


def item_id(action: str, req_id: str, uuid: str, random: Random = os.urandom) -> str:
    """Return the id of an item with this reqId.

    A repeat gets the same id where an SDK marks each action as its own: by a uuid, or by a reqId
    that is a UUID itself. Any other reqId may stand for many items, so each gets an id of its own.
    """
    last = _of_action(action) if marks_one(req_id, uuid) else _last(random(LAST_BYTES))
    return _of_request(req_id.lower()) + _of_uuid(uuid) + last


def marks_one(req_id: str, uuid: str) -> bool:
    """Return whether a reqId with this uuid ("": none) stands for one action alone."""
    return bool(req_id) and (bool(uuid) or UUID.fullmatch(req_id.lower()) is not None)


def apart(item_id: str, action: str, content: str) -> str:
    """Return another id of the same reqId and uuid, for an item with another content; a repeat gets
    the same.
    """
    digest = blake2b(f"{action}\0{content}".encode(), digest_size=LAST_BYTES).digest()
    return item_id[:-LAST_DIGITS] + _last(digest)


def bounds(req_id: str, uuid: str | None) -> Bounds:
    """Return the bounds of the ids of all items with this reqId, and with this uuid if one is
    given.
    """
    start = _of_request(req_id.lower())
    if uuid is not None:
        start += _of_uuid(uuid)
    return start.ljust(LENGTH, "0"), start.ljust(LENGTH, "9")


def _of_request(req_id: str) -> str:
    digest = blake2b(req_id.encode(), digest_size=REQUEST_BYTES).digest()
    return PREFIX + str(int.from_bytes(digest)).zfill(REQUEST_DIGITS)


def _of_uuid(uuid: str) -> str:
    """A checksum is enough: where two uuids of one reqId share it, their contents still differ."""
    return str(crc32(uuid.lower().encode())).zfill(UUID_DIGITS)


@cache
def _of_action(action: str) -> str:
    """Return what stands last where a repeat is known: few actions exist, so each is hashed
    once.
    """
    return _last(blake2b(action.encode(), digest_size=LAST_BYTES).digest())


def _last(digest: bytes) -> str:
    return str(int.from_bytes(digest)).zfill(LAST_DIGITS)
