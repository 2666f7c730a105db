"""Marks: what tells that whoever wrote a record has the audit's key.

One stands beside each record, from its own transaction on. The sealer puts nothing into the tree
whose mark is wrong: who can change the database, and hasn't the key, can't have another record
sealed than the one that was written.
"""

import hmac

from app.audit.key_derivation import derived
from app.audit.row_macs import RowMacs

PURPOSE = b"leanplum-gateway audit marks"


class Marks:
    """Makes and checks the marks of one gateway: the same for the same seed. `rows`: the MACs of
    other rows.
    """

    def __init__(self, seed: bytes) -> None:
        self._key = derived(seed, PURPOSE)
        self.rows = RowMacs(seed)

    def of(self, seq: int, text: bytes) -> bytes:
        """The mark of record `seq`: HMAC-SHA256 (RFC 2104) over its number, a zero byte, and its
        text; 32 bytes.
        """
        return hmac.digest(self._key, b"%d\0%b" % (seq, text), "sha256")

    def fits(self, seq: int, text: bytes, mark: bytes) -> bool:
        """Whether this is the mark of that record under that number."""
        return hmac.compare_digest(self.of(seq, text), mark)
