"""MACs of the rows that decide who may do what: caller keys, and who was erased.

Beside each row stands an HMAC-SHA256 under a key derived from the audit's root key. `row_sets`
holds, of each set of rows, their number and a digest over all of them, under a MAC as well: so a
row that was deleted, or restored to an earlier state, is found too. Each change of a set has a
number, which its audit record repeats: so a whole set that was restored together with its digest
is found by the audit.

The gateway never repairs what was changed by hand: a row whose MAC is wrong keeps it.
"""

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Engine

from app.audit.key_derivation import derive_key
from app.database.driver import Cursor
from app.database.engine import snapshot, transaction

ROW_KEY, SET_KEY = b"leanplum-gateway rows", b"leanplum-gateway sets of rows"  # never change them
MAC_BYTES = 32
MODULUS = 1 << (8 * MAC_BYTES)
SELECT = "SELECT {columns}, mac FROM {table}"
SET_MAC = "UPDATE {table} SET mac = ? WHERE {key} = ?"
SELECT_SET = "SELECT members, digest, version, mac FROM row_sets WHERE name = ?"
UPDATE_SET = "UPDATE row_sets SET members = ?, digest = ?, version = ?, mac = ? WHERE name = ?"
SETS_WITHOUT_MAC = "SELECT name FROM row_sets WHERE mac IS NULL ORDER BY name"
RECORDS = "SELECT records FROM sequence"
ADVICE = "somebody changed the database by hand: run `audit verify` and see docs/audit.md"
Fetch = Callable[[str, tuple[Any, ...]], Sequence[Any]]

log = structlog.get_logger("audit")


class ProtectedTable(NamedTuple):
    """A table whose rows have MACs. `columns` are those a MAC covers, the primary key first."""

    name: str
    set_name: str
    columns: tuple[str, ...]

    @property
    def select(self) -> str:
        """The statement that reads the columns a MAC covers, and the MAC."""
        return SELECT.format(columns=", ".join(self.columns), table=self.name)

    @property
    def set_mac(self) -> str:
        """The statement that sets a row's MAC."""
        return SET_MAC.format(table=self.name, key=self.columns[0])


KEYS, ERASED = "keys", "erasures"
# `last_used_at` is not covered: it changes every ten seconds and decides nothing.
CALLER_KEYS = ProtectedTable(
    "caller_keys",
    KEYS,
    (
        *("id", "name", "scopes", "apps", "rate_per_second", "rate_burst"),
        *("created_at", "expires_at", "revoked_at", "changed"),
    ),
)
CALLER_SECRETS = ProtectedTable(
    "caller_secrets", KEYS, ("hash", "key_id", "last_four", "created_at", "expires_at", "rotation")
)
ERASURES = ProtectedTable("erasures", ERASED, ("alias", "app", "erased_at", "until"))
TABLES = (CALLER_KEYS, CALLER_SECRETS, ERASURES)


class ProtectedRow(NamedTuple):
    """A row as it was read: the values its MAC covers, and its MAC (None: it has none)."""

    values: tuple[Any, ...]
    mac: bytes | None


class RowSelection(NamedTuple):
    """Rows of a table: those that meet a condition with these values for its `?`."""

    table: ProtectedTable
    condition: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class SetSummary:
    """The number of rows in a set, the digest over all, and the number of its last change."""

    members: int
    digest: bytes
    version: int
    mac: bytes | None


@dataclass(slots=True)
class SetChange:
    """The `status_detail` for the record of a change; "" where the set's digest is not valid."""

    detail: str = ""


def read_row(found: Sequence[Any]) -> ProtectedRow:
    """Return a row that a table's `select` found. No value is trusted to have its column's type."""
    *values, mac = found
    return ProtectedRow(tuple(_plain(value) for value in values), _bytes_or_none(mac))


def summary_of(found: Sequence[Any]) -> SetSummary:
    """Return the summary that `SELECT_SET` found; a value of a wrong type makes its MAC invalid."""
    members, digest, version, mac = found
    return SetSummary(
        members if type(members) is int else -1,
        _bytes_or_none(digest) or b"",
        version if type(version) is int else -1,
        _bytes_or_none(mac),
    )


def change_detail(set_name: str, version: int) -> str:
    """Return the `status_detail` of the record of a change of a set, as in `keys 12`."""
    return f"{set_name} {version}"


