"""Records of what is no write itself: a call that only read or was refused, a call to Leanplum
while the caller waits.

One that can't be written now is kept and written later; of what is kept when the process ends, or
is more than can be kept, the log has the whole text.
"""

import asyncio
from collections import deque
from functools import partial

import structlog

from app.audit.record_macs import Marks
from app.audit.records import Record
from app.database.writer import Writer

WAIT_SECONDS = 2.0  # that a caller waits for a record
RETRY_SECONDS = 1.0
MOST_KEPT, STEP = 10_000, 500

log = structlog.get_logger("audit")


class Recorder:
    """Writes records through the writer of one process."""

    def __init__(self, writer: Writer, marks: Marks) -> None:
        self._writer, self._marks = writer, marks
        self._kept = deque[Record]()

    async def record(self, time: int, text: str) -> None:
        """Write a record (its time in ms), and wait until it is on disk, while that can be expected
        soon.
        """
        writing = self.soon(time, text)
        if writing is not None:
            await asyncio.wait({writing}, timeout=WAIT_SECONDS)

    def soon(self, time: int, text: str, *, along: bool = False) -> "asyncio.Future[None] | None":
        """Write it without waiting; None where it is kept for later. `along`: another is about to
        follow.
        """
        record = Record(time, text, self._marks)
        if self._kept or not self._writer.prompt:
            self._keep(record)
            return None
        return self._write(record, along=along)

    def _write(self, record: Record, *, along: bool = False) -> "asyncio.Future[None]":
        writing: asyncio.Future[None] = self._writer.write(record, along=along)
        writing.add_done_callback(partial(self._done, record))
        return writing

    def _done(self, record: Record, writing: "asyncio.Future[None]") -> None:
        if writing.cancelled() or writing.exception() is not None:
            self._keep(record)

    def _keep(self, record: Record) -> None:
        if len(self._kept) < MOST_KEPT:
            self._kept.append(record)
        else:
            log.error("record.lost", record=record.text)

    async def run(self) -> None:
        """Write what is kept, again and again, until cancelled."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what is kept, as far as that can be done now; what can't be is kept again."""
        while self._kept:
            some = [self._kept.popleft() for _ in range(min(len(self._kept), STEP))]
            writing = [self._write(record) for record in some]
            await asyncio.wait(writing)
            if any(one.exception() is not None for one in writing):
                return

    def close(self) -> None:
        """Tell the log of what could not be written."""
        while self._kept:
            log.error("record.lost", record=self._kept.popleft().text)
