"""Lanes and shares on items; leases of shards; attempts only while they are open; what an operator
sends again.
"""

import zlib

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

SHARDS = 64
WAITS, DEAD = "settled_at IS NULL", "settled_at IS NOT NULL AND body IS NOT NULL"


def upgrade() -> None:
    op.add_column(
        "sequence", sa.Column("replays", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    )
    for name in ("lane", "caller"):
        op.add_column(
            "items", sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))
        )
    op.add_column("items", sa.Column("replayed_at", sa.BigInteger))
    _place_what_waits()
    op.drop_index("items_waiting", "items")
    _index("items_waiting", WAITS, "seq", "caller", "lane", "settled_at")
    _index("items_dead", DEAD, "seq")
    op.drop_index("attempts_open", "attempts")
    op.rename_table("attempts", "attempts_until_0002")
    op.create_table(
        "attempts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="attempts_by_id"),
    )
    op.execute(
        "INSERT INTO attempts (id, owner, items, started_at) "
        "SELECT id, '', items, started_at FROM attempts_until_0002 WHERE finished_at IS NULL"
    )
    op.drop_table("attempts_until_0002")
    op.create_table(
        "deliverers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    leases = op.create_table(
        "leases",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.Text),
    )
    op.bulk_insert(leases, [{"shard": shard} for shard in range(SHARDS)])


def _index(name: str, where: str, *columns: str) -> None:
    op.create_index(
        name, "items", list(columns), sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )


def _place_what_waits() -> None:
    """Compute the lane and share of each item that waits."""
    connection = op.get_bind()
    found = connection.execute(
        sa.text(
            "SELECT i.seq, a.app, i.subject, a.key_id FROM items i JOIN acceptances a ON a.first_seq = i.acceptance "
            f"WHERE i.{WAITS} OR i.body IS NOT NULL"
        )
    ).all()
    change = sa.text("UPDATE items SET lane = :lane, caller = :caller WHERE seq = :seq")
    for seq, app, subject, key_id in found:
        lane = zlib.crc32(subject.encode(), zlib.crc32(app.encode()))
        connection.execute(
            change, {"lane": lane, "caller": zlib.crc32(key_id.encode()), "seq": seq}
        )
