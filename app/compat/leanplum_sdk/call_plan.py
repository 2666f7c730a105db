"""The plan of a call: its steps, and the keys by which repeats of its entries are recognised. Pure.

A step either accepts entries durably or relays them to Leanplum. The two kinds alternate, and
entries of different users share a step. An entry never comes before an earlier one of the same user
or device. Only reads are moved: one that another relayed entry of its user follows is relayed
together with that one.

An SDK that has given up waiting sends its batch again, often with new entries at the end. An entry
is taken for a repeat when its whole content is the same and has something unique: a `reqId`, a
`uuid` or, unless it is an event, a `time`. One with both a `reqId` and a `uuid` is recognised for a
while after it was answered. The detected place and language are left out of the comparison, since a
phone may have moved to another network.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import orjson

from app.compat.leanplum_sdk.request import to_text
from app.leanplum.actions import BACKGROUND_ACTIONS
from app.leanplum.mapping import LOCALE_FIELD, PLACE_FIELDS
from app.relay.answers import EntryAnswer, PendingAnswer, Repeats


class EntryKind(Enum):
    """A way to execute an entry."""

    ACCEPT = "accepted durably"
    RELAY = "relayed while the caller waits"
    READ = "relayed, and known to change nothing"


class StepEntry(NamedTuple):
    """An entry to plan; `group` is the number of its group (`number_groups`), None for all."""

    kind: EntryKind
    group: int | None


class PlannedStep(NamedTuple):
    """The entries that are executed together, by their places in the call, ascending."""

    relays: bool
    places: list[int]


def find_names(entry: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of an entry: its user, the user whom it logs in, and its device."""
    fields = (("u", "userId"), ("u", "newUserId"), ("d", "deviceId"))
    ids = ((kind, to_text(entry.get(field))) for kind, field in fields)
    return frozenset(kind + text for kind, text in ids if text)


def number_groups(names_of_entries: Sequence[Collection[str]]) -> list[int | None]:
    """Return the number of each entry's group; None for an entry without names.

    Users and devices that one entry of the batch names together are one group, as a login makes two
    users one.
    """
    groups = _NameGroups()
    for names in names_of_entries:
        groups.join(names)
    return [groups.find(next(iter(names))) if names else None for names in names_of_entries]


class _NameGroups:
    """Groups of users and devices that belong together (union–find)."""

    def __init__(self) -> None:
        self._numbers = dict[str, int]()
        self._parents = list[int]()

    def join(self, names: Iterable[str]) -> None:
        """Join the groups of these names."""
        roots = {self.find(name) for name in names}
        for root in roots:
            self._parents[root] = min(roots)

    def find(self, name: str) -> int:
        """Return the number of the group of a name."""
        number = self._numbers.setdefault(name, len(self._parents))
        if number == len(self._parents):
            self._parents.append(number)
        while (parent := self._parents[number]) != number:
            self._parents[number] = self._parents[parent]
            number = parent
        return number


def find_superseded(starts: Iterable[tuple[int, Mapping[str, Any]]]) -> set[int]:
    """Return the places of the starts of sessions that a later one of the same device follows.

    `starts` are places and entries, in order. An SDK uses only the answer to the last session of a
    device. A start without a device counts by its user.
    """
    last_places = dict[str, int]()
    superseded = set[int]()
    for place, entry in starts:
        device = to_text(entry.get("deviceId"))
        name = f"d{device}" if device else f"u{to_text(entry.get('userId'))}"
        if name in last_places:
            superseded.add(last_places[name])
        last_places[name] = place
    return superseded


def plan_steps(entries: Sequence[StepEntry]) -> list[PlannedStep]:
    """Return the steps in order; each entry is in one of them."""
    postponed = _find_postponed(entries)
    planner = _Planner()
    for place, entry in enumerate(entries):
        if place in postponed:
            planner.postpone(place, entry)
        else:
            planner.add(place, entry)
    return planner.steps()


def _find_postponed(entries: Sequence[StepEntry]) -> set[int]:
    """Return the places of the reads that are relayed with a later entry.

    Either a relayed entry of their group follows, or they name nobody and have no order to keep.
    """
    relayed_later, postponed = set[int](), set[int]()
    for place in range(len(entries) - 1, -1, -1):
        kind, group = entries[place]
        if kind is EntryKind.READ and (group is None or group in relayed_later):
            postponed.add(place)
        elif kind is not EntryKind.ACCEPT and group is not None:
            relayed_later.add(group)
    return postponed


class _Planner:
    """The steps planned so far: those that accept have even numbers, those that relay odd ones."""

    def __init__(self) -> None:
        self._last_steps = dict[int, int]()  # the step of each group's last entry
        self._floor = self._top = 0  # the least step for every group, and the greatest in use
        self._places = defaultdict[int, list[int]](list)
        self._postponed = defaultdict[int | None, list[int]](list)  # by group

    def add(self, place: int, entry: StepEntry) -> None:
        """Give an entry the earliest step that keeps the order."""
        if entry.group is None:
            step = self._top
        else:
            step = max(self._floor, self._last_steps.get(entry.group, 0))
        relays = entry.kind is not EntryKind.ACCEPT
        if step % 2 != relays:
            step += 1
        self._top = max(self._top, step)
        if entry.group is None:
            self._floor = step
        else:
            self._last_steps[entry.group] = step
        self._places[step].append(place)
        if relays and entry.group is not None:
            self._places[step] += self._postponed.pop(entry.group, ())

    def postpone(self, place: int, entry: StepEntry) -> None:
        """Keep a read for the next relayed entry of its group."""
        self._postponed[entry.group].append(place)

    def steps(self) -> list[PlannedStep]:
        """Return the steps that have entries."""
        if nameless := self._postponed.pop(None, None):
            relaying = [step for step in self._places if step % 2]
            self._places[min(relaying, default=1)] += nameless
        return [
            PlannedStep(relays=bool(step % 2), places=sorted(self._places[step]))
            for step in sorted(self._places)
        ]


