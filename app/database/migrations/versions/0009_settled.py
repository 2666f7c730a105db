"""Settled items are found by when they settled."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

SETTLED = "settled_at IS NOT NULL AND body IS NULL"
DEAD = "settled_at IS NOT NULL AND body IS NOT NULL"


def upgrade() -> None:
    op.drop_index("items_dead", "items")
    _index("items_dead", DEAD, "seq", "settled_at")
    _index("items_settled", SETTLED, "settled_at")


def _index(name: str, where: str, *columns: str) -> None:
    op.create_index(name, "items", list(columns), sqlite_where=sa.text(where), postgresql_where=sa.text(where))
