"""MACs of the rows that decide who may do what: caller keys, and who was erased.

Beside each row stands an HMAC-SHA256 under the audit's key. Beside each set of rows stands how many
there are and a digest of them all, under a MAC as well: so a row that was removed by hand, or put
back as it was earlier, is found too. Each change of a set has a number, which its audit record
says: so a set that was put back together with its digest is found by the audit.

A change by the gateway never makes good what was done by hand: a row whose MAC was wrong keeps it.
"""

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.audit.key_derivation import derived
from app.database.driver import Cursor

ROWS, TERMS = b"leanplum-gateway rows", b"leanplum-gateway sets of rows"
SIZE = 32
MODULUS = 1 << (8 * SIZE)
EMPTY = bytes(SIZE)
SELECT = "SELECT {columns}, mac FROM {table}"
PUT = "UPDATE {table} SET mac = ? WHERE {key} = ?"
TAKE = "UPDATE {table} SET mac = NULL"
SUMMARY = "SELECT members, digest, version, mac FROM row_sets WHERE name = ?"
UPDATE = "UPDATE row_sets SET members = ?, digest = ?, version = ?, mac = ? WHERE name = ?"
PENDING = "SELECT name FROM row_sets WHERE mac IS NULL ORDER BY name"
Fetch = Callable[[str, tuple[Any, ...]], Sequence[Any]]


class Table(NamedTuple):
    """A table whose rows have MACs. `columns`: what a MAC covers, the primary key first."""

    name: str
    of_set: str
    columns: tuple[str, ...]

    @property
    def select(self) -> str:
        """The statement that reads what a MAC covers, and the MAC."""
        return SELECT.format(columns=", ".join(self.columns), table=self.name)

    @property
    def put(self) -> str:
        """The statement that sets a row's MAC."""
        return PUT.format(table=self.name, key=self.columns[0])


KEYS, ERASED = "keys", "erasures"
# `last_used_at` is not covered: it changes every ten seconds and decides nothing.
CALLER_KEYS = Table(
    "caller_keys",
    KEYS,
    (
        *("id", "name", "scopes", "apps", "rate_per_second", "rate_burst"),
        *("created_at", "expires_at", "revoked_at", "changed"),
    ),
)
CALLER_SECRETS = Table(
    "caller_secrets", KEYS, ("hash", "key_id", "last_four", "created_at", "expires_at", "rotation")
)
ERASURES = Table("erasures", ERASED, ("alias", "app", "erased_at", "until"))
TABLES = (CALLER_KEYS, CALLER_SECRETS, ERASURES)
SETS = (KEYS, ERASED)


class Row(NamedTuple):
    """A row as it was read: what its MAC covers, and the MAC that stands beside it (None: none)."""

    values: tuple[Any, ...]
    mac: bytes | None


@dataclass(frozen=True, slots=True)
class Summary:
    """A set of rows: how many there are, the digest of all, and the number of its last change."""

    members: int
    digest: bytes
    version: int
    mac: bytes | None


@dataclass(slots=True)
class Noted:
    """The detail of a change in its audit record; "" where the set had no digest yet."""

    detail: str = ""


def read_row(found: Sequence[Any]) -> Row:
    """Return a row that a table's `select` has found. Nothing is believed to be of its type."""
    *values, mac = found
    return Row(tuple(_plain(value) for value in values), _bytes_or_none(mac))


def summary_of(found: Sequence[Any]) -> Summary:
    """Return the summary that `SUMMARY` has found; what is of another type fits no MAC."""
    members, digest, version, mac = found
    numbers = [value if type(value) is int else -1 for value in (members, version)]
    return Summary(numbers[0], _bytes_or_none(digest) or b"", numbers[1], _bytes_or_none(mac))


def detail_of(name: str, version: int) -> str:
    """Return how an audit record says which change of a set it is about."""
    return f"{name} {version}"


