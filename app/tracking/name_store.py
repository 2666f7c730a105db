"""The store of the names that each app uses: in the database, and in memory for the hot path.

Each process reads the names of the others every two seconds.
"""

import asyncio
from collections import defaultdict
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
from app.tracking.names import (
    NAME_KINDS,
    AppNames,
    Name,
    NameKind,
    NameLimits,
    NamePolicy,
    NameSets,
    empty_name_sets,
)

REFRESH_SECONDS = 2.0
# The longest time that a caller, whose items are already durable, waits for new names to be written
LEARN_SECONDS = 1.0
INSERT = "INSERT INTO taxonomy (app, kind, name, first_seen)"
KEEP_EXISTING = " ON CONFLICT (app, kind, name) DO NOTHING"
DELETE = "DELETE FROM taxonomy WHERE app = ? AND kind = ? AND name = ?"

log = structlog.get_logger("taxonomy")


@dataclass(frozen=True, slots=True)
class AddNames:
    """A write that adds names of an app, first used at `at` (ms)."""

    app: str
    names: Sequence[Name]
    at: int

    @property
    def rows(self) -> int:
        """Rows written; counts against the size of a group commit."""
        return len(self.names)

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["AddNames"]) -> Sequence[None]:
        """Insert the names. Names that another process has added meanwhile are left as they are."""
        for write in writes:
            rows = [(write.app, kind, name, write.at) for kind, name in write.names]
            insert_rows(cursor, INSERT, rows, KEEP_EXISTING)
        return [None] * len(writes)


@dataclass(frozen=True, slots=True)
class ForgetName:
    """A write that deletes a name and, if it existed, inserts the audit record with `record`."""

    app: str
    name: Name
    record: Callable[[Cursor], object]
    rows: int = 2

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["ForgetName"]) -> Sequence[bool]:
        """Delete the names; return for each whether it existed."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> bool:
        cursor.execute(DELETE, (self.app, self.name.kind, self.name.name))
        existed = cursor.rowcount > 0
        if existed:
            self.record(cursor)
        return existed


@dataclass(frozen=True, slots=True)
class StoredName:
    """A name of an app in the database, and when it was first used (ms)."""

    name: Name
    first_seen: int


def read_names(engine: Engine, app: str) -> list[StoredName]:
    """Return the names of an app in the database, by kind and name."""
    query = select(taxonomy).where(taxonomy.c.app == app)
    with reading(engine) as connection:
        rows = connection.execute(query.order_by(taxonomy.c.kind, taxonomy.c.name)).all()
    return [
        StoredName(Name(row.kind, row.name), row.first_seen)
        for row in rows
        if row.kind in NAME_KINDS
    ]


class NameStore:
    """The names of every app."""

    def __init__(
        self, engine: Engine, writer: Writer, limits: NameLimits, policy: NamePolicy
    ) -> None:
        self._engine, self._writer = engine, writer
        # The names of each app, made when they are first used.
        self.by_app = defaultdict[str, AppNames](AppNames)
        self.limits, self.policy = limits, policy

    def counts(self) -> dict[str, dict[NameKind, int]]:
        """Return the number of names by app and kind."""
        return {
            app: {kind: len(names.known[kind]) for kind in NAME_KINDS}
            for app, names in self.by_app.items()
        }

    async def learn(self, app: str, kept: Sequence[Name], claimed: Sequence[Name]) -> None:
        """Write claimed names whose items were accepted (`kept`); forget the other claimed ones.

        Raises nothing: names that could not be written are new again when they are used next.
        """
        accepted = set(kept)
        self.by_app[app].release((), [name for name in claimed if name not in accepted])
        if not kept:
            return
        try:
            await self._writer.write(AddNames(app, kept, now_ms()), seconds=LEARN_SECONDS)
        except Exception as error:
            # The items are durable: the answer must not depend on whether their names are.
            log.warning("taxonomy.write_failed", app=app, names=len(kept), **describe(error))
            self.by_app[app].release((), kept)
        else:
            self.by_app[app].release(kept, ())

    async def forget(self, app: str, name: Name, record: Callable[[Cursor], object]) -> bool:
        """Forget a name; return whether it existed. It counts as new when it is used again."""
        existed = await self._writer.write(ForgetName(app, name, record))
        self.by_app[app].forget(name)
        return existed

    def names(self, app: str) -> list[StoredName]:
        """Return the names of an app in the database. Blocks; may be called on a thread."""
        return read_names(self._engine, app)

    def read(self) -> dict[str, NameSets]:
        """Return the names in the database by app. Blocks; may be called on a thread."""
        columns = select(taxonomy.c.app, taxonomy.c.kind, taxonomy.c.name)
        with reading(self._engine) as connection:
            rows = connection.execute(columns).all()
        stored: dict[str, NameSets] = {}
        for app, kind, name in rows:
            if kind in NAME_KINDS:  # a newer gateway may store other kinds
                stored.setdefault(app, empty_name_sets())[kind].add(name)
        return stored

    def apply(self, stored: dict[str, NameSets]) -> None:
        """Replace the names in memory by those that `read` returned."""
        for app in self.by_app.keys() | stored.keys():
            self.by_app[app].replace(stored.get(app) or empty_name_sets())

    async def run(self) -> None:
        """Refresh the names every two seconds until cancelled.

        While the database cannot be read, the names that were read last stay in use.
        """
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                self.apply(await in_background(self.read))
            except Exception as error:
                # The task must not end: the names of other processes would be missed from then on.
                log.warning("taxonomy.read_failed", **describe(error))
