"""How far the audit log is sealed, for operators. It verifies nothing."""

from typing import NamedTuple

from app.audit.tree import NEWEST, Fetch, count_of, read_tree, read_written

FIRST_UNSEALED = "SELECT min(time) FROM audit_records WHERE seq > ?"


class SealState(NamedTuple):
    """How many records are written and how many are sealed.

    `sealed_at` is the time of the newest checkpoint, `unsealed_since` that of the oldest record
    that is not sealed (epoch milliseconds; None if there is none).
    """

    records: int
    sealed: int
    sealed_at: int | None
    unsealed_since: int | None


def read_seal_state(fetch: Fetch) -> SealState:
    """Return how far the log is sealed."""
    tree, newest = read_tree(fetch), fetch(NEWEST, ())
    unsealed_since = fetch(FIRST_UNSEALED, (tree.size,))[0][0]
    return SealState(
        records=read_written(fetch),
        sealed=tree.size,
        sealed_at=count_of(newest[0][1]) if newest else None,
        unsealed_since=None if unsealed_since is None else count_of(unsealed_since),
    )
