"""What is known of the request being answered. It travels in the ASGI scope under `CONTEXT`."""

import itertools
import re
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

from app.http import header_checks
from app.http.client_address import Origin, TrustedProxies, plain
from app.model import App, Caller
from app.tracking.checker import Gate

CONTEXT = "gateway.context"
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}\Z")
PROCESS = secrets.token_hex(10)  # with a count: unique, and cheaper than chance for each request
NO_DETAILS: Mapping[str, Any] = MappingProxyType({})
_count = itertools.count(1)
# W3C Trace Context
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")


def new_request_id() -> str:
    """The id of a request that brings none."""
    return f"{PROCESS}{next(_count):012x}"


class Context:
    """One request's facts, filled as they become known: for the log line, the audit record and the
    answer's headers.
    """

    __slots__ = (
        "address",
        "app",
        "caller",
        "cut_off",
        "details",
        "faulty",
        "gate",
        "headers",
        "held",
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
        "shown",
        "started",
        "subjects",
        "too_slow",
        "trace_id",
    )

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        # What is wrong with the head, whatever is asked for.
        self.faulty = header_checks.fault(scope["http_version"], scope["headers"], self.headers)
        given = self.headers.get(b"x-request-id")
        self.request_id = given.decode() if given and REQUEST_ID.match(given) else new_request_id()
        trace = TRACEPARENT.match(self.headers.get(b"traceparent", b""))
        self.trace_id = trace.group(1).decode() if trace else None
        client = scope.get("client")
        peer = client[0] if client else ""
        self.address: str = plain(peer) if ":" in peer else peer
        self.origin = Origin(self.address, None, self.address)
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.prefix = ""  # the path prefix under which the caller finds the gateway
        self.operation = f"{self.method} (unknown)"
        self.caller: Caller | None = None
        self.shown: str | None = None  # the id of a key that came with the call and opens nothing
        self.app: App | None = None  # that the call is about, once it is known
        self.gate: Gate | None = None  # what its items are held against beside the rules
        # Whether the audit record of this call went along with what it accepted
        self.recorded = False
        self.resource: str | None = None  # the id of what it is to be done to, where that is known
        self.resources: Sequence[str] = ()  # further ids of that
        self.details: Mapping[str, Any] = NO_DETAILS  # what else its audit record says
        self.refused = 0  # items of a batch of which none was taken
        # Leanplum's actions that were refused, and how often
        self.refused_actions: Mapping[str, int] = NO_DETAILS
        self.refused_subjects: Collection[str] = ()  # some of those whom that was about
        self.rate_headers: tuple[tuple[bytes, bytes], ...] = ()
        self.subjects: Collection[str] = ()  # whom the call is about, as far as that is known
        self.held = 0  # bytes of its body that count while it is answered
        # Whether it is refused since the gateway holds too much to read its body
        self.overloaded = False
        self.too_slow = False  # whether the body comes too slowly to be waited for any longer
        self.cut_off = False  # whether its body ends before it is whole
        # When its first and its last byte was here
        self.started = self.received = time.perf_counter()

    def trace(self, proxies: TrustedProxies, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Find out for whom trusted proxies forward the request."""
        self.origin = proxies.origin(self.address, headers)
        self.address = self.origin.address

    @property
    def app_name(self) -> str:
        """The name of the app that the call is about, or "" where it is about none."""
        return self.app.name if self.app is not None else ""

    def header(self, name: bytes) -> str:
        """A request header, or ""."""
        return self.headers.get(name, b"").decode("latin-1")


def of(scope: Any) -> Context:
    """The context of the request with this ASGI scope."""
    context: Context = scope[CONTEXT]
    return context
