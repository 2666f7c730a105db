"""A MAC beside each row of caller keys, their secrets and erasures, and a digest of each set of
them.

The audit's key is not at hand here. The first process that starts with it gives the rows that are
there their MACs, and says so in the audit (`audit/row_adopting.py`).
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0011"


def upgrade() -> None:
    for table in ("caller_keys", "caller_secrets", "erasures"):
        op.add_column(table, sa.Column("mac", sa.LargeBinary))
    sets = op.create_table(
        "row_sets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("members", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary),
    )
    empty = {"members": 0, "digest": bytes(32), "version": 0}
    op.bulk_insert(sets, [{"name": name, **empty} for name in ("keys", "erasures")])
