"""Users and devices as the audit knows them: a keyed hash, which tells that two records are about one user, and not who
it is."""

import base64
import hashlib

from app.audit.seed import derived

SIZE = 12  # bytes: 96 bits


class Pseudonyms:
    """Makes the keyed hashes of one gateway: the same for the same seed."""

    def __init__(self, seed: bytes) -> None:
        self._start = hashlib.blake2b(key=derived(seed, b"leanplum-gateway users"), digest_size=SIZE)

    def of(self, app: str, subject: str) -> str:
        """The keyed hash of a subject (`u` + user id, `d` + device id) of an app: 16 characters of base64url."""
        made = self._start.copy()
        made.update(f"{app}\0{subject}".encode())
        return base64.urlsafe_b64encode(made.digest()).decode()
