"""The first tables: items and their receipts, attempts, audit records, caller keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table("sequence", sa.Column("last", sa.BigInteger, nullable=False))
    op.execute("INSERT INTO sequence (last) VALUES (0)")
    op.create_table(
        "acceptances",
        sa.Column("first_seq", Seq, primary_key=True, autoincrement=False),
        sa.Column("prefix", sa.String(24), nullable=False),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("accepted_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "items",
        sa.Column("seq", Seq, primary_key=True, autoincrement=False),
        sa.Column("acceptance", Seq, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("id", sa.Text),
        sa.Column("status", sa.Text, nullable=False, server_default=sa.text("'accepted'")),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("next_attempt_at", sa.BigInteger),
        sa.Column("settled_at", sa.BigInteger),
        sa.Column("leanplum", sa.Text),
    )
    waiting = sa.text("settled_at IS NULL")
    op.create_index(
        "items_waiting", "items", ["seq"], sqlite_where=waiting, postgresql_where=waiting
    )
    op.create_table(
        "item_ids",
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("seq", Seq, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("accepted_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("app", "id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("outcome", sa.Text),
    )
    unfinished = sa.text("finished_at IS NULL")
    op.create_index(
        "attempts_open", "attempts", ["id"], sqlite_where=unfinished, postgresql_where=unfinished
    )
    op.create_table(
        "audit_records",
        sa.Column("seq", Seq, primary_key=True, autoincrement=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_table(
        "caller_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("last_four", sa.String(4), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
    )
