"""The tables of 0.1.0; `app/database/tables.py` describes them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SHARDS = 64
# SQLite uses a column as the key of its rows only where the type is INTEGER
Seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")


# Storage parameters of PostgreSQL. The reasons are in docs/reliability.md, "A large database".
GROWS: dict[str, float] = {
    "autovacuum_vacuum_scale_factor": 0.05,
    "autovacuum_analyze_scale_factor": 0.05,
}
CHANGES: dict[str, float] = {"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0}
COMES_AND_GOES: dict[str, float] = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 500,
}
STORAGE: dict[str, dict[str, float]] = {
    "items": {
        **GROWS,
        "autovacuum_analyze_scale_factor": 0.02,
        "autovacuum_vacuum_insert_scale_factor": 0.05,
    },
    **dict.fromkeys(("acceptances", "item_ids", "search_keys", "audit_records"), GROWS),
    **dict.fromkeys(
        ("sequence", "deliverers", "leases", "audit_tree", "minute_counts", "plan_violations"),
        CHANGES,
    ),
    **dict.fromkeys(("attempts", "user_locks", "logins"), COMES_AND_GOES),
}


def upgrade() -> None:
    _create_queue()
    _create_delivery()
    _create_audit()
    _create_callers()
    _create_console()
    _create_tracking()
    _create_counts()
    if op.get_bind().dialect.name == "postgresql":
        _set_storage()


def _set_storage() -> None:
    for table, parameters in STORAGE.items():
        given = ", ".join(f"{name} = {value}" for name, value in parameters.items())
        op.execute(f"ALTER TABLE {table} SET ({given})")


def _create_queue() -> None:
    sequence = op.create_table(
        "sequence",
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("replays", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("records", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("erasures", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    op.bulk_insert(sequence, [{"last": 0}])
    op.create_table(
        "acceptances",
        sa.Column("first_seq", Seq, primary_key=True, autoincrement=False),
        sa.Column("prefix", sa.String(24), nullable=False),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("accepted_at", sa.BigInteger, nullable=False),
        sa.Column("request", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("traceparent", sa.Text),
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
        sa.Column("lane", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("caller", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("replayed_at", sa.BigInteger),
        sa.Column("notes", sa.Text),
        sa.Column("replay", sa.BigInteger),
        sa.Column("event", sa.Text),
        sa.Column("earlier", sa.Text),
    )
    waiting, settled = "settled_at IS NULL", "settled_at IS NOT NULL"
    _create_index("items_waiting", "items", ["seq", "caller", "lane", "settled_at"], waiting)
    _create_index(
        "items_replayed",
        "items",
        ["replay", "lane", "seq", "acceptance"],
        f"{waiting} AND replay IS NOT NULL",
    )
    _create_index("items_settled", "items", ["settled_at"], f"{settled} AND body IS NULL")
    _create_index(
        "items_dead",
        "items",
        ["seq", "settled_at", "lane"],
        f"{settled} AND body IS NOT NULL",
    )
    _create_index("items_dead_settled", "items", ["settled_at"], f"{settled} AND body IS NOT NULL")
    _create_index(
        "items_undelivered", "items", ["status", "seq"], f"{settled} AND status != 'delivered'"
    )
    _create_search()
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
        sa.Column("mac", sa.LargeBinary),
    )
    _create_index("erasures_ending", "erasures", ["until"])


def _create_search() -> None:
    op.create_table(
        "search_blocks",
        sa.Column("block", Seq, primary_key=True, autoincrement=False),
        sa.Column("earliest", sa.BigInteger, nullable=False),
        sa.Column("latest", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "search_keys",
        sa.Column("block", Seq, nullable=False),
        sa.Column("key", sa.BigInteger, nullable=False),
        sa.Column("seq", Seq, nullable=False),
        sa.PrimaryKeyConstraint("block", "key", "seq"),
        sqlite_with_rowid=False,
    )


def _create_delivery() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("lanes", sa.Text, nullable=False, server_default=sa.text("'[]'")),
    )
    op.create_table(
        "deliverers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("lock", sa.Text),
        sa.Column("states", sa.Text),
    )
    leases = op.create_table(
        "leases",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.Text),
    )
    op.bulk_insert(leases, [{"shard": shard} for shard in range(SHARDS)])
    op.create_table(
        "user_locks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("ticket", sa.BigInteger, nullable=False),
        sa.Column("lanes", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("lock", sa.Text),
        sa.Column("granted", sa.SmallInteger, nullable=False),
        sa.Column("lease_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "logins",
        sa.Column("lane", sa.BigInteger, nullable=False),
        sa.Column("seq", Seq, nullable=False),
        sa.PrimaryKeyConstraint("lane", "seq"),
        sqlite_with_rowid=False,
    )
    _create_index("logins_seq", "logins", ["seq"])


def _create_audit() -> None:
    op.create_table(
        "audit_records",
        sa.Column("seq", Seq, primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("mark", sa.LargeBinary),
    )
    _create_index("audit_records_time", "audit_records", ["time", "seq"])
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
    op.create_table(
        "own_secrets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    sets = op.create_table(
        "row_sets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("members", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary),
    )
    empty = {"members": 0, "digest": bytes(32), "version": 0}
    op.bulk_insert(sets, [{"name": name, **empty} for name in ("keys", "erasures")])


def _create_callers() -> None:
    op.create_table(
        "caller_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("apps", sa.Text),
        sa.Column("rate_per_second", sa.Integer),
        sa.Column("rate_burst", sa.Integer),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("last_used_at", sa.BigInteger),
        sa.Column("changed", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("mac", sa.LargeBinary),
    )
    _create_index("caller_keys_changed", "caller_keys", ["changed"])
    _create_index("caller_keys_created", "caller_keys", ["created_at", "id"])
    op.create_table(
        "caller_secrets",
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("last_four", sa.String(4), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("rotation", sa.LargeBinary),
        sa.Column("mac", sa.LargeBinary),
    )
    _create_index("caller_secrets_of_key", "caller_secrets", ["key_id"])
    _create_index(
        "caller_secrets_ending", "caller_secrets", ["expires_at"], "expires_at IS NOT NULL"
    )


def _create_console() -> None:
    op.create_table(
        "console_sessions",
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    _create_index("console_sessions_ending", "console_sessions", ["expires_at"])


def _create_tracking() -> None:
    op.create_table(
        "taxonomy",
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("app", "kind", "name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "plan_violations",
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.Column("pointer", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("app", "kind", "name", "code", "key_id"),
    )


def _create_counts() -> None:
    op.create_table(
        "dead_letter_runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("dry_run", sa.SmallInteger, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("choice", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("matched", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "minute_counts",
        sa.Column("minute", sa.BigInteger, nullable=False),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("part", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("minute", "app", "kind", "part"),
        sqlite_with_rowid=False,
    )


def _create_index(name: str, table: str, columns: list[str], where: str | None = None) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
