"""The log: one wide line for each fact, whose event is named `noun.verb`.

Lines go to standard output (those of commands with results to standard error), as one JSON object
each or in a readable form for a terminal. They never contain a secret or a user's attribute value.
"""

import atexit
import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, TextIO, cast

import structlog
from structlog.typing import Processor

from app.clock import now_ms
from app.errors import StorageUnavailable
from app.telemetry.log_lines import LogLine, sentence
from app.telemetry.repeats import Repeats

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FLUSH_SECONDS = 0.1
PLACES_SHOWN = 6  # of a traceback, counted from where the error was raised
Emit = Callable[..., object]  # takes an event and its fields


class _Streams:
    """The output for lines that no log level silences; `configure_logging` sets it."""

    unleveled: Emit | None = None


def log_always(event: str, **fields: Any) -> None:
    """Log a line of level info, whatever level is configured."""
    emit = _Streams.unleveled or structlog.get_logger("gateway").info
    emit(event, **fields)


def configure_logging(
    level: str,
    form: str,
    file: TextIO | None = None,
    *,
    lock: AbstractContextManager[object] | None = None,
) -> Callable[[], None]:
    """Log to a file in the `form` json, console or auto (console on a terminal).

    The default is standard output. Commands whose results go there log to standard error. Return a
    function that writes buffered lines. It also runs when the interpreter exits.

    `lock` is held during each write, since the lines of several processes would otherwise tear each
    other apart in a pipe.

    Lines of libraries, and errors that nobody caught, are logged in the same form.
    """
    file = file or sys.stdout
    if form == "auto":
        form = "console" if file.isatty() else "json"
    flush: Callable[[], None] = file.flush
    if form == "json":
        flush = _configure_json(LEVELS[level], LineWriter(file.buffer, lock))
    else:
        _configure_console(LEVELS[level], file)
    sys.excepthook = lambda kind, error, traceback: _log_uncaught(error)
    threading.excepthook = lambda args: _log_uncaught(args.exc_value)
    sys.unraisablehook = lambda args: _log_uncaught(args.exc_value)
    root = logging.getLogger()
    root.handlers = [_LibraryHandler()]
    # The info lines of libraries are about their internals; only their warnings matter here
    root.setLevel(max(LEVELS[level], logging.WARNING))
    return flush


def _configure_json(level: int, writer: "LineWriter") -> Callable[[], None]:
    _Streams.unleveled = _DirectLogger(writer).info
    structlog.configure(
        processors=[],
        wrapper_class=cast(Any, _direct_logger(level)),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    return writer.flush


def _configure_console(level: int, file: TextIO) -> None:
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        _RepeatFilter(Repeats()),
        _add_sentence,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.dev.ConsoleRenderer(),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _TerminalLogger(file),
        cache_logger_on_first_use=True,
    )
    unleveled = structlog.wrap_logger(
        _TerminalLogger(file),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )
    _Streams.unleveled = unleveled.info


def _add_sentence(_logger: Any, _method: str, fields: Any) -> Any:
    """Say what an event means, for people who read the log on a terminal."""
    fields.setdefault("message", sentence(fields["event"], fields))
    return fields


class _RepeatFilter:
    """The processor of structlog that drops failures that repeat."""

    def __init__(self, repeats: Repeats) -> None:
        self._repeats = repeats

    def __call__(self, _logger: Any, method: str, fields: Any) -> Any:
        """Return the fields, with the number of lines left out; raise DropEvent to log nothing."""
        if method not in {"warning", "error"}:
            return fields
        event = fields.pop("event")
        line = self._repeats.admit(LogLine(method, 0, event, fields))
        if line is None:
            raise structlog.DropEvent
        return {"event": event, **line.fields}


def _log_uncaught(error: BaseException | None) -> None:
    """Log an error that nobody caught.

    Python itself would print its text, which may contain what a caller sent, or a key.
    """
    if error is not None:
        structlog.get_logger("gateway").error("error.uncaught", **describe(error))


