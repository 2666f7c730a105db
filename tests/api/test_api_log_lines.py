"""The log may be full or gone; whoever logs goes on, and is told later how many lines that cost."""

import io
import json

from app.telemetry.log_lines import LogLine
from app.telemetry.logs import LineWriter


class Disk(io.RawIOBase):
    """A file on a disk that is full, or not."""

    full = True

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: object) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        assert isinstance(data, bytes)
        self.written += data
        return len(data)


def test_lines_that_can_not_be_written_are_counted_and_told_when_they_can_be_again() -> None:
    disk = Disk()
    writer = LineWriter(disk)  # type: ignore[arg-type]
    writer.write_now(LogLine("error", 0, "write.failed", {}))
    writer.write_soon(LogLine("info", 0, "stop.draining", {}))
    writer.flush()
    disk.full = False
    writer.write_now(LogLine("info", 0, "gateway.started", {}))
    told = [json.loads(line) for line in disk.written.splitlines()]
    assert [(line["event.action"], line.get("gateway.lost")) for line in told] == [
        ("gateway.started", None),
        ("log.lost", 2),
    ]


def test_a_log_that_was_closed_stops_nobody() -> None:
    file = io.BytesIO()
    writer = LineWriter(file)
    file.close()
    writer.write_now(LogLine("error", 0, "write.failed", {}))
