"""The number of the replay that sent an item again, so that deliverers read only the lanes of those."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("items", sa.Column("replay", sa.BigInteger))
    waits = sa.text("settled_at IS NULL AND replay IS NOT NULL")
    columns = ["replay", "lane", "seq", "acceptance"]
    op.create_index("items_replayed", "items", columns, sqlite_where=waits, postgresql_where=waits)
