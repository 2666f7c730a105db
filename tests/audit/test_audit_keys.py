"""Whose an audit is: what only reads makes no key and tells nothing with another's; the key moves
out of the database.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from app.audit.signing_keys import AuditKeys, load_keys_to_write
from app.audit.tree import to_base64
from app.cli import audit_log, audit_report
from app.errors import NotFound, StartRefused
from app.settings import Settings
from tests.support.processes import ended, serving

from .logs import Log, opened

SEED, OTHER = bytes(range(32)), bytes(range(32, 64))
READS: dict[str, Callable[[Settings], Any]] = {
    "verify": lambda settings: audit_log.verify_database(settings, None, []),
    "export": lambda settings: audit_log.export(settings, None, None, Path(os.devnull)),
    "public-key": audit_log.public_key,
}


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    """An audit that was made with a key from the settings."""
    with opened(database, SEED) as log:
        log.write(3)
        log.seal()
        yield log


def settings(log: Log, seed: bytes | None) -> Settings:
    return Settings(
        _env_file=None, gateway_database_url=log.url, gateway_audit_key=seed and to_base64(seed)
    )


def kept(log: Log) -> list[bytes]:
    return [
        bytes(value) for (value,) in log.rows("SELECT value FROM own_secrets WHERE name = 'audit'")
    ]


@pytest.mark.parametrize("seed", [None, OTHER])
@pytest.mark.parametrize("read", READS)
def test_what_reads_without_the_key_that_the_audit_was_made_with_refuses_and_writes_none(
    log: Log, read: str, seed: bytes | None
) -> None:
    with pytest.raises(StartRefused, match=r"GATEWAY_AUDIT_KEY: .* set "):
        READS[read](settings(log, seed))
    assert kept(log) == []


@pytest.mark.parametrize("read", READS)
def test_what_reads_an_audit_in_which_nothing_was_recorded_makes_no_key(
    database: str, read: str
) -> None:
    with opened(database) as log:
        if read == "verify":
            assert READS[read](settings(log, None)).findings == []
        else:
            with pytest.raises((StartRefused, NotFound), match=r"(?i)nothing (was|is) recorded"):
                READS[read](settings(log, None))
        assert kept(log) == []


@pytest.mark.parametrize("seed", [None, SEED])
def test_where_nothing_was_recorded_that_is_told_with_a_key_and_without(
    database: str, seed: bytes | None
) -> None:
    with opened(database) as log:
        report = audit_log.verify_database(settings(log, seed), None, [])
        assert list(audit_report.report_lines(report)) == [
            "Nothing is recorded yet, and nothing is sealed."
        ]
        with pytest.raises(NotFound, match="Nothing is recorded yet"):
            audit_log.export(settings(log, seed), None, None, Path(os.devnull))


def test_an_audit_that_was_emptied_is_not_let_pass_beside_a_checkpoint_from_outside(
    log: Log,
) -> None:
    note = log.note()
    for table in ("audit_records", "audit_nodes", "audit_tree", "audit_checkpoints"):
        log.change(f"DELETE FROM {table}")
    with pytest.raises(StartRefused, match="GATEWAY_AUDIT_KEY"):
        audit_log.verify_database(settings(log, None), None, [])
    log.change("UPDATE sequence SET records = 0")
    found = audit_log.verify_database(settings(log, SEED), None, [note]).findings
    of_records = [(one.kind, one.first, one.last) for one in found if one.kind != "row"]
    assert of_records == [("cut off", 1, 3)]
    with pytest.raises(StartRefused, match="GATEWAY_AUDIT_KEY"):
        audit_log.verify_database(settings(log, None), None, [note])


def test_with_the_public_key_it_is_verified_without_the_seed_and_said_that_marks_were_not_looked_at(
    log: Log,
) -> None:
    report = audit_log.verify_database(settings(log, None), log.signer.public.text, [])
    assert (report.findings, report.records) == ([], 3)
    assert "MACs were not checked" in "".join(audit_report.report_lines(report))
    own = audit_log.verify_database(settings(log, SEED), None, [])
    assert "MACs were not checked" not in "".join(audit_report.report_lines(own))


def test_a_command_that_writes_with_another_key_or_none_is_refused_before_it_writes(
    log: Log,
) -> None:
    for seed in (None, OTHER):
        with pytest.raises(StartRefused, match="GATEWAY_AUDIT_KEY"):
            load_keys_to_write(log.engine, seed)
    assert kept(log) == []
    assert load_keys_to_write(log.engine, SEED).signer.public.text == log.signer.public.text


@pytest.mark.parametrize("seed", [None, OTHER])
def test_so_it_is_before_anything_is_sealed(database: str, seed: bytes | None) -> None:
    with opened(database) as log:
        made = load_keys_to_write(log.engine, None)
        log.macs = made.macs
        log.write(1)
        if seed is None:
            log.change("DELETE FROM own_secrets")
        with pytest.raises(StartRefused, match="GATEWAY_AUDIT_KEY"):
            load_keys_to_write(log.engine, seed)


@pytest.mark.parametrize("value", ["x'07'", "'text'", "7"])
def test_a_kept_key_that_was_damaged_is_told(path: Path, value: str) -> None:
    with opened(f"sqlite:///{path}") as log:
        log.change(f"INSERT INTO own_secrets (name, value) VALUES ('audit', {value})")
        for use in (load_keys_to_write, lambda engine, _: READS["verify"](settings(log, None))):
            with pytest.raises(StartRefused, match="damaged"):
                use(log.engine, None)


def test_a_damaged_note_is_no_reason_not_to_start(log: Log) -> None:
    log.change("UPDATE audit_checkpoints SET note = 'no note'")
    assert load_keys_to_write(log.engine, SEED).root_key == SEED
    assert [one.kind for one in READS["verify"](settings(log, SEED)).findings] != []


def test_the_key_moves_out_of_the_database_in_two_steps_and_is_never_lost(database: str) -> None:
    with opened(database) as log:
        seed = load_keys_to_write(log.engine, None).root_key
        log.macs = AuditKeys.derive(seed).macs
        log.write(1)
        with pytest.raises(StartRefused, match="is not the key that the database keeps"):
            audit_log.move_key(settings(log, OTHER))
        assert (
            audit_log.move_key(settings(log, None))
            == (seed, "")
            == audit_log.move_key(settings(log, None))
        )
        assert kept(log) == [seed]
        assert load_keys_to_write(log.engine, seed).stored
        assert audit_log.move_key(settings(log, seed)) == (None, "")
        assert kept(log) == []
        assert not load_keys_to_write(log.engine, seed).stored
        with pytest.raises(StartRefused, match="keeps no key"):
            audit_log.move_key(settings(log, None))
        assert (
            '"audit.key-move"'
            in log.rows("SELECT record FROM audit_records ORDER BY seq DESC LIMIT 1")[0][0]
        )


def in_files(path: Path, seed: bytes) -> bool:
    return any(seed in file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_while_somebody_reads_the_moved_key_is_told_to_be_in_the_files_until_it_is_run_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "SCRUB_SECONDS", 0.3)
    with opened(f"sqlite:///{path}") as log:
        seed = load_keys_to_write(log.engine, None).root_key
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM own_secrets").fetchall()
            assert audit_log.move_key(settings(log, seed)) == (None, audit_log.DATABASE_IN_USE)
            assert in_files(path, seed)
            reader.execute("ROLLBACK")
        assert audit_log.move_key(settings(log, seed)) == (None, "")
        assert not in_files(path, seed)
        assert len(log.rows("SELECT 1 FROM audit_records")) == 1, "it was moved once"


def test_a_reader_that_ends_soon_is_waited_for(path: Path) -> None:
    with (
        opened(f"sqlite:///{path}") as log,
        closing(sqlite3.connect(path, check_same_thread=False)) as reader,
    ):
        seed = load_keys_to_write(log.engine, None).root_key
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM own_secrets").fetchall()
        timer = Timer(1.5, reader.rollback)
        timer.start()
        assert audit_log.move_key(settings(log, seed)) == (None, "")
        timer.join()
        assert not in_files(path, seed)


def test_of_a_file_that_is_too_large_to_be_written_anew_it_is_told_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.database import engine

    with opened(f"sqlite:///{path}") as log:
        seed = load_keys_to_write(log.engine, None).root_key
        monkeypatch.setattr(engine, "VACUUM_BYTES", 1)
        moved, left = audit_log.move_key(settings(log, seed))
        assert (moved, "VACUUM" in left) == (None, True)


def test_an_export_that_cannot_be_made_or_written_is_told_in_a_sentence_and_harms_no_file(
    tmp_path: Path,
) -> None:
    given = {
        "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/g.db",
        "GATEWAY_AUDIT_KEY": to_base64(SEED),
    }
    assert ended(tmp_path, "keys", "create", "--name", "first", **given).returncode == 0
    done = ended(tmp_path, "audit", "export", "/nonexistent/x", **given)
    assert (done.returncode, done.stderr) == (
        2,
        "leanplum-gateway: /nonexistent/x: can't be written: No such file or directory\n",
    )
    (tmp_path / "old").write_text("old")
    del given["GATEWAY_AUDIT_KEY"]
    assert ended(tmp_path, "audit", "export", "old", **given).returncode == 2
    assert (tmp_path / "old").read_text() == "old"


def test_a_gateway_warns_while_the_database_keeps_the_key_and_goes_on_with_it_once_it_is_moved(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery") as gateway:
        gateway.terminate()
        assert b"audit key --move" in gateway.output.read_bytes()
        shown = ended(tmp_path, "audit", "key", "--move", **gateway.settings)
        assert (shown.returncode, "run this command again" in shown.stderr) == (0, True)
        moved = gateway.settings | {"GATEWAY_AUDIT_KEY": shown.stdout.strip()}
        assert ended(tmp_path, "audit", "key", "--move", **moved).returncode == 0
        refused = ended(tmp_path, "audit", "verify", **gateway.settings)
        assert (refused.returncode, "GATEWAY_AUDIT_KEY" in refused.stderr) == (2, True)
        gateway.settings = moved
        gateway.start()
        gateway.event("user-1", 1)
        assert gateway.terminate() == 0
        assert gateway.output.read_bytes().count(b"audit.key_in_database") == 1
        assert ended(tmp_path, "audit", "verify", **moved).returncode == 0
