"""All tables, as SQLAlchemy Core metadata.

`migrations/` creates them; a test compares the two.

acceptances ─┬─< items >─ item_ids        items, by the calls that brought them
             │
search_blocks ─< search_keys   where the items of a user, or of a request, are
attempts     │   one row for each call to Leanplum that is not settled, written before it is sent
deliverers ───< leases   which deliverer sends the items of which shards
user_locks       one row for each call that a caller waits for; it locks the lanes of its users
logins           one row for each further lane that an item with `newUserId` concerns: later items
                 of that lane wait for it
audit_records    audit records (append-only), numbered without a gap
audit_tree ───── audit_nodes, audit_checkpoints   the Merkle tree that they are sealed in
caller_keys ───< caller_secrets   callers, and a hash of each key that is valid
console_sessions  who is signed in to the console: a hash of each session's id, and of its key
own_secrets      the audit's root key, if no setting has it; the key of content hashes; a mark if
                 the database is a sandbox's
data_keys        a fingerprint of each key that stored data is encrypted with
erasures         a keyed hash of each erased subject, whose items are refused for a while
row_sets         how many caller keys and erasures there are, and a digest of all; each of their
                 rows has a MAC
taxonomy         the names of events, states, parameters and attributes that each app has
plan_violations  violations of the tracking plan, counted
dead_letter_runs replays and discards of dead letters from the console, with their progress
minute_counts    items and calls, counted by minute and app; each process has rows of its own
sequence         the last numbers of items and records: one row, so they follow the commits' order
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    and_,
    literal_column,
    text,
)

metadata = MetaData()
_Seq = BigInteger().with_variant(Integer, "sqlite")

sequence = Table(
    "sequence",
    metadata,
    Column("last", BigInteger, nullable=False),
    Column("replays", BigInteger, nullable=False, server_default=text("0")),
    Column("records", BigInteger, nullable=False, server_default=text("0")),
    # Another number after each erasure
    Column("erasures", BigInteger, nullable=False, server_default=text("0")),
)

acceptances = Table(
    "acceptances",
    metadata,
    Column("first_seq", _Seq, primary_key=True, autoincrement=False),
    Column("prefix", String(24), nullable=False),
    Column("app", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("accepted_at", BigInteger, nullable=False),
    # A checksum of `request_id`, by which a search finds it (`outbox/search_index.py`)
    Column("request", BigInteger, nullable=False, server_default=text("0")),
    # W3C `traceparent` of the span of the call; NULL if it is not traced
    Column("traceparent", Text),
)

items = Table(
    "items",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=False),
    Column("acceptance", _Seq, nullable=False),
    Column("subject", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("body", Text),
    Column("id", Text),
    Column("status", Text, nullable=False, server_default=text("'accepted'")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_attempt_at", BigInteger),
    Column("settled_at", BigInteger),
    Column("leanplum", Text),
    Column("lane", BigInteger, nullable=False, server_default=text("0")),
    Column("caller", BigInteger, nullable=False, server_default=text("0")),
    Column("replayed_at", BigInteger),
    Column("notes", Text),
    # The number of the last replay that sent it again, as `sequence.replays` counts
    Column("replay", BigInteger),
    Column("event", Text),  # the name of its event or state
    # Leanplum's answers to earlier attempts (`outbox/earlier_answers.py`)
    Column("earlier", Text),
)


def _index(name: str, where: ColumnElement[bool], *columns: Column[Any]) -> None:
    Index(name, *columns, sqlite_where=where, postgresql_where=where)


# The one index of waiting items is ordered by sequence number, so new entries are appended at its
# end. An index by lane or by caller would write to another page for each item, which costs more
# than the rest of an insert. Reads by lane or caller scan this index alone, without the table.
# SQLite scans it alone only if it includes `settled_at`, which is always NULL in it.
_index(
    "items_waiting",
    items.c.settled_at.is_(None),
    items.c.seq,
    items.c.caller,
    items.c.lane,
    items.c.settled_at,
)
_index(
    "items_replayed",
    and_(items.c.settled_at.is_(None), items.c.replay.isnot(None)),
    *(items.c.replay, items.c.lane, items.c.seq, items.c.acceptance),
)
# What retention finds what is past its time by: items settle in the order of time, so it grows at
# its end alone, too. Dead letters are listed by number; with `settled_at` in their index the old
# ones are found without a look at the rest.
_index(
    "items_settled",
    and_(items.c.settled_at.isnot(None), items.c.body.is_(None)),
    items.c.settled_at,
)
_index(
    "items_dead",
    and_(items.c.settled_at.isnot(None), items.c.body.isnot(None)),
    items.c.seq,
    items.c.settled_at,
    items.c.lane,
)
# By it the feed follows new dead letters; `items_settled` has the other settled items.
_index(
    "items_dead_settled",
    and_(items.c.settled_at.isnot(None), items.c.body.isnot(None)),
    items.c.settled_at,
)
# Receipts are searched by status in it. Few items end otherwise than delivered.
_index(
    "items_undelivered",
    and_(items.c.settled_at.isnot(None), items.c.status != literal_column("'delivered'")),
    items.c.status,
    items.c.seq,
)

# The index by which receipts are searched. It is written in blocks of items, sorted, once all
# numbers of a block are used: so it only grows at its end, while an ordinary index would change
# another page for each item. A block is listed once its keys are complete.
search_blocks = Table(
    "search_blocks",
    metadata,
    Column("block", _Seq, primary_key=True, autoincrement=False),
    Column("earliest", BigInteger, nullable=False),  # times at which its items were accepted
    Column("latest", BigInteger, nullable=False),
)

search_keys = Table(
    "search_keys",
    metadata,
    Column("block", _Seq, nullable=False),
    # The lane of an item, or 2^32 plus the `request` of an acceptance
    Column("key", BigInteger, nullable=False),
    Column("seq", _Seq, nullable=False),
    PrimaryKeyConstraint("block", "key", "seq"),
    sqlite_with_rowid=False,
)

item_ids = Table(
    "item_ids",
    metadata,
    Column("app", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("seq", _Seq, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("accepted_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("app", "id"),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("items", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("lanes", Text, nullable=False, server_default=text("'[]'")),
)

user_locks = Table(
    "user_locks",
    metadata,
    Column("id", Text, primary_key=True),
    # The order in which calls have asked for their lanes
    Column("ticket", BigInteger, nullable=False),
    Column("lanes", Text, nullable=False),
    # A process; empty: it is gone, and its call may be at work still
    Column("holder", Text, nullable=False),
    Column("lock", Text),  # the identity of the holder's liveness lock
    Column("granted", SmallInteger, nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

logins = Table(
    "logins",
    metadata,
    Column("lane", BigInteger, nullable=False),
    Column("seq", _Seq, nullable=False),  # the login's
    PrimaryKeyConstraint("lane", "seq"),
    Index("logins_seq", "seq"),
    sqlite_with_rowid=False,
)

deliverers = Table(
    "deliverers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Column("lock", Text),  # the identity of its liveness lock
    Column("states", Text),  # of delivery by app, as of the last renewal; JSON
)

leases = Table(
    "leases",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("owner", Text),
)

audit_records = Table(
    "audit_records",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    Column("mark", LargeBinary),  # the MAC of the record
    Index("audit_records_time", "time", "seq"),
)

# A complete subtree of 256 records has its leaves with it, of a smaller one the hash is soon made
# of them. They stand here a second time, so that a record is still named when its row is changed
# together with its hash.
audit_nodes = Table(
    "audit_nodes",
    metadata,
    Column("level", SmallInteger, nullable=False),
    Column("place", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("leaves", LargeBinary),
    PrimaryKeyConstraint("level", "place"),
)

audit_tree = Table(
    "audit_tree",
    metadata,
    Column("size", BigInteger, nullable=False),
    Column("peaks", LargeBinary, nullable=False),  # of the complete subtrees of 256 records
    Column("tail", LargeBinary, nullable=False),  # the leaves behind these
    # How many of the first records retention has removed,
    Column("removed", BigInteger, nullable=False),
    Column("statement", Text),  # and the gateway's signature under that
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", _Seq, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    Column("lasting", SmallInteger, nullable=False),  # 1: kept as long as its records
)

own_secrets = Table(
    "own_secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

data_keys = Table(
    "data_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
)

erasures = Table(
    "erasures",
    metadata,
    Column("alias", LargeBinary, primary_key=True),
    Column("app", Text, nullable=False),
    Column("erased_at", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("mac", LargeBinary),
    Index("erasures_ending", "until"),
)

row_sets = Table(
    "row_sets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("members", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False),  # the number of the last change
    Column("mac", LargeBinary),  # NULL: not made yet, since the database was just made or migrated
)

caller_keys = Table(
    "caller_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("apps", Text),  # NULL: every one
    Column("rate_per_second", Integer),
    Column("rate_burst", Integer),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    # The number of its last change
    Column("changed", BigInteger, nullable=False, server_default=text("0")),
    Column("mac", LargeBinary),
    Index("caller_keys_changed", "changed"),
    Index("caller_keys_created", "created_at", "id"),
)

caller_secrets = Table(
    "caller_secrets",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("last_four", String(4), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("rotation", LargeBinary),
    Column("mac", LargeBinary),
    Index("caller_secrets_of_key", "key_id"),
)
_index(
    "caller_secrets_ending", caller_secrets.c.expires_at.isnot(None), caller_secrets.c.expires_at
)

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),  # the hash of the key that signed in
    Column("created_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Index("console_sessions_ending", "expires_at"),
)

taxonomy = Table(
    "taxonomy",
    metadata,
    Column("app", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("first_seen", BigInteger, nullable=False),
    PrimaryKeyConstraint("app", "kind", "name"),
    sqlite_with_rowid=False,
)

plan_violations = Table(
    "plan_violations",
    metadata,
    Column("app", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("first_seen", BigInteger, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    Column("pointer", Text, nullable=False),
    PrimaryKeyConstraint("app", "kind", "name", "code", "key_id"),
)

minute_counts = Table(
    "minute_counts",
    metadata,
    Column("minute", BigInteger, nullable=False),  # when it began
    Column("app", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("part", BigInteger, nullable=False),  # of one process; another one in each minute
    Column("total", BigInteger, nullable=False),
    PrimaryKeyConstraint("minute", "app", "kind", "part"),
    sqlite_with_rowid=False,
)

dead_letter_runs = Table(
    "dead_letter_runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("app", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("dry_run", SmallInteger, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("choice", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("matched", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
