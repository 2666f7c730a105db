"""Traces by OpenTelemetry: spans of requests, commits, deliveries and calls to Leanplum.

The SDK and its OTLP exporter come with the extra `otel`. They read the standard `OTEL_*` variables;
`exporting` starts them if these ask for traces. FastAPI makes the span of each request. No span
contains a key, a user or an attribute value: what comes from a caller is left out, errors have
their type and not their text.
"""

import logging
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import structlog
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes, AttributeValue

from app import __version__
from app.errors import StartRefused

if TYPE_CHECKING:  # the extra `otel` may be missing, and FastAPI takes long to import
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.sampling import SamplingResult

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# The first that is set applies
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
LAST_SECONDS = 2.0  # that a stop waits for spans to be exported
MOST_LINKS = 128  # of a span, by OpenTelemetry's own limit
FAILED = 400  # the least HTTP status of a call that fails
# Attributes of a request's span that cannot contain a key or a user. The URL, the host and an
# unknown method can.
SAFE_ATTRIBUTES = frozenset({"http.request.method", "network.protocol.version", "url.scheme"})
TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound="Routed")
OnStatus = Callable[[int], None]

log = structlog.get_logger("traces")


class Routed(Protocol):
    """A request whose path is that of a route."""

    @property
    def path(self) -> str:
        """The path."""
        ...

    @property
    def method(self) -> str:
        """The HTTP method."""
        ...


class _Exporting:
    """The provider and the tracer in use; None and one that does nothing if traces are off.

    `next_trace_id` is that of the request whose span is made next, 0 if any will do.
    """

    provider: "TracerProvider | None" = None
    tracer: trace.Tracer = trace.NoOpTracer()
    next_trace_id = 0


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the `OTEL_*` variables ask for traces. Raises StartRefused.

    They do by an endpoint, or by the name of the exporter.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or exporter == "none":
        return False
    if exporter not in {"", "otlp"}:
        raise StartRefused("OTEL_TRACES_EXPORTER must be otlp or none")
    if not exporter and not any(environment.get(name) for name in ENDPOINTS):
        return False
    for name in PROTOCOLS:
        if protocol := environment.get(name):
            if protocol != PROTOCOL:
                raise StartRefused(
                    f"{name} must be {PROTOCOL}, the one that the gateway exports by"
                )
            break
    return True


@contextmanager
def exporting() -> Iterator[None]:
    """Export spans if the environment asks for it. Raises StartRefused if that is not possible."""
    if not wanted():
        yield
        return
    provider = _Exporting.provider = _make_provider()
    _Exporting.tracer = provider.get_tracer("leanplum-gateway", __version__)
    try:
        yield
    finally:
        _Exporting.provider, _Exporting.tracer = None, trace.NoOpTracer()
        # It waits for a collector that is away, without a limit of its own.
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)


def _make_provider() -> "TracerProvider":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ImportError:
        raise StartRefused(
            "the OTEL_* variables ask for traces, and OpenTelemetry's SDK is not installed: "
            "pip install 'leanplum-gateway[otel]', or set OTEL_TRACES_EXPORTER=none"
        ) from None
    # Its lines have times that vary, and may have a token of the collector's. Failures to export
    # are logged here.
    logging.getLogger("opentelemetry").propagate = False

    class ChosenIdGenerator(RandomIdGenerator):
        """Gives the span of a request the trace id for which it was sampled."""

        def generate_trace_id(self) -> int:
            chosen, _Exporting.next_trace_id = _Exporting.next_trace_id, 0
            return chosen or super().generate_trace_id()

    class ReportingExporter(OTLPSpanExporter):
        """Logs how many spans could not be exported."""

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            result = super().export(spans)
            if result is not SpanExportResult.SUCCESS:
                log.warning("traces.not_exported", items=len(spans))
            return result

    ours = Resource.create({"service.name": "leanplum-gateway", "service.version": __version__})
    try:
        provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()),
            id_generator=ChosenIdGenerator(),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(BatchSpanProcessor(ReportingExporter()))
    except ValueError:
        raise StartRefused(
            "OpenTelemetry refuses the values of the OTEL_* variables; see docs/traces.md"
        ) from None
    return provider


def enabled() -> bool:
    """Return whether spans are exported."""
    return _Exporting.provider is not None


def request_tracing() -> "TelemetryConfig":
    """Return FastAPI's options of telemetry: request spans are on only if spans are exported.

    Its metrics and logs stay off, since the gateway has its own.
    """
    options: TelemetryConfig = {
        "tracing": enabled(),
        "metrics": False,
        "logs": False,
        "auto_configure": False,
    }
    if _Exporting.provider is not None:
        options["operation_spans"] = False
        options["tracer_provider"] = _SafeProvider(_Exporting.provider)
    return options


