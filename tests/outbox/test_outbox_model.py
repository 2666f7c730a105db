"""The outbox beside a plain model of it, through random histories: what is accepted, leased, begun,
settled, crashed, sent again, on a clock that jumps.
"""

import asyncio
import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app import ids
from app.model import DEAD, Item, NewItem, Postponed, Settled, Status, Verdict
from app.outbox.dead_letters import DeadLetterFilter
from app.outbox.liveness_lock import KnownProcess
from app.outbox.user_lock_rows import OUTLIVES_MS
from tests.support.postgres import Server

from .harness import Opened, track

EXAMPLES = int(os.environ.get("GATEWAY_TESTS_MODELS", "20"))

USERS = st.sampled_from(["uann", "ubob", "ucid", "udan", "ueve"])
DEVICES = st.sampled_from(["dphone", "dtablet"])
SUBJECTS = st.one_of(USERS, USERS, DEVICES)
OWN_IDS = st.none() | st.sampled_from([f"own{number}" for number in range(6)])
OWNERS = st.sampled_from(["one", "two", "three"])
SAID = {"success": False, "error": "Bad."}
ENDS = st.sampled_from([Status.DELIVERED, Status.SKIPPED, Status.REJECTED, Status.EXPIRED])
VERDICTS = st.one_of(
    ENDS.map(lambda status: Settled(status, None if status is Status.DELIVERED else SAID)),
    st.builds(
        Postponed,
        st.just(Status.RETRYING),
        st.sampled_from([0.0, 2.5]),
        st.just(SAID),
        st.booleans(),
    ),
)
LEASE_MS, CALL_MS = 60_000, 10_000
DEDUP_MS = 60_000


def event(subject: str, own: str | None = None) -> NewItem:
    """An item of a user or of a device alone."""
    if subject.startswith("u"):
        return track(subject[1:], item_id=own)
    return NewItem(subject, "track", f'{{"deviceId":"{subject[1:]}","event":"E"}}', own)


def login(old: str, new: str, device: str | None) -> NewItem:
    """An item that makes a user another, on a device or on none."""
    fields = {"newUserId": new[1:], "userId": old[1:]}
    if device is not None:
        fields["deviceId"] = device[1:]
    return NewItem(old, "setUserAttributes", json.dumps(fields, separators=(",", ":")))


@dataclass
class Entry:
    """An item in the model."""

    subject: str
    joins: frozenset[str] = frozenset()  # subjects that a login makes one with its own
    status: str = "accepted"
    attempts: int = 0
    due: int = 0
    discarded: bool = False

    @property
    def waits(self) -> bool:
        return self.status in {"accepted", "retrying", "held"}

    @property
    def dead(self) -> bool:
        return self.status in DEAD and not self.discarded


@dataclass
class Attempt:
    """A call in the model, not yet settled."""

    owner: str
    items: list[Item]
    started_at: int


@dataclass
class Deliverer:
    """One that lives, for all that the database knows."""

    expires_at: int
    shards: set[int] = field(default_factory=set)


