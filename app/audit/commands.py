"""The audit by command: is it as it was sealed; and an export, which can be verified with nothing but the file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Engine

from app.audit import seed
from app.audit.evidence import exported, of_database, of_export
from app.audit.findings import Report
from app.audit.notes import BadNote, PublicKey, Signer
from app.audit.verifying import verify
from app.database.engine import connect, snapshot
from app.errors import StartRefused
from app.leanplum.values import query_time
from app.settings import Settings


def public_key(settings: Settings) -> PublicKey:
    """What the checkpoints of this gateway are verified with."""
    engine = connect(settings.gateway_database_url)
    try:
        return _own(settings, engine)
    finally:
        engine.dispose()


def _own(settings: Settings, engine: Engine) -> PublicKey:
    return Signer(settings.audit_seed or seed.kept(engine)).public


def verify_database(settings: Settings, key: str | None, kept: Sequence[str]) -> Report:
    """Hold the database's records against its newest checkpoint, and that against what was kept of earlier ones: notes,
    or the names of files that have them. `key`: another public key than this gateway's own."""
    engine = connect(settings.gateway_database_url)
    try:
        public = _parsed(key) if key else _own(settings, engine)
        with snapshot(engine) as connection:
            return verify(of_database(connection), public, [_note(one) for one in kept])
    finally:
        engine.dispose()


def verify_export(path: Path, key: str | None, kept: Sequence[str]) -> Report:
    """The same for an export. The key has to come from elsewhere: one that came with the export proves nothing."""
    if key is None:
        raise StartRefused("--public-key: is needed with --export: the one that `audit public-key` shows")
    evidence, _ = of_export(path)
    return verify(evidence, _parsed(key), [_note(one) for one in kept])


def told(report: Report) -> Iterator[str]:
    """A report for people: each finding, and over what it was looked for."""
    for kind, first, last, detail in report.findings:
        numbers = str(first) if first == last else f"{first} to {last}"
        yield f"{kind}: {'of' if kind == 'checkpoint' else 'record'} {numbers}: {detail}"
    line = "{records} records, {sealed} sealed, {removed} removed by retention".format(**report.counts)
    yield f"{line}; {'NOT as they were recorded' if report.findings else 'all as they were recorded'}."
    if any(report.part):
        first, last = report.part
        told_of = f"from record {first or report.removed + 1} to {last or report.sealed}"
        yield f"This is a part, {told_of}: is it the one that you asked for?"
    if report.unsealed:
        yield f"{report.unsealed} of them came after the newest checkpoint: nothing is signed for these."


def export(settings: Settings, since: str | None, until: str | None, file: BinaryIO) -> int:
    """Write an export; how many lines it has."""
    begin, end = _ms("--since", since), _ms("--until", until)
    engine, count = connect(settings.gateway_database_url), 0
    try:
        public = _own(settings, engine)
        with snapshot(engine) as connection:
            for line in exported(of_database(connection, begin, end), public):
                file.write(line)
                count += 1
        return count
    finally:
        engine.dispose()


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
    except (OSError, UnicodeDecodeError):
        raise StartRefused(f"--checkpoint: {given[:100]} is neither a note nor a file with one") from None


def _ms(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else int(query_time(text) * 1000)
    except ValueError as error:
        raise StartRefused(f"{option}: {error}") from None
