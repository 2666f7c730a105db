"""Verification and export of the audit log, for the commands in `cli/audit.py`."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from sqlalchemy import Engine

from app.audit import evidence, key_derivation, records, signing_keys, verify_rows
from app.audit.export import read_export, write_export
from app.audit.findings import Report
from app.audit.records import AuditMacs
from app.audit.tree import Fetch, InvalidCheckpoint, PublicKey, fetcher, parse_count
from app.audit.verify import verify
from app.cli.common import engine_to_read, milliseconds
from app.cli.output import quiet_pipe
from app.cli.progress import counted, progress
from app.clock import now_ms
from app.database.engine import scrub, snapshot, too_large_to_scrub, transaction
from app.errors import NotFound, StartRefused
from app.settings import Settings

DIFFERENT_KEY = (
    "GATEWAY_AUDIT_KEY: is not the key that the database keeps, which stays there; "
    "run this without it to see that key"
)
DATABASE_IN_USE = (
    "other processes read or write all the time. Run this again when the database is idle"
)
NOTHING_TO_EXPORT = "Nothing is recorded yet: there is nothing to export."
TOO_LARGE = """\
the file is too large to be rewritten at once. When traffic is low, rewrite it yourself:
sqlite3 FILE 'VACUUM; PRAGMA wal_checkpoint(TRUNCATE)'"""
SCRUB_SECONDS = 10.0  # how long to wait for other processes that read and write the database


def public_key(settings: Settings) -> PublicKey:
    """Return the public key that verifies the checkpoints of this gateway."""
    with engine_to_read(settings) as engine, snapshot(engine) as connection:
        keys = signing_keys.load_keys_to_read(fetcher(connection), settings.audit_root_key)
        return keys.signer.public


def verify_database(settings: Settings, key: str | None, kept: Sequence[str]) -> Report:
    """Verify the records of the database against its newest checkpoint.

    `kept` are earlier checkpoints that were kept elsewhere: notes, or names of files with notes.
    With a public `key`, the gateway's own key is not needed, and MACs are not checked.
    """
    notes = [_note(text) for text in kept]
    with engine_to_read(settings) as engine, snapshot(engine) as connection:
        if key is not None:
            public = parse_key(key)
            found = evidence.read_evidence(connection, public)
            return _verify(found, public, notes)
        fetch = fetcher(connection)
        if not notes and _is_untouched(fetch):
            return Report(nothing_recorded=True)
        own = signing_keys.load_keys_to_read(fetch, settings.audit_root_key)
        public = own.signer.public
        found = evidence.read_evidence(connection, public)
        report = _verify(found, public, notes, own.macs, now_ms())
        report.findings += verify_rows.verify_rows(fetch, own.macs.rows, report.set_changes)
        return report


def verify_export(path: Path, key: str | None, kept: Sequence[str]) -> Report:
    """Verify the records of an export.

    The key must come from elsewhere: one that came with the export would prove nothing. Raises
    StartRefused if it is missing.
    """
    if key is None:
        raise StartRefused("--public-key: is required with --export; `audit public-key` shows it")
    exported = read_export(path)
    return _verify(exported, parse_key(key), [_note(text) for text in kept])


def _verify(
    found: evidence.Evidence,
    key: PublicKey,
    notes: Sequence[str],
    macs: AuditMacs | None = None,
    now: int | None = None,
) -> Report:
    """Verify evidence, and show how far that is."""
    with progress("Verifying records", total=_record_count(found)) as advance:
        watched = replace(found, rows=lambda: counted(found.rows(), advance))
        return verify(watched, key, notes, macs, now)


def _record_count(found: evidence.Evidence) -> int:
    """Return about how many records there are to read."""
    last = found.written if found.last is None else min(found.last, found.written)
    return max(0, last - max(found.tree_removed or 0, (found.first or 1) - 1))


def parse_ranges(texts: Sequence[str]) -> list[range]:
    """Parse numbers of records (`12`) and ranges of them (`12-30`). Raises StartRefused."""
    ranges = []
    for text in texts:
        first, dash, last = text.partition("-")
        begin, end = parse_count(first), parse_count(last if dash else first)
        if not begin or not end or end < begin:
            raise StartRefused(
                f"--acknowledge: must be the number of a record, or a range such as 12-30; "
                f"not {text[:100]}"
            )
        ranges.append(range(begin, end + 1))
    return ranges


def export(settings: Settings, since: str | None, until: str | None, path: Path | None) -> int:
    """Write an export to a file, or to standard output; return how many lines it has.

    Raises NotFound if nothing was ever recorded, and StartRefused if there is nothing to verify it
    with, before anything is written; StartRefused also if the file cannot be written.
    """
    begin, end = milliseconds("--since", since), milliseconds("--until", until)
    with engine_to_read(settings) as engine, snapshot(engine) as connection:
        fetch = fetcher(connection)
        if _is_untouched(fetch):
            raise NotFound(NOTHING_TO_EXPORT)
        public = signing_keys.load_keys_to_read(fetch, settings.audit_root_key).signer.public
        found = evidence.read_evidence(connection, public, begin, end)
        with progress("Exporting records", total=_record_count(found)) as advance:
            watched = replace(found, rows=lambda: counted(found.rows(), advance))
            return _write(write_export(watched, public), path)


def _is_untouched(fetch: Fetch) -> bool:
    """Tell whether the database has neither a key of the audit log nor a trace of a record.

    Raises StartRefused for a damaged key.
    """
    return key_derivation.stored_root_key(fetch) is None and signing_keys.is_nothing_recorded(fetch)


def _write(lines: Iterable[bytes], path: Path | None) -> int:
    written = 0
    try:
        with (
            quiet_pipe(),
            nullcontext(sys.stdout.buffer) if path is None else path.open("wb") as file,
        ):
            for line in lines:
                file.write(line)
                written += 1
    except OSError as error:
        target = path or "standard output"
        raise StartRefused(f"{target}: can't be written: {error.strerror}") from None
    return written


class KeyMove(NamedTuple):
    """The result of a step of moving the key.

    `key` is the one that the operator has to set; None once the database no longer keeps it.
    `problem` says why the files of the database may still contain it; "" if they do not.
    """

    key: bytes | None
    problem: str = ""


def move_key(settings: Settings) -> KeyMove:
    """Move the key out of the database, in two steps.

    While GATEWAY_AUDIT_KEY is not set, return the key that the database keeps. Once it is set,
    remove the key from the database and from its files; another run does what is left of that.
    Raises StartRefused if there is nothing to move, or the setting has a different key.
    """
    given = settings.audit_root_key
    with engine_to_read(settings) as engine:
        with snapshot(engine) as connection:
            kept = _check_move(fetcher(connection), given)
        if given is None:
            return KeyMove(kept)
        if kept is not None:
            _remove(engine, given, kept)
        with progress("Rewriting the files of the database"):
            return KeyMove(None, _scrub_files(engine))


def _check_move(fetch: Fetch, given: bytes | None) -> bytes | None:
    """Return the key that the database keeps; None if it keeps none.

    Raises StartRefused if there is nothing to move, or the given key is not the one of the log.
    """
    kept = key_derivation.stored_root_key(fetch)
    if kept is None and given is None:
        raise StartRefused("the database keeps no key of the audit log: there is nothing to move")
    if given is None or kept is None:
        signing_keys.load_keys_to_read(fetch, given)  # refuses a key that is not the one of the log
    return kept


def _remove(engine: Engine, given: bytes, kept: bytes) -> None:
    if given != kept:
        raise StartRefused(DIFFERENT_KEY)
    macs, now = signing_keys.load_keys_to_write(engine, given).macs, now_ms()
    with transaction(engine) as cursor:
        key_derivation.delete_root_key(cursor, kept)
        records.insert(
            cursor,
            macs,
            [(now, records.administrative_act(time=now, act="audit.key-move", subject="audit"))],
        )


def _scrub_files(engine: Engine) -> str:
    """Remove deleted data from the files of the database; return why that failed, or ""."""
    if too_large_to_scrub(engine):
        return TOO_LARGE
    until = monotonic() + SCRUB_SECONDS
    while not scrub(engine):
        if monotonic() > until:
            return DATABASE_IN_USE
        sleep(SCRUB_SECONDS / 20)
    return ""


def parse_key(key: str) -> PublicKey:
    """Return the public key of an option. Raises StartRefused."""
    try:
        return PublicKey.parse(key)
    except InvalidCheckpoint as error:
        raise StartRefused(f"--public-key: {error}") from None


def _note(text: str) -> str:
    """Return a checkpoint's note: the text itself, in the form of a log line too, or a file's."""
    if "\n" in text:
        return text
    if "\\n" in text:
        return text.replace("\\n", "\n")
    try:
        return Path(text).read_text()
    except (OSError, ValueError):
        raise StartRefused(
            f"--checkpoint: must be a checkpoint or a file that contains one; not {text[:100]}"
        ) from None
