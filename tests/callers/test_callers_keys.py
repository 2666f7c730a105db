"""The form of a caller key, checked by an implementation of the contract's words that shares
nothing with the app's.
"""

import re
import sqlite3
import string
import zlib
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import QueuePool, event

from app.audit.records import AuditMacs
from app.callers import key_format
from app.callers.directory import Directory
from app.callers.store import ALL_SCOPES, KeyStore, StoredKey, Used, by_operator
from app.clock import now_ms
from app.database.engine import connect, transaction
from app.errors import NotFound, Refusal
from app.model import Scope

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def own_checksum(body: str) -> str:
    """Contract §3: base62, most significant first, zero-padded to six, of the CRC-32 over all that
    comes before.
    """
    crc, digits = zlib.crc32(body.encode("ascii")), []
    for power in range(5, -1, -1):
        digit, crc = divmod(crc, 62**power)
        digits.append(BASE62[digit])
    return "".join(digits)


def test_a_made_key_has_the_form_of_the_contract() -> None:
    made = {key_format.make() for _ in range(200)}
    assert len(made) == 200
    for key in made:
        assert re.fullmatch(r"lpgw_[0-9A-Za-z]{36}", key)
        assert key[-6:] == own_checksum(key[:-6])
        assert key_format.well_formed(key)


@given(st.text(BASE62, min_size=30, max_size=30))
def test_the_checksum_is_that_of_the_contract(chance: str) -> None:
    body = "lpgw_" + chance
    assert key_format.well_formed(body + own_checksum(body))


def test_a_checksum_with_leading_zeros_is_padded() -> None:
    body = next(
        b
        for b in (f"lpgw_{number:030d}" for number in range(100_000))
        if zlib.crc32(b.encode()) < 62**4
    )
    assert own_checksum(body).startswith("00")
    assert key_format.well_formed(body + own_checksum(body))


@given(st.integers(0, 40), st.sampled_from(BASE62 + "_- é"))
def test_one_wrong_character_anywhere_is_seen(at: int, character: str) -> None:
    key = "lpgw_" + "A1b2C3d4E5f6G7h8J9k0L1m2N3p4Q5"
    key += own_checksum(key)
    wrong = key[:at] + character + key[at + 1 :]
    assert key_format.well_formed(wrong) == (wrong == key)


@pytest.mark.parametrize("turn", range(5, 40))
def test_two_neighbours_changed_about_are_seen(turn: int) -> None:
    key = "lpgw_" + "A1b2C3d4E5f6G7h8J9k0L1m2N3p4Q5"
    key += own_checksum(key)
    wrong = key[:turn] + key[turn + 1] + key[turn] + key[turn + 2 :]
    assert key_format.well_formed(wrong) == (wrong == key)


@pytest.mark.parametrize(
    "wrong",
    ["", "lpgw_", "lpgw_" + "0" * 36, "LPGW_" + "0" * 36, "x" * 10_000, "é" * 41, "\0" * 41],
)
def test_what_is_no_key_is_no_key(wrong: str) -> None:
    assert not key_format.well_formed(wrong)


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(connect(f"sqlite:///{tmp_path}/k.db"), AuditMacs(bytes(32)))


def test_only_a_hash_and_the_last_four_characters_are_stored(
    store: KeyStore, tmp_path: Path
) -> None:
    key, stored = store.create("mine", ALL_SCOPES, None, 1)
    assert stored.last_four == key[-4:]
    files = list(tmp_path.iterdir())
    assert files
    for file in files:
        data = file.read_bytes()
        assert key.encode() not in data
        assert key[5:-6].encode() not in data
        assert key[5:20].encode() not in data
    with closing(sqlite3.connect(tmp_path / "k.db")) as connection:
        assert connection.execute(
            "SELECT last_four, length(hash) FROM caller_secrets"
        ).fetchall() == [(key[-4:], 32)]


def test_a_stored_key_keeps_its_name_scopes_and_times(store: KeyStore) -> None:
    _, first = store.create("a", [Scope.SDK, Scope.EVENTS_WRITE], None, 1, expires_at=99)
    _, second = store.create("b", [], None, 2)
    assert store.all() == [first, second]
    assert first.caller.scopes == {Scope.SDK, Scope.EVENTS_WRITE}
    assert (first.created_at, first.expires_at, first.revoked_at) == (1, 99, None)
    assert first.caller.key_id != second.caller.key_id


def test_a_key_is_usable_until_it_expires_or_is_revoked(store: KeyStore) -> None:
    _, stored = store.create("a", ALL_SCOPES, None, 1, expires_at=100)
    assert (stored.usable(99), stored.usable(100)) == (True, False)
    store.revoke(stored.caller.key_id, 50)
    assert not store.all()[0].usable(51)


