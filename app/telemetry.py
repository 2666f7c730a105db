"""What the gateway says of itself: log lines and metrics. Nothing here ever sees a secret or an
attribute value.

One fact, one wide line, named `noun.verb`.
"""

import atexit
import contextlib
import logging
import sys
import threading
from bisect import bisect_left
from collections import Counter as TallyOf
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, BinaryIO, cast

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.clock import instant, now_ms

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logging(level: str, form: str) -> None:
    """Log to standard output: one JSON object a line, or for a terminal. Libraries' own lines take
    the same way.
    """
    if form == "auto":
        form = "console" if sys.stdout.isatty() else "json"
    if form == "json":
        lines = Lines(sys.stdout.buffer)
        structlog.configure(
            processors=[],
            wrapper_class=cast(Any, _direct(LEVELS[level])),
            logger_factory=lambda *_: lines,
            cache_logger_on_first_use=True,
        )
    else:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.dev.ConsoleRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
            logger_factory=lambda *_: _Terminal(),
            cache_logger_on_first_use=True,
        )
    sys.excepthook = lambda kind, error, place: _uncaught(error)
    threading.excepthook = lambda told: _uncaught(told.exc_value)
    sys.unraisablehook = lambda told: _uncaught(told.exc_value)
    root = logging.getLogger()
    root.handlers = [_Forward()]
    # Libraries speak of their insides; only their warnings are news
    root.setLevel(max(LEVELS[level], logging.WARNING))


def _uncaught(error: BaseException | None) -> None:
    """What nobody caught: Python itself would print its text, which may hold what a caller sent, or
    a key.
    """
    if error is not None:
        structlog.get_logger("gateway").error("error.uncaught", **describe(error))


