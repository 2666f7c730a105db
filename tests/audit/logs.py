"""An audit log on a real database: written, sealed and tampered with, for the tests of this
folder.
"""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.audit import records
from app.audit.evidence import read_evidence
from app.audit.export import read_export, write_export
from app.audit.findings import Report
from app.audit.sealer import Sealer
from app.audit.signing_keys import AuditKeys
from app.audit.tree import BLOCK
from app.audit.verify import verify
from app.database.driver import DIALECTS
from app.database.engine import connect, snapshot, transaction
from app.database.writer import Writer

KEEP = 1_000_000


class Log:
    """One log. `now` is its clock, in milliseconds."""

    def __init__(self, url: str, seed: bytes | None = None) -> None:
        self.url = url
        self.engine: Engine = connect(url)
        self.keys = AuditKeys.derive(seed or secrets.token_bytes(32))
        self.signer, self.macs = self.keys.signer, self.keys.macs
        self.now, self.written = 1_000, 0

    def write(self, count: int, **given: Any) -> None:
        """Record so many calls, a millisecond apart."""
        texts = []
        for _ in range(count):
            self.now += 1
            self.written += 1
            told: dict[str, Any] = {
                "operation": "POST /v1/events", "key_id": "key_1", "app": "default", "address": "127.0.0.1",
                "request_id": f"r{self.written}", "status": 202, "details": {"accepted": 1},
            } | given  # fmt: skip
            texts.append((self.now, records.api_call(time=self.now, **told)))
        with transaction(self.engine) as cursor:
            records.insert(cursor, self.macs, texts)

    def seal(self, steps: int = 1) -> None:
        """What the sealer does in so many seconds."""
        asyncio.run(self._steps(steps))

    async def _steps(self, steps: int) -> None:
        writer = Writer(self.engine)
        writer.start()
        try:
            sealer = self.sealer(writer)
            for _ in range(steps):
                await sealer.step()
        finally:
            await writer.stop()

    def sealer(self, writer: Writer) -> Sealer:
        return Sealer(self.engine, writer, self.signer, self.macs, KEEP, lambda: self.now)

    def rows(self, statement: str, *values: Any) -> list[Any]:
        with self.engine.connect() as connection:
            dialect = DIALECTS[connection.dialect.name]
            return list(connection.exec_driver_sql(dialect.sql(statement), values).all())

    def change(self, statement: str, *values: Any) -> None:
        """Directly in the database, past the gateway."""
        with self.engine.connect() as connection:
            dialect = DIALECTS[connection.dialect.name]
            connection.exec_driver_sql(dialect.sql(statement), values)
            connection.commit()

    def note(self) -> str:
        """The newest checkpoint."""
        found: str = self.rows("SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1")[0][
            0
        ]
        return found

    def verified(self, *kept: str) -> Report:
        with snapshot(self.engine) as connection:
            return verify(
                read_evidence(connection, self.signer.public),
                self.signer.public,
                kept,
                self.macs,
                self.now,
            )

    def verified_offline(
        self, folder: Path, *kept: str, since: int | None = None, until: int | None = None
    ) -> Report:
        path = folder / "export.jsonl"
        with snapshot(self.engine) as connection, path.open("wb") as file:
            public = self.signer.public
            file.writelines(write_export(read_evidence(connection, public, since, until), public))
        evidence = read_export(path)
        return verify(evidence, self.signer.public, kept)


@contextmanager
def opened(url: str, seed: bytes | None = None) -> Iterator[Log]:
    log = Log(url, seed)
    try:
        yield log
    finally:
        log.engine.dispose()


def in_leaves(log: Log, seq: int, leaf: bytes) -> None:
    """Change the tree's own copy of a record's hash too."""
    block, inside = divmod(seq - 1, BLOCK)
    where = "audit_nodes SET leaves = ? WHERE level = 8 AND place = ?"
    found = log.rows("SELECT leaves FROM audit_nodes WHERE level = 8 AND place = ?", block)
    leaves = bytes(found[0][0] if found else log.rows("SELECT tail FROM audit_tree")[0][0])
    leaves = leaves[: inside * 32] + leaf + leaves[inside * 32 + 32 :]
    if found:
        log.change(f"UPDATE {where}", leaves, block)
    else:
        log.change("UPDATE audit_tree SET tail = ?", leaves)


def empty(log: Log) -> None:
    """As if nothing had ever been sealed."""
    log.change("DELETE FROM audit_checkpoints")
    log.change("DELETE FROM audit_nodes")
    log.change(
        "UPDATE audit_tree SET size = 0, peaks = ?, tail = ?, removed = 0, statement = NULL",
        b"",
        b"",
    )
