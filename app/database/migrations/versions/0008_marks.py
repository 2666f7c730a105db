"""A keyed mark beside each audit record, in the place of its hash, which anybody could make.

The key is not at hand here: records of before have no mark. Those that are sealed need none; those
that are not yet, an operator vouches for (`audit adopt`). A number up to which the sealer takes
them unmarked would be no help: who can change the database can change that as well.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.drop_column("audit_records", "leaf")
    op.add_column("audit_records", sa.Column("mark", sa.LargeBinary))
