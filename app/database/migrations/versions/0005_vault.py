"""Which keys sealed what is stored; whose items are refused since they were erased."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "data_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "erasures",
        sa.Column("alias", sa.LargeBinary, primary_key=True),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("erased_at", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    op.add_column(
        "sequence",
        sa.Column("erasures", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.add_column("attempts", sa.Column("erasing", sa.Text))
