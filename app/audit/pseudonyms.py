"""Users and devices as the audit knows them: a keyed hash, which tells that two records are about
one user, and not who it is.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from app.audit.key_derivation import derived

SIZE = 10  # bytes: of 100 million users two have the same hash with a chance of one to 10^8
MOST_KEPT = 20_000  # hashes, before all are made anew: some 5 MB
# And then they are forgotten, so that whoever was erased is soon in no memory either
KEPT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _OfApp:
    """What is kept of an app: the beginning of all its hashes, and those that were made lately."""

    begun: hashlib.blake2s
    made: dict[str, str] = field(default_factory=dict)


class Pseudonyms:
    """Makes the keyed hashes of one gateway: the same for the same seed. A user is seen often, when
    accepted and when delivered, so hashes are kept in memory for a minute.
    """

    def __init__(self, seed: bytes) -> None:
        self._start = hashlib.blake2s(
            key=derived(seed, b"leanplum-gateway users"), digest_size=SIZE
        )
        self._of_apps: dict[str, _OfApp] = {}
        self._kept = 0

    def of(self, app: str, subject: str) -> str:
        """The keyed hash of a subject (`u` + user id, `d` + device id) of an app: 20 hexadecimal
        digits.
        """
        return self.of_all(app, (subject,))[0]

    def of_all(self, app: str, subjects: Iterable[str]) -> list[str]:
        """The same of many: a batch has a hundred, so each counts."""
        of_app = self._of_apps.get(app) or self._begin(app)
        made, known = of_app.made, list[str]()
        for subject in subjects:
            found = made.get(subject)
            if found is None:
                hash_ = of_app.begun.copy()
                hash_.update(subject.encode())
                found = made[subject] = hash_.hexdigest()
                self._kept += 1
            known.append(found)
        if self._kept > MOST_KEPT:
            self.forget()
        return known

    async def run(self) -> None:
        """Forget them again and again, for ever."""
        while True:
            await asyncio.sleep(KEPT_SECONDS)
            self.forget()

    def forget(self) -> None:
        """Keep none of those made until now."""
        self._of_apps.clear()
        self._kept = 0

    def _begin(self, app: str) -> _OfApp:
        begun = self._start.copy()
        begun.update(f"{app}\0".encode())
        self._kept += 1
        found = self._of_apps[app] = _OfApp(begun)
        return found
