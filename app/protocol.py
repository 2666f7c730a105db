"""HTTP/1.1 as uvicorn speaks it, but with one write for an answer instead of two.

uvicorn writes an answer's head and body by themselves; each is a system call and wakes the other side. For answers as
short as ours that is a fair part of what a request costs.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api import context, problems


class _Joining:
    """A transport that holds back what is written until the event loop's next turn, and then writes it at once."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write soon."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            self._transport.write(data)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol on a joining transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened."""
        super().connection_made(_Joining(transport))  # type: ignore[arg-type]

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP at all is told in the one form of errors, too."""
        request_id = context.new_request_id()
        answer = problems.plain("malformed", "The request is not HTTP/1.1.", request_id, (b"connection", b"close"))
        fields = [*self.server_state.default_headers, *answer.headers, (b"x-request-id", request_id.encode())]
        lines = b"".join(b"%s: %s\r\n" % field for field in fields)
        head = b"HTTP/1.1 400 Bad Request\r\n%scontent-length: %d\r\n\r\n" % (lines, len(answer.body))
        self.transport.write(head + answer.body)
        self.transport.close()