class _Direct:
    """A structlog logger without its chain of processors, which would cost a request more than its
    validation does.
    """

    def __init__(self, lines: "Lines", processors: object = None, context: object = None) -> None:
        self._lines = lines

    def debug(self, event: str, **fields: Any) -> None:
        """A detail."""
        self._lines.soon(("debug", now_ms(), event, fields))

    def info(self, event: str, **fields: Any) -> None:
        """Something that went as it should."""
        self._lines.soon(("info", now_ms(), event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Something to look at."""
        self._lines.now(("warning", now_ms(), event, fields))

    def error(self, event: str, **fields: Any) -> None:
        """Something that failed."""
        self._lines.now(("error", now_ms(), event, fields))

    def log(self, level: int, event: str, **fields: Any) -> None:
        """By the level's number."""
        getattr(
            self,
            "error"
            if level >= logging.ERROR
            else "warning"
            if level >= logging.WARNING
            else "info",
        )(event, **fields)


def _direct(least: int) -> type[_Direct]:
    """The logger that says only what is of the least level or above."""
    silent = {
        name: lambda self, event, **fields: None for name, level in LEVELS.items() if level < least
    }
    return type("Direct", (_Direct,), silent)


Line = tuple[str, int, str, dict[str, Any]]  # level, when (ms), event, fields


def _rendered(line: Line) -> bytes:
    level, at, event, fields = line
    return orjson.dumps(
        {"timestamp": instant(at), "level": level, "event": event, **fields}, default=str
    )


class _Terminal(structlog.PrintLogger):
    """Prints lines, and lets the gateway go on where nobody is there any more to read them."""

    def msg(self, message: str) -> None:
        """Print a line."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            super().msg(message)

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


FLUSH_SECONDS = 0.1


class Lines:
    """Writes log lines. A write to a file for each request would cost more than the request, so
    lines of no urgency are gathered for a tenth of a second, then rendered and written together;
    warnings and errors go out at once, and take those before them along.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._lines, self._lock = file, list[Line](), threading.Lock()
        self._timer: threading.Timer | None = None
        self._lost = 0
        atexit.register(self.flush)

    def soon(self, line: Line) -> None:
        """Write within a tenth of a second."""
        with self._lock:
            self._lines.append(line)
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def now(self, line: Line) -> None:
        """Write now."""
        with self._lock:
            self._lines.append(line)
        self.flush()

    def flush(self) -> None:
        """Write what was gathered. What can't be, on a full disk or since nobody reads any more, is
        counted, and told when it can be again: whoever logs, the one thread that writes among them,
        must go on.
        """
        with self._lock:
            lines, self._lines, self._timer = self._lines, [], None
            lost, self._lost = (self._lost, 0) if lines else (0, self._lost)
        if not lines:
            return
        told: list[Line] = [("warning", now_ms(), "log.lost", {"lines": lost})] if lost else []
        try:
            self._file.write(b"".join(_rendered(line) + b"\n" for line in (*lines, *told)))
            self._file.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            with self._lock:
                self._lost += lost + len(lines)


class _Forward(logging.Handler):
    """Lines of the standard library's logging, as lines of ours. A traceback is told as its kind
    and place: the values in it stay where they are.
    """

    def emit(self, record: logging.LogRecord) -> None:
        details: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            details.update(describe(record.exc_info[1]))
            message = record.getMessage().partition("\n")[0]
        else:
            message = record.getMessage()
        log = structlog.get_logger()
        log.log(record.levelno, "library.said", said=message, **details)


def describe(error: BaseException) -> dict[str, Any]:
    """An error's kind and the places it came through, never its text: that may hold what a caller
    sent.
    """
    places = []
    at = error.__traceback__
    while at is not None:
        places.append(f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}")
        at = at.tb_next
    return {"kind": type(error).__name__, "at": places[-6:]}


class Metrics:
    """The numbers at `/metrics`. One registry for each app object, so that tests don't share
    them.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = RequestTally()
        self.registry.register(self.requests)
        self.accepted = Counter(
            "leanplum_gateway_items_accepted", "Items accepted", registry=self.registry
        )
        self.segment = Counter(
            "leanplum_gateway_segment_messages",
            "Messages at the Segment door by what became of them",
            ["type", "outcome"],
            registry=self.registry,
        )
        self.settled = Counter(
            "leanplum_gateway_items_settled",
            "Items by what became of them",
            ["status"],
            registry=self.registry,
        )
        self.postponed = Counter(
            "leanplum_gateway_items_postponed",
            "Attempts after which an item stays: retrying, or held",
            ["status"],
            registry=self.registry,
        )
        self.warnings = Counter(
            "leanplum_gateway_leanplum_warnings",
            "Entries that Leanplum answered with a warning, by the kind of warning",
            ["app", "warning"],
            registry=self.registry,
        )
        self.calls = Counter(
            "leanplum_gateway_leanplum_calls",
            "Calls to Leanplum",
            ["status"],
            registry=self.registry,
        )
        self.call_seconds = Histogram(
            "leanplum_gateway_leanplum_call_seconds",
            "Time of a call to Leanplum",
            registry=self.registry,
        )
        self.queued = Gauge(
            "leanplum_gateway_queued_items", "Items waiting", registry=self.registry
        )
        self.audit_not_sealed = Gauge(
            "leanplum_gateway_audit_not_sealed",
            "1 while the audit is not sealed, or what is old of it not removed, whatever the cause",
            registry=self.registry,
        )
        self.audit_misfit = Gauge(
            "leanplum_gateway_audit_does_not_fit",
            "1 while the audit in the database is not what the gateway left there: somebody changed it",
            registry=self.registry,
        )
        self.apps_refused = Gauge(
            "leanplum_gateway_apps_refused",
            "1 while a changed apps file is refused",
            registry=self.registry,
        )
        self.held = Gauge(
            "leanplum_gateway_held",
            "1 while Leanplum refuses our key or app",
            ["app"],
            registry=self.registry,
        )
        self.circuit_open = Gauge(
            "leanplum_gateway_circuit_open",
            "1 while calls to Leanplum lead nowhere",
            ["app"],
            registry=self.registry,
        )
        self.call_rate = Gauge(
            "leanplum_gateway_call_rate",
            "Calls to Leanplum allowed a second",
            ["app"],
            registry=self.registry,
        )
        self.plan_violations = Counter(
            "leanplum_gateway_plan_violations",
            "What broke the tracking plan; an event (state, attribute) that it doesn't have is other",
            ["app", "event", "code"],
            registry=self.registry,
        )
        self.taxonomy_beyond = Counter(
            "leanplum_gateway_taxonomy_beyond",
            "Names seen that Leanplum would drop",
            ["app", "kind"],
            registry=self.registry,
        )
        self.taxonomy = NameCounts()
        self.registry.register(self.taxonomy)
        # The host to which Leanplum sends us, of apps that are held for that
        self.redirects: dict[str, str] = {}
        self.states_since: dict[str, int] = {}  # since when, in milliseconds
        # How the way to Leanplum is, by app: closed (as it should be), open, held
        self.states: dict[str, str] = {}

    def count_warnings(self, app: str, labels: Iterable[str]) -> None:
        """Count warnings of Leanplum's by their labels (`leanplum/outcomes.py`)."""
        for label, count in TallyOf(labels).items():
            self.warnings.labels(app, label).inc(count)

    def count_settled(self, counts: Mapping[str, int]) -> None:
        """Count items that have settled, by status."""
        for status, count in counts.items():
            self.settled.labels(status).inc(count)

    def sharing_limits(self) -> tuple[Gauge, Counter]:
        """The metrics of limits that replicas share."""
        up = Gauge(
            "leanplum_gateway_shared_limits_up",
            "1 while limits are shared, 0 while each replica keeps a share",
            registry=self.registry,
        )
        here = Counter(
            "leanplum_gateway_local_limit_decisions",
            "Decisions by a share, since the shared limits were away",
            registry=self.registry,
        )
        return up, here


BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class RequestTally(Collector):
    """Requests answered and how long each took. Plain lists that become metrics when they are asked
    for: the library's own counters take a lock for each number.
    """

    def __init__(self) -> None:
        self._answered: dict[tuple[str, int], int] = {}
        self._times: dict[str, list[float]] = {}  # by bucket, then the sum of all

    def add(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (operation, status)
        self._answered[key] = self._answered.get(key, 0) + 1
        times = self._times.get(operation)
        if times is None:
            times = self._times[operation] = [0.0] * (len(BUCKETS) + 2)
        times[bisect_left(BUCKETS, seconds)] += 1
        times[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        requests = CounterMetricFamily(
            "leanplum_gateway_requests", "Requests answered", labels=["operation", "status"]
        )
        for (operation, status), count in list(self._answered.items()):
            requests.add_metric([operation, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "leanplum_gateway_request_seconds", "Time to answer", labels=["operation"]
        )
        for operation, times in list(self._times.items()):
            upto = [*accumulate(times[:-1])]
            buckets = [*zip([*map(str, BUCKETS), "+Inf"], upto, strict=True)]
            seconds.add_metric([operation], buckets, times[-1])
        yield seconds


class NameCounts(Collector):
    """How many names each app has of those that Leanplum keeps; read when they are asked for."""

    def __init__(self) -> None:
        self.counts: Callable[[], Mapping[str, Mapping[Any, int]]] = dict  # by app and kind
        self.caps: Mapping[Any, int] = {}  # by kind

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        names = GaugeMetricFamily(
            "leanplum_gateway_taxonomy_names", "Names of an app", labels=["app", "kind"]
        )
        for app, kinds in self.counts().items():
            for kind, count in kinds.items():
                names.add_metric([app, kind], count)
        yield names
        caps = GaugeMetricFamily(
            "leanplum_gateway_taxonomy_limit", "Names that Leanplum keeps", labels=["kind"]
        )
        for kind, cap in self.caps.items():
            caps.add_metric([kind], cap)
        yield caps
