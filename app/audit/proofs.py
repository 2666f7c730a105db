"""Proofs, for whoever keeps checkpoints of their own: that a record is in the log, and that the log only grew."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection

from app.audit import merkle
from app.audit.queries import app_of
from app.audit.tree import Hashes, fetcher, read
from app.errors import NotFound

CHECKPOINT = "SELECT time, note FROM audit_checkpoints WHERE size = ?"
RECORD = "SELECT record FROM audit_records WHERE seq = ?"
LOST = "The hashes that prove this record are not in the database any more: `audit verify` tells what is wrong there."
GONE = "What this needs was removed with records that are past GATEWAY_AUDIT_SECONDS."


@dataclass(frozen=True, slots=True)
class Sealed:
    """A checkpoint: when it was made, and its note."""

    size: int
    time: int
    note: str


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That a record stands at `seq - 1` in the tree that the checkpoint is about."""

    seq: int
    record: str
    path: list[bytes]
    checkpoint: Sealed


def checkpoint(connection: Connection) -> Sealed:
    """The newest one. Raises NotFound."""
    fetch = fetcher(connection)
    size = read(fetch).size
    found = fetch(CHECKPOINT, (size,))
    if not found:
        raise NotFound("Nothing is sealed yet: the gateway seals each second what it has recorded; ask again.")
    return Sealed(size, *found[0])


def inclusion(connection: Connection, seq: int, apps: Collection[str] | None) -> Inclusion:
    """The proof for record `seq` of one of these apps (None: of any). Raises NotFound."""
    fetch = fetcher(connection)
    tree = read(fetch)
    found = fetch(RECORD, (seq,))
    if not found or (apps is not None and app_of(found[0][0]) not in apps):
        raise NotFound("No record has this id, or it is past GATEWAY_AUDIT_SECONDS.")
    if seq > tree.size:
        raise NotFound("The record is there, and not sealed yet, which happens each second: ask again.")
    try:
        path = merkle.inclusion(Hashes(fetch, tree).node, seq - 1, tree.size)
    except LookupError:  # retention keeps the hashes of what is left
        raise NotFound(LOST) from None
    return Inclusion(seq, found[0][0], path, checkpoint(connection))


def consistency(connection: Connection, old: int, new: int) -> list[bytes]:
    """The proof that the first `old` records are the beginning of the first `new`. Raises NotFound."""
    fetch = fetcher(connection)
    tree = read(fetch)
    if new > tree.size:
        raise NotFound(f"{tree.size} records are sealed until now.")
    try:
        return merkle.consistency(Hashes(fetch, tree).node, old, new)
    except LookupError:
        raise NotFound(GONE) from None
