"""Proofs that a record is in the log, and that the log only grew (RFC 9162 §2.1.3 and §2.1.4).

They are for whoever keeps checkpoints of their own. Each proof is verified before it is given out:
one that does not lead to the signed root means that the database was changed.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection

from app.audit import merkle
from app.audit.record_search import app_of
from app.audit.tree import (
    NEWEST,
    REMOVED,
    Checkpoint,
    Fetch,
    InvalidCheckpoint,
    PublicKey,
    StoredHashes,
    Tree,
    count_of,
    fetcher,
    raw_of,
    read_tree,
    text_of,
)
from app.errors import AuditBroken, NotFound

RECORD = "SELECT record FROM audit_records WHERE seq = ?"
NOTHING_SEALED = "No record is sealed yet. Records are sealed every second; try again."
NO_RECORD = "No record has this id, or it is older than GATEWAY_AUDIT_SECONDS."
UNSEALED = "The record is not sealed yet. Records are sealed every second; try again."
REMOVED_BY_RETENTION = "The proof needs records that were removed after GATEWAY_AUDIT_SECONDS."
BROKEN = "The audit log differs from what was sealed; `audit verify` lists the differences."
END_OF_TIME = 253_402_300_800_000  # the year 10000, in ms


@dataclass(frozen=True, slots=True)
class SealedTree:
    """The newest checkpoint, its time (ms), and the tree that it is about."""

    checkpoint: Checkpoint
    time: int
    tree: Tree


@dataclass(frozen=True, slots=True)
class RecordProof:
    """A proof that a record is leaf `seq - 1` of the tree of a checkpoint."""

    seq: int
    record: str
    path: list[bytes]
    sealed: SealedTree


def newest_checkpoint(connection: Connection, public: PublicKey) -> SealedTree:
    """Return the newest checkpoint. Raises NotFound, AuditBroken."""
    return _read_sealed(fetcher(connection), public)


def record_text(connection: Connection, seq: int, apps: Collection[str] | None) -> str:
    """Return the text of record `seq` of one of these apps (None: of any). Raises NotFound."""
    rows = fetcher(connection)(RECORD, (seq,))
    text = text_of(rows[0][0]) if rows else ""
    if not rows or (apps is not None and app_of(text) not in apps):
        raise NotFound(NO_RECORD)
    return text


def inclusion(
    connection: Connection, public: PublicKey, seq: int, apps: Collection[str] | None
) -> RecordProof:
    """Return the proof for record `seq` of one of these apps (None: of any).

    Raises NotFound, and AuditBroken where the database does not prove it or the record is gone
    before its time. The app of such a record is unknown, so a caller for certain apps gets NotFound
    for it.
    """
    fetch = fetcher(connection)
    rows = fetch(RECORD, (seq,))
    text = text_of(rows[0][0]) if rows else ""
    if apps is not None and (not rows or app_of(text) not in apps):
        raise NotFound(NO_RECORD)
    sealed = _read_sealed(fetch, public)
    tree = sealed.tree
    if not rows:
        if _count_removed(tree, public) < seq <= tree.size:
            raise AuditBroken(BROKEN)
        raise NotFound(NO_RECORD)
    if seq > tree.size:
        raise NotFound(UNSEALED)
    try:
        path = merkle.inclusion(StoredHashes(fetch, tree).node, seq - 1, tree.size)
    except LookupError:  # retention keeps the hashes of all records that are left
        raise AuditBroken(BROKEN) from None
    leaf = merkle.leaf_hash(raw_of(text))
    if not merkle.included(leaf, seq - 1, tree.size, path, sealed.checkpoint.root):
        raise AuditBroken(BROKEN)
    return RecordProof(seq, text, path, sealed)


def consistency(connection: Connection, public: PublicKey, old: int, new: int) -> list[bytes]:
    """Return the proof that the first `old` records are the beginning of the first `new`.

    Raises NotFound, and AuditBroken where the database does not lead to the newest checkpoint.
    """
    fetch = fetcher(connection)
    sealed = _read_sealed(fetch, public)
    tree = sealed.tree
    if new > tree.size:
        raise NotFound(f"Only {tree.size} records are sealed so far.")
    node = StoredHashes(fetch, tree).node
    try:
        old_root, new_root = merkle.subtree(node, 0, old), merkle.subtree(node, 0, new)
        path = merkle.consistency(node, old, new)
        path_to_newest = merkle.consistency(node, new, tree.size)
    except LookupError:
        if old < tree.removed:
            raise NotFound(REMOVED_BY_RETENTION) from None
        raise AuditBroken(BROKEN) from None
    newest_root = sealed.checkpoint.root
    if not merkle.consistent(new, new_root, tree.size, newest_root, path_to_newest):
        raise AuditBroken(BROKEN)
    if not merkle.consistent(old, old_root, new, new_root, path):
        raise AuditBroken(BROKEN)
    return path


def _count_removed(tree: Tree, public: PublicKey) -> int:
    """Return how many of the first records retention has removed, as far as that is signed."""
    if tree.statement is None:
        return 0
    try:
        return public.verify(tree.statement, REMOVED).size
    except InvalidCheckpoint:
        return 0


def _read_sealed(fetch: Fetch, public: PublicKey) -> SealedTree:
    """Return the newest checkpoint and the tree.

    Raises NotFound where nothing is sealed, AuditBroken where the checkpoint is not signed or is
    not about the tree.
    """
    tree, rows = read_tree(fetch), fetch(NEWEST, ())
    if not rows:
        if tree == Tree():
            raise NotFound(NOTHING_SEALED)
        raise AuditBroken(BROKEN)
    _, stored_time, note = rows[0]
    try:
        checkpoint = public.verify(text_of(note))
    except InvalidCheckpoint:
        raise AuditBroken(BROKEN) from None
    time = count_of(stored_time)
    if not 0 <= time < END_OF_TIME:
        raise AuditBroken(BROKEN)
    if (tree.size, tree.root) != (checkpoint.size, checkpoint.root):
        raise AuditBroken(BROKEN)
    return SealedTree(checkpoint, time, tree)