class Histories(RuleBasedStateMachine):
    """One history. `jumps`: whether the clock that leases are judged by can be set (PostgreSQL has
    its own).
    """

    template: str
    server: Server | None = None

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.mkdtemp()
        self.database = self.server.empty() if self.server else self.copied()
        self.now = 1_800_000_000_000
        self.entries: dict[int, Entry] = {}
        self.own: dict[str, tuple[int, int]] = {}
        self.open: dict[str, Attempt] = {}
        self.deliverers: dict[str, Deliverer] = {}
        self.locked_until: dict[int, int] = {}
        self.names = 0
        self.start()

    def copied(self) -> str:
        return f"sqlite:///{shutil.copy(self.template, Path(self.folder) / 'g.db')}"

    def start(self) -> None:
        async def opened() -> Opened:
            at = Opened(self.database, 10**6)
            at.writer.start()
            return at

        self.at = self.runner.run(opened())
        self.at.now = self.now
        self.at.outbox.count_queued()

    def stop(self) -> None:
        self.runner.run(self.at.writer.stop())
        self.at.engine.dispose()

    def teardown(self) -> None:
        self.stop()
        self.runner.close()
        shutil.rmtree(self.folder)

    # --- what happens --------------------------------------------------------------------------------------------

    @rule(items=st.lists(st.tuples(SUBJECTS, OWN_IDS), min_size=1, max_size=6))
    def accept(self, items: list[tuple[str, str | None]]) -> None:
        taken = self.runner.run(self.at.accept(*(event(subject, own) for subject, own in items)))
        for (subject, own), (item_id, kind) in zip(items, taken, strict=True):
            known, since = self.own.get(own or "", (0, 0))
            if known and since >= self.now - DEDUP_MS:
                assert kind == (
                    "duplicate" if self.entries[known].subject == subject else "conflict"
                )
                continue
            assert kind == "accepted"
            seq = max(self.entries, default=0) + 1
            if own is None:
                parsed = ids.parse(item_id)
                assert parsed is not None
                assert parsed[1] >= seq
                seq = parsed[1]
            else:
                seq = self.runner.run(self.seq_of(own))
                self.own[own] = seq, self.now
            self.entries[seq] = Entry(subject)

    @rule(users=st.lists(USERS, min_size=2, max_size=4), device=st.none() | DEVICES)
    def log_in(self, users: list[str], device: str | None) -> None:
        """A user becomes another, and that one the next, or the first again, on a device or on
        none: in one batch, with an item of each id that was reached and one of the device after
        each login.
        """
        entries: list[Entry] = []
        items: list[NewItem] = []
        for old, new in pairwise(users):
            if old != new:
                joins = frozenset({new} if device is None else {new, device})
                entries += [Entry(old, joins), *map(Entry, sorted(joins))]
                items += [login(old, new, device), *map(event, sorted(joins))]
        taken = self.runner.run(self.at.accept(*items)) if items else []
        for (item_id, kind), entry in zip(taken, entries, strict=True):
            assert kind == "accepted"
            parsed = ids.parse(item_id)
            assert parsed is not None
            self.entries[parsed[1]] = entry

    def login_before(self, subject: str, seq: int) -> bool:
        """Whether a login waits that was accepted before an item, and joins its subject."""
        return any(
            one.waits and subject in one.joins
            for number, one in self.entries.items()
            if number < seq
        )

    async def seq_of(self, item_id: str) -> int:
        receipt = await self.at.outbox.receipt("default", item_id)
        assert receipt is not None
        return receipt.seq

    @rule(owner=OWNERS, killed=st.sets(OWNERS), hold=st.booleans())
    def renew(self, owner: str, killed: set[str], hold: bool) -> None:
        """A deliverer renews; it has found out that others are dead, and the clock may have told it
        so as well.
        """
        before = self.at.outbox.queued
        dead = sorted(killed - {owner})
        lease = self.runner.run(
            self.at.outbox.renew(
                owner,
                LEASE_MS,
                [KnownProcess(name, None) for name in dead],
                {"track", "setUserAttributes"} if hold else (),
            )
        )
        gone = {
            name
            for name, one in self.deliverers.items()
            if name != owner
            and (name in dead or (self.server is None and one.expires_at <= self.now))
        }
        for name in gone:
            del self.deliverers[name]
        assert lease.renewed == (owner in self.deliverers)
        me = self.deliverers.setdefault(owner, Deliverer(0))
        me.expires_at = self.now + LEASE_MS
        assert me.shards <= lease.shards
        me.shards = set(lease.shards)
        others = set[int]().union(
            *(one.shards for name, one in self.deliverers.items() if name != owner)
        )
        assert not me.shards & others, "two deliverers hold one shard"
        fair = -(-ids.SHARDS // len(self.deliverers))
        assert lease.surplus == max(0, len(me.shards) - fair)
        assert len(me.shards) >= min(fair, ids.SHARDS - len(others)), (
            "what is free and fair is taken"
        )
        latest = self.now + OUTLIVES_MS
        self.locked_until = {
            lane: min(until, latest)
            for lane, until in self.locked_until.items()
            if until > self.now or self.server is not None
        }
        lost = [name for name, attempt in self.open.items() if attempt.owner in gone]
        assert lease.lost == len(lost)
        for name in lost:
            self.lose(self.open.pop(name), hold)
        assert self.at.outbox.queued == before - lease.settled

    def lose(self, attempt: Attempt, hold: bool) -> None:
        for item in attempt.items:
            entry = self.entries[item.seq]
            entry.attempts += 1
            over = self.now + OUTLIVES_MS
            entry.status, entry.due = ("unknown", 0) if hold else ("retrying", over)
            for lane in [item.lane, *(ids.lane("default", one) for one in entry.joins)]:
                self.locked_until[lane] = max(over, self.locked_until.get(lane, 0))

    @precondition(lambda self: self.deliverers)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        """What nothing is in flight of."""
        owner = data.draw(st.sampled_from(sorted(self.deliverers)))
        busy = {
            ids.shard(item.lane)
            for one in self.open.values()
            if one.owner == owner
            for item in one.items
        }
        free = sorted(self.deliverers[owner].shards - busy)
        some = free[: data.draw(st.integers(0, len(free)))]
        self.runner.run(self.at.outbox.release(owner, some))
        self.deliverers[owner].shards -= set(some)

    @rule(owner=OWNERS, subjects=st.sets(SUBJECTS, min_size=1))
    def begin(self, owner: str, subjects: set[str]) -> None:
        """A call for the head items of some users, of whom none is in flight."""
        flying = {item.subject for one in self.open.values() for item in one.items}
        sent = [
            item
            for item in self.runner.run(self.at.waiting())
            if item.subject in subjects
            and item.subject not in flying
            and item.next_attempt_at <= self.now
        ]
        if not sent:
            return
        self.names += 1
        name = f"attempt{self.names}"
        locked = self.runner.run(self.at.outbox.begin(name, owner, sent, CALL_MS))
        held = self.deliverers.get(owner)
        in_time = held is not None and (
            self.server is not None or held.expires_at >= self.now + CALL_MS
        )
        shards = {ids.shard(item.lane) for item in sent}
        assert (locked is not None) == (in_time and held is not None and shards <= held.shards)
        if locked is not None:
            begun = [item for item in sent if item.seq <= locked.get(item.lane, item.seq)]
            self.check_locked(
                frozenset(lane for lane, after in locked.items() if not after),
                {one.lane for one in sent},
            )
            free = [item for item in sent if locked.get(item.lane) != 0]
            assert begun == [item for item in free if not self.login_before(item.subject, item.seq)]
            if begun:
                self.open[name] = Attempt(owner, begun, self.now)

    @rule(owner=OWNERS, subjects=st.sets(SUBJECTS, min_size=1))
    def take_over(self, owner: str, subjects: set[str]) -> None:
        """One that finds all others dead has everything, and begins."""
        self.renew(owner, {"one", "two", "three"}, False)
        self.begin(owner, subjects)

    def check_locked(self, locked: frozenset[int], lanes: set[int]) -> None:
        """A lane stays locked for as long as a call may outlive its process. PostgreSQL goes by a
        clock of its own.
        """
        if self.server is None:
            assert locked == {lane for lane in lanes if self.locked_until.get(lane, 0) > self.now}
        else:
            assert locked <= self.locked_until.keys()

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def settle(self, data: Any) -> None:
        """The answer to a call that is open, or that was taken for lost long ago."""
        name = f"attempt{data.draw(st.integers(1, self.names))}"
        attempt = self.open.pop(name, None)
        items = attempt.items if attempt is not None else self.runner.run(self.at.waiting())[:2]
        verdicts: list[tuple[int, Verdict]] = [(item.seq, data.draw(VERDICTS)) for item in items]
        settled = self.runner.run(self.at.outbox.settle(name, "default", verdicts))
        assert settled == (attempt is not None), (
            "only an open attempt may change its items, and only once"
        )
        for seq, verdict in verdicts if settled else ():
            entry = self.entries[seq]
            entry.status = verdict.status.value
            match verdict:
                case Settled():
                    entry.attempts, entry.due = entry.attempts + 1, 0
                case Postponed(_, wait, _, counts):
                    entry.attempts, entry.due = (
                        entry.attempts + int(counts),
                        self.now + int(wait * 1000),
                    )

    @rule(discard=st.booleans(), status=st.none() | st.sampled_from(sorted(DEAD)))
    def act_on_dead_letters(self, discard: bool, status: Status | None) -> None:
        chosen = [one for one in self.entries.values() if one.dead and status in {None, one.status}]
        act = self.at.outbox.dead_letters.discard if discard else self.at.outbox.dead_letters.replay
        done = self.runner.run(
            act("default", DeadLetterFilter(status=status), lambda count: (self.now, "{}"))
        )
        assert done == (len(chosen), len(chosen))
        for one in chosen:
            if discard:
                one.discarded = True
            else:
                one.status, one.attempts, one.due = "accepted", 0, 0

    @rule(ms=st.sampled_from([1, 3_000, 55_000, 70_000, -2_000]))
    def jump(self, ms: int) -> None:
        self.now += ms
        self.at.now = self.now

    @rule()
    def restart(self) -> None:
        self.stop()
        self.start()

    # --- what must be so ---------------------------------------------------------------------------------------------

    @invariant()
    def everything_accepted_is_where_the_model_has_it(self) -> None:
        waiting = self.runner.run(self.at.waiting())
        assert [(one.seq, one.subject, one.attempts, one.next_attempt_at) for one in waiting] == [
            (seq, one.subject, one.attempts, one.due)
            for seq, one in sorted(self.entries.items())
            if one.waits
        ]
        assert self.at.outbox.queued == len(waiting)
        dead = self.runner.run(
            self.at.outbox.dead_letters.find("default", DeadLetterFilter(), 0, 1_000)
        )
        assert [(one.seq, one.status, one.attempts) for one in dead] == [
            (seq, one.status, one.attempts) for seq, one in sorted(self.entries.items()) if one.dead
        ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_outbox_does_what_its_model_does(
    kind: str, migrated: Path, request: pytest.FixtureRequest
) -> None:
    class Chosen(Histories):
        template = str(migrated)
        server = request.getfixturevalue("postgresql_server") if kind == "postgresql" else None

    run_state_machine_as_test(
        Chosen,
        settings=settings(
            max_examples=EXAMPLES if kind == "sqlite" else math.ceil(EXAMPLES / 2.5),
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
