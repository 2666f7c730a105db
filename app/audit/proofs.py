"""Proofs, for whoever keeps checkpoints of their own: that a record is in the log, and that the log
only grew.

What is given here was checked here: a proof that doesn't lead to what is signed would only tell the
caller, later and elsewhere, that something is wrong with this database.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection

from app.audit import merkle
from app.audit.checkpoints import REMOVED, BadNote, Checkpoint, PublicKey
from app.audit.record_search import app_of
from app.audit.tree import NEWEST, Fetch, Hashes, Tree, count_of, fetcher, raw_of, read, text_of
from app.errors import AuditBroken, NotFound

RECORD = "SELECT record FROM audit_records WHERE seq = ?"
NOTHING = "No record is sealed yet. Records are sealed every second; try again."
NO_RECORD = "No record has this id, or it is older than GATEWAY_AUDIT_SECONDS."
UNSEALED = "The record is not sealed yet. Records are sealed every second; try again."
GONE = "The proof needs records that were removed after GATEWAY_AUDIT_SECONDS."
BROKEN = "The audit log differs from what was sealed; `audit verify` lists the differences."
END_OF_TIME = 253_402_300_800_000  # the year 10000, in ms


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


def checkpoint(connection: Connection, public: PublicKey) -> Sealed:
    """The newest one. Raises NotFound, AuditBroken."""
    return newest(fetcher(connection), public)[0]


def inclusion(
    connection: Connection, public: PublicKey, seq: int, apps: Collection[str] | None
) -> Inclusion:
    """The proof for record `seq` of one of these apps (None: of any). Raises NotFound; AuditBroken
    where what is there doesn't prove it, or where it is gone before its time. Whose a record was
    that is gone nobody knows: who may see certain apps alone isn't told of it.
    """
    fetch = fetcher(connection)
    found = fetch(RECORD, (seq,))
    text = text_of(found[0][0]) if found else ""
    if apps is not None and (not found or app_of(text) not in apps):
        raise NotFound(NO_RECORD)
    sealed, signed, tree = newest(fetch, public)
    if not found:
        raise (
            AuditBroken(BROKEN)
            if _removed(tree, public) < seq <= tree.size
            else NotFound(NO_RECORD)
        )
    if seq > tree.size:
        raise NotFound(UNSEALED)
    try:
        path = merkle.inclusion(Hashes(fetch, tree).node, seq - 1, tree.size)
    except LookupError:  # retention keeps the hashes of what is left
        raise AuditBroken(BROKEN) from None
    if not merkle.included(merkle.leaf_hash(raw_of(text)), seq - 1, tree.size, path, signed.root):
        raise AuditBroken(BROKEN)
    return Inclusion(seq, text, path, sealed)


def consistency(connection: Connection, public: PublicKey, old: int, new: int) -> list[bytes]:
    """The proof that the first `old` records are the beginning of the first `new`. Raises NotFound;
    AuditBroken where what is there doesn't lead to the newest checkpoint.
    """
    fetch = fetcher(connection)
    _, signed, tree = newest(fetch, public)
    if new > tree.size:
        raise NotFound(f"Only {tree.size} records are sealed so far.")
    node = Hashes(fetch, tree).node
    try:
        roots = [merkle.subtree(node, 0, size) for size in (old, new)]
        path, onward = merkle.consistency(node, old, new), merkle.consistency(node, new, tree.size)
    except LookupError:
        raise (NotFound(GONE) if old < tree.removed else AuditBroken(BROKEN)) from None
    leads = merkle.consistent(new, roots[1], tree.size, signed.root, onward)
    if not leads or not merkle.consistent(old, roots[0], new, roots[1], path):
        raise AuditBroken(BROKEN)
    return path


def _removed(tree: Tree, public: PublicKey) -> int:
    """How many of the first records retention has removed, as far as that is signed."""
    try:
        return 0 if tree.statement is None else public.open(tree.statement, REMOVED).size
    except BadNote:
        return 0


def newest(fetch: Fetch, public: PublicKey) -> tuple[Sealed, Checkpoint, Tree]:
    """The newest checkpoint, and the tree that it is about. Raises NotFound where nothing is
    sealed, AuditBroken where the one is not signed, or not about the other.
    """
    tree, rows = read(fetch), fetch(NEWEST, ())
    if not rows and tree == Tree():
        raise NotFound(NOTHING)
    try:
        signed = public.open(text_of(rows[0][2]))
    except (IndexError, BadNote):
        raise AuditBroken(BROKEN) from None
    time = count_of(rows[0][1])
    if (tree.size, tree.root) != (signed.size, signed.root) or not 0 <= time < END_OF_TIME:
        raise AuditBroken(BROKEN)
    return Sealed(signed.size, time, signed.note), signed, tree