def test_what_is_unknown_or_revoked_cannot_be_revoked(store: KeyStore) -> None:
    _, stored = store.create("a", ALL_SCOPES, None, 1)
    store.revoke(stored.caller.key_id, 2)
    for key_id in (stored.caller.key_id, "key_unknown"):
        with pytest.raises(NotFound):
            store.revoke(key_id, 3)


def test_the_first_key_is_made_only_where_none_exists(store: KeyStore) -> None:
    first, second = key_format.make(), key_format.make()
    made = store.bootstrap(first, 1)
    assert made is not None
    assert made.caller.scopes == ALL_SCOPES
    assert store.bootstrap(second, 2) is None
    store.revoke(made.caller.key_id, 3)
    assert store.bootstrap(second, 4) is None, "a revoked key is a key: the operator decided"
    assert [stored.secrets[0].hash for stored in store.all()] == [key_format.digest(first)]


def test_a_first_key_of_another_form_is_refused_and_not_repeated(store: KeyStore) -> None:
    with pytest.raises(Refusal) as caught:
        store.bootstrap("my-secret-key", 1)
    assert "my-secret-key" not in caught.value.detail
    assert store.all() == []


def test_an_act_on_a_key_needs_one_connection_alone(database: str) -> None:
    engine = connect(database)
    store = KeyStore(engine, AuditMacs(bytes(32)))
    _, stored = store.create("a", ALL_SCOPES, None, 1)
    key_id, taken = stored.caller.key_id, list[int]()
    event.listen(
        engine, "checkout", lambda *_: taken.append(cast(QueuePool, engine.pool).checkedout())
    )
    store.change(key_id, 2, {"name": "b"}, by_operator("key.change"))
    for _ in range(2):
        assert store.rotate(key_id, 3, 1000, once="r")[1].caller.name == "b"
    assert set(taken) == {1}
    engine.dispose()


def test_an_id_that_no_database_takes_is_not_found(database: str) -> None:
    engine = connect(database)
    for key_id in ("key_\0", "key_\udcff", ""):
        with pytest.raises(NotFound):
            KeyStore(engine, AuditMacs(bytes(32))).get(key_id)
    engine.dispose()


def test_every_change_of_a_key_by_another_process_is_seen_and_nothing_is_read_anew_without_one(
    database: str,
) -> None:
    engine, other = connect(database), KeyStore(connect(database), AuditMacs(bytes(32)))
    read = list[int]()

    class Counted(KeyStore):
        def changed(self, after: int) -> list[StoredKey]:
            read.append(1)
            return super().changed(after)

    directory = Directory(Counted(engine, AuditMacs(bytes(32))), now_ms)
    changes: list[Callable[[str], object]] = [
        *(
            partial(other.change, now=now_ms(), changes=changed, record=by_operator("key.change"))
            for changed in ({"name": "b"}, {"scopes": frozenset({Scope.SDK})}, {"apps": frozenset({"a"})},
                            {"rate_per_second": 1}, {"rate_burst": 2})
        ),
        lambda key_id: other.change(key_id, now_ms(), {}, by_operator("key.change"), now_ms() + 60_000),
        lambda key_id: other.rotate(key_id, now_ms(), 60_000),
        lambda key_id: other.rotate(key_id, now_ms(), 0),
        lambda key_id: other.revoke(key_id, now_ms()),
    ]  # fmt: skip
    directory.refresh()
    key_id = other.create("a", ALL_SCOPES, None, now_ms())[1].caller.key_id
    for count, change in enumerate([lambda _: None, *changes], 2):
        change(key_id)
        with transaction(engine) as cursor:
            Used.run_all(cursor, [Used({key_id: now_ms() + count})])
        for _ in range(3):
            directory.refresh()
        assert len(read) == count
    engine.dispose()
    other._engine.dispose()


def test_who_asks_for_a_rotation_again_the_moment_it_is_committed_is_shown_the_key(
    path: Path,
) -> None:
    engine = connect(f"sqlite:///{path}")
    store = KeyStore(engine, AuditMacs(bytes(32)))
    key_id = store.create("shop", ALL_SCOPES, None, now_ms())[1].caller.key_id
    repeats: list[str | None] = []

    # Its connection is given back: the commit is done, and the call is not over
    def again(*_: object) -> None:
        if not repeats:
            repeats.append("")
            repeats[0] = store.rotate(key_id, now_ms(), 0, once="r")[0]

    event.listen(engine, "checkin", again)
    made = store.rotate(key_id, now_ms(), 0, once="r")[0]
    assert made is not None
    assert repeats == [made]
    engine.dispose()
