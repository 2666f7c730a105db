"""What keeps order: the replay that sent an item again, the lanes of attempts, locks of users, liveness locks."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("items", sa.Column("replay", sa.BigInteger))
    waits = sa.text("settled_at IS NULL AND replay IS NOT NULL")
    columns = ["replay", "lane", "seq", "acceptance"]
    op.create_index("items_replayed", "items", columns, sqlite_where=waits, postgresql_where=waits)
    op.drop_column("attempts", "erasing")
    op.add_column("attempts", sa.Column("lanes", sa.Text, nullable=False, server_default=sa.text("'[]'")))
    op.add_column("deliverers", sa.Column("lock", sa.Text))
    op.create_table(
        "user_locks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("ticket", sa.BigInteger, nullable=False),
        sa.Column("lanes", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("lock", sa.Text),
        sa.Column("granted", sa.SmallInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
