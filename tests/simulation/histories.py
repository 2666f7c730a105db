"""Random histories: what happens to a world, decided by a seed."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

from app import ids
from app.errors import Erased, GatewayError, UpstreamUnavailable
from app.model import NewItem

from .clockwork import VirtualLoop, weighted
from .leanplum import GOOD
from .seam import Database, Fault, How, Point
from .world import APP, Process, Sizes, World

USERS = ("ann", "bob", "cid")
ERASED_USER = "zoe"
DEVICES = ("phone", "tablet")  # whose items name no user
FUTURE_MS = 3_600_000
SECONDS = 14.0  # that a history lasts, before the world is mended
SETTLE_SECONDS = 90  # that everything has to settle in, once nothing goes wrong any more
CALM = {"done": 6.0, "slow": 1.0}
ROUGH = {
    **{"done": 5.0, "slow": 2.0, "late": 0.3, "lost": 0.7, "unread": 0.4, "away": 0.4},
    **{"throttled": 0.4, "unreachable": 0.4, "unconnected": 0.3, "key": 0.1, "limited": 0.2},
}
EVERYDAY = {"accept": 8.0, "refused": 1.5, "replay": 1.0}


@dataclass(frozen=True)
class Profile:
    """What kind of history: what is done, by weight, and how Leanplum behaves."""

    steps: Mapping[str, float]
    fates: Mapping[str, float] = field(default_factory=lambda: CALM)
    processes: tuple[int, ...] = (1, 2, 3)
    hold: float = 0.3  # how often the policy is not to send twice
    receipts_ms: tuple[int, ...] = (20_000,)
    dead_letters_ms: tuple[int, ...] = (6_000, 20_000)


PROFILES: dict[str, Profile] = {
    "leanplum": Profile({**EVERYDAY, "start": 1.0}, ROUGH),
    "replays": Profile(
        {"accept": 10.0, "refused": 6.0, "replay": 6.0, "replay_one": 4.0, "discard": 1.0}
    ),
    "retention": Profile(
        {"accept": 4.0, "refused": 5.0, "sweep": 0.5, "race": 6.0},
        receipts_ms=(2_000,),
        dead_letters_ms=(1_000, 2_000),
    ),
    "future": Profile(
        {**EVERYDAY, "refused": 2.0, "sweep": 1.0, "ahead": 2.0}, receipts_ms=(3_000,)
    ),
    "relayed": Profile(
        {"accept": 8.0, "start": 8.0, "variables": 2.0, "refused": 1.0, "erase": 1.0}
    ),
    "kills": Profile(
        {"accept": 8.0, "start": 1.0, "kill": 1.5, "begin": 2.0, "stop": 0.5}, hold=0.5
    ),
    "stops": Profile(
        {"accept": 8.0, "start": 1.0, "stop": 1.5, "locked_stop": 2.0, "begin": 3.0}, hold=0.5
    ),
    "connections": Profile(
        {
            **EVERYDAY,
            "lose": 5.0,
            "answer": 4.0,
            "lock": 1.0,
            "start": 1.0,
            "stop": 1.0,
            "begin": 2.0,
        },
        hold=0.5,
    ),
    "attempts": Profile(
        {"accept": 8.0, "answer": 4.0, "stop": 1.5, "begin": 3.0},
        {"done": 2.0, "away": 3.0, "throttled": 1.0},
        hold=1.0,
    ),
    "clocks": Profile({"accept": 9.0, "clock": 4.0, "stop": 0.5, "begin": 1.0}, processes=(2, 3)),
    "locks": Profile({"accept": 9.0, "unlink": 1.0, "begin": 1.0}, processes=(2, 3)),
    "sessions": Profile(
        {"accept": 9.0, "start": 2.0, "cut": 3.0, "kill": 0.5, "begin": 1.5, "lock": 0.5},
        ROUGH,
        processes=(2, 3),
    ),
    "logins": Profile(
        {
            **{
                "accept": 4.0,
                "login": 6.0,
                "login_refused": 1.5,
                "chain": 2.0,
                "replay": 0.5,
                "start": 1.0,
            },
            **{"kill": 0.7, "begin": 2.0, "stop": 0.5, "answer": 0.5, "lose": 0.5},
        },
        ROUGH,
        hold=0.3,
    ),
    "everything": Profile(
        {
            **{"accept": 12.0, "refused": 3.0, "replay": 2.0, "replay_one": 1.0, "discard": 0.5},
            **{
                "sweep": 0.5,
                "race": 0.5,
                "start": 3.0,
                "variables": 1.0,
                "erase": 0.5,
                "kill": 0.5,
            },
            **{"begin": 1.5, "stop": 0.5, "locked_stop": 0.5, "lose": 1.0, "answer": 1.0},
            **{"lock": 0.3, "clock": 0.5, "unlink": 0.2, "mend": 1.0, "ahead": 0.3},
        },
        ROUGH,
    ),
}


@dataclass
class Thing:
    """Something that a caller wanted to happen once: an item, whatever its tries, or a relayed
    call.
    """

    marker: str
    user: str
    action: str
    at: float  # when it was first asked for
    joins: str | None = None  # whom a login makes of its user,
    device: str | None = None  # and on which device
    own_id: str | None = None
    item_id: str | None = None
    seq: int | None = None
    acknowledged: bool = False
    refused: bool = False  # by the gateway: the user was erased
    nothing_taken: bool = False  # what the caller was told last,
    doubtful: bool = False  # unless one try ended without an answer
    asks: list[float] = field(default_factory=list)  # when replays were asked for,
    # And from when to when some went
    replays: list[tuple[float, float]] = field(default_factory=list)
    discarded: float | None = None
    relayed: bool = False
    said: str = ""  # how a relayed call ended


class History:
    """One seed's history in a world."""

    def __init__(self, loop: VirtualLoop, database: Database, seed: int, profile: str) -> None:
        self.seed, self.profile = seed, profile
        self.chance = chance = random.Random(f"{seed} {profile}")
        self._kind = PROFILES[profile]
        sizes = Sizes(
            processes=chance.choice(self._kind.processes),
            hold=chance.random() < self._kind.hold,
            api_only=chance.random() < 0.3,
            receipts_ms=chance.choice(self._kind.receipts_ms),
            dead_letters_ms=chance.choice(self._kind.dead_letters_ms),
            slow_database=chance.choice([0.0, 0.05, 0.3]),
        )
        self.world = World(loop, database, seed, sizes)
        self.things: dict[str, Thing] = {}
        self.erased: dict[str, float] = {}  # by user: when the first erasure was acknowledged
        self.deleted = set[str]()  # users whose erasure was asked for, and may have been done
        self.ahead_ms = 0
        self._count = 0

    # --- the course ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Let it happen, then mend the world and wait until everything is settled."""
        world = self.world
        world.trace(f"seed {self.seed}, {self.profile}, {world.sizes}")
        await asyncio.gather(*(one.start() for one in world.processes))
        world.leanplum.fates = dict(self._kind.fates)
        begun = set[asyncio.Task[None]]()
        ends = world.loop.now + SECONDS
        rate = self.chance.choice([1.5, 3.0, 6.0])
        while (pause := self.chance.expovariate(rate)) + world.loop.now < ends:
            await asyncio.sleep(pause)
            step = STEPS[weighted(self.chance, self._kind.steps)]
            task = asyncio.create_task(step(self))
            begun.add(task)
        world.trace("the world is mended")
        world.leanplum.fates = dict(GOOD)
        for process in world.processes:
            process.seam.faults.clear()
            process.offset_ms = 0
        for task in begun:
            await task
        await self._settle()

    async def _settle(self) -> None:
        world = self.world
        await asyncio.gather(*(one.start() for one in world.processes if not one.up))
        for _ in range(SETTLE_SECONDS):
            if not world.waiting():
                break
            await asyncio.sleep(1.0)
        await asyncio.sleep(1.0)

    async def end(self) -> None:
        """Stop everything."""
        await asyncio.gather(*(one.stop() for one in self.world.processes))

    # --- things ----------------------------------------------------------------------------------------------------

    def _thing(self, user: str, action: str, *, relayed: bool = False) -> Thing:
        self._count += 1
        thing = Thing(f"e{self._count}", user, action, self.world.loop.now, relayed=relayed)
        self.things[thing.marker] = thing
        return thing

    def _up(self) -> Process | None:
        up = [one for one in self.world.processes if one.up]
        return self.chance.choice(up) if up else None

    def _user(self) -> str:
        return self.chance.choice(USERS)

    async def _accept(self, things: list[Thing], ahead_ms: int = 0) -> None:
        """Have items taken, again and again where that is safe: with their ids, or if nothing
        was.
        """
        for _ in range(4):
            process = self._up()
            if process is None or await self._try(process, things, ahead_ms):
                return
            await asyncio.sleep(self.chance.uniform(0.1, 1.0))

    async def _try(self, process: Process, things: list[Thing], ahead_ms: int) -> bool:
        """One try; whether it is over."""
        markers = ",".join(f"{one.user}:{one.marker}" for one in things)
        self.world.trace(f"accept [{markers}] at {process.owner}")
        try:
            taken = await process.accept([_new(thing) for thing in things], ahead_ms)
        except (ConnectionError, GatewayError) as error:
            self.world.trace(f"accept [{markers}] fails: {error}")
            nothing = "nothing was accepted" in str(error)
            for thing in things:
                thing.nothing_taken, thing.doubtful = nothing, thing.doubtful or not nothing
            if nothing:
                self._look_for_lies(things)
            return not nothing and any(one.own_id is None for one in things)
        for thing, (item_id, kind) in zip(things, taken, strict=True):
            self._taken(thing, item_id, kind)
        self.world.trace(f"accepted [{markers}]: {[kind for _, kind in taken]}")
        return True

    def _look_for_lies(self, things: list[Thing]) -> None:
        for thing in things:
            like = f'%"marker":"{thing.marker}"%'
            rows = self.world.database.sql("SELECT seq FROM items WHERE body LIKE ?", like)
            if rows and not thing.doubtful:
                self.world.faults.append(f"told that nothing was taken, and {thing.marker} was")

    def _taken(self, thing: Thing, item_id: str, kind: str) -> None:
        thing.refused = kind == "erased"
        thing.acknowledged = kind in {"accepted", "duplicate"}
        thing.nothing_taken = False
        thing.item_id = item_id
        if kind == "conflict":
            self.world.faults.append(f"{thing.marker}: a repeat was taken for another content")
        if thing.own_id is None and (parsed := ids.parse(item_id)) is not None:
            thing.seq = parsed[1]
        elif rows := self.world.database.sql("SELECT seq FROM item_ids WHERE id = ?", item_id):
            thing.seq = int(rows[0][0])

    # --- steps -----------------------------------------------------------------------------------------------------

    async def accept(self) -> None:
        """A batch of a few items of one or two users."""
        users = [self._user() for _ in range(self.chance.choice([1, 1, 2]))]
        things = [
            self._thing(user, "track")
            for user in users
            for _ in range(self.chance.choice([1, 1, 3]))
        ]
        if self.chance.random() < 0.5:
            for thing in things:
                thing.own_id = f"own-{thing.marker}"
        await self._accept(things)

    async def refused(self) -> None:
        """An item that Leanplum refuses until it is mended."""
        thing = self._thing(self._user(), "track")
        self.world.leanplum.refusing.add(thing.marker)
        await self._accept([thing])

    async def login(self) -> None:
        """A user logs in, or back, with items of both around it: in one batch, or one after the
        other.
        """
        await self._log_in(refused=False)

    async def login_refused(self) -> None:
        """A login that Leanplum refuses until it is mended."""
        await self._log_in(refused=True)

    async def _log_in(self, *, refused: bool) -> None:
        old, new = self.chance.sample(USERS, 2)
        device = self.chance.choice([None, *DEVICES])
        login = self._login_of(old, new, device)
        if refused:
            self.world.leanplum.refusing.add(login.marker)
        names = [old, new] if device is None else [old, new, device]
        around = [self._thing(name, "track") for name in self.chance.choices(names, k=5)]
        things = [*around[:2], login, *around[2:]]
        for calls in (
            [things] if self.chance.random() < 0.5 else [things[:2], things[2:3], things[3:]]
        ):
            await self._accept(calls)

    async def chain(self) -> None:
        """Logins from one user to the next, and back to the first, each with an item that follows:
        in one batch.
        """
        users = self.chance.sample(USERS, len(USERS))
        device = self.chance.choice([None, *DEVICES])
        things: list[Thing] = []
        for old, new in pairwise([*users, users[0]]):
            names = [new] if device is None else [new, device]
            things += [
                self._login_of(old, new, device),
                *(self._thing(one, "track") for one in names),
            ]
        await self._accept(things)

    def _login_of(self, old: str, new: str, device: str | None) -> Thing:
        login = self._thing(old, "setUserAttributes")
        login.joins, login.device = new, device
        return login

    async def ahead(self) -> None:
        """An item from a process whose clock is far ahead."""
        self.ahead_ms = FUTURE_MS
        await self._accept([self._thing(self._user(), "track")], FUTURE_MS)

    async def mend(self) -> None:
        """Leanplum takes what it refused."""
        self.world.leanplum.refusing.clear()

    async def replay(self) -> None:
        """Send all dead letters again."""
        await self._replay(None)

    async def replay_one(self) -> None:
        """Send one dead letter again."""
        await self._replay(1)

    async def _replay(self, most: int | None) -> None:
        if (process := self._up()) is None:
            return
        try:
            dead = await process.dead_letters()
            if not dead:
                return
            if self.chance.random() < 0.7:
                self.world.leanplum.refusing.clear()
            if most is None and self.chance.random() < 0.5:
                await self._replay_these(process, dead, None)
                return
            for item_id in dead if most is None else [self.chance.choice(dead)]:
                await self._replay_these(process, [item_id], [item_id])
        except (GatewayError, ConnectionError) as error:
            self.world.trace(f"replay fails: {error}")

    async def _replay_these(
        self, process: Process, those: list[str], only: list[str] | None
    ) -> None:
        """Send dead letters again: those, or all that there are by now."""
        asked = self.world.loop.now
        chosen = [thing for item_id in those if (thing := self._named(item_id)) is not None]
        for thing in self.things.values() if only is None else chosen:
            thing.asks.append(asked)
        before = self._replayed()
        count = await process.replay(only)
        went = chosen if count else []
        if only is None:  # some of those may have gone before, or may be removed by now
            changed = self._replayed().items() - before.items()
            went = [thing for thing in chosen if thing.seq in dict(changed)]
        self.world.trace(f"replayed {count}, among them {[thing.marker for thing in went]}")
        for thing in went:
            thing.replays.append((asked, self.world.loop.now))

    def _replayed(self) -> dict[int, int | None]:
        return dict(self.world.database.sql("SELECT seq, replayed_at FROM items"))

    def _named(self, item_id: str) -> Thing | None:
        return next((one for one in self.things.values() if one.item_id == item_id), None)

    async def discard(self) -> None:
        """Give a dead letter up."""
        if (process := self._up()) is None:
            return
        try:
            dead = await process.dead_letters()
            if not dead:
                return
            chosen = self.chance.choice(dead)
            if await process.discard([chosen]) and (thing := self._named(chosen)) is not None:
                thing.discarded = self.world.loop.now
                self.world.trace(f"discarded {thing.marker}")
        except (GatewayError, ConnectionError) as error:
            self.world.trace(f"discard fails: {error}")

    async def sweep(self) -> None:
        """Remove what is past its time."""
        if (process := self._up()) is None:
            return
        self.world.trace(f"sweep at {process.owner}")
        try:
            await process.sweep()
        except (GatewayError, ConnectionError) as error:
            self.world.trace(f"sweep fails: {error}")

    async def race(self) -> None:
        """Remove what is past its time while an operator sends dead letters again."""
        sweep = asyncio.create_task(self.sweep())
        await asyncio.sleep(self.chance.uniform(0.0, 0.02))
        await self.replay()
        await sweep

    async def start(self) -> None:
        """A relayed `start`, right beside items of the same user."""
        await self._relay("start", self._user())

    async def variables(self) -> None:
        """A relayed question."""
        await self._relay("getVars", self._user())

    async def _relay(self, action: str, user: str) -> None:
        if (process := self._up()) is None:
            return
        thing = self._thing(user, action, relayed=True)
        self.world.trace(f"{action} {user}:{thing.marker} at {process.owner}")
        try:
            await process.relay(action, user, {"marker": thing.marker})
            thing.said = "done"
        except Erased:
            thing.said, thing.refused = "erased", True
        except UpstreamUnavailable as error:
            thing.said = f"unavailable: {error.detail}"
        except (GatewayError, ConnectionError) as error:
            thing.said = f"failed: {error}"
        self.world.trace(f"{action} {user}:{thing.marker}: {thing.said}")

    async def erase(self) -> None:
        """Erase a user who has items, while callers go on with them."""
        user = ERASED_USER
        await self._accept([self._thing(user, "track") for _ in range(2)])
        starts = [asyncio.create_task(self._relay("start", user)) for _ in range(2)]
        await asyncio.sleep(self.chance.uniform(0.0, 0.5))
        thing = self._thing(user, "deleteUser")
        self.deleted.add(user)
        await self._accept([thing])
        if thing.acknowledged:
            self.erased.setdefault(user, self.world.loop.now)
        for _ in range(2):
            await asyncio.sleep(self.chance.uniform(0.0, 0.5))
            await self._relay("start", user)
        await self._accept([self._thing(user, "track")])
        for start in starts:
            await start

    async def kill(self) -> None:
        """Kill a process."""
        if (process := self._up()) is not None:
            self.world.faulty = True
            await process.kill()

    async def stop(self) -> None:
        """Stop a process gracefully."""
        if (process := self._up()) is not None:
            await process.stop()

    async def locked_stop(self) -> None:
        """Stop a process while it can't write for a while."""
        if (process := self._up()) is None:
            return
        if self.chance.random() < 0.5:
            self._fault(process, "begin", "locked", 1_000, self.chance.uniform(5.5, 9.0))
        else:
            self._fault(process, "begin", "lost", 1_000, self.chance.uniform(0.3, 3.0))
        await asyncio.sleep(self.chance.uniform(0.0, 0.3))
        await process.stop()

    async def begin(self) -> None:
        """Start what is down."""
        down = [one for one in self.world.processes if one.down]
        if down:
            await self.chance.choice(down).start()

    async def lose(self) -> None:
        """A connection is lost at the next use of its kind."""
        if (process := self._up()) is not None:
            point: Point = self.chance.choice(["begin", "statement", "commit", "read"])
            self._fault(process, point, "lost", self.chance.choice([1, 1, 3]), 5.0)

    async def answer(self) -> None:
        """A commit takes effect, and its answer is lost."""
        if (process := self._up()) is not None:
            self._fault(process, "committed", "lost", 1, 5.0)

    async def lock(self) -> None:
        """The database is locked for a while."""
        if (process := self._up()) is not None:
            self._fault(process, "begin", "locked", 1_000, self.chance.uniform(0.5, 8.0))

    def _fault(self, process: Process, point: Point, how: How, count: int, seconds: float) -> None:
        until = self.world.loop.now + seconds
        self.world.faulty = True
        process.seam.faults.append(Fault(point, how, count, until))
        self.world.trace(f"{process.owner}: {point} fails ({how}) {count} times, {seconds:.1f} s")

    async def clock(self) -> None:
        """A wall clock is set."""
        if (process := self._up()) is not None:
            process.offset_ms = self.chance.choice([-40_000, -3_000, 3_000, 40_000, 0])
            self.world.stepped = True
            self.world.trace(f"{process.owner}: its clock is off by {process.offset_ms} ms")

    async def cut(self) -> None:
        """The sessions that hold liveness locks end: of one process, or of all, with the server."""
        sessions = self.world.sessions
        if self.chance.random() < 0.3:
            self.world.trace("the server ends all sessions")
            sessions.restart()
        elif (process := self._up()) is not None:
            seconds = self.chance.choice([0.0, self.chance.uniform(0.5, 8.0)])
            self.world.trace(f"the session of {process.owner} is cut for {seconds:.1f} s")
            sessions.cut(process.owner, seconds)

    async def unlink(self) -> None:
        """Somebody removes the file of the liveness locks, and a process is started anew."""
        self.world.remove_locks()
        if (process := self._up()) is not None:
            await process.stop()
            if process.down:
                await process.start()


Step = Callable[[History], Coroutine[Any, Any, None]]
STEPS: dict[str, Step] = {
    name: getattr(History, name)
    for name in {name for one in PROFILES.values() for name in one.steps}
}


def _new(thing: Thing) -> NewItem:
    alone = thing.user in DEVICES
    body = {"deviceId" if alone else "userId": thing.user, "marker": thing.marker}
    if thing.joins is not None:
        body["newUserId"] = thing.joins
    if thing.device is not None:
        body["deviceId"] = thing.device
    if thing.action == "track":
        body["event"] = thing.marker
    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode()
    return NewItem(f"{'d' if alone else 'u'}{thing.user}", thing.action, text, thing.own_id)


__all__ = ["APP", "PROFILES", "History", "Thing"]
