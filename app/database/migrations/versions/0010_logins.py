"""Adds the logins that users' items wait for."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "logins",
        sa.Column("lane", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("lane", "seq"),
        sqlite_with_rowid=False,
    )