def samples(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request with these headers is sampled.

    FastAPI would prepare a span of every request, and drop it only then.
    """
    provider = _Exporting.provider
    if provider is None:
        return False
    _Exporting.next_trace_id = 0
    for name, value in headers:
        if name == b"traceparent":
            context = propagate.extract({"traceparent": value.decode("latin-1")}, Context())
            parent = trace.get_current_span(context).get_span_context()
            if parent.is_valid:
                sampler = provider.sampler
                return _is_sampled(sampler.should_sample(context, parent.trace_id, "request"))
    trace_id = provider.id_generator.generate_trace_id()
    if not _is_sampled(provider.sampler.should_sample(None, trace_id, "request")):
        return False
    _Exporting.next_trace_id = trace_id
    return True


def _is_sampled(result: "SamplingResult") -> bool:
    sampled: bool = result.decision.is_sampled()  # type: ignore[no-untyped-call]  # the SDK's
    return sampled


class _SafeProvider(trace.TracerProvider):
    """The provider of tracers that leave out what comes from callers."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **options: Any) -> trace.Tracer:
        """Return the provider's tracer, wrapped to drop unsafe attributes."""
        return _SafeTracer(self._provider.get_tracer(*args, **options))


class _SafeTracer(trace.Tracer):
    """Starts spans with the safe attributes alone, and without the caller's `tracestate`."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        *args: Any,
        **options: Any,
    ) -> Span:
        """Start a span with its safe attributes."""
        parent = trace.get_current_span(context).get_span_context()
        if parent.is_valid:
            known = SpanContext(
                parent.trace_id, parent.span_id, parent.is_remote, parent.trace_flags
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(known), context)
        safe = {key: value for key, value in (attributes or {}).items() if key in SAFE_ATTRIBUTES}
        return self._tracer.start_span(name, context, kind, safe, *args, **options)

    def start_as_current_span(self, *args: Any, **options: Any) -> Any:
        """Raise NotImplementedError: FastAPI does not use it for the spans of requests."""
        raise NotImplementedError


def current_trace() -> tuple[str, str | None] | None:
    """Return the trace id of the current span, and its `traceparent` if it is sampled.

    None if there is no span.
    """
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    trace_id = trace.format_trace_id(context.trace_id)
    if not context.trace_flags.sampled:
        return trace_id, None
    return trace_id, f"00-{trace_id}-{trace.format_span_id(context.span_id)}-01"


def naming_route(
    handler: Callable[Concatenate[C, P], Awaitable[T]],
) -> Callable[Concatenate[C, P], Awaitable[T]]:
    """Return a handler of one path that names the request's span after it.

    FastAPI's router does that for the paths that it handles itself.
    """

    async def handle(context: C, /, *args: P.args, **options: P.kwargs) -> T:
        span = trace.get_current_span()
        if span.is_recording():
            span.update_name(f"{context.method} {context.path}")
            span.set_attribute("http.route", context.path)
        return await handler(context, *args, **options)

    return handle


def committing(items: int) -> AbstractContextManager[object]:
    """Return the span of the commit of a request's items."""
    return _span("commit", SpanKind.INTERNAL, attributes={"leanplum_gateway.items": items})


def delivering(app: str, traceparents: Iterable[str | None]) -> AbstractContextManager[object]:
    """Return the span of a delivery, given the `traceparent` of each item's acceptance.

    It belongs to the trace of the first item that has one, and is linked to them all. Without any,
    there is no span.
    """
    if not enabled():
        return nullcontext()
    parsed = map(_parse, dict.fromkeys(traceparents))
    parents = [parent for parent in parsed if parent is not None]
    if not parents:
        return nullcontext()
    return _span(
        "deliver",
        SpanKind.CONSUMER,
        context=trace.set_span_in_context(trace.NonRecordingSpan(parents[0])),
        links=[Link(parent) for parent in parents[:MOST_LINKS]],
        attributes={"leanplum_gateway.app": app},
    )


def note_outcomes(counts: Mapping[str, int]) -> None:
    """Note in the span of a delivery how many of its items are in which status."""
    if enabled():
        trace.get_current_span().set_attributes(
            {f"leanplum_gateway.items.{status}": count for status, count in counts.items()}
        )


@contextmanager
def calling(action: str, host: str) -> Iterator[OnStatus]:
    """Make the span of a call to Leanplum, if it is part of a trace.

    Yield a function that notes the HTTP status of the response.
    """
    if not trace.get_current_span().is_recording():
        yield lambda status: None
        return
    attributes = {
        "http.request.method": "POST",
        "server.address": host,
        "leanplum.action": action,
    }
    with _span(f"leanplum {action}", SpanKind.CLIENT, attributes=attributes) as span:

        def note_status(status: int) -> None:
            span.set_attribute("http.response.status_code", status)
            if status >= FAILED:
                _fail(span, str(status))

        yield note_status


@contextmanager
def _span(
    name: str,
    kind: SpanKind,
    *,
    attributes: Mapping[str, AttributeValue],
    context: Context | None = None,
    links: Iterable[Link] = (),
) -> Iterator[Span]:
    """Make a span and make it current. It records an error's type, not its text."""
    with _Exporting.tracer.start_as_current_span(
        name,
        context,
        kind,
        attributes,
        list(links),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            _fail(span, type(error).__qualname__)
            raise


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _parse(traceparent: str | None) -> SpanContext | None:
    """Return the context that a stored `traceparent` names; None for any other text."""
    found = TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
