"""HTTP/1.1 on uvicorn's protocol, with joined writes and with bounds on what a caller may hold.

A response is written with one system call instead of two: uvicorn writes the head and the body
separately, and each write wakes the other side. For short responses that is a considerable part of
the cost of a request.

The bounds are the size of a head; the time that a head, a body or reading a response takes; and the
number of connections. They cost a request next to nothing: callbacks only note the progress, and a
timer looks at each connection once in a while.
"""

import asyncio
import fcntl
import http
import socket
import struct
import termios
from collections import Counter
from collections.abc import Callable
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.http import CONTEXT, context_of, new_request_id, problems
from app.server.lifecycle import Lifecycle
from app.settings import Settings

# Bytes of the request line and the headers; also of trailers, and of the framing of chunks
MAX_HEAD = 64 * 1024
MAX_URL = 32 * 1024
MAX_HEADERS = 100
MAX_PIPELINED = 100
CHECK_SECONDS = 1.0
REFUSED_SECONDS = 2.0  # in which a caller can read why its connection or head is refused
# Bounds on what is read and discarded after a response that was sent before its body was complete
LINGER_SECONDS = 30.0
LINGER_IDLE_SECONDS = 5.0  # without a byte
LINGER_BYTES = 64 * 1024 * 1024
LINGER_BYTES_UNDECLARED = 32 * 1024 * 1024  # of chunks, and of what is not HTTP
KEPT_BODY = 1024 * 1024  # bytes of an unwanted body behind which the connection is kept
LARGE_SHARE = 4  # an address has a large share from a quarter of all connections on
QUIET_SECONDS = 1.0  # of silence after which a draining process assumes no request is coming
DRAIN_CHECK_SECONDS = 0.05
UNSENT = 128 * 1024  # bytes that the kernel takes ahead, so that a reader's pace is seen

IDLE, HEAD, BODY, BUSY, REFUSED = "idle", "head", "body", "busy", "refused"
# Called directly: super() costs more than the code around the calls
_headers_complete = HttpToolsProtocol.on_headers_complete
_response_complete = HttpToolsProtocol.on_response_complete
log = structlog.get_logger("connection")


class _Joining:
    """A transport that joins all writes of one iteration of the event loop."""

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], bool]) -> None:
        self._transport, self._linger = transport, linger
        self._lingering = False
        self._held: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.written = 0  # bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write in the next iteration of the event loop."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def write_eof(self) -> None:
        """Write what is held, then close the sending side."""
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Write what is held, then close; first discard what the caller still sends."""
        self.flush()
        if not self._lingering and self._linger():
            self._lingering = True
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether the connection is closing or only discards what arrives."""
        return self._lingering or self._transport.is_closing()

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            data, self._held = b"".join(self._held), []
            self.written += len(data)
            self._transport.write(data)


