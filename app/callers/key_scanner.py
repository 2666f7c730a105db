"""The search for caller keys in the bytes of a body, before anything of it is parsed. Pure.

A key has a form of its own, so a search for it needs no knowledge of the format around it. Bytes
come piece by piece; a key may lie across two of them.
"""

import re

from app.callers import key_format

START = key_format.PREFIX.rstrip("_").encode()
# The underscore may be percent-encoded, or written as \u005f, with more backslashes in nested JSON.
FORM = re.compile(
    rb"%s(?:_|%%5[Ff]|\\{1,8}u005[Ff])([0-9A-Za-z]{%d})"
    % (START, key_format.CHANCE + key_format.CHECK)
)
LONGEST = len(START) + 8 + len("u005f") + key_format.CHANCE + key_format.CHECK
MAX_DIFFERENT = 32  # texts of the form whose checksum is looked at; a call has one key
# Texts that begin like a key; some SDKs repeat theirs in each of 10,000 entries
MAX_STARTS = 50_000


class KeyScanner:
    """A search for each different text that has a key's form and checksum.

    Memory and time are bounded: once too many texts began like a key, nothing more is found.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._seen = set[bytes]()
        self._starts = 0
        self.exhausted = False

    def feed(self, piece: bytes) -> list[str]:
        """Return the keys that are new with this piece, known to anybody or not."""
        if self.exhausted:
            return []
        data = self._tail + piece
        self._tail = data[-(LONGEST - 1) :]
        return [key for key in map(self._key, self._new(data)) if key_format.well_formed(key)]

    def _new(self, data: bytes) -> list[bytes]:
        starts = data.count(START)  # ten times as fast as the pattern
        if not starts:
            return []
        self._starts += starts
        new = list[bytes]()
        for match in FORM.finditer(data):
            body = match.group(1)
            if body not in self._seen:
                self._seen.add(body)
                new.append(body)
            if len(self._seen) > MAX_DIFFERENT:
                break
        self.exhausted = self._starts > MAX_STARTS or len(self._seen) > MAX_DIFFERENT
        return new

    @staticmethod
    def _key(body: bytes) -> str:
        return key_format.PREFIX + body.decode("ascii")
