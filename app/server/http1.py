"""HTTP/1.1 as uvicorn speaks it, but with one write for an answer instead of two, and with bounds
on what a caller may hold: the size of a head, the time that a head, a body or the reading of an
answer takes, the number of connections.

uvicorn writes an answer's head and body by themselves; each is a system call and wakes the other
side. For answers as short as ours that is a fair part of what a request costs. The bounds cost a
request next to nothing: callbacks only note where they are, and each connection is looked at once
in a while.
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

# Bytes of a request's line and headers together; of trailers, and of what frames chunks, too
MAX_HEAD = 64 * 1024
MAX_URL = 32 * 1024
MAX_HEADERS = 100
MAX_PIPELINED = 100
LOOK_SECONDS = 1.0
REFUSED_SECONDS = 2.0  # in which a caller whose connection or head is refused can read why
# Bounds on what is read and discarded behind an answer that was sent before its body was whole.
LINGER_SECONDS = 30.0
LINGER_IDLE_SECONDS = 5.0  # without a byte
LINGER_BYTES = 64 * 1024 * 1024
LINGER_BYTES_UNDECLARED = 32 * 1024 * 1024  # of chunks, and of what is not HTTP
KEPT_BODY = 1024 * 1024  # bytes of an unwanted body behind which the connection is kept
LARGE_SHARE = 4  # of all connections, a fourth
QUIET_SECONDS = 1.0  # after which, while the process stops, no request is taken to be on its way
DRAIN_LOOK_SECONDS = 0.05
UNSENT = 128 * 1024  # bytes that the kernel takes ahead, so that a reader's pace is seen

IDLE, HEAD, BODY, BUSY, REFUSED = "idle", "head", "body", "busy", "refused"
# By its name: super() costs more than what is done around it
_headers_complete = HttpToolsProtocol.on_headers_complete
_response_complete = HttpToolsProtocol.on_response_complete
log = structlog.get_logger("connection")


class _Joining:
    """A transport that holds back what is written until the event loop's next turn, and then writes
    it at once.
    """

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], bool]) -> None:
        self._transport, self._linger = transport, linger
        self._lingering = False
        self._held: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.written = 0  # bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write soon."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def write_eof(self) -> None:
        """Write what is held, then tell that no more comes."""
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Write what is held, then close; but first take in what the caller still sends."""
        self.flush()
        if not self._lingering and self._linger():
            self._lingering = True
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing more is to be done here."""
        return self._lingering or self._transport.is_closing()

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            data, self._held = b"".join(self._held), []
            self.written += len(data)
            self._transport.write(data)


class _BodyReader:
    """Hears of a body whose head was read by another parser. What follows in the same packet is
    refused.
    """

    def __init__(self, protocol: "GatewayProtocol") -> None:
        self._protocol, self._whole = protocol, False

    def on_message_begin(self) -> None:
        """Raises ValueError, which ends the parsing, where this is another request."""
        if self._whole:
            raise ValueError

    def on_body(self, body: bytes) -> None:
        """A piece."""
        self._protocol.on_body(body)

    def on_message_complete(self) -> None:
        """All of it; the next request is read as any other."""
        self._whole = True
        self._protocol.parser = httptools.HttpRequestParser(self._protocol)
        self._protocol.on_message_complete()


class GatewayProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a joining transport, with bounds (from the settings in the app's
    state).
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened."""
        self._joining = _Joining(transport, self._linger)
        super().connection_made(self._joining)  # type: ignore[arg-type]
        _notice_slow_readers(transport)
        self._settings: Settings = self.config.app.state.settings  # type: ignore[union-attr]
        self._lifecycle: Lifecycle = self.config.app.state.lifecycle  # type: ignore[union-attr]
        self._refused = False  # whether nothing more is answered
        # The refusal that is said after the answers to the requests before it
        self._last: bytes | None = None
        # Since when the caller sends no more, and waits for an answer
        self._ended: float | None = None
        # For how long then, in all and without a byte
        self._lingers = REFUSED_SECONDS, REFUSED_SECONDS
        self._discards = LINGER_BYTES_UNDECLARED
        # What ends the connection if answered early
        self._ending: RequestResponseCycle | None = None
        self._received = 0  # bytes
        self._beside = 0  # bytes that came since a head or a piece of a body was whole
        self._heard = self.loop.time()  # when anything came
        self._seen: tuple[str, Any] = (IDLE, None)  # what was going on at the last look
        self._since, self._before = self._heard, 0  # since when, and what had been received by then
        # Since when an answer is not read, and what had been by then
        self._unread: tuple[float, int] | None = None
        self._every = min(LOOK_SECONDS, self._settings.gateway_head_seconds / 4)
        self._timer = self.loop.call_later(self._every, self._look)
        if len(self.connections) > self._settings.gateway_max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._timer.cancel()
        super().connection_lost(exc)

    # --- what comes in ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Some bytes; the last ones, where they are neither a whole head nor a body for too
        long.
        """
        size = len(data)
        self._received += size
        self._beside += size
        self._heard = self.loop.time()
        if self._deaf:
            if self._beside > self._discards:
                self.transport.abort()
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_unreadable()
        if self._beside > MAX_HEAD and not self._deaf:
            self._refuse_head()
        if getattr(self.cycle, "more_body", False):
            self._end_if_answered_early()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The caller sends no more. It may still read: what it asked for is answered, then the
        connection is closed.
        """
        if self._refused or not self._busy:
            self._joining.flush()
            return False
        self._ended = self.loop.time()
        if self._last is None:
            self.cycle.keep_alive = False
        if self.cycle.more_body:
            self._tell_of_cut()
        return True

    def _tell_of_cut(self) -> None:
        """Let the application say that the body will never be whole."""
        if CONTEXT in self.cycle.scope:
            context_of(self.cycle.scope).cut_off = True
        self.cycle.message_event.set()

    def _end_if_answered_early(self) -> None:
        """Let an answer that comes before the body is whole end the connection, unless little of
        the body is left. Who awaits `100 Continue` may send the body behind another answer, or may
        not: nobody can tell what would follow then.
        """
        cycle = self.cycle
        if cycle is self._ending or cycle.response_started or not cycle.keep_alive:
            return
        length = _declared(cycle)
        if length is None or length > KEPT_BODY or cycle.waiting_for_100_continue:
            cycle.keep_alive = False
            self._ending = cycle

    def on_headers_complete(self) -> None:
        """A head is whole. Trailers, which may come later, are none of it and are dropped."""
        if (
            self._beside > MAX_HEAD
            or len(self.headers) > MAX_HEADERS
            or len(self.url) > MAX_URL
            or self.pipeline
        ):
            self._check_head()
        self._beside = 0
        before = self.cycle
        _headers_complete(self)
        self.headers = []
        if self._lifecycle.draining:
            self._close_after(before)

    def _check_head(self) -> None:
        """Raises ValueError, which ends the parsing, where the head or the pipeline is over a
        limit.
        """
        if self._too_much() or len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError

    def _too_much(self) -> bool:
        """What came may be more than the head."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        return len(self.headers) > MAX_HEADERS or len(self.url) > MAX_URL or size > MAX_HEAD

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._beside = 0
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        """A request is whole; or the parser goes no further, since another protocol was asked
        for.
        """
        if self.parser.should_upgrade() and self._framing():
            return
        self.cycle.more_body = False
        if self.cycle is self._ending and not self.cycle.response_started:
            self.cycle.keep_alive, self._ending = not self._lifecycle.draining, None
        if not self.cycle.response_complete:
            self.cycle.message_event.set()

    def _framing(self) -> list[tuple[bytes, bytes]]:
        """The headers that tell how long the request's body is; none where it has none."""
        told = [
            one
            for one in self.cycle.scope["headers"]
            if one[0] in {b"content-length", b"transfer-encoding"}
        ]
        return (
            []
            if all(name == b"content-length" and int(value) == 0 for name, value in told)
            else told
        )

    def _go_on(self, rest: bytes) -> None:
        """Read on where the parser stopped at an Upgrade, which is answered as if it had not been
        asked for (RFC 9110 §7.8): Java's client asks for h2c with whatever it sends, its bodies
        included.
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
            self._go_on(rest[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_unreadable()

    def _refuse_unreadable(self) -> None:
        """What is no HTTP at all, or too much of it, is told in the one form of errors, too."""
        if self._in_head and self._too_much():
            self._refuse_head()
        else:
            self._refuse("malformed", "The request is not HTTP/1.1.")

    def _refuse_head(self) -> None:
        if self._in_head and len(self.url) > MAX_URL:
            self._refuse("url-too-long", f"The URL has more than {MAX_URL} bytes.")
        else:
            detail = f"The head has more than {MAX_HEADERS} headers or {MAX_HEAD} bytes."
            self._refuse("head-too-large", detail)

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def _deaf(self) -> bool:
        """Whether what comes is discarded."""
        return self._refused or self._last is not None

    @property
    def _in_head(self) -> bool:
        """Whether a head has begun and is not whole: then its scope is no cycle's yet."""
        # Before the first request there is no cycle
        return self.scope is not getattr(self.cycle, "scope", None)

    @property
    def _busy(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)

    @property
    def idle(self) -> bool:
        """Whether nothing is going on."""
        return self._going_on()[0] is IDLE

    def _going_on(self) -> tuple[str, Any]:
        """What is going on, and with which request."""
        if self._refused:
            return REFUSED, None
        if self._in_head:
            return HEAD, self.scope
        if getattr(self.cycle, "more_body", False):
            return BODY, self.cycle
        return (BUSY, self.cycle) if self._busy else (IDLE, None)

    def _look(self) -> None:
        """Once in a while: is anything too slow? What is going on is timed from the first look that
        finds it.
        """
        draining = self._lifecycle.draining
        self._timer = self.loop.call_later(
            DRAIN_LOOK_SECONDS if draining else self._every, self._look
        )
        now, seen = self.loop.time(), self._going_on()
        if seen != self._seen:
            self._seen, self._since, self._before = seen, now, self._received
        what, waited = seen[0], now - self._since
        if self._unread_too_long(now) or (what is REFUSED and self._lingered(now, waited)):
            self.transport.abort()
        elif what is HEAD and waited > self._settings.gateway_head_seconds:
            seconds = f"{self._settings.gateway_head_seconds:g}"
            self._refuse(
                "request-timeout", f"The request's head was not whole after {seconds} seconds."
            )
        elif what is BODY:
            self._look_at_body(waited)
        elif what is IDLE and now - max(self._heard, self._since) > self.timeout_keep_alive:
            self.transport.close()
        elif what is IDLE and draining:
            self._close_quiet(now)

    def _look_at_body(self, waited: float) -> None:
        """Too slow is what is slower than the least rate, when it was asked for. The application
        tells the caller.
        """
        if self._ended is not None:
            self._tell_of_cut()
            if self.loop.time() - self._ended > self._settings.gateway_slow_seconds:
                self.transport.close()
        elif self.flow.read_paused:
            self._since += self._every
        elif waited > self._allowed(self._received - self._before):
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
            self._unread = None
            return False
        read = self._joining.written - unread
        since, before = self._unread = self._unread or (now, read)
        return now - since > self._allowed(read - before)

    def _allowed(self, size: int) -> float:
        """The seconds that so many bytes may take."""
        return (
            self._settings.gateway_slow_seconds
            + size / self._settings.gateway_least_bytes_per_second
        )

    def _lingered(self, now: float, waited: float) -> bool:
        most, idle = self._lingers
        return waited > most or now - max(self._heard, self._since) > idle

    # --- stopping -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """From now on every answer that begins is the last of its connection."""
        if self._busy and not self.cycle.response_started:
            self.cycle.keep_alive = False
        self._timer.cancel()
        self._look()

    @property
    def open_to_work(self) -> bool:
        """Whether a request, or an answer that nobody has read yet, may still go over it."""
        return not self._refused or bool(self.transport.get_write_buffer_size())

    def _close_after(self, before: RequestResponseCycle | None) -> None:
        """Close after the answer to the request whose head just came; not after that to the one
        before it.
        """
        if before is not None and not before.response_started:
            before.keep_alive = True
        self.cycle.keep_alive = False

    def _close_quiet(self, now: float) -> None:
        """Close a connection on which nothing has gone on for a while. This side ends first and
        reads on, so that what comes in spite of that meets no reset.
        """
        keep_alive = self.timeout_keep_alive_task
        answered = keep_alive.when() - self.timeout_keep_alive if keep_alive is not None else 0.0
        quiet = now - max(self._heard, answered)
        if quiet < QUIET_SECONDS or self.transport.is_closing() or self._has_unread_bytes():
            return
        self._refused = True
        self.transport.write_eof()

    def _has_unread_bytes(self) -> bool:
        """Whether the kernel has received something that the event loop has not come to read
        yet.
        """
        opened = self.transport.get_extra_info("socket")
        if opened is None:
            return False
        waiting = fcntl.ioctl(opened.fileno(), termios.FIONREAD, struct.pack("i", 0))
        return bool(struct.unpack("i", waiting)[0])

    # --- refusing -----------------------------------------------------------------------------------------------------

    def _linger(self) -> bool:
        """Whether the rest of a body is taken in before the connection closes; from now on it is.

        To close a socket on which unread bytes lie resets the connection, and the caller's system
        then discards the answer. So the sending side is closed alone, and what comes is discarded.
        """
        if self._refused or self._ended is not None or not getattr(self.cycle, "more_body", False):
            return False
        if (
            self.cycle.disconnected
            or self._joining.is_closing()
            or not self._joining.can_write_eof()
        ):
            return False
        self._refused, self._beside = True, 0
        self._lingers = LINGER_SECONDS, LINGER_IDLE_SECONDS
        if _declared(self.cycle) is not None:
            self._discards = LINGER_BYTES
        self.cycle.body = bytearray()
        self._joining.write_eof()
        self.flow.resume_reading()
        return True

    def _make_room(self) -> None:
        """Close a connection on which no caller is known to wait for anything; where there is none,
        refuse this one. First those of an address that has a large share of all, and of these the
        one that has been so for longest.
        """
        others = [
            one for one in self.connections if isinstance(one, GatewayProtocol) and one is not self
        ]
        of_address = Counter(one._address for one in others)
        share = self._settings.gateway_max_connections / LARGE_SHARE
        found = min(
            (one for one in others if one._expendable),
            key=lambda one: (
                of_address[one._address] < share,
                one._heard if one.idle else one._since,
            ),
            default=None,
        )
        if found is not None:
            found.transport.close()
        else:
            self._refuse(
                "overloaded", "As many connections as may be are open.", (b"retry-after", b"5")
            )

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _expendable(self) -> bool:
        """Whether nobody who has shown a key waits: nothing is going on, or a head or body is still
        coming from who knows whom.
        """
        what, of = self._going_on()
        if what is BODY:
            told = of.scope.get(CONTEXT)
            return told is None or told.caller is None
        return what in {IDLE, HEAD, REFUSED}

    def _refuse(self, slug: str, detail: str, *headers: tuple[bytes, bytes]) -> None:
        """Say why, then close. The requests before it that are whole are answered first. Nothing is
        said where it would be taken for a part of another answer.
        """
        log.info("connection.refused", slug=slug, address=self._address)
        self._beside = 0
        refusal = self._problem(slug, detail, *headers)
        if self._others_wait():
            self._last, self.scope = refusal, self.cycle.scope
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
        """Whether requests that are whole wait for answers; the one that is not is given up."""
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
        """An answer is out; the last word follows the last one."""
        last = None if self.pipeline else self._last
        _response_complete(self)
        if last is not None and not self.transport.is_closing():
            self._refused, self._last = True, None
            self._end_with(last)

    def _end_with(self, refusal: bytes) -> None:
        self.transport.write(refusal)
        if self._ended is not None:
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
    """The length that a request's body is said to have; None for one in chunks."""
    return next(
        (int(value) for name, value in cycle.scope["headers"] if name == b"content-length"), None
    )


def _notice_slow_readers(transport: asyncio.Transport) -> None:
    opened = transport.get_extra_info("socket")
    if opened is not None and opened.family in {socket.AF_INET, socket.AF_INET6}:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
