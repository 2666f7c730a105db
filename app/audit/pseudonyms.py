"""Users and devices as the audit knows them: a keyed hash, which tells that two records are about one user, and not who
it is."""

import hashlib
from collections.abc import Iterable

from app.audit.seed import derived

SIZE = 10  # bytes: of 100 million users two have the same hash with a chance of one to 10^8
MOST_APPS = 1_000  # whose beginnings are kept


class Pseudonyms:
    """Makes the keyed hashes of one gateway: the same for the same seed."""

    def __init__(self, seed: bytes) -> None:
        self._start = hashlib.blake2s(key=derived(seed, b"leanplum-gateway users"), digest_size=SIZE)
        self._of_apps: dict[str, hashlib.blake2s] = {}

    def of(self, app: str, subject: str) -> str:
        """The keyed hash of a subject (`u` + user id, `d` + device id) of an app: 20 hexadecimal digits."""
        return self.of_all(app, (subject,))[0]

    def of_all(self, app: str, subjects: Iterable[str]) -> list[str]:
        """The same of many: a batch has a hundred, so each counts."""
        begun, made = self._begun(app).copy, list[str]()
        for subject in subjects:
            hash_ = begun()
            hash_.update(subject.encode())
            made.append(hash_.hexdigest())
        return made

    def _begun(self, app: str) -> hashlib.blake2s:
        """The hash of what all of an app's begin with."""
        found = self._of_apps.get(app)
        if found is None:
            found = self._start.copy()
            found.update(f"{app}\0".encode())
            if len(self._of_apps) < MOST_APPS:
                self._of_apps[app] = found
        return found