class RowMacs:
    """Makes and checks the MACs of one gateway: the same for the same seed."""

    def __init__(self, seed: bytes) -> None:
        self._rows, self._terms = derived(seed, ROWS), derived(seed, TERMS)

    def of(self, table: Table, values: Iterable[Any]) -> bytes:
        """Return the MAC of a row."""
        return hmac.digest(self._rows, _encoded((table.name, *values)), "sha256")

    def fits(self, table: Table, row: Row) -> bool:
        """Whether the MAC that stands beside a row is its own."""
        return row.mac is not None and hmac.compare_digest(self.of(table, row.values), row.mac)

    def term(self, mac: bytes) -> int:
        """Return what a row adds to the digest of its set. It can't be told from the row's MAC."""
        return int.from_bytes(hmac.digest(self._terms, mac, "sha256"))

    def summary(self, name: str, members: int, digest: int, version: int) -> Summary:
        """Return the summary of a set, with its MAC."""
        kept = (digest % MODULUS).to_bytes(SIZE)
        return Summary(members, kept, version, self._of_set(name, members, kept, version))

    def fits_set(self, name: str, summary: Summary) -> bool:
        """Whether the MAC of a summary is its own."""
        made = self._of_set(name, summary.members, summary.digest, summary.version)
        return summary.mac is not None and hmac.compare_digest(made, summary.mac)

    def _of_set(self, name: str, members: int, digest: bytes, version: int) -> bytes:
        return hmac.digest(self._terms, _encoded((name, members, digest, version)), "sha256")

    @contextmanager
    def changing(
        self, cursor: Cursor, *parts: tuple[Table, str, tuple[Any, ...]]
    ) -> Iterator[Noted]:
        """Give the rows that are changed inside their MACs, and their set its digest.

        `parts`: which rows of which table may be changed, as a condition and its values. All are
        of one set, whose change is counted even where no value is another one. The transaction is
        the one that is open.
        """
        noted = Noted()
        before = _rows(cursor, parts)
        yield noted
        after = _rows(cursor, parts)
        members = digest = 0
        for place in {**before, **after}:
            old, new = before.get(place), after.get(place)
            if old is not None and new is not None and old.values == new.values:
                continue
            table = place[0]
            if old is not None and not self.fits(table, old):
                continue  # done by hand: what is done to it now must not hide that
            if old is not None and old.mac is not None:
                members, digest = members - 1, digest - self.term(old.mac)
            if new is not None:
                mac = self.of(table, new.values)
                cursor.execute(table.put, (mac, new.values[0]))
                members, digest = members + 1, digest + self.term(mac)
        noted.detail = self._step(cursor, parts[0][0].of_set, members, digest)

    def next_version(self, cursor: Cursor, name: str) -> int:
        """Return the number that the next change of a set will have; 0 where it has no digest."""
        summary = stored(cursor, name)
        whole = summary is not None and self.fits_set(name, summary)
        return summary.version + 1 if summary is not None and whole else 0

    def _step(self, cursor: Cursor, name: str, members: int, digest: int) -> str:
        """Add a change to the summary of a set, unless that was changed by hand or is not made."""
        summary = stored(cursor, name)
        if summary is None or not self.fits_set(name, summary):
            return ""
        total = int.from_bytes(summary.digest) + digest
        version = summary.version + 1
        store(cursor, name, self.summary(name, summary.members + members, total, version))
        return detail_of(name, version)


def stored(cursor: Cursor, name: str) -> Summary | None:
    """Return the summary that the database keeps of a set; None where it is gone."""
    cursor.execute(SUMMARY, (name,))
    found = cursor.fetchone()
    return None if found is None else summary_of(found)


def store(cursor: Cursor, name: str, summary: Summary) -> None:
    """Keep the summary of a set."""
    values = (summary.members, summary.digest, summary.version, summary.mac, name)
    cursor.execute(UPDATE, values)


def _rows(
    cursor: Cursor, parts: Iterable[tuple[Table, str, tuple[Any, ...]]]
) -> Mapping[tuple[Table, Any], Row]:
    found: dict[tuple[Table, Any], Row] = {}
    for table, where, values in parts:
        cursor.execute(f"{table.select} WHERE {where}", values)
        for one in cursor.fetchall():
            row = read_row(one)
            found[table, row.values[0]] = row
    return found


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, bytes | memoryview) else value


def _bytes_or_none(value: Any) -> bytes | None:
    """Return bytes as they are; no bytes at all where it is of another type, which no MAC is."""
    if value is None:
        return None
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def _encoded(values: Iterable[Any]) -> bytes:
    """Return values as bytes, each with its type and length: two different rows never share
    them.
    """
    made = bytearray()
    for value in values:
        kind = type(value).__name__.encode()
        if isinstance(value, str):
            raw = value.encode(errors="surrogateescape")
        elif isinstance(value, bytes):
            raw = value
        else:
            raw = repr(value).encode()
        made += b"%b %d %b" % (kind, len(raw), raw)
    return bytes(made)