def describe(error: BaseException) -> dict[str, Any]:
    """Return the kind of an error and the places in the code that it passed through.

    Its text is left out: it may contain what a caller sent.
    """
    places = []
    traceback = error.__traceback__
    while traceback is not None:
        file_name = traceback.tb_frame.f_code.co_filename.rpartition("/")[2]
        places.append(f"{file_name}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return {"kind": type(error).__name__, "at": "\n".join(places[-PLACES_SHOWN:])}


def explain(error: Exception) -> dict[str, Any]:
    """Return the reason why the database cannot be used, or describe another error."""
    return {"reason": error.detail} if isinstance(error, StorageUnavailable) else describe(error)


class LineWriter:
    """A writer of log lines that gathers lines without urgency.

    A write to the file for each request would cost more than the rest of the request. Debug and
    info lines are therefore gathered for a tenth of a second, then rendered and written together.
    Warnings and errors are written at once, together with the lines before them.
    """

    def __init__(
        self,
        file: BinaryIO,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        """`lock` is held during each write."""
        self._file, self._file_lock = file, lock or contextlib.nullcontext()
        self._writing = threading.Lock()
        self._lines: list[LogLine] = []
        self._lost = 0  # lines that could not be written since the last write that succeeded
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._repeats = Repeats()
        atexit.register(self.close)

    def write_soon(self, line: LogLine) -> None:
        """Write the line within a tenth of a second."""
        with self._lock:
            self._lines.append(line)
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def write_now(self, line: LogLine) -> None:
        """Write the line and those that were gathered before it, unless it repeats a failure."""
        admitted = self._repeats.admit(line)
        if admitted is None:
            return
        with self._lock:
            self._lines.append(admitted)
        self.flush()

    def close(self) -> None:
        """Write all that is left, also how often failures were repeated."""
        self.flush(at_end=True)

    def flush(self, *, at_end: bool = False) -> None:
        """Write the lines that were gathered, and how often failures were repeated, if it is time.

        On a full disk, or when nobody reads the output any more, the lines are lost. They are
        counted, and `log.lost` reports their number with the next lines that can be written. No
        error is raised: whoever logs, such as the only thread that writes to the database, must
        be able to continue.
        """
        with self._lock:
            lines, self._lines, self._timer = self._lines, [], None
            lines += self._repeats.due(at_end=at_end)
            if not lines:
                return
            lost, self._lost = self._lost, 0
        report = [LogLine("warning", now_ms(), "log.lost", {"lost": lost})] if lost else []
        text = b"".join(_rendered(line) + b"\n" for line in [*lines, *report])
        try:
            with self._writing, self._file_lock:
                self._file.write(text)
                self._file.flush()
        except (OSError, ValueError):  # ValueError: the file is closed
            with self._lock:
                self._lost += lost + len(lines)


def _rendered(line: LogLine) -> bytes:
    """Return a line as JSON; without its fields if one cannot be written (no valid Unicode)."""
    try:
        return line.render()
    except TypeError:  # orjson's errors are of this class
        return line._replace(fields={}).render()


class _DirectLogger:
    """A structlog logger without a chain of processors.

    With that chain, logging would cost a request more than its validation does.
    """

    def __init__(
        self, writer: LineWriter, processors: object = None, context: object = None
    ) -> None:
        self._writer = writer

    def debug(self, event: str, **fields: Any) -> None:
        """Log a detail."""
        self._writer.write_soon(LogLine("debug", now_ms(), event, fields))

    def info(self, event: str, **fields: Any) -> None:
        """Log something that went as it should."""
        self._writer.write_soon(LogLine("info", now_ms(), event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Log something that an operator should look at."""
        self._writer.write_now(LogLine("warning", now_ms(), event, fields))

    def error(self, event: str, **fields: Any) -> None:
        """Log a failure."""
        self._writer.write_now(LogLine("error", now_ms(), event, fields))

    def log(self, level: int, event: str, **fields: Any) -> None:
        """Log at a level of the standard library; below warning, everything is info."""
        if level >= logging.ERROR:
            self.error(event, **fields)
        elif level >= logging.WARNING:
            self.warning(event, **fields)
        else:
            self.info(event, **fields)


def _direct_logger(least: int) -> type[_DirectLogger]:
    """Return a logger class whose methods below the least level do nothing."""

    def ignore(self: _DirectLogger, event: str, **fields: Any) -> None:
        """Log nothing."""

    silent = {name: ignore for name, level in LEVELS.items() if level < least}
    return type("DirectLogger", (_DirectLogger,), silent)


class _TerminalLogger(structlog.PrintLogger):
    """A logger that prints, and ignores that nobody reads its output any more."""

    def msg(self, message: str) -> None:
        """Print a line."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the file is closed
            super().msg(message)

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


class _LibraryHandler(logging.Handler):
    """A handler that turns log records of libraries into lines of the gateway's log.

    Of a traceback only the kind of error and the places are logged, never the values in it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record of the standard library's logging."""
        fields: dict[str, Any] = {"logger": record.name}
        message = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields |= describe(error)
            message = message.partition("\n")[0]
        log = structlog.get_logger()
        log.log(record.levelno, "library.logged", message=message, **fields)
