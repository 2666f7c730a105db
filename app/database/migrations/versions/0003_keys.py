"""Caller keys: for several apps, with limits of their own, when last used; several secrets while
one rotates.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "caller_secrets",
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("last_four", sa.String(4), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("rotation", sa.LargeBinary),
    )
    op.execute(
        "INSERT INTO caller_secrets (hash, key_id, last_four, created_at) "
        "SELECT hash, id, last_four, created_at FROM caller_keys"
    )
    op.rename_table("caller_keys", "caller_keys_until_0003")
    op.create_table(
        "caller_keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("apps", sa.Text),
        sa.Column("rate_per_second", sa.Integer),
        sa.Column("rate_burst", sa.Integer),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("last_used_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="caller_keys_by_id"),
    )
    op.execute(
        "INSERT INTO caller_keys (id, name, scopes, apps, created_at, expires_at, revoked_at) "
        "SELECT id, name, scopes, app, created_at, expires_at, revoked_at FROM caller_keys_until_0003"
    )
    op.drop_table("caller_keys_until_0003")
    op.create_table(
        "own_secrets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
