"""Recognise an entry that is sent again while the first is in progress, or shortly after. Pure but
for the register of `relay/answers.py`.

An SDK that has given up waiting sends its batch again, often with new entries behind. What tells
that an entry is the same request is its whole content, if that has something of its own: a `reqId`,
a `uuid` or, of what is no event, a `time`. With both a `reqId` and a `uuid` it is recognised for a
while after it was answered. The place and the language that were detected are left out, since a
phone may have moved to another network.
"""

import asyncio
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson

from app.compat.leanplum_sdk.request import text
from app.leanplum.actions import QUEUED
from app.leanplum.mapping import LOCALE_FIELD, PLACE_FIELDS
from app.relay.answers import EntryAnswer, PendingAnswer, Repeats

OF_AN_EVENT = ("reqId", "uuid")  # two of the same second may be alike
OF_A_READ = ("reqId",)  # the same read of the same second may be a new question
OWN = (*OF_AN_EVENT, "time")  # of what is neither
DETECTED = frozenset({*PLACE_FIELDS, LOCALE_FIELD})


def undetected_content(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an entry says itself."""
    return {name: value for name, value in entry.items() if name not in DETECTED}


def lasts(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry is known again after it was answered: what has both is one action,
    and no other ever has the same.
    """
    return bool(text(entry.get("reqId")) and text(entry.get("uuid")))


def key_of(whose: bytes, entry: Mapping[str, Any], *, looks: bool = False) -> bytes | None:
    """Return the key of an entry of a caller; None where nothing makes it one certain request.
    `looks`: it is known to change nothing."""
    own = OF_A_READ if looks else OF_AN_EVENT if text(entry.get("action")) in QUEUED else OWN
    if not any(entry.get(name) not in (None, "") for name in own):
        return None
    return _digest(whose, orjson.dumps(undetected_content(entry), option=orjson.OPT_SORT_KEYS))


class Batch:
    """The keys of entries without anything of their own: they are recognised in a batch that is
    wholly the same."""

    def __init__(self, whose: bytes, entries: Sequence[Any]) -> None:
        self._digest = b""
        try:
            self._digest = _digest(whose, orjson.dumps(entries))
        except TypeError:  # an entry that is nested too deeply, which is refused
            return

    def key_of(self, place: int) -> bytes | None:
        """Return the key of the entry at a place; None where the batch can't be told from
        others.
        """
        return _digest(self._digest, b"%d" % place) if self._digest else None


def _digest(whose: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(whose + b"\0" + content, digest_size=16).digest()


def _given_up(one: PendingAnswer | EntryAnswer) -> bool:
    return isinstance(one, asyncio.Future) and one.done() and one.result() is None


class Claims:
    """What of one request others are at work on or have done, and what it does itself.

    Others find what it does until all of it is answered.
    """

    def __init__(self, register: Repeats) -> None:
        self._register = register
        self._own, self._keys = dict[int, bytes](), set[bytes]()
        self._asked = set[bytes]()  # those of its own that Leanplum is asked about now
        self._ended = False
        self.others = dict[int, PendingAnswer | EntryAnswer]()  # by the entry's place
        self._looked = dict[int, tuple[bytes, bool]]()  # how those were looked up

    def look(self, place: int, key: bytes | None, *, claim: bool) -> None:
        """Look an entry up; where nobody has it, it is this request's from now on (`claim`). An
        entry that stands twice in a request is meant twice.
        """
        if key is None or key in self._keys:
            return
        if (found := self._register.find(key)) is not None:
            self.others[place], self._looked[place] = found, (key, claim)
        elif claim:
            self._register.claim(key)
            self._own[place] = key
            self._keys.add(key)

    def look_again(self) -> bool:
        """Look up anew, all at once, what others have given up; whether there was any.

        One of those who waited for it has it then, and the others wait for that one.
        """
        given_up = [place for place, one in self.others.items() if _given_up(one)]
        for place in given_up:
            key, claim = self._looked[place]
            del self.others[place]
            self.look(place, key, claim=claim)
        return bool(given_up)

    def ask(self, places: Iterable[int]) -> None:
        """Keep the claims at these places until they are settled, even where the request ends
        before.
        """
        self._asked.update(self._own[place] for place in places if place in self._own)

    def settle(
        self, told: Iterable[tuple[int, EntryAnswer | None]], keep: Collection[int] = ()
    ) -> None:
        """Tell those who wait, and at the places in `keep` those who come later, too."""
        for place, one in told:
            if (key := self._own.get(place)) is None:
                continue
            self._asked.discard(key)
            if one is not None:
                self._register.settle(key, one, keep=place in keep)
            if self._ended or one is None:
                del self._own[place]
                self._keys.discard(key)
                self._register.release(key)

    def release(self) -> None:
        """End the request."""
        self._ended = True
        for key in self._keys - self._asked:
            self._register.release(key)