class _BodyReader:
    """The receiver of a body whose head was read by another parser.

    What follows the body in the same packet is refused.
    """

    def __init__(self, protocol: "GatewayProtocol") -> None:
        self._protocol, self._whole = protocol, False

    def on_message_begin(self) -> None:
        """Refuse another request by raising ValueError, which ends the parsing."""
        if self._whole:
            raise ValueError

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._protocol.on_body(body)

    def on_message_complete(self) -> None:
        """End the body; the next request is read like any other."""
        self._whole = True
        self._protocol.parser = httptools.HttpRequestParser(self._protocol)
        self._protocol.on_message_complete()


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a joining transport, with bounds from the settings of the app."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection, or refuse it if there are too many."""
        self._joining = _Joining(transport, self._linger)
        super().connection_made(self._joining)  # type: ignore[arg-type]
        _notice_slow_readers(transport)
        self._settings: Settings = self.config.app.state.settings  # type: ignore[union-attr]
        self._lifecycle: Lifecycle = self.config.app.state.lifecycle  # type: ignore[union-attr]
        self._refused = False  # True once nothing more is answered
        # The refusal that is sent after the responses to the requests before it
        self._final_refusal: bytes | None = None
        # When the caller closed its sending side; it may still wait for a response
        self._half_closed_at: float | None = None
        # Seconds for which the rest is discarded: in all, and without a byte
        self._linger_limits = REFUSED_SECONDS, REFUSED_SECONDS
        self._discard_limit = LINGER_BYTES_UNDECLARED
        # The request after which the connection closes if its response is early
        self._closing_cycle: RequestResponseCycle | None = None
        self._received = 0  # bytes
        self._incomplete_bytes = 0  # since the last complete head or piece of a body
        self._last_received = self.loop.time()  # when the last byte arrived
        self._phase_seen: tuple[str, Any] = (IDLE, None)  # at the last check
        self._phase_start, self._received_before = self._last_received, 0  # bytes received by then
        # Since when the caller has not read a response, and how much it had read by then
        self._unread_since: tuple[float, int] | None = None
        self._check_interval = min(CHECK_SECONDS, self._settings.gateway_head_seconds / 4)
        self._timer = self.loop.call_later(self._check_interval, self._check)
        if len(self.connections) > self._settings.gateway_max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._timer.cancel()
        super().connection_lost(exc)

    # --- what comes in ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; refuse too many bytes that complete neither head nor body."""
        size = len(data)
        self._received += size
        self._incomplete_bytes += size
        self._last_received = self.loop.time()
        if self._discarding:
            if self._incomplete_bytes > self._discard_limit:
                self.transport.abort()
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_past_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_unreadable()
        if self._incomplete_bytes > MAX_HEAD and not self._discarding:
            self._refuse_head()
        if getattr(self.cycle, "more_body", False):
            self._end_if_answered_early()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a caller that sends no more, then close: it may still read."""
        if self._refused or not self._busy:
            self._joining.flush()
            return False
        self._half_closed_at = self.loop.time()
        if self._final_refusal is None:
            self.cycle.keep_alive = False
        if self.cycle.more_body:
            self._notify_truncated()
        return True

    def _notify_truncated(self) -> None:
        """Let the application answer that the body will never be complete."""
        if CONTEXT in self.cycle.scope:
            context_of(self.cycle.scope).cut_off = True
        self.cycle.message_event.set()

    def _end_if_answered_early(self) -> None:
        """Close after a response that is sent before the body is complete, unless little is left.

        A caller that awaits `100 Continue` may or may not send the body after another response, so
        nobody can tell what would follow.
        """
        cycle = self.cycle
        if cycle is self._closing_cycle or cycle.response_started or not cycle.keep_alive:
            return
        length = _declared(cycle)
        if length is None or length > KEPT_BODY or cycle.waiting_for_100_continue:
            cycle.keep_alive = False
            self._closing_cycle = cycle

    def on_headers_complete(self) -> None:
        """Begin a request whose head is complete. Trailers, which may come later, are dropped."""
        if (
            self._incomplete_bytes > MAX_HEAD
            or len(self.headers) > MAX_HEADERS
            or len(self.url) > MAX_URL
            or self.pipeline
        ):
            self._check_head()
        self._incomplete_bytes = 0
        before = self.cycle
        _headers_complete(self)
        self.headers = []
        if self._lifecycle.draining:
            self._close_after(before)

    def _check_head(self) -> None:
        """Check the limits of head and pipeline. Raises ValueError, which ends the parsing."""
        if self._exceeds_head_limits() or len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError

    def _exceeds_head_limits(self) -> bool:
        """Tell whether the head exceeds a limit; what has arrived may be more than the head."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        return len(self.headers) > MAX_HEADERS or len(self.url) > MAX_URL or size > MAX_HEAD

    def on_body(self, body: bytes) -> None:
        """Store a part of a body, and pause reading if the application is behind."""
        self._incomplete_bytes = 0
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End a request, unless the parser only stopped because of an Upgrade header."""
        if self.parser.should_upgrade() and self._framing():
            return
        self.cycle.more_body = False
        if self.cycle is self._closing_cycle and not self.cycle.response_started:
            self.cycle.keep_alive, self._closing_cycle = not self._lifecycle.draining, None
        if not self.cycle.response_complete:
            self.cycle.message_event.set()

    def _framing(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that define the length of the body; none if there is no body."""
        framing = [
            (name, value)
            for name, value in self.cycle.scope["headers"]
            if name in {b"content-length", b"transfer-encoding"}
        ]
        if all(name == b"content-length" and int(value) == 0 for name, value in framing):
            return []
        return framing

    def _parse_past_upgrade(self, rest: bytes) -> None:
        """Continue parsing after an Upgrade header, which is ignored (RFC 9110 §7.8).

        The HTTP client of Java asks for h2c with every request, including those with a body.
        """
        if framing := self._framing():
            self.parser = httptools.HttpRequestParser(_BodyReader(self))
            head = b"".join(b"%s: %s\r\n" % field for field in framing)
            rest = b"POST / HTTP/1.1\r\n%s\r\n%s" % (head, rest)
        else:
            self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(rest)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_past_upgrade(rest[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_unreadable()

    def _refuse_unreadable(self) -> None:
        """Refuse what is not HTTP, or a head that exceeds a limit, with a problem document."""
        if self._in_head and self._exceeds_head_limits():
            self._refuse_head()
        else:
            self._refuse("malformed", "The request is not HTTP/1.1.")

    def _refuse_head(self) -> None:
        if self._in_head and len(self.url) > MAX_URL:
            self._refuse("url-too-long", f"The URI exceeds {MAX_URL} bytes.")
        else:
            limits = f"{MAX_HEADERS} header fields or {MAX_HEAD} bytes of them"
            detail = f"The request has more than {limits}."
            self._refuse("head-too-large", detail)

    # --- time ------------------------------------------------------------------------------------

    @property
    def _discarding(self) -> bool:
        """True if what arrives is discarded."""
        return self._refused or self._final_refusal is not None

    @property
    def _in_head(self) -> bool:
        """True if a head has begun and is not complete: its scope belongs to no cycle yet."""
        # Before the first request there is no cycle
        return self.scope is not getattr(self.cycle, "scope", None)

    @property
    def _busy(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)

    @property
    def idle(self) -> bool:
        """True if no request is in progress."""
        return self._progress()[0] is IDLE

    def _progress(self) -> tuple[str, Any]:
        """Return the phase of the connection, and the request that is in it."""
        if self._refused:
            return REFUSED, None
        if self._in_head:
            return HEAD, self.scope
        if getattr(self.cycle, "more_body", False):
            return BODY, self.cycle
        return (BUSY, self.cycle) if self._busy else (IDLE, None)

    def _check(self) -> None:
        """Check periodically whether anything is too slow.

        A phase is timed from the first check that finds it.
        """
        draining = self._lifecycle.draining
        self._timer = self.loop.call_later(
            DRAIN_CHECK_SECONDS if draining else self._check_interval, self._check
        )
        now, seen = self.loop.time(), self._progress()
        if seen != self._phase_seen:
            self._phase_seen, self._phase_start, self._received_before = seen, now, self._received
        phase, waited = seen[0], now - self._phase_start
        if self._unread_too_long(now) or (phase is REFUSED and self._lingered(now, waited)):
            self.transport.abort()
        elif phase is HEAD and waited > self._settings.gateway_head_seconds:
            seconds = f"{self._settings.gateway_head_seconds:g}"
            self._refuse(
                "request-timeout", f"The request's head was incomplete after {seconds} seconds."
            )
        elif phase is BODY:
            self._check_body(waited)
        elif (
            phase is IDLE
            and now - max(self._last_received, self._phase_start) > self.timeout_keep_alive
        ):
            self.transport.close()
        elif phase is IDLE and draining:
            self._close_quiet(now)

    def _check_body(self, waited: float) -> None:
        """Let the application answer a body that arrives more slowly than the lowest rate.

        Time in which the application did not want to read does not count.
        """
        if self._half_closed_at is not None:
            self._notify_truncated()
            if self.loop.time() - self._half_closed_at > self._settings.gateway_slow_seconds:
                self.transport.close()
        elif self.flow.read_paused:
            self._phase_start += self._check_interval
        elif waited > self._allowed(self._received - self._received_before):
            if self.cycle.response_complete:
                self.transport.close()
                return
            self.cycle.keep_alive = False
            if CONTEXT in self.cycle.scope:
                context_of(self.cycle.scope).too_slow = True
            self.cycle.message_event.set()

    def _unread_too_long(self, now: float) -> bool:
        unread = self.transport.get_write_buffer_size()
        if not unread:
            self._unread_since = None
            return False
        read = self._joining.written - unread
        since, before = self._unread_since = self._unread_since or (now, read)
        return now - since > self._allowed(read - before)

    def _allowed(self, size: int) -> float:
        """Return the seconds that so many bytes may take."""
        return (
            self._settings.gateway_slow_seconds
            + size / self._settings.gateway_least_bytes_per_second
        )

    def _lingered(self, now: float, waited: float) -> bool:
        most, idle = self._linger_limits
        return waited > most or now - max(self._last_received, self._phase_start) > idle

    # --- stopping --------------------------------------------------------------------------------

    def drain(self) -> None:
        """Make every response that begins from now on the last one of its connection."""
        if self._busy and not self.cycle.response_started:
            self.cycle.keep_alive = False
        self._timer.cancel()
        self._check()

    @property
    def open_to_work(self) -> bool:
        """True if a request may still arrive, or a response is not read yet."""
        return not self._refused or bool(self.transport.get_write_buffer_size())

    def _close_after(self, before: RequestResponseCycle | None) -> None:
        """Close after the response to the newest request, not after the one before it."""
        if before is not None and not before.response_started:
            before.keep_alive = True
        self.cycle.keep_alive = False

    def _close_quiet(self, now: float) -> None:
        """Close a connection that has been idle for a while.

        The sending side is closed first and reading continues, so that a request that arrives all
        the same is not reset.
        """
        keep_alive = self.timeout_keep_alive_task
        answered = keep_alive.when() - self.timeout_keep_alive if keep_alive is not None else 0.0
        quiet = now - max(self._last_received, answered)
        if quiet < QUIET_SECONDS or self.transport.is_closing() or self._has_unread_bytes():
            return
        self._refused = True
        self.transport.write_eof()

    def _has_unread_bytes(self) -> bool:
        """Tell whether the kernel has received bytes that the event loop has not read yet."""
        opened = self.transport.get_extra_info("socket")
        if opened is None:
            return False
        waiting = fcntl.ioctl(opened.fileno(), termios.FIONREAD, struct.pack("i", 0))
        return bool(struct.unpack("i", waiting)[0])

    # --- refusing --------------------------------------------------------------------------------

    def _linger(self) -> bool:
        """Discard the rest of a body before the connection closes; tell whether that is necessary.

        Closing a socket with unread bytes resets the connection, and the caller's system then
        discards the response. So only the sending side is closed, and what arrives is discarded.
        """
        if (
            self._refused
            or self._half_closed_at is not None
            or not getattr(self.cycle, "more_body", False)
        ):
            return False
        if (
            self.cycle.disconnected
            or self._joining.is_closing()
            or not self._joining.can_write_eof()
        ):
            return False
        self._refused, self._incomplete_bytes = True, 0
        self._linger_limits = LINGER_SECONDS, LINGER_IDLE_SECONDS
        if _declared(self.cycle) is not None:
            self._discard_limit = LINGER_BYTES
        self.cycle.body = bytearray()
        self._joining.write_eof()
        self.flow.resume_reading()
        return True

    def _make_room(self) -> None:
        """Close an expendable connection, or refuse this one if there is none.

        Connections of an address with a large share go first, and of these the one that has been
        expendable for longest.
        """
        others = [
            other
            for other in self.connections
            if isinstance(other, GatewayProtocol) and other is not self
        ]
        by_address = Counter(other._address for other in others)
        share = self._settings.gateway_max_connections / LARGE_SHARE
        expendable = [other for other in others if other._expendable]
        if not expendable:
            detail = "The limit of open connections is reached."
            self._refuse("overloaded", detail, (b"retry-after", b"5"))
            return

        def rank(other: GatewayProtocol) -> tuple[bool, float]:
            small_share = by_address[other._address] < share
            return small_share, other._last_received if other.idle else other._phase_start

        min(expendable, key=rank).transport.close()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _expendable(self) -> bool:
        """True if no authenticated caller waits on the connection.

        It is idle, or a head or body is still arriving from a caller that has shown no key.
        """
        phase, cycle = self._progress()
        if phase is BODY:
            context = cycle.scope.get(CONTEXT)
            return context is None or context.caller is None
        return phase in {IDLE, HEAD, REFUSED}

    def _refuse(self, slug: str, detail: str, *headers: tuple[bytes, bytes]) -> None:
        """Send a problem, then close; complete requests before it are answered first.

        Nothing is sent where it would be taken for a part of another response.
        """
        log.info("connection.refused", slug=slug, address=self._address or None)
        self._incomplete_bytes = 0
        refusal = self._problem(slug, detail, *headers)
        if self._others_wait():
            self._final_refusal, self.scope = refusal, self.cycle.scope
            return
        self._refused = True
        if self._busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._busy and self.cycle.response_started:
            self.transport.close()
        else:
            self._end_with(refusal)

    def _others_wait(self) -> bool:
        """Tell whether complete requests wait for responses; an incomplete one is given up."""
        if not self._busy:
            return False
        if self._in_head or not self.cycle.more_body:
            return True
        if not self.pipeline:
            return False
        self.pipeline.popleft()
        self.cycle.more_body = False
        return True

    def on_response_complete(self) -> None:
        """End a response; after the last one, send a refusal that has waited for it."""
        last = None if self.pipeline else self._final_refusal
        _response_complete(self)
        if last is not None and not self.transport.is_closing():
            self._refused, self._final_refusal = True, None
            self._end_with(last)

    def _end_with(self, refusal: bytes) -> None:
        self.transport.write(refusal)
        if self._half_closed_at is not None:
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    def _problem(self, slug: str, detail: str, *headers: tuple[bytes, bytes]) -> bytes:
        request_id, root = new_request_id(), self._settings.gateway_root_path
        answer = problems.plain(slug, detail, request_id, root, (b"connection", b"close"), *headers)
        fields = [
            *self.server_state.default_headers,
            *answer.headers,
            (b"x-request-id", request_id.encode()),
        ]
        lines = b"".join(b"%s: %s\r\n" % field for field in fields)
        line = b"HTTP/1.1 %d %s\r\n" % (
            answer.status,
            http.HTTPStatus(answer.status).phrase.encode(),
        )
        return line + lines + b"content-length: %d\r\n\r\n" % len(answer.body) + answer.body


def _declared(cycle: RequestResponseCycle) -> int | None:
    """Return the declared length of a request's body; None if it is sent in chunks."""
    return next(
        (int(value) for name, value in cycle.scope["headers"] if name == b"content-length"), None
    )


def _notice_slow_readers(transport: asyncio.Transport) -> None:
    opened = transport.get_extra_info("socket")
    if opened is not None and opened.family in {socket.AF_INET, socket.AF_INET6}:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
