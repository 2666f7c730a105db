"""Streams of server-sent events: the live parts of pages.

A stream ends as soon as its session does, and when the apps of its key change. Whether sessions go
on is asked once for all streams.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from app.console.access import ConsoleAccess, SignedOut, Visitor
from app.console.poller import Poller
from app.console.sessions import SessionStore
from app.errors import Forbidden, Overloaded
from app.http import VARY_BY_PREFIX
from app.model import Scope

MOST_STREAMS = 100  # of a process
MOST_OF_SESSION = 10
CHECK_SECONDS = 0.4  # between checks of the key; the directory of keys is as old at most
SESSION_SECONDS = 2.0  # between checks whether somebody has signed out
# Checks without an event after which a comment is sent. Only by it a closed connection is noticed:
# a client that closes may as well have closed only its sending side (`server/http1.py`).
KEEPALIVE_CHECKS = 5
RECONNECT_MS = 2_000  # after which a browser asks again, if a stream breaks off
ENDED = "ended"  # the event that tells a page to load itself again, or to go to the sign-in page
# Proxies pass each event on at once.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **VARY_BY_PREFIX}


class _Watched:
    """The sessions with open streams, and which of them have ended."""

    def __init__(self, sessions: SessionStore) -> None:
        self._sessions = sessions
        self.open = Counter[bytes]()  # streams, by the hash of their session
        self.ended: set[bytes] = set()

    def begin(self) -> None:
        """Do nothing: there is nothing to forget."""

    async def read(self) -> None:
        """Ask which of the sessions go on."""
        watched = set(self.open)
        self.ended = watched - await self._sessions.present(watched)


class _CountedResponse(EventSourceResponse):
    """A response with a stream that counts as open from now on until it has ended."""

    def __init__(self, stream: AsyncIterator[bytes], streams: Counter[bytes], key: bytes) -> None:
        super().__init__(stream, headers=HEADERS)
        self._streams, self._key = streams, key
        # Now: many requests may come before the first of their streams begins.
        streams[key] += 1

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams[self._key] -= 1
            if not self._streams[self._key]:
                del self._streams[self._key]


class Streams:
    """The open streams of a process."""

    def __init__(self, access: ConsoleAccess) -> None:
        self._access = access
        self._watched = _Watched(access.sessions)
        self._sessions = Poller(self._watched, SESSION_SECONDS)
        self._closing = False

    def close(self) -> None:
        """End all streams, since the process is about to stop."""
        self._closing = True

    def response(
        self,
        visitor: Visitor,
        scopes: Iterable[Scope],
        poller: Poller,
        events: Callable[[], Iterable[bytes]],
    ) -> EventSourceResponse:
        """Return the response with a stream, for as long as the session has these scopes.

        `events` returns what is new, and is called after each reading of the poller. Raises
        Overloaded if too many streams are open.
        """
        streams = self._watched.open
        if streams[visitor.session.hash] >= MOST_OF_SESSION or streams.total() >= MOST_STREAMS:
            raise Overloaded("Too many live pages are open; close some.")
        stream = self._stream(visitor, tuple(scopes), poller, events)
        return _CountedResponse(stream, streams, visitor.session.hash)

    async def _stream(
        self,
        visitor: Visitor,
        scopes: tuple[Scope, ...],
        poller: Poller,
        events: Callable[[], Iterable[bytes]],
    ) -> AsyncIterator[bytes]:
        """Yield events until the session ends, or the process stops."""
        yield format_sse_event(retry=RECONNECT_MS)
        silent = 0
        with poller.following(), self._sessions.following():
            while not self._closing and self._goes_on(visitor, scopes):
                await poller.changed(CHECK_SECONDS)
                silent += 1
                for event in events():
                    silent = 0
                    yield event
                if silent >= KEEPALIVE_CHECKS:
                    silent = 0
                    yield KEEPALIVE_COMMENT
        if not self._closing:
            yield format_sse_event(event=ENDED, data_str="")

    def _goes_on(self, visitor: Visitor, scopes: tuple[Scope, ...]) -> bool:
        if visitor.session.hash in self._watched.ended:
            return False
        try:
            caller = self._access.confirm(visitor, *scopes)
        except (SignedOut, Forbidden):
            return False
        # What the stream shows was chosen by these apps: a page that is loaded again has others.
        return caller.apps == visitor.caller.apps
