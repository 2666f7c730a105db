"""Whoever adds, changes, removes or puts back a caller key or an erasure by hand is found by `audit
verify`.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy import Engine

from app.audit.findings import Finding
from app.audit.signing_keys import load_keys_to_write
from app.audit.tree import to_base64
from app.callers import key_format
from app.callers.store import ENDED_KEPT_MS, KeyStore, by_operator
from app.cli import audit_log
from app.clock import now_ms
from app.database.driver import DIALECTS
from app.database.engine import connect
from app.model import ERASES, NewItem, Scope
from app.outbox.retention import RetentionLimits
from app.settings import Settings
from tests.outbox.harness import Opened, with_outbox
from tests.support.gateway import WIDE, make_settings
from tests.support.http_server import served
from tests.support.postgres import Server
from tests.support.wait import until

SEED = bytes(range(32))
TABLES = ("caller_keys", "caller_secrets", "erasures", "row_sets")


class Made(NamedTuple):
    """A database that a gateway has used, and its settings; `old` are copies of the tables from
    before the last key was revoked and the last user erased.
    """

    settings: Settings
    engine: Engine
    ids: dict[str, str]

    def say(self, *statements: str, values: tuple[Any, ...] = ()) -> None:
        with self.engine.connect() as connection:
            dialect = DIALECTS[connection.dialect.name]
            for statement in statements:
                connection.exec_driver_sql(dialect.sql(statement), values)
            connection.commit()

    def rows(self, statement: str, *values: Any) -> list[Any]:
        with self.engine.connect() as connection:
            dialect = DIALECTS[connection.dialect.name]
            return list(connection.exec_driver_sql(dialect.sql(statement), values).all())

    def verified(self) -> list[Finding]:
        return audit_log.verify_database(self.settings, None, []).findings

    def keep(self, prefix: str) -> None:
        for table in TABLES:
            self.say(f"CREATE TABLE {prefix}_{table} AS SELECT * FROM {table}")

    def put_back(self, prefix: str, tables: tuple[str, ...] = TABLES) -> None:
        for table in tables:
            self.say(f"DELETE FROM {table}", f"INSERT INTO {table} SELECT * FROM {prefix}_{table}")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("rows")
    given: dict[str, Any] = WIDE | {
        "gateway_audit_key": to_base64(SEED),
        "gateway_erased_seconds": 3_600,
        "leanplum_development_key": "dev_tests",
    }
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql_server")
        given["gateway_database_url"] = server.empty()
    settings = make_settings(folder, migrated, given)
    engine = connect(settings.gateway_database_url)
    made = Made(settings, engine, {})
    with served(settings) as port:
        at_work(made, port)
    assert made.verified() == []
    made.keep("kept")
    yield made
    engine.dispose()


@pytest.fixture
def at(made: Made) -> Iterator[Made]:
    """The same, put right again afterwards."""
    yield made
    made.put_back("kept")
    assert made.verified() == []


def at_work(made: Made, port: int) -> None:
    """Make, change, rotate and revoke keys, and erase users, as callers do; a copy is kept from
    before the end.
    """
    boot = made.settings.gateway_bootstrap_key
    assert boot is not None
    headers = {"Authorization": f"Bearer {boot.get_secret_value()}"}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False
    ) as http:
        for name in ("shop", "rotated", "revoked", "phone"):
            answer = http.post(
                "/v1/keys", json={"name": name, "scopes": ["events:write"], "apps": ["default"]}
            )
            made.ids[name] = answer.raise_for_status().json()["id"]
        http.patch(f"/v1/keys/{made.ids['shop']}", json={"ratePerSecond": 7}).raise_for_status()
        http.post(f"/v1/keys/{made.ids['rotated']}/rotate", json={}).raise_for_status()
        http.delete("/v1/users/ann").raise_for_status()
        made.keep("old")
        http.delete(f"/v1/keys/{made.ids['revoked']}").raise_for_status()
        http.delete("/v1/users/bob").raise_for_status()
        size = int(made.rows("SELECT records FROM sequence")[0][0])
        until(lambda: http.get("/v1/audit/checkpoint").json().get("size", 0) >= size)


def key_row(made: Made) -> None:
    made.say(
        "INSERT INTO caller_keys (id, name, scopes, apps, created_at, changed) "
        "VALUES ('key_0123456789abcdef', 'mine', 'keys:manage', NULL, 1, 99)"
    )
    made.say(
        "INSERT INTO caller_secrets (hash, key_id, last_four, created_at) "
        "VALUES (?, 'key_0123456789abcdef', 'abcd', 1)",
        values=(key_format.digest(key_format.make()),),
    )


def copied_key_row(made: Made) -> None:
    """Another key with the MAC of one that is there."""
    made.say(
        "INSERT INTO caller_keys (id, name, scopes, apps, created_at, changed, mac) "
        "SELECT 'key_0123456789abcdef', name, scopes, apps, created_at, changed, mac FROM caller_keys "
        f"WHERE id = '{made.ids['shop']}'"
    )


def key_change(change: str, which: str = "shop") -> Callable[[Made], None]:
    return lambda made: made.say(f"UPDATE caller_keys SET {change} WHERE id = '{made.ids[which]}'")


def secret_change(change: str) -> Callable[[Made], None]:
    return lambda made: made.say(
        f"UPDATE caller_secrets SET {change} WHERE key_id = '{made.ids['rotated']}'"
    )


def given_to_another(made: Made) -> None:
    made.say(
        f"UPDATE caller_secrets SET key_id = '{made.ids['phone']}' WHERE key_id = '{made.ids['shop']}'"
    )


def swapped_macs(made: Made) -> None:
    one, two = made.ids["shop"], made.ids["phone"]
    made.say(
        f"UPDATE caller_keys SET mac = (SELECT mac FROM kept_caller_keys k WHERE k.id = '{two}') WHERE id = '{one}'",
        f"UPDATE caller_keys SET mac = (SELECT mac FROM kept_caller_keys k WHERE k.id = '{one}') WHERE id = '{two}'",
    )


def removed_key(made: Made) -> None:
    made.say(f"DELETE FROM caller_secrets WHERE key_id = '{made.ids['phone']}'")
    made.say(f"DELETE FROM caller_keys WHERE id = '{made.ids['phone']}'")


def removed_revocation(made: Made) -> None:
    """The row of a revoked key as it was, with the MAC that it had then."""
    which = made.ids["revoked"]
    made.say(f"DELETE FROM caller_keys WHERE id = '{which}'")
    made.say(f"INSERT INTO caller_keys SELECT * FROM old_caller_keys WHERE id = '{which}'")


def all_keys_as_they_were(made: Made) -> None:
    made.put_back("old", ("caller_keys", "caller_secrets"))


def all_keys_with_their_digest(made: Made) -> None:
    made.put_back("old", ("caller_keys", "caller_secrets"))
    made.say("DELETE FROM row_sets WHERE name = 'keys'")
    made.say("INSERT INTO row_sets SELECT * FROM old_row_sets WHERE name = 'keys'")


def erasure(made: Made) -> None:
    until_ = now_ms() + 10**9
    made.say("INSERT INTO erasures (alias, app, erased_at, until) VALUES (?, 'default', 1, ?)",
             values=(secrets.token_bytes(16), until_))  # fmt: skip


def all_erasures_with_their_digest(made: Made) -> None:
    made.put_back("old", ("erasures",))
    made.say("DELETE FROM row_sets WHERE name = 'erasures'")
    made.say("INSERT INTO row_sets SELECT * FROM old_row_sets WHERE name = 'erasures'")


TAMPERINGS: dict[str, tuple[Callable[[Made], None], str]] = {
    "a key added": (key_row, "caller key key_0123456789abcdef (mine): it has no MAC"),
    "a key added with another's MAC": (copied_key_row, "key_0123456789abcdef"),
    "scopes": (key_change("scopes = 'keys:manage'"), "caller key {shop} (shop): it is not what"),
    "apps": (key_change("apps = NULL"), "{shop}"),
    "a name": (key_change("name = 'x'"), "{shop}"),
    "a limit": (key_change("rate_per_second = NULL"), "{shop}"),
    "an expiry": (key_change("expires_at = 1"), "{shop}"),
    "a key used again": (key_change("revoked_at = NULL", "revoked"), "{revoked}"),
    "a revocation": (key_change("revoked_at = 1"), "{shop}"),
    "a hidden change": (key_change("changed = 0"), "{shop}"),
    "a MAC taken away": (key_change("mac = NULL"), "{shop}"),
    "MACs swapped": (swapped_macs, "{shop}"),
    "a secret that lasts": (
        secret_change("expires_at = NULL"),
        "of caller key {rotated}: it is not what",
    ),
    "a secret of another": (given_to_another, "{phone}"),
    "a key removed": (removed_key, "2 of keys gone"),
    "a secret removed": (
        lambda made: made.say(f"DELETE FROM caller_secrets WHERE key_id = '{made.ids['shop']}'"),
        "1 of keys gone",
    ),
    "all keys removed": (
        lambda made: made.say("DELETE FROM caller_secrets", "DELETE FROM caller_keys"),
        "of keys gone",
    ),
    "a revocation undone with the old MAC": (
        removed_revocation,
        "keys are not the rows that the gateway left",
    ),
    "all keys as they were": (all_keys_as_they_were, "keys are not the rows that the gateway left"),
    "all keys as they were with their digest": (all_keys_with_their_digest, "keys were set back"),
    "an erasure added": (erasure, "it has no MAC"),
    "an erasure shortened": (
        lambda made: made.say("UPDATE erasures SET until = 1"),
        "it is not what",
    ),
    "an erasure of another app": (
        lambda made: made.say("UPDATE erasures SET app = 'x'"),
        "it is not what",
    ),
    "erasures removed": (lambda made: made.say("DELETE FROM erasures"), "2 of erasures gone"),
    "erasures as they were": (
        lambda made: made.put_back("old", ("erasures",)),
        "1 of erasures gone",
    ),
    "erasures as they were with their digest": (
        all_erasures_with_their_digest,
        "erasures were set back",
    ),
    "a digest changed": (
        lambda made: made.say("UPDATE row_sets SET members = members - 1"),
        "the digest of keys is not what",
    ),
    "a digest removed": (
        lambda made: made.say("DELETE FROM row_sets"),
        "the digest of erasures is gone",
    ),
    "a digest unmade": (
        lambda made: made.say("UPDATE row_sets SET mac = NULL"),
        "the digest of keys is not what",
    ),
}


@pytest.mark.parametrize(("tamper", "told"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_each_change_by_hand_is_found_and_named(
    at: Made, tamper: Callable[[Made], None], told: str
) -> None:
    tamper(at)
    found = at.verified()
    assert {one.kind for one in found} == {"row"}
    assert any(told.format(**at.ids) in one.detail for one in found), found


@pytest.fixture
def own(database: str) -> Iterator[Made]:
    """A database of the test's own, with a few keys and an erasure, which the test may go on to
    change in order.
    """
    settings = Settings(
        _env_file=None, gateway_database_url=database, gateway_audit_key=to_base64(SEED)
    )
    engine = connect(database)
    store, made = store_of(settings, engine), Made(settings, engine, {})
    for name in ("shop", "phone", "revoked"):
        made.ids[name] = store.create(name, [Scope.EVENTS_WRITE], ["default"], now_ms())[
            1
        ].caller.key_id
    made.keep("old")
    store.revoke(made.ids["revoked"], now_ms())
    yield made
    engine.dispose()


def store_of(settings: Settings, engine: Engine) -> KeyStore:
    return KeyStore(engine, load_keys_to_write(engine, settings.audit_root_key).macs)


def test_no_change_of_the_gateway_makes_good_what_was_done_by_hand(own: Made) -> None:
    """A key that was widened by hand and is then changed, rotated and revoked in order is still
    found.
    """
    store = store_of(own.settings, own.engine)
    own.say(f"UPDATE caller_keys SET scopes = 'keys:manage' WHERE id = '{own.ids['shop']}'")
    own.say(f"DELETE FROM caller_secrets WHERE key_id = '{own.ids['phone']}'")
    store.change(own.ids["shop"], now_ms(), {"name": "innocent"}, by_operator("key.change"))
    store.rotate(own.ids["shop"], now_ms(), 0)
    store.revoke(own.ids["shop"], now_ms())
    found = [one.detail for one in own.verified()]
    assert any(
        f"caller key {own.ids['shop']} (innocent): it is not what" in one for one in found
    ), found
    assert any("1 of keys gone" in one for one in found), found


def test_a_digest_that_was_unmade_is_not_made_again_by_the_next_start(at: Made) -> None:
    key_row(at)
    at.say("UPDATE row_sets SET mac = NULL", "UPDATE caller_keys SET mac = NULL")
    load_keys_to_write(at.engine, at.settings.audit_root_key)
    assert any("key_0123456789abcdef" in one.detail for one in at.verified())
    assert at.rows("SELECT name FROM row_sets WHERE mac IS NOT NULL") == []


def test_what_retention_expiry_and_rotations_remove_is_no_finding(own: Made) -> None:
    store, now = store_of(own.settings, own.engine), now_ms()
    for step in range(3):  # the last forgets the secrets that ended long ago
        store.rotate(own.ids["shop"], now + step * 2 * ENDED_KEPT_MS, 0)
    assert len(own.rows("SELECT 1 FROM caller_secrets")) == 3 + 2 - 1
    store.change(own.ids["phone"], now, {"name": "more"}, by_operator("key.change"), now + 1)
    assert own.verified() == []


def test_erasures_whose_time_is_over_go_without_a_finding(database: str) -> None:
    settings = Settings(
        _env_file=None, gateway_database_url=database, gateway_audit_key=to_base64(bytes(32))
    )
    engine = connect(database)
    store_of(settings, engine)
    made = Made(settings, engine, {})

    async def body(at: Opened) -> None:
        for user in ("ann", "bob", "ann"):
            await at.outbox.erase(at.call(NewItem(f"u{user}", ERASES, "{}")))
        assert len(made.rows("SELECT 1 FROM erasures")) == 2
        assert made.verified() == []
        at.now += 2_000
        await at.outbox.erase(at.call(NewItem("ueve", ERASES, "{}")))
        await at.outbox.sweep(RetentionLimits(1, 1))
        assert len(made.rows("SELECT 1 FROM erasures")) == 1
        assert made.verified() == []
        made.say(
            "INSERT INTO erasures (alias, app, erased_at, until) SELECT mac, app, 1, 2 FROM erasures"
        )
        at.now += 2_000
        await at.outbox.sweep(RetentionLimits(1, 1))
        assert made.rows("SELECT 1 FROM erasures") == []
        assert made.verified() == [], "what was put there by hand is over as well"

    with_outbox(database, body, erased_ms=1_000)
    engine.dispose()


def test_verifying_with_the_public_key_alone_looks_at_no_row(at: Made) -> None:
    key_row(at)
    public = audit_log.public_key(at.settings)
    report = audit_log.verify_database(at.settings, public.text, [])
    assert (report.findings, report.macs_checked) == ([], False)


def test_ten_thousand_keys_are_verified_within_a_second(at: Made) -> None:
    values = ", ".join(f"('key_{n:016x}', 'n', 'sdk', 1, {n})" for n in range(10_000))
    at.say(f"INSERT INTO caller_keys (id, name, scopes, created_at, changed) VALUES {values}")
    began = time.process_time()
    found = at.verified()
    assert time.process_time() - began < 1.0
    assert len(found) == 10_000
