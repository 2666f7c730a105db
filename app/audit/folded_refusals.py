"""Folding of refusals that repeat: the first has its own record, the rest share one with a count.

Anyone with a key can be refused as often as the network allows. A record of each refusal would fill
the audit, and the disk, with what one number says.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from app.audit import records
from app.clock import now_ms
from app.model import NOTHING_REFUSED

FOLD_SECONDS = 10.0  # that refusals are counted before their record is written
FLUSH_SECONDS = 1.0
MAX_KINDS = 10_000  # counted at once; with one more, all are recorded
MAX_RESOURCES = 50  # that a record of repeated refusals names
# Any other status is the result of what the call says, and each such call has its own record
FOLDED = frozenset({400, 401, 403, 404, 405, 429})
# Refusals for what a call contains that have their own records: each may be about other users
MAX_SINGLE = 20
# Networks of a key with one status that are told apart; refusals from more are counted together
MAX_NETWORKS = 20
ANY_NETWORK = ""
# Statuses that say nothing of what the call contains: only the first has its own record
SINGLE_ONCE = frozenset({403, 404, 405, 429, 503})


class RefusedCall(NamedTuple):
    """A call that was refused, as its record names it.

    `users` are keyed hashes, `items` counts the refused items of a batch, `actions` the refused
    Leanplum actions by name, of which there are few.
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


class BackgroundRecorder(Protocol):
    """A recorder that writes a record while nobody waits for it."""

    def soon(self, time: int, text: str, *, along: bool = False) -> object:
        """Write a record; its time in ms."""


class _RefusalKind:
    """Refusals of one kind since the last record of that kind."""

    __slots__ = (
        "actions",
        "count",
        "ends_at",
        "items",
        "last",
        "resources",
        "since",
        "single",
        "users",
    )

    def __init__(self, ends_at: float) -> None:
        self.single = 1
        self.reset(ends_at)

    def reset(self, ends_at: float) -> None:
        """Begin to count anew."""
        self.ends_at = ends_at
        self.count = self.items = self.since = 0
        self.last: RefusedCall | None = None
        self.actions = Counter[str]()
        self.users, self.resources = dict[str, None](), dict[str, None]()

    def add(self, call: RefusedCall) -> None:
        """Count a call."""
        self.since = self.since or call.time
        self.count += 1
        self.items += call.items
        self.actions.update(call.actions)
        self.last = call
        if len(self.users) < records.MOST_USERS:
            self.users |= dict.fromkeys(call.users[: records.MOST_USERS - len(self.users)])
        if call.resource is not None and len(self.resources) < MAX_RESOURCES:
            self.resources[call.resource] = None


class RefusalFolder:
    """Counts the refusals of one process and records the counts."""

    def __init__(
        self,
        recorder: BackgroundRecorder,
        clock: Callable[[], float],
        seconds: float = FOLD_SECONDS,
    ) -> None:
        """Make an empty folder. `clock` is monotonic."""
        self._recorder, self._clock, self._seconds = recorder, clock, seconds
        self._kinds: dict[tuple[str, str, str, int, str], _RefusalKind] = {}
        self._networks = defaultdict[tuple[str, int], set[str]](set)  # by key and status

    def fold(self, call: RefusedCall, network: str) -> bool:
        """Count a refusal of a key from a network; False where it is to have its own record."""
        network = self._counted_network(call, network)
        name = (call.key_id, network, call.operation, call.status, call.app)
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                self.flush()
            self._kinds[name] = _RefusalKind(self._clock() + self._seconds)
            self._networks[call.key_id, call.status].add(network)
            return False
        max_single = 1 if call.status in SINGLE_ONCE else MAX_SINGLE
        if kind.single < max_single:
            kind.single += 1
            return False
        kind.add(call)
        return True

    def _counted_network(self, call: RefusedCall, network: str) -> str:
        """Return the network to count a refusal under: a leaked key may be used from many."""
        known = self._networks.get((call.key_id, call.status), ())
        if network in known or (len(known) < MAX_NETWORKS and ANY_NETWORK not in known):
            return network
        return ANY_NETWORK

    async def run(self) -> None:
        """Record the counts that are due, again and again, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.flush_due()

    def flush_due(self) -> None:
        """Record the kinds that were counted for long enough; forget those without a refusal."""
        now, kinds_before = self._clock(), len(self._kinds)
        due = [(name, kind) for name, kind in self._kinds.items() if kind.ends_at <= now]
        for name, kind in due:
            if kind.last is None:
                del self._kinds[name]
            else:
                self._record(kind, kind.last)
                kind.reset(now + self._seconds)
        if len(self._kinds) < kinds_before:
            self._networks.clear()
            for key_id, network, _, status, _ in self._kinds:
                self._networks[key_id, status].add(network)

    def flush(self) -> None:
        """Record all counts, and forget all kinds."""
        kinds, self._kinds = self._kinds, {}
        self._networks.clear()
        for kind in kinds.values():
            if kind.last is not None:
                self._record(kind, kind.last)

    def _record(self, kind: _RefusalKind, last: RefusedCall) -> None:
        """Write the record of repeated refusals: `last` is the last of them.

        `count`, `start_time` and `end_time` are OCSF's names for a group of events.
        """
        now = now_ms()
        rejected = records.counts(0, 0, kind.items) if kind.items else {}
        text = records.compose(
            now,
            records.ACTIVITIES.get(last.operation.partition(" ")[0], records.OTHER),
            last.status,
            count=kind.count,
            start_time=kind.since,
            end_time=last.time,
            actor={"user": {"uid": last.key_id}},
            api={"operation": last.operation, "request": {"uid": last.request_id}},
            src_endpoint={"ip": last.address},
            unmapped={
                "app": last.app,
                **rejected,
                **records.refused_actions(kind.actions),
                **records.about_users(list(kind.users)),
            },
            **records.resource_list(kind.resources),
        )
        self._recorder.soon(now, text)
