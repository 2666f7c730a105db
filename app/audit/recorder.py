"""Writing of records that are part of no other write: of calls that only read or were refused.

A record that cannot be written now is kept in memory and written later. Records that are left when
the process ends, or that are too many to keep, are logged with their whole text.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from app.audit import records
from app.database.driver import Cursor
from app.database.writer import Writer

WAIT_SECONDS = 2.0  # that a caller waits for a record
RETRY_SECONDS = 1.0
MAX_KEPT, RETRY_BATCH = 10_000, 500

log = structlog.get_logger("audit")


@dataclass(frozen=True, slots=True)
class RecordWrite:
    """A write of one record and nothing else."""

    time: int
    text: str
    macs: records.AuditMacs
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["RecordWrite"]) -> Sequence[None]:
        """Append the records."""
        records.insert(cursor, writes[0].macs, [(write.time, write.text) for write in writes])
        return [None] * len(writes)


class AuditRecorder:
    """Writes records through the writer of one process."""

    def __init__(self, writer: Writer, macs: records.AuditMacs) -> None:
        self._writer, self._macs = writer, macs
        self._kept = deque[RecordWrite]()

    async def record(self, time: int, text: str) -> None:
        """Write a record (its time in ms), and wait until it is on disk, for two seconds at most.

        While the database takes nothing it is kept for later, and nothing is waited for.
        """
        writing = self.soon(time, text)
        if writing is not None:
            await asyncio.wait({writing}, timeout=WAIT_SECONDS)

    def soon(self, time: int, text: str, *, along: bool = False) -> "asyncio.Future[None] | None":
        """Begin to write a record; None where it is kept for later.

        `along` says that another write follows at once, with which it can share a transaction.
        """
        write = RecordWrite(time, text, self._macs)
        if self._kept or not self._writer.prompt:
            self._keep(write)
            return None
        return self._write(write, along=along)

    def _write(self, write: RecordWrite, *, along: bool = False) -> "asyncio.Future[None]":
        writing: asyncio.Future[None] = self._writer.write(write, along=along)
        writing.add_done_callback(partial(self._keep_if_failed, write))
        return writing

    def _keep_if_failed(self, write: RecordWrite, writing: "asyncio.Future[None]") -> None:
        if writing.cancelled() or writing.exception() is not None:
            self._keep(write)

    def _keep(self, write: RecordWrite) -> None:
        if len(self._kept) < MAX_KEPT:
            self._kept.append(write)
        else:
            log.error("record.lost", record=write.text)

    async def run(self) -> None:
        """Write the records that are kept, again and again, until cancelled."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write the records that are kept, until one fails; those that fail are kept again."""
        while self._kept:
            batch = [self._kept.popleft() for _ in range(min(len(self._kept), RETRY_BATCH))]
            writings = [self._write(write) for write in batch]
            await asyncio.wait(writings)
            if any(writing.exception() is not None for writing in writings):
                return

    def close(self) -> None:
        """Log the records that could not be written."""
        while self._kept:
            log.error("record.lost", record=self._kept.popleft().text)
