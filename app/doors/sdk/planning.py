"""Plan a batch: in as few steps as keep the order of each user and device. Pure.

A step accepts entries durably, or asks Leanplum about them. The two kinds alternate, and entries of
different users share a step. An entry never comes before an earlier one of the same user or device.
Only reads are moved: one that another question of its user follows is asked together with that one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from app.doors.sdk.reading import text


class Kind(Enum):
    """What is done with an entry."""

    ACCEPT = "accepted durably"
    ASK = "asked while the caller waits"
    LOOK = "asked, and known to change nothing"


class Part(NamedTuple):
    """One entry. `about`: the users and the device that it concerns; none means everybody."""

    kind: Kind
    about: frozenset[str]


class Step(NamedTuple):
    """The entries (by their places in the batch, ascending) that are done together."""

    asks: bool
    at: list[int]


def about(entry: Mapping[str, Any]) -> frozenset[str]:
    """Return whom an entry concerns: its user, the user whom it logs in, and its device."""
    named = (("u", "userId"), ("u", "newUserId"), ("d", "deviceId"))
    return frozenset(kind + found for kind, name in named if (found := text(entry.get(name))))


def superseded(starts: Iterable[tuple[int, Mapping[str, Any]]]) -> set[int]:
    """Return which of the starts (place and entry, in their order) a later one of the same device
    follows. Only the answer to the last session of a device is of use to an SDK. A start without a
    device counts by its user."""
    last = dict[str, int]()
    found = set[int]()
    for place, entry in starts:
        device = text(entry.get("deviceId"))
        name = f"d{device}" if device else f"u{text(entry.get('userId'))}"
        if name in last:
            found.add(last[name])
        last[name] = place
    return found


def plan(parts: Sequence[Part]) -> list[Step]:
    """Return the steps, in their order; each entry is in one of them."""
    postponed = _postponed(parts)
    planning = _Planning()
    for place, part in enumerate(parts):
        if place in postponed:
            planning.postpone(place, part)
        else:
            planning.put(place, part)
    return planning.steps()


def _postponed(parts: Sequence[Part]) -> set[int]:
    """Return the reads that are not asked in their own place: a question follows about somebody whom
    they concern, or they concern nobody and have no order to keep."""
    asked_later, found = set[str](), set[int]()
    for place in range(len(parts) - 1, -1, -1):
        kind, concerned = parts[place]
        if kind is Kind.LOOK and (not concerned or not asked_later.isdisjoint(concerned)):
            found.add(place)
        elif kind is not Kind.ACCEPT:
            asked_later |= concerned
    return found


class _Planning:
    """The steps so far. Accepting has the even numbers, asking the odd ones."""

    def __init__(self) -> None:
        self._reached = dict[str, int]()  # the step that somebody's last entry has
        self._floor = self._top = 0  # the least step for everybody, and the greatest in use
        self._places = defaultdict[int, list[int]](list)
        self._waiting = defaultdict[str, list[int]](list)  # postponed reads, by whom they concern
        self._called = set[int]()  # those of them that have their step
        self._of_nobody = list[int]()  # postponed reads that concern nobody

    def put(self, place: int, part: Part) -> None:
        """Give an entry the least step that keeps the order."""
        step = self._least(part)
        asks = part.kind is not Kind.ACCEPT
        if step % 2 != asks:
            step += 1
        self._raise(part, step)
        self._places[step].append(place)
        if asks:
            self._places[step] += self._called_for(part)

    def postpone(self, place: int, part: Part) -> None:
        """Keep a read for the next question of somebody whom it concerns."""
        if not part.about:
            self._of_nobody.append(place)
            return
        self._raise(part, self._least(part), everybody=False)
        for one in part.about:
            self._waiting[one].append(place)

    def steps(self) -> list[Step]:
        """Return the steps that have entries."""
        if self._of_nobody:
            asking = [step for step in self._places if step % 2]
            self._places[min(asking, default=1)] += self._of_nobody
        return [Step(bool(step % 2), sorted(self._places[step])) for step in sorted(self._places)]

    def _least(self, part: Part) -> int:
        if not part.about:
            return self._top
        return max(self._floor, *(self._reached.get(one, 0) for one in part.about))

    def _raise(self, part: Part, step: int, *, everybody: bool = True) -> None:
        for one in part.about:
            self._reached[one] = step
        if everybody and not part.about:
            self._floor = step
        self._top = max(self._top, step)

    def _called_for(self, part: Part) -> set[int]:
        """Take the reads that waited for this question."""
        found = {place for one in part.about for place in self._waiting.pop(one, ())} - self._called
        self._called |= found
        return found
