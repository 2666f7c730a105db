"""Refusals of one key that repeat: the first has a record of its own, the rest are counted in one.

Whoever has a key can be refused as often as the network carries it. A record of each would fill the
audit, and the disk, with what one number says.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from app.audit import records
from app.audit.records import MOST_USERS
from app.clock import now_ms
from app.model import NOTHING_REFUSED

FOLD_SECONDS = 10.0  # that refusals are counted before their record is written
LOOK_SECONDS = 1.0
MOST_KINDS = 10_000  # that are counted at once; with one more, all are recorded
MOST_RESOURCES = 50  # that a record of repeated refusals names
# Others say what is wrong in a call, and each has its record
FOLDED = frozenset({400, 401, 403, 404, 405, 429})
# Refusals for what a call has in it that are recorded singly: each may be about other users
ALONE = 20
# Of a key with the same status at once; those of further ones are counted together
MOST_NETWORKS = 20
ANY_NETWORK = ""
# Say nothing of that: only the first is recorded singly
FIRST_ALONE = frozenset({403, 404, 405, 429, 503})


class Refused(NamedTuple):
    """A call that was refused: what its record says. `users` are keyed hashes; `items` those of a
    batch; `actions` those of Leanplum's that were refused, by names of which there are few.
    """

    time: int
    operation: str
    key_id: str
    app: str
    address: str
    request_id: str
    status: int
    resource: str | None
    users: Sequence[str]
    items: int
    actions: Mapping[str, int] = NOTHING_REFUSED


class Writes(Protocol):
    """A recorder that writes a record and keeps nobody waiting."""

    def soon(self, time: int, text: str, *, along: bool = False) -> object:
        """Write a record; its time in ms."""


class _Kind:
    """Refusals of one kind, since the last record of them."""

    __slots__ = (
        "actions",
        "alone",
        "count",
        "ends_at",
        "items",
        "last",
        "resources",
        "since",
        "users",
    )

    def __init__(self, ends_at: float) -> None:
        self.alone = 1
        self.begin(ends_at)

    def begin(self, ends_at: float) -> None:
        """Count anew."""
        self.ends_at = ends_at
        self.count = self.items = self.since = 0
        self.last: Refused | None = None
        self.actions = Counter[str]()
        self.users, self.resources = dict[str, None](), dict[str, None]()

    def add(self, call: Refused) -> None:
        """Count one more."""
        self.since = self.since or call.time
        self.count += 1
        self.items += call.items
        self.actions.update(call.actions)
        self.last = call
        if len(self.users) < MOST_USERS:
            self.users |= dict.fromkeys(call.users[: MOST_USERS - len(self.users)])
        if call.resource is not None and len(self.resources) < MOST_RESOURCES:
            self.resources[call.resource] = None


class Folding:
    """Counts the refusals of one process, and records what it has counted."""

    def __init__(
        self, recorder: Writes, clock: Callable[[], float], seconds: float = FOLD_SECONDS
    ) -> None:
        """`clock` is monotonic."""
        self._recorder, self._clock, self._seconds = recorder, clock, seconds
        self._kinds: dict[tuple[str, str, str, int, str], _Kind] = {}
        self._networks = defaultdict[tuple[str, int], set[str]](set)  # by key and status

    def counted(self, call: Refused, network: str) -> bool:
        """Count a refusal of a key from a network. Returns False where it is to have a record of
        its own, as the first of its kind lately has.
        """
        network = self._network(call, network)
        name = (call.key_id, network, call.operation, call.status, call.app)
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) >= MOST_KINDS:
                self.close()
            self._kinds[name] = _Kind(self._clock() + self._seconds)
            self._networks[call.key_id, call.status].add(network)
            return False
        if kind.alone < (1 if call.status in FIRST_ALONE else ALONE):
            kind.alone += 1
            return False
        kind.add(call)
        return True

    def _network(self, call: Refused, network: str) -> str:
        """Return the network by which a refusal is counted: whoever has a key that many know may
        have very many addresses.
        """
        known = self._networks.get((call.key_id, call.status), ())
        if network in known or (len(known) < MOST_NETWORKS and ANY_NETWORK not in known):
            return network
        return ANY_NETWORK

    async def run(self) -> None:
        """Record what is due, again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Record what was counted for long enough, and forget the kinds of which there was nothing
        more.
        """
        now, before = self._clock(), len(self._kinds)
        for name, kind in [one for one in self._kinds.items() if one[1].ends_at <= now]:
            if kind.last is None:
                del self._kinds[name]
            else:
                self._record(kind, kind.last)
                kind.begin(now + self._seconds)
        if len(self._kinds) < before:
            self._networks.clear()
            for key_id, network, _, status, _ in self._kinds:
                self._networks[key_id, status].add(network)

    def close(self) -> None:
        """Record all that was counted, and forget it."""
        kinds, self._kinds = self._kinds, {}
        self._networks.clear()
        for kind in kinds.values():
            if kind.last is not None:
                self._record(kind, kind.last)

    def _record(self, kind: _Kind, last: Refused) -> None:
        now = now_ms()
        text = records.repeated_refusals(
            time=now,
            operation=last.operation,
            key_id=last.key_id,
            app=last.app,
            address=last.address,
            request_id=last.request_id,
            status=last.status,
            count=kind.count,
            since=kind.since,
            until=last.time,
            resources=list(kind.resources),
            details={
                **(records.counts(0, 0, kind.items) if kind.items else {}),
                **records.refused_actions(kind.actions),
                **records.about_users(list(kind.users)),
            },
        )
        self._recorder.soon(now, text)
