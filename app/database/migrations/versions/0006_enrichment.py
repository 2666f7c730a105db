"""What receipts tell of enrichment, on the few items of which there is something to tell."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("items", sa.Column("notes", sa.Text))