class RowMacs:
    """MACs of rows and of sets of rows, the same for the same root key."""

    def __init__(self, root_key: bytes) -> None:
        self._row_key = derive_key(root_key, ROW_KEY)
        self._set_key = derive_key(root_key, SET_KEY)

    def of_row(self, table: ProtectedTable, values: Iterable[Any]) -> bytes:
        """Return the MAC of a row."""
        return hmac.digest(self._row_key, _encode((table.name, *values)), "sha256")

    def is_valid(self, table: ProtectedTable, row: ProtectedRow) -> bool:
        """Return whether a row has the MAC that belongs to its values."""
        if row.mac is None:
            return False
        return hmac.compare_digest(self.of_row(table, row.values), row.mac)

    def digest_term(self, mac: bytes) -> int:
        """Return what a row adds to the digest of its set; the row's MAC does not reveal it."""
        return int.from_bytes(hmac.digest(self._set_key, mac, "sha256"))

    def summarize(self, set_name: str, members: int, terms: int, version: int) -> SetSummary:
        """Return the summary of a set whose rows add up to `terms`, with its MAC."""
        digest = (terms % MODULUS).to_bytes(MAC_BYTES)
        mac = self._of_set(set_name, members, digest, version)
        return SetSummary(members, digest, version, mac)

    def is_valid_summary(self, set_name: str, summary: SetSummary) -> bool:
        """Return whether a summary has the MAC that belongs to it."""
        if summary.mac is None:
            return False
        mac = self._of_set(set_name, summary.members, summary.digest, summary.version)
        return hmac.compare_digest(mac, summary.mac)

    def _of_set(self, set_name: str, members: int, digest: bytes, version: int) -> bytes:
        values = set_name, members, digest, version
        return hmac.digest(self._set_key, _encode(values), "sha256")

    @contextmanager
    def updating(self, cursor: Cursor, *selections: RowSelection) -> Iterator[SetChange]:
        """Bring MACs and digest up to date with the changes made inside the context.

        `selections` are all rows that may be changed, all of one set. The change is counted even
        where no value differs. It belongs to the open transaction.
        """
        change = SetChange()
        before = _read_rows(cursor, selections)
        yield change
        after = _read_rows(cursor, selections)
        members = terms = 0
        for place in {**before, **after}:
            old, new = before.get(place), after.get(place)
            if old is not None and new is not None and old.values == new.values:
                continue
            table = place[0]
            if old is not None and not self.is_valid(table, old):
                continue  # changed by hand before: this change must not hide that
            if old is not None and old.mac is not None:
                members, terms = members - 1, terms - self.digest_term(old.mac)
            if new is not None:
                mac = self.of_row(table, new.values)
                cursor.execute(table.set_mac, (mac, new.values[0]))
                members, terms = members + 1, terms + self.digest_term(mac)
        change.detail = self._count_change(cursor, selections[0].table.set_name, members, terms)

    def next_version(self, cursor: Cursor, set_name: str) -> int:
        """Return the number of a set's next change; 0 where its digest is not valid."""
        summary = _stored_summary(cursor, set_name)
        if summary is None or not self.is_valid_summary(set_name, summary):
            return 0
        return summary.version + 1

    def _count_change(self, cursor: Cursor, set_name: str, members: int, terms: int) -> str:
        """Add a change to the summary of a set, unless that was changed by hand."""
        summary = _stored_summary(cursor, set_name)
        if summary is None or not self.is_valid_summary(set_name, summary):
            return ""
        total, version = int.from_bytes(summary.digest) + terms, summary.version + 1
        changed = self.summarize(set_name, summary.members + members, total, version)
        _store_summary(cursor, set_name, changed)
        return change_detail(set_name, version)


def initialize_sets(engine: Engine, macs: RowMacs) -> None:
    """Give the sets of a new database their digests. Raises StorageUnavailable."""
    with snapshot(engine) as connection:
        if not connection.exec_driver_sql(SETS_WITHOUT_MAC).all():
            return
    with transaction(engine) as cursor:
        initialize_sets_within(cursor, macs)


def initialize_sets_within(cursor: Cursor, macs: RowMacs) -> None:
    """Give the sets of a new database their digests, in the open transaction.

    Once anything was recorded every set has its digest; one without it was changed by hand, and
    stays as it is, for `audit verify` to find.
    """
    cursor.execute(SETS_WITHOUT_MAC)
    for (set_name,) in cursor.fetchall():
        if _is_used(cursor, set_name):
            log.error("audit.row_set_changed", set=set_name, advice=ADVICE)
        else:
            _store_summary(cursor, set_name, macs.summarize(set_name, 0, 0, 0))


def _is_used(cursor: Cursor, set_name: str) -> bool:
    """Return whether anything was recorded yet, or the set has rows."""
    cursor.execute(RECORDS)
    sequence = cursor.fetchone()
    if sequence is None or sequence[0] != 0:
        return True
    for table in TABLES:
        if table.set_name == set_name:
            cursor.execute(f"{table.select} LIMIT 1")
            if cursor.fetchone() is not None:
                return True
    return False


def _stored_summary(cursor: Cursor, set_name: str) -> SetSummary | None:
    cursor.execute(SELECT_SET, (set_name,))
    found = cursor.fetchone()
    return None if found is None else summary_of(found)


def _store_summary(cursor: Cursor, set_name: str, summary: SetSummary) -> None:
    values = (summary.members, summary.digest, summary.version, summary.mac, set_name)
    cursor.execute(UPDATE_SET, values)


def _read_rows(
    cursor: Cursor, selections: Iterable[RowSelection]
) -> Mapping[tuple[ProtectedTable, Any], ProtectedRow]:
    """Return the selected rows by table and primary key."""
    rows: dict[tuple[ProtectedTable, Any], ProtectedRow] = {}
    for selection in selections:
        table = selection.table
        cursor.execute(f"{table.select} WHERE {selection.condition}", selection.values)
        for found in cursor.fetchall():
            row = read_row(found)
            rows[table, row.values[0]] = row
    return rows


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, bytes | memoryview) else value


def _bytes_or_none(value: Any) -> bytes | None:
    """Return bytes as they are, and empty bytes for a value of another type, which is no MAC."""
    if value is None:
        return None
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def _encode(values: Iterable[Any]) -> bytes:
    """Return values as bytes, each with its type and length, so that no two rows are the same."""
    encoded = bytearray()
    for value in values:
        kind = type(value).__name__.encode()
        if isinstance(value, str):
            raw = value.encode(errors="surrogateescape")
        elif isinstance(value, bytes):
            raw = value
        else:
            raw = repr(value).encode()
        encoded += b"%b %d %b" % (kind, len(raw), raw)
    return bytes(encoded)
