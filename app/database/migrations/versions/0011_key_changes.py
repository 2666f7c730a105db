"""Numbers the changes of caller keys, so that only what changed is read anew, and finds a key's
secrets by an index.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

ENDING = sa.text("expires_at IS NOT NULL")


def upgrade() -> None:
    op.add_column(
        "caller_keys",
        sa.Column("changed", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_index("caller_keys_changed", "caller_keys", ["changed"])
    op.create_index("caller_keys_created", "caller_keys", ["created_at", "id"])
    op.create_index("caller_secrets_of_key", "caller_secrets", ["key_id"])
    op.create_index(
        "caller_secrets_ending",
        "caller_secrets",
        ["expires_at"],
        sqlite_where=ENDING,
        postgresql_where=ENDING,
    )
