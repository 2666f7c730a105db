"""Where SQLite and PostgreSQL differ in how the same thing is said. Everything else is one text for
both.

Statements are written with `?` for a parameter; lists travel as one JSON parameter, since each
statement of its own would cost a step of the driver.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Type = Literal["bigint", "text"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One database's way to say it."""

    name: str
    begin: str  # opens a transaction that writes; writers take turns from here on, in every process
    begin_migration: str
    placeholder: str
    json_each: str
    json_value: str
    json_at: str
    hex_seq: str  # the sequence number of item `i` as the last twelve digits of an id made here
    contains: str  # whether the text of an audit record has these words
    clock: str | None
    # What makes the server write as many new bytes as the one parameter says. Of PostgreSQL, a
    # table of its own: space that was freed in another is none that items can have.
    take_room: tuple[str, ...]
    give_room_back: str | None
    room: int  # bytes of which each look is to show that there is room
    # SQLite's driver gives the interpreter's lock up and takes it back once a row, which costs
    # milliseconds each when the event loop is busy: many rows come as one, in JSON.
    one_row: bool

    def values(self, kind: Type) -> str:
        """A subquery with the values of a JSON array that is its one parameter."""
        return f"(SELECT CAST({self.json_value} AS {kind}) FROM {self.json_each})"

    def rows(self, **columns: Type) -> str:
        """A subquery with the rows of a JSON array of arrays that is its one parameter."""
        told = [
            f"CAST({self.json_at.format(index=index)} AS {kind}) AS {name}"
            for index, (name, kind) in enumerate(columns.items())
        ]
        return f"(SELECT {', '.join(told)} FROM {self.json_each})"

    def now(self, cursor: "Cursor", now: int) -> int:
        """The time that leases are judged by, in milliseconds: the server's, where processes on
        several machines share it, since their own clocks differ; else `now`.
        """
        if self.clock is None:
            return now
        cursor.execute(self.clock)
        return int(cursor.fetchone()[0])

    def sql(self, statement: str) -> str:
        """The statement as the driver takes it."""
        return statement if self.placeholder == "?" else _with(statement, self.placeholder)


@cache
def _with(statement: str, placeholder: str) -> str:
    return statement.replace("%", "%%").replace("?", placeholder)


SQLITE = Dialect(
    name="sqlite",
    begin="BEGIN IMMEDIATE",
    begin_migration="BEGIN IMMEDIATE",
    placeholder="?",
    json_each="json_each(?)",
    json_value="value",
    json_at="json_extract(value, '$[{index}]')",
    hex_seq="printf('%012x', i.seq)",
    contains="instr(record, ?) > 0",
    clock=None,
    take_room=("INSERT INTO own_secrets (name, value) VALUES ('room', zeroblob(?))",),
    give_room_back="DELETE FROM own_secrets WHERE name = 'room'",
    room=64 * 1024,  # an item changes some ten pages, wherever it is small
    one_row=True,
)
# One advisory lock for all that write: what SQLite's one writer gives, so that the same reasoning
# holds for both. The numbers mean nothing; they only must differ.
POSTGRESQL = Dialect(
    name="postgresql",
    # The server ends a transaction whose process has fallen silent: it must not hold the lock for
    # good.
    begin=(
        "SELECT set_config('idle_in_transaction_session_timeout', '15s', true), pg_advisory_xact_lock(7303014)"
    ),
    begin_migration="SELECT pg_advisory_xact_lock(7303015)",
    placeholder="%s",
    json_each="json_array_elements(CAST(? AS json)) AS value",
    json_value="(value #>> '{}')",
    json_at="(value ->> {index})",
    hex_seq="lpad(to_hex(i.seq), 12, '0')",
    contains="strpos(record, ?) > 0",
    clock="SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    take_room=(
        "CREATE TEMPORARY TABLE room (value bytea) ON COMMIT DROP",
        "ALTER TABLE room ALTER COLUMN value SET STORAGE EXTERNAL",  # not compressed
        "INSERT INTO room (value) VALUES (decode(repeat('00', ?), 'hex'))",
    ),
    give_room_back=None,
    room=0,  # it makes a table, so only where there was too little room
    one_row=False,
)
DIALECTS = {dialect.name: dialect for dialect in (SQLITE, POSTGRESQL)}


class Cursor:
    """A driver's cursor with the dialect that it speaks."""

    __slots__ = ("_cursor", "_execute", "dialect")

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor, self.dialect = cursor, dialect
        self._execute = cursor.execute

    def execute(self, statement: str, parameters: Any = ()) -> None:
        """Run one statement."""
        self._execute(self.dialect.sql(statement), parameters)

    def fetchone(self) -> Any:
        """The next row, or None."""
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        found: list[Any] = self._cursor.fetchall()
        return found

    @property
    def rowcount(self) -> int:
        """How many rows the last statement changed."""
        return int(self._cursor.rowcount)
