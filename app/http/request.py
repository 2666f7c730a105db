"""The context of one HTTP request: what is known about it while it is handled.

The context is in the ASGI scope under `CONTEXT`. It is filled as facts become known, and read for
the log line, the audit record and the headers of the response.
"""

import itertools
import re
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

from structlog.typing import FilteringBoundLogger

from app.callers.key_format import PREFIX
from app.errors import Fault, Invalid
from app.http.proxies import Origin, TrustedProxies, plain
from app.ingest.service import CallSteps
from app.model import App, Caller
from app.telemetry import describe

CONTEXT = "gateway.context"
IDEMPOTENCY_KEY = "Idempotency-Key"
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}\Z")
# Unique together with a count, and cheaper than random bytes for each request.
PROCESS_ID = secrets.token_hex(10)
NO_DETAILS: Mapping[str, Any] = MappingProxyType({})
# W3C Trace Context
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")
# Headers that must not be repeated: RFC 9112 §3.2 for Host; the others decide who the caller is,
# which app is meant, and what the body is.
SINGLE_HEADERS = (
    b"host",
    b"authorization",
    b"x-api-key",
    b"x-leanplum-app",
    b"idempotency-key",
    b"content-type",
)
# RFC 3986 §3.2.2
HOST = re.compile(rb"[0-9A-Za-z._~%!$&'()*+;=-]*(?::[0-9]*)?|\[[0-9A-Fa-fvV:.%_~-]+\](?::[0-9]*)?")
# A string of RFC 8941, optionally with parameters.
_QUOTED_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"\s*(?:;.*)?')
_KEY_PREFIX = PREFIX.encode()
_request_count = itertools.count(1)


