"""The audit by command: is it as it was sealed; and an export, which can be verified with nothing
but the file.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from sqlalchemy import Engine

from app.audit import key_derivation as seed
from app.audit import verify_rows
from app.audit.checkpoints import BadNote, PublicKey, count
from app.audit.evidence import exported, of_database, of_export
from app.audit.findings import Finding, Report
from app.audit.records import administrative_act, insert
from app.audit.signing_keys import nothing_recorded, to_read, to_write
from app.audit.tree import Fetch, fetcher
from app.audit.verify import verify
from app.clock import now_ms
from app.database.engine import connect_to_read, scrub, snapshot, too_large_to_scrub, transaction
from app.errors import NotFound, StartRefused
from app.leanplum.values import query_time
from app.settings import Settings

OTHER_KEPT = "GATEWAY_AUDIT_KEY: is not the key that the database keeps, which stays there; without it that is shown"
IN_USE = "somebody reads or writes all the time. Run this again when nothing does"
NOTHING_RECORDED = "Nothing is recorded yet, and nothing is sealed."
NOTHING_TO_EXPORT = "Nothing is recorded yet: there is nothing to export."
NOTHING_SEALED = (
    "Nothing is sealed yet: each record fits its mark, but no signature tells whether some are missing. "
    "The gateway seals each second while it runs."
)
TOO_LARGE = """the file is too large to be written anew at once. At a quiet hour, write it anew by hand:
sqlite3 FILE 'VACUUM; PRAGMA wal_checkpoint(TRUNCATE)'"""
PATIENCE_SECONDS = 10.0  # for those who read and write beside us


def public_key(settings: Settings) -> PublicKey:
    """What the checkpoints of this gateway are verified with."""
    engine = connect_to_read(settings.gateway_database_url)
    try:
        with snapshot(engine) as connection:
            return to_read(fetcher(connection), settings.audit_seed).signer.public
    finally:
        engine.dispose()


def verify_database(settings: Settings, key: str | None, kept: Sequence[str]) -> Report:
    """Hold the database's records against its newest checkpoint, and that against what was kept of
    earlier ones: notes, or the names of files that have them. With a public `key` the gateway's own
    isn't needed, and marks are not looked at.
    """
    engine = connect_to_read(settings.gateway_database_url)
    try:
        notes = [_note(one) for one in kept]
        with snapshot(engine) as connection:
            if key is not None:
                public = _parsed(key)
                return verify(of_database(connection, public), public, notes)
            fetch = fetcher(connection)
            if not notes and _is_untouched(fetch):
                return Report(nothing_recorded=True)
            own = to_read(fetch, settings.audit_seed)
            public = own.signer.public
            report = verify(of_database(connection, public), public, notes, own.marks, now_ms())
            report.findings += verify_rows.verify(fetch, own.marks.rows, report.changes)
            return report
    finally:
        engine.dispose()


def verify_export(path: Path, key: str | None, kept: Sequence[str]) -> Report:
    """The same for an export. The key has to come from elsewhere: one that came with the export
    proves nothing.
    """
    if key is None:
        raise StartRefused(
            "--public-key: is needed with --export: the one that `audit public-key` shows"
        )
    evidence, _ = of_export(path)
    return verify(evidence, _parsed(key), [_note(one) for one in kept])


def told(report: Report) -> Iterator[str]:
    """A report for people: each finding, and over what it was looked for."""
    if report.nothing_recorded:
        yield NOTHING_RECORDED
        return
    for one in report.findings:
        yield f"row: {one.detail}" if one.kind == "row" else f"{one.kind}: {_finding(one)}"
    for one in report.acknowledged:
        yield f"acknowledged: {_finding(one)}"
    for size in report.unchecked:
        yield f"can't be checked: the checkpoint of {size} that was kept: retention has removed what it is about"
    if report.nothing_sealed:
        yield NOTHING_SEALED
    line = "{records} records, {sealed} sealed, {removed} removed by retention".format(
        **report.counts
    )
    good = (
        f"all as they were recorded{', but for those acknowledged' if report.acknowledged else ''}"
    )
    of_rows = any(one.kind == "row" for one in report.findings)
    of_records = any(one.kind != "row" for one in report.findings)
    yield f"{line}; {'NOT as they were recorded' if of_records else good}."
    if of_rows:
        yield "Caller keys and erasures are NOT as the gateway left them."
    if report.part != (None, None):
        yield f"This is a part, {_reach(report)}: is it the one that you asked for?"
    if report.unsealed:
        yield f"{report.unsealed} of them came after the newest checkpoint: nothing is signed for these."
    if not report.marked:
        yield "Marks were not looked at, which takes the database and its key."


def _finding(one: Finding) -> str:
    numbers = str(one.first) if one.first == one.last else f"{one.first} to {one.last}"
    return f"{'of' if one.kind == 'checkpoint' else 'record'} {numbers}: {one.detail}"


def ranges(given: Sequence[str]) -> list[range]:
    """The numbers of records that an operator knows of: `12`, or `12-30`. Raises StartRefused."""
    found = []
    for text in given:
        first, dash, last = text.partition("-")
        begin, end = count(first), count(last if dash else first)
        if not begin or not end or end < begin:
            raise StartRefused(
                f"--acknowledge: {text[:100]} is neither a record's number nor two of them, as in 12-30"
            )
        found.append(range(begin, end + 1))
    return found


def _reach(report: Report) -> str:
    first, last = report.part
    begin = first or report.removed + 1
    if last is not None and last < begin:
        return "without a record"
    return f"from record {begin} on" if last is None else f"from record {begin} to {last}"


def export(settings: Settings, since: str | None, until: str | None, path: Path | None) -> int:
    """Write an export (None: to the standard output); how many lines it has. Raises StartRefused,
    with nothing written, where it can't be made, and where the file can't be written; NotFound
    where nothing was ever recorded.
    """
    begin, end = _ms("--since", since), _ms("--until", until)
    engine = connect_to_read(settings.gateway_database_url)
    try:
        with snapshot(engine) as connection:
            fetch = fetcher(connection)
            if _is_untouched(fetch):
                raise NotFound(NOTHING_TO_EXPORT)
            public = to_read(fetch, settings.audit_seed).signer.public
            return _write(exported(of_database(connection, public, begin, end), public), path)
    finally:
        engine.dispose()


def _is_untouched(fetch: Fetch) -> bool:
    """Whether the database has neither a key of the audit nor a trace of a record. Raises
    StartRefused for a damaged key.
    """
    return seed.kept(fetch) is None and nothing_recorded(fetch)


def _write(lines: Iterable[bytes], path: Path | None) -> int:
    count = 0
    try:
        with nullcontext(sys.stdout.buffer) if path is None else path.open("wb") as file:
            for line in lines:
                file.write(line)
                count += 1
    except OSError as error:
        raise StartRefused(
            f"{path or 'the standard output'}: can't be written: {error.strerror}"
        ) from None
    return count


class Moved(NamedTuple):
    """What a step of moving the key has come to: the `seed` that the operator is to set; or None
    where the database keeps it no more, and then why it may still lie in the database's files ("":
    it doesn't).
    """

    seed: bytes | None
    left: str = ""


def move_key(settings: Settings) -> Moved:
    """Move the key out of the database, in two steps. While GATEWAY_AUDIT_KEY is not set: tell the
    seed that the database keeps. Once it is set to that: remove it from the database, and from its
    files; run again, it does what is left of that. Raises StartRefused where there is nothing to
    move, or the setting is another.
    """
    engine, given = connect_to_read(settings.gateway_database_url), settings.audit_seed
    try:
        with snapshot(engine) as connection:
            fetch = fetcher(connection)
            kept = seed.kept(fetch)
            if kept is None and given is None:
                raise StartRefused(
                    "the database keeps no key of the audit: there is nothing to move"
                )
            if given is None or kept is None:
                to_read(fetch, given)  # no other key than the audit's
        if given is None:
            return Moved(kept)
        if kept is not None:
            _remove(engine, given, kept)
        return Moved(None, _left_in_files(engine))
    finally:
        engine.dispose()


def _remove(engine: Engine, given: bytes, kept: bytes) -> None:
    if given != kept:
        raise StartRefused(OTHER_KEPT)
    marks, now = to_write(engine, given).marks, now_ms()
    with transaction(engine) as cursor:
        cursor.execute(seed.REMOVE, (seed.NAME, kept))
        insert(
            cursor,
            marks,
            [(now, administrative_act(time=now, act="audit.key-move", subject="audit"))],
        )


def _left_in_files(engine: Engine) -> str:
    """Clean the database's files of what was deleted; where that can't be, why not and what to
    do.
    """
    if too_large_to_scrub(engine):
        return TOO_LARGE
    until = monotonic() + PATIENCE_SECONDS
    while not scrub(engine):
        if monotonic() > until:
            return IN_USE
        sleep(PATIENCE_SECONDS / 20)
    return ""


def _parsed(key: str) -> PublicKey:
    try:
        return PublicKey.parse(key)
    except BadNote as error:
        raise StartRefused(f"--public-key: {error}") from None


def _note(given: str) -> str:
    """A note, as it is or as a log line has it; or what is in the file of this name."""
    if "\n" in given:
        return given
    if "\\n" in given:
        return given.replace("\\n", "\n")
    try:
        return Path(given).read_text()
    except (OSError, ValueError):
        raise StartRefused(
            f"--checkpoint: {given[:100]} is neither a note nor a file with one"
        ) from None


def _ms(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else int(query_time(text) * 1000)
    except ValueError as error:
        raise StartRefused(f"{option}: {error}") from None
