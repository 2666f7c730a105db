"""The audit as a tree: records numbered without a gap, each with its hash; the tree's nodes, and
its checkpoints.
"""

import hashlib

import orjson
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

Seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")
PAGE = 1_000


def upgrade() -> None:
    op.add_column(
        "sequence", sa.Column("records", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    )
    op.rename_table("audit_records", "audit_records_until_0004")
    op.create_table(
        "audit_records",
        sa.Column("seq", Seq, nullable=False, autoincrement=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="audit_records_by_seq"),
    )
    _renumber()
    op.drop_table("audit_records_until_0004")
    op.create_index("audit_records_time", "audit_records", ["time", "seq"])
    op.create_table(
        "audit_nodes",
        sa.Column("level", sa.SmallInteger, nullable=False),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("leaves", sa.LargeBinary),
        sa.PrimaryKeyConstraint("level", "place"),
    )
    tree = op.create_table(
        "audit_tree",
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("peaks", sa.LargeBinary, nullable=False),
        sa.Column("tail", sa.LargeBinary, nullable=False),
        sa.Column("removed", sa.BigInteger, nullable=False),
        sa.Column("statement", sa.Text),
    )
    op.bulk_insert(tree, [{"size": 0, "peaks": b"", "tail": b"", "removed": 0}])
    op.create_table(
        "audit_checkpoints",
        sa.Column("size", Seq, primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("lasting", sa.SmallInteger, nullable=False),
    )


def _renumber() -> None:
    """Each record gets the number that it has without gaps, and says it itself."""
    connection = op.get_bind()
    older = sa.text(
        "SELECT seq, time, record FROM audit_records_until_0004 WHERE seq > :after ORDER BY seq LIMIT :page"
    )
    insert = sa.text(
        "INSERT INTO audit_records (seq, time, record, leaf) VALUES (:seq, :time, :record, :leaf)"
    )
    count = after = 0
    while found := connection.execute(older, {"after": after, "page": PAGE}).all():
        rows, after = [], found[-1].seq
        for _, time, record in found:
            count += 1
            text = _numbered(record, count)
            leaf = hashlib.sha256(b"\0" + text.encode()).digest()
            rows.append({"seq": count, "time": time, "record": text, "leaf": leaf})
        connection.execute(insert, rows)
    connection.execute(sa.text("UPDATE sequence SET records = :count"), {"count": count})


def _numbered(record: str, seq: int) -> str:
    told = orjson.loads(record)
    return orjson.dumps({"metadata": {**told.pop("metadata"), "sequence": seq}, **told}).decode()
