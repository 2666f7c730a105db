"""The names that each app has, on disk, and in memory for the hot path. Processes see each other's
names in seconds.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Engine, select

from app.clock import now_ms
from app.database.driver import Cursor, in_background
from app.database.engine import reading
from app.database.tables import taxonomy
from app.database.writer import Writer, insert_rows
from app.telemetry import describe
from app.tracking.checker import Policy
from app.tracking.name_rules import NAME_KINDS, Caps, Known, Name, NameKind, Names, none_known

REFRESH_SECONDS = 2.0
# That a caller, whose items are on disk, waits for new names to be written down
LEARN_SECONDS = 1.0
INSERT = "INSERT INTO taxonomy (app, kind, name, first_seen)"
KNOWN_ALREADY = " ON CONFLICT (app, kind, name) DO NOTHING"
FORGET = "DELETE FROM taxonomy WHERE app = ? AND kind = ? AND name = ?"

log = structlog.get_logger("taxonomy")


@dataclass(frozen=True, slots=True)
class Learn:
    """Write down the names that an app has from now on."""

    app: str
    names: Sequence[Name]
    at: int

    @property
    def rows(self) -> int:
        """Its weight in a group."""
        return len(self.names)

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Learn"]) -> Sequence[None]:
        """Names that another process wrote down meanwhile stay as they are."""
        for write in writes:
            rows = [(write.app, kind, name, write.at) for kind, name in write.names]
            insert_rows(cursor, INSERT, rows, KNOWN_ALREADY)
        return [None] * len(writes)


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove a name, with the audit record of who did."""

    app: str
    name: Name
    record: Callable[[Cursor], None]
    rows: int = 2

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Forget"]) -> Sequence[bool]:
        """Tells of each whether there was such a name."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> bool:
        cursor.execute(FORGET, (self.app, self.name.kind, self.name.name))
        if found := cursor.rowcount > 0:
            self.record(cursor)
        return found


@dataclass(frozen=True, slots=True)
class Counted:
    """One name that an app has."""

    name: Name
    first_seen: int


def stored(engine: Engine, app: str) -> list[Counted]:
    """The names of an app as they are on disk, by kind and name."""
    of_app = (
        select(taxonomy).where(taxonomy.c.app == app).order_by(taxonomy.c.kind, taxonomy.c.name)
    )
    with reading(engine) as connection:
        found = connection.execute(of_app).all()
    return [
        Counted(Name(row.kind, row.name), row.first_seen) for row in found if row.kind in NAME_KINDS
    ]


class Taxonomy:
    """The names of every app."""

    def __init__(self, engine: Engine, writer: Writer, caps: Caps, policy: Policy) -> None:
        self._engine, self._writer = engine, writer
        self._apps: dict[str, Names] = {}
        self.caps, self.policy = caps, policy

    def of(self, app: str) -> Names:
        """The names of an app."""
        found = self._apps.get(app)
        if found is None:
            found = self._apps[app] = Names()
        return found

    def counts(self) -> dict[str, dict[NameKind, int]]:
        """How many names there are, by app and kind."""
        return {
            app: {kind: len(names.known[kind]) for kind in NAME_KINDS}
            for app, names in self._apps.items()
        }

    async def learn(self, app: str, kept: Sequence[Name], dropped: Sequence[Name]) -> None:
        """Of names that were claimed: write down those that were accepted, drop the others. Where
        that can't be done, they are new again the next time: their items are accepted all the
        same.
        """
        accepted = set(kept)
        self.of(app).settle((), [name for name in dropped if name not in accepted])
        if not kept:
            return
        try:
            await self._writer.write(Learn(app, kept, now_ms()), seconds=LEARN_SECONDS)
        except Exception as error:
            # the items are on disk: their callers must not be told otherwise
            log.warning("taxonomy.unwritten", app=app, names=len(kept), **describe(error))
            self.of(app).settle((), kept)
        else:
            self.of(app).settle(kept, ())

    async def forget(self, app: str, name: Name, record: Callable[[Cursor], None]) -> bool:
        """Forget a name; whether there was one. It counts again when it comes again."""
        found = await self._writer.write(Forget(app, name, record))
        self.of(app).forget(name)
        return found

    def names(self, app: str) -> list[Counted]:
        """The names of an app as they are on disk. May be called on a thread."""
        return stored(self._engine, app)

    def read(self) -> dict[str, Known]:
        """What is on disk, by app. May be called on a thread."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(taxonomy.c.app, taxonomy.c.kind, taxonomy.c.name)
            ).all()
        found: dict[str, Known] = {}
        for app, kind, name in rows:
            if kind in NAME_KINDS:  # a newer gateway may count more
                found.setdefault(app, none_known())[kind].add(name)
        return found

    def take(self, found: dict[str, Known]) -> None:
        """Use what was read."""
        for app in self._apps.keys() | found.keys():
            self.of(app).replace(found.get(app) or none_known())

    async def run(self) -> None:
        """Read again and again, until cancelled; while that fails, the last reading stays in
        force.
        """
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                self.take(await in_background(self.read))
            except Exception as error:
                # the outermost place: a reader that ended would miss others' names for good
                log.warning("taxonomy.unreadable", **describe(error))
