"""Adds what keeps order (replays, lanes of attempts, user locks, liveness locks), and an index by
the time of settling.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

SETTLED = "settled_at IS NOT NULL AND body IS NULL"
DEAD = "settled_at IS NOT NULL AND body IS NOT NULL"
REPLAYED = "settled_at IS NULL AND replay IS NOT NULL"


def upgrade() -> None:
    op.add_column("items", sa.Column("replay", sa.BigInteger))
    _index("items_replayed", REPLAYED, "replay", "lane", "seq", "acceptance")
    op.drop_index("items_dead", "items")
    _index("items_dead", DEAD, "seq", "settled_at")
    _index("items_settled", SETTLED, "settled_at")
    op.drop_column("attempts", "erasing")
    op.add_column(
        "attempts", sa.Column("lanes", sa.Text, nullable=False, server_default=sa.text("'[]'"))
    )
    op.add_column("deliverers", sa.Column("lock", sa.Text))
    op.create_table(
        "user_locks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("ticket", sa.BigInteger, nullable=False),
        sa.Column("lanes", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("lock", sa.Text),
        sa.Column("granted", sa.SmallInteger, nullable=False),
        sa.Column("lease_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )


def _index(name: str, where: str, *columns: str) -> None:
    op.create_index(
        name, "items", list(columns), sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
