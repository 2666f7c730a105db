"""Finding out who calls before a body is read and parsed, where the key may be in the body.

A key has a form of its own (`callers.key_scanner`), so it is searched for in the bytes as they come.
Only a small body is parsed before a known key is seen in the call.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

from app.api import auth, limiting, receiving
from app.api.context import Context
from app.api.receiving import Receive, is_small
from app.api.turns import turn
from app.callers.key_scanner import KeyScanner
from app.errors import Overloaded
from app.intake import bodies
from app.intake.bodies import Unpacker
from app.model import Caller
from app.wiring import Gateway

SHARE = 4  # of GATEWAY_MAX_HELD_BYTES, a fourth is for calls of which no known key was seen yet
DROPPED = "As much is being read as may be held at once of calls whose key comes late."


class Strangers:
    """How many bytes this process holds of bodies in which no known key was seen yet."""

    def __init__(self) -> None:
        self.held = 0


STRANGERS = Strangers()


class _Held:
    """The beginning of a body, for as long as there is room. After that what comes is searched and
    dropped: so whoever has no key learns that, and whoever has one is asked to send it again."""

    def __init__(self, most: float) -> None:
        self._most, self._size = most, 0
        self.parts: list[bytes] | None = []

    def add(self, part: bytes) -> None:
        """Hold what came."""
        if self.parts is None:
            return
        self._size += len(part)
        STRANGERS.held += len(part)
        self.parts.append(part)
        if STRANGERS.held > self._most:
            self.drop()
            self.parts = None

    def drop(self) -> None:
        """Count these bytes no longer."""
        STRANGERS.held -= self._size
        self._size = 0


class _Search:
    """Looks for a known key in the pieces of one body. `first` is the first key that was seen, known or not."""

    def __init__(self, gateway: Gateway, limit: int) -> None:
        self._gateway, self._limit = gateway, limit
        self._scanner = KeyScanner()
        self.first, self.seen = "", 0
        self.caller: Caller | None = None

    @property
    def exhausted(self) -> bool:
        """Tell whether nothing more will be found."""
        return self._scanner.exhausted

    def step(self, pieces: Iterator[bytes]) -> bool:
        """Search the next piece; returns False where there is none. Raises TooLarge, and what unpacking raises."""
        piece = next(pieces, None)
        if piece is None:
            return False
        keys = self._scanner.feed(piece)
        self.first = self.first or next(iter(keys), "")
        self.caller = next(filter(None, map(self._gateway.directory.find, keys)), None)
        self.seen += len(piece)
        if self.caller is None and self.seen > self._limit:
            raise bodies.too_large(self._limit)
        return self.caller is None


async def identify(
    gateway: Gateway, context: Context, receive: Receive, *, limit: int, encoding: str, shown: str = ""
) -> Receive:
    """Return the body, to be read, of a call with a known key or with a small body.

    The key that is seen need not be the one that counts: the caller is to be authenticated by that,
    once the call is read. `context.caller` is whose key was seen. `shown`: a key in the query.

    Raises Unauthorized, RateLimited, Overloaded, and what reading raises.
    """
    small = is_small(context)
    context.caller = auth.find(gateway, context, shown)
    if context.caller is None:
        receive = await _searched(gateway, context, receive, limit, bodies.unpacker_of(encoding), small=small)
    if context.caller is not None and not small:
        await limiting.refuse_spent(gateway, context, context.caller)
    return receive


async def _searched(
    gateway: Gateway, context: Context, receive: Receive, limit: int, unpacker: Unpacker | None, *, small: bool
) -> Receive:
    """Return the whole body again, which is read until a known key is seen."""
    locked = not small and await limiting.locked_out(gateway, context.address)
    reading = receiving.limited(gateway, context, receive, limit, room=None)
    held = _Held(math.inf if small else gateway.settings.gateway_max_held_bytes / SHARE)
    search, more = _Search(gateway, limit), True
    try:
        while more and not search.exhausted and not (locked and search.seen > receiving.SMALL):
            message = await reading()
            body, more = message.get("body", b""), message.get("more_body", False)
            pieces = iter([body]) if unpacker is None else unpacker.feed(body)
            left = True
            while left:
                async with nullcontext() if small else turn():
                    left = search.step(pieces)
                    await asyncio.sleep(0)  # others have their turn
                if search.caller is not None:
                    context.caller = search.caller
                    return _again(held, receive, body, more=more)
            held.add(body)
        if small:
            return _again(held, receive, more=more)
    finally:
        held.drop()
    await _refuse(gateway, context, search.first, locked=locked)
    raise Overloaded("The key became known while the call was read: send it again.")


async def _refuse(gateway: Gateway, context: Context, key: str, *, locked: bool) -> None:
    """Refuse a call as one with the key that was seen first, or with none."""
    if locked:
        await limiting.count_failure(gateway, context.address)
    if key:
        context.headers.pop(b"authorization", None)
        context.headers[b"x-api-key"] = key.encode()
    await auth.authenticate(gateway, context)


def _again(held: _Held, receive: Receive, *last: bytes, more: bool) -> Receive:
    """Return a body that begins with what was held and what came last. Raises Overloaded where it was dropped."""
    if held.parts is None:
        raise Overloaded(DROPPED)
    return _replayed([*held.parts, *last], receive, more=more)


def _replayed(parts: Iterable[bytes], receive: Receive, *, more: bool) -> Receive:
    left = list(parts)
    left.reverse()

    async def replayed() -> object:
        if not left:
            return await receive()
        part = left.pop()
        return {"type": "http.request", "body": part, "more_body": bool(left) or more}

    return replayed