class RequestContext:
    """The facts of one request."""

    __slots__ = (
        "accepted",
        "address",
        "app",
        "caller",
        "credential",
        "cut_off",
        "details",
        "faulty",
        "headers",
        "held",
        "item_steps",
        "method",
        "operation",
        "origin",
        "overloaded",
        "path",
        "prefix",
        "rate_headers",
        "received",
        "recorded",
        "refused",
        "refused_actions",
        "refused_subjects",
        "request_id",
        "resource",
        "resources",
        "shown_key_id",
        "started",
        "subjects",
        "too_slow",
        "trace_id",
        "traceparent",
    )

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        # The fault of the headers, if any; such a request is refused on every path.
        self.faulty = header_fault(scope["http_version"], scope["headers"], self.headers)
        given = self.headers.get(b"x-request-id")
        self.request_id = given.decode() if given and REQUEST_ID.match(given) else new_request_id()
        trace = TRACEPARENT.match(self.headers.get(b"traceparent", b""))
        self.trace_id = trace.group(1).decode() if trace else None
        # Of the request's own span, if that is sampled.
        self.traceparent: str | None = None
        client = scope.get("client")
        peer = client[0] if client else ""
        self.address: str = plain(peer) if ":" in peer else peer
        self.origin = Origin(self.address, None, self.address)
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        # The path prefix under which the caller reaches the gateway.
        self.prefix = ""
        self.operation = f"{self.method} (unknown)"
        # A caller key as it was sent: the Authorization header, or NUL and the key itself.
        self.credential = self.headers.get(b"authorization") or b"\0" + self.headers.get(
            b"x-api-key", b""
        )
        self.caller: Caller | None = None
        # The id of a key in the request that is no longer valid.
        self.shown_key_id: str | None = None
        self.app: App | None = None
        # What enriches and checks the request's items, once it exists; it counts what it found.
        self.item_steps: CallSteps | None = None
        # True once the audit record of the request is written or being written.
        self.recorded = False
        # The ids of the resources that the request acts on, for the audit record.
        self.resource: str | None = None
        self.resources: Sequence[str] = ()
        # Further fields of the audit record.
        self.details: Mapping[str, Any] = NO_DETAILS
        # The number of accepted items.
        self.accepted = 0
        # The number of refused items; their actions, and some of their users and devices.
        self.refused = 0
        self.refused_actions: Mapping[str, int] = NO_DETAILS
        self.refused_subjects: Collection[str] = ()
        self.rate_headers: tuple[tuple[bytes, bytes], ...] = ()
        # The users and devices that the request concerns, as far as they are known.
        self.subjects: Collection[str] = ()
        # Bytes of the body that count against GATEWAY_MAX_HELD_BYTES.
        self.held = 0
        # Why reading the body stopped: the gateway holds too many bytes, the body arrives too
        # slowly, or the connection was closed.
        self.overloaded = False
        self.too_slow = False
        self.cut_off = False
        # When its headers and when its last byte had arrived (`time.perf_counter`).
        self.started = self.received = time.perf_counter()

    def use_key(self, key: str) -> None:
        """Authenticate the request by this key instead of the headers."""
        self.credential = b"\0" + key.encode("latin-1", "replace")

    def trace(self, proxies: TrustedProxies, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Find the client for which trusted proxies forward the request."""
        self.origin = proxies.origin(self.address, headers)
        self.address = self.origin.address

    @property
    def app_name(self) -> str:
        """The name of the request's app; "" if it has none."""
        return self.app.name if self.app is not None else ""

    def header(self, name: bytes) -> str:
        """Return a request header; "" if it is absent."""
        return self.headers.get(name, b"").decode("latin-1")


def context_of(scope: Any) -> RequestContext:
    """Return the context of the request with this ASGI scope."""
    context: RequestContext = scope[CONTEXT]
    return context


def log_failure(log: FilteringBoundLogger, context: RequestContext, error: Exception) -> None:
    """Log an unexpected exception: its type and place, never its text."""
    log.error(
        "request.failed",
        request_id=context.request_id,
        trace_id=context.trace_id,
        operation=context.operation,
        **describe(error),
    )


def new_request_id() -> str:
    """Return an id for a request that has none."""
    return f"{PROCESS_ID}{next(_request_count):012x}"


def header_fault(
    version: str, headers: Sequence[tuple[bytes, bytes]], last: Mapping[bytes, bytes]
) -> Fault | None:
    """Return the fault for which a request with these headers is refused; None if there is none.

    Two servers could interpret such headers differently, and who the caller is must not depend on
    which of two headers is read. `last` has the headers by name; it is as long as `headers` if none
    is repeated.
    """
    host = last.get(b"host")
    if host is None:
        if version == "1.1":  # in HTTP/1.0 it is optional
            return _fault_at("Host", "The request has no Host header.")
    elif HOST.fullmatch(host) is None:
        return _fault_at("Host", "The Host header must be a host, optionally with a port.")
    if len(last) != len(headers):
        repeated = _repeated_header(headers)
        if repeated is not None:
            return _fault_at(repeated, f"The request has more than one {repeated} header.")
    if (
        b"x-api-key" in last
        and b"authorization" in last
        and _have_different_keys(last[b"authorization"], last[b"x-api-key"])
    ):
        return _fault_at(
            "X-API-Key",
            "The Authorization and X-API-Key headers contain different keys; send only one.",
        )
    return None


def _fault_at(header: str, detail: str) -> Fault:
    return Fault(header, detail, "header", "header")


def _repeated_header(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    names = [name for name, _ in headers]
    repeated = next((name for name in SINGLE_HEADERS if names.count(name) > 1), None)
    if repeated is None:
        return None
    words = [word.capitalize() for word in repeated.decode().split("-")]
    return "-".join(words).replace("Api", "API")


def _have_different_keys(authorization: bytes, api_key: bytes) -> bool:
    """Tell whether both headers have a caller key and the keys differ.

    An X-API-Key that a proxy adds is not a caller key.
    """
    if not api_key.strip().startswith(_KEY_PREFIX):
        return False
    scheme, _, bearer = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and bearer.strip() != api_key.strip()


def idempotency_key(context: RequestContext) -> str | None:
    """Return the key in the Idempotency-Key header; None if the header is absent.

    Raises Invalid.
    """
    if b"idempotency-key" not in context.headers:
        return None
    return parse_idempotency_key(context.header(b"idempotency-key"))


def parse_idempotency_key(header: str) -> str:
    """Return the key in an Idempotency-Key header.

    The key is a quoted string (draft-ietf-httpapi-idempotency-key-header), or plain text, as many
    clients send it. Raises Invalid.
    """
    text = header.strip()
    if not text.startswith('"'):
        return text
    quoted = _QUOTED_STRING.fullmatch(text)
    if quoted is None:
        detail = 'must be a key as it is, or in double quotes with \\" and \\\\ inside (RFC 8941)'
        raise Invalid((Fault(IDEMPOTENCY_KEY, detail, "header", "header"),))
    return re.sub(r"\\(.)", r"\1", quoted[1])