EVENT_KEY_FIELDS = ("reqId", "uuid")  # two events of the same second may be alike
READ_KEY_FIELDS = ("reqId",)  # the same read in the same second may be a new one
KEY_FIELDS = (*EVENT_KEY_FIELDS, "time")  # of any other action
DETECTED = frozenset({*PLACE_FIELDS, LOCALE_FIELD})


def drop_detected(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry without the fields that were detected."""
    return {name: value for name, value in entry.items() if name not in DETECTED}


def is_unique(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry has both a reqId and a uuid, which no other action ever has."""
    return bool(to_text(entry.get("reqId")) and to_text(entry.get("uuid")))


def compute_key(
    sender: bytes, entry: Mapping[str, Any], *, read_only: bool = False
) -> bytes | None:
    """Return the key of a sender's entry; None when nothing in the entry is unique."""
    if read_only:
        key_fields: tuple[str, ...] = READ_KEY_FIELDS
    elif to_text(entry.get("action")) in BACKGROUND_ACTIONS:
        key_fields = EVENT_KEY_FIELDS
    else:
        key_fields = KEY_FIELDS
    if not any(entry.get(name) not in (None, "") for name in key_fields):
        return None
    return _digest(sender, orjson.dumps(drop_detected(entry), option=orjson.OPT_SORT_KEYS))


class BatchKeys:
    """The keys of entries in which nothing is unique.

    They are recognised when the whole batch is sent again.
    """

    def __init__(self, sender: bytes, entries: Sequence[Any]) -> None:
        self._digest = b""
        try:
            self._digest = _digest(sender, orjson.dumps(entries))
        except TypeError:  # an entry that is nested too deeply, which is refused
            return

    def compute_key(self, place: int) -> bytes | None:
        """Return the key of the entry at a place; None when the batch cannot be serialized."""
        return _digest(self._digest, b"%d" % place) if self._digest else None


def _digest(sender: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(sender + b"\0" + content, digest_size=16).digest()


class EntryClaims:
    """The entries of one request that other requests execute or have executed, and its own.

    Other requests find its own entries until all of them are answered. `others` are the answers of
    the other requests, by the place of the entry.
    """

    def __init__(self, register: Repeats) -> None:
        self._register = register
        self._own, self._keys = dict[int, bytes](), set[bytes]()
        self._relaying = set[bytes]()  # keys of own entries that are being relayed
        self._ended = False
        self.others = dict[int, PendingAnswer | EntryAnswer]()
        self._lookups = dict[int, tuple[bytes, bool]]()  # the key of each of them, and `claim`

    def look_up(self, place: int, key: bytes | None, *, claim: bool) -> None:
        """Look up an entry, and with `claim` claim it when no other request has it.

        An entry that occurs twice in a request is meant twice.
        """
        if key is None or key in self._keys:
            return
        answer = self._register.find(key)
        if answer is not None:
            self.others[place], self._lookups[place] = answer, (key, claim)
        elif claim:
            self._register.claim(key)
            self._own[place] = key
            self._keys.add(key)

    def retry_abandoned(self) -> bool:
        """Look up again all entries that others gave up; return whether there were any.

        One of the requests that waited for an entry claims it, and the rest wait for that one.
        """
        abandoned = [place for place, answer in self.others.items() if _is_abandoned(answer)]
        for place in abandoned:
            key, claim = self._lookups[place]
            del self.others[place]
            self.look_up(place, key, claim=claim)
        return bool(abandoned)

    def keep_until_settled(self, places: Iterable[int]) -> None:
        """Keep the claims at these places until they are settled, even after the request ends."""
        self._relaying.update(self._own[place] for place in places if place in self._own)

    def settle(
        self, answers: Iterable[tuple[int, EntryAnswer | None]], remember: Collection[int] = ()
    ) -> None:
        """Give answers to the requests that wait for them.

        Answers at the places in `remember` are kept for later requests, too.
        """
        for place, answer in answers:
            key = self._own.get(place)
            if key is None:
                continue
            self._relaying.discard(key)
            if answer is not None:
                self._register.settle(key, answer, keep=place in remember)
            if self._ended or answer is None:
                del self._own[place]
                self._keys.discard(key)
                self._register.release(key)

    def release(self) -> None:
        """Release all claims but those of entries that are still being relayed."""
        self._ended = True
        for key in self._keys - self._relaying:
            self._register.release(key)


def _is_abandoned(answer: PendingAnswer | EntryAnswer) -> bool:
    return isinstance(answer, asyncio.Future) and answer.done() and answer.result() is None
