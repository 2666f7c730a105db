"""Plan a batch: in as few steps as keep the order of each user and device. Pure.

A step accepts entries durably, or asks Leanplum about them. The two kinds alternate, and entries of
different users share a step. An entry never comes before an earlier one of the same user or device.
Only reads are moved: one that another question of its user follows is asked together with that one.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from app.compat.leanplum_sdk.request import text


class Kind(Enum):
    """A way to do an entry."""

    ACCEPT = "accepted durably"
    ASK = "asked while the caller waits"
    LOOK = "asked, and known to change nothing"


class Part(NamedTuple):
    """One entry. `group`: the number of those whom it concerns (`groups`); None means everybody."""

    kind: Kind
    group: int | None


class Step(NamedTuple):
    """The entries (by their places in the batch, ascending) that are done together."""

    asks: bool
    at: list[int]


def about(entry: Mapping[str, Any]) -> frozenset[str]:
    """Return whom an entry concerns: its user, the user whom it logs in, and its device."""
    named = (("u", "userId"), ("u", "newUserId"), ("d", "deviceId"))
    return frozenset(kind + found for kind, name in named if (found := text(entry.get(name))))


def groups(concerned: Sequence[Collection[str]]) -> list[int | None]:
    """Return for each entry the number of its group: users and devices that any entry of the batch
    names together belong together, as a login makes two users one. None where it names nobody."""
    members = _Members()
    for names in concerned:
        members.join(names)
    return [members.of(next(iter(names))) if names else None for names in concerned]


class _Members:
    """Sets of users and devices that belong together (union–find)."""

    def __init__(self) -> None:
        self._numbers = dict[str, int]()
        self._parents = list[int]()

    def join(self, names: Iterable[str]) -> None:
        """Let these belong together, and all who belong to one of them."""
        roots = {self.of(name) for name in names}
        for root in roots:
            self._parents[root] = min(roots)

    def of(self, name: str) -> int:
        """Return the number of the group of a name."""
        number = self._numbers.setdefault(name, len(self._parents))
        if number == len(self._parents):
            self._parents.append(number)
        while (parent := self._parents[number]) != number:
            self._parents[number] = self._parents[parent]
            number = parent
        return number


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
    """Return the reads that are not asked in their own place: a question of their group follows, or
    they concern nobody and have no order to keep."""
    asked_later, found = set[int](), set[int]()
    for place in range(len(parts) - 1, -1, -1):
        kind, group = parts[place]
        if kind is Kind.LOOK and (group is None or group in asked_later):
            found.add(place)
        elif kind is not Kind.ACCEPT and group is not None:
            asked_later.add(group)
    return found


class _Planning:
    """The steps so far. Accepting has the even numbers, asking the odd ones."""

    def __init__(self) -> None:
        self._reached = dict[int, int]()  # the step that a group's last entry has
        self._floor = self._top = 0  # the least step for everybody, and the greatest in use
        self._places = defaultdict[int, list[int]](list)
        self._waiting = defaultdict[int | None, list[int]](list)  # postponed reads, by their group

    def put(self, place: int, part: Part) -> None:
        """Give an entry the least step that keeps the order."""
        step = (
            self._top if part.group is None else max(self._floor, self._reached.get(part.group, 0))
        )
        asks = part.kind is not Kind.ACCEPT
        if step % 2 != asks:
            step += 1
        self._top = max(self._top, step)
        if part.group is None:
            self._floor = step
        else:
            self._reached[part.group] = step
        self._places[step].append(place)
        if asks and part.group is not None:
            self._places[step] += self._waiting.pop(part.group, ())

    def postpone(self, place: int, part: Part) -> None:
        """Keep a read for the next question of its group."""
        self._waiting[part.group].append(place)

    def steps(self) -> list[Step]:
        """Return the steps that have entries."""
        if of_nobody := self._waiting.pop(None, None):
            asking = [step for step in self._places if step % 2]
            self._places[min(asking, default=1)] += of_nobody
        return [Step(bool(step % 2), sorted(self._places[step])) for step in sorted(self._places)]
