"""Finding out who calls before a body is read and parsed, where the key may be in the body.

A key has a form of its own (`callers.key_scanner`), so it is searched for in the bytes as they
come. Only a small body is parsed before a known key is seen in the call. Of an address that has
failed too often, only the beginning of a body that is not compressed is looked at, and nothing is
parsed.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from app.callers.key_format import PREFIX
from app.callers.key_scanner import KeyScanner
from app.compat.json_values import IN_A_THREAD, BeyondLimit, Fits, anything_fits, in_turn
from app.errors import Malformed, Overloaded, RateLimited, Refusal, Unauthorized
from app.http import (
    SMALL_BODY_BYTES,
    Authenticator,
    BodyReader,
    Decompressor,
    PlaceQueue,
    RateLimiter,
    Receive,
    RequestContext,
    body_too_large,
    decompression,
    decompressor_of,
    is_small,
)
from app.ingest.time_slices import turn
from app.model import Caller

UNKNOWN_SHARE = 4  # of GATEWAY_MAX_HELD_BYTES, the share for calls of which no key is known yet
DROPPED = "The limit of bytes being read at once, of calls whose key is in the body, is reached."
COMPRESSED_AT_ONCE = 1  # compressed bodies without a known key that are searched beyond a slice
MAX_COMPRESSED_WAITING = 64
BEGINNING_SECONDS = 0.5  # in which a body must begin when its address has failed too often
FindCaller = Callable[[str], Caller | None]


class HeldBytes:
    """Count the bytes that this process holds of bodies in which no known key was seen yet."""

    def __init__(self) -> None:
        self.count = 0


class _HeldBeginning:
    """The beginning of a body, for as long as there is room.

    After that, what comes is searched and dropped: so who has no key learns that, and who has one
    is asked to send the body again.
    """

    def __init__(self, held: HeldBytes, most: int) -> None:
        self._held, self._most, self._size = held, most, 0
        self.parts: list[bytes] | None = []

    def add(self, part: bytes) -> None:
        """Hold what came."""
        if self.parts is None:
            return
        self._size += len(part)
        self._held.count += len(part)
        self.parts.append(part)
        if self._held.count > self._most:
            self.drop()
            self.parts = None

    def drop(self) -> None:
        """Stop counting these bytes."""
        self._held.count -= self._size
        self._size = 0


class _KeySearch:
    """Look for a known key in one body. `first` is the first key that was seen, known or not."""

    def __init__(self, find: FindCaller, limit: int) -> None:
        self._find, self._limit = find, limit
        self._scanner = KeyScanner()
        self.first, self.seen = "", 0
        self.caller: Caller | None = None

    @property
    def goes_on(self) -> bool:
        """True while a known key is still looked for."""
        return self.caller is None and not self._scanner.exhausted

    async def search(self, piece: bytes, *, at_once: bool) -> None:
        """Search a piece, `at_once` or after other large work. Raises TooLarge."""
        if at_once:
            self._count(len(piece), self._scanner.feed(piece))
            return
        async with turn():
            self._count(len(piece), self._scanner.feed(piece))
            await asyncio.sleep(0)  # other requests are served

    async def search_compressed(self, pieces: Iterator[bytes], most: float) -> bool:
        """Search what comes out of a piece, slice by slice.

        The search ends when a known key is seen, or about `most` bytes of the body have come out.
        Return whether the piece was searched to its end. Raises TooLarge, Malformed.
        """
        ended = False
        while not ended and self.goes_on and self.seen < most:
            size, keys, ended = await decompression.in_thread(lambda: self._slice(pieces))
            self._count(size, keys)
        return ended or not self.goes_on

    def _slice(self, pieces: Iterator[bytes]) -> tuple[int, list[str], bool]:
        """Return how many bytes came out, the keys in them, and whether those were the last."""
        size, keys = 0, list[str]()
        for piece in pieces:
            size += len(piece)
            keys += self._scanner.feed(piece)
            if keys or size >= decompression.SLICE:
                return size, keys, False
        return size, keys, True

    def _count(self, size: int, keys: list[str]) -> None:
        self.first = self.first or next(iter(keys), "")
        self.caller = next(filter(None, map(self._find, keys)), None)
        self.seen += size
        if self.caller is None and self.seen > self._limit:
            raise body_too_large(self._limit)


class _LockOut:
    """Refuse an address that has failed too often.

    It is refused once the beginning of a body has no known key, or has not come in time.
    """

    def __init__(self, limiter: RateLimiter, address: str) -> None:
        self._limiter, self._address = limiter, address
        self.until: float | None = asyncio.get_running_loop().time() + BEGINNING_SECONDS

    async def check(self) -> None:
        """Raise RateLimited, or let the address go on."""
        if self.until is not None:
            self.until = None
            await self._limiter.refuse_locked_out(self._address)


class BodyCredentials:
    """Find the caller of calls that may have their key in the body."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: RateLimiter,
        bodies: BodyReader,
        *,
        max_held_bytes: int,
    ) -> None:
        self._authenticator, self._limiter, self._bodies = authenticator, limiter, bodies
        self._most = max_held_bytes // UNKNOWN_SHARE
        # Of large bodies, and of small ones that come in pieces.
        self.held, self.held_small = HeldBytes(), HeldBytes()
        self._compressed = PlaceQueue(COMPRESSED_AT_ONCE, MAX_COMPRESSED_WAITING, seconds=15.0)

    async def identify(
        self,
        context: RequestContext,
        receive: Receive,
        *,
        limit: int,
        encoding: str,
        query_key: str = "",
    ) -> Receive:
        """Return a `receive` for the body of a call with a known key, or with a small body.

        The key that is seen need not be the one that counts: the caller is authenticated by that
        once the call is read. `context.caller` becomes the caller whose key was seen.

        Raises Unauthorized, RateLimited, Overloaded, and what reading raises.
        """
        small = is_small(context)
        context.caller = self._authenticator.find(context, query_key)
        if context.caller is None:
            decompressor = decompressor_of(encoding)
            if not small and (query_key or _names_key(context)):
                await self._authenticate(context, query_key)
            elif decompressor is None:
                receive = await self._search(context, receive, limit, small=small)
            else:
                await self._limiter.refuse_locked_out(context.address)
                receive = await self._search_compressed(context, receive, limit, decompressor)
        if context.caller is not None and not small:
            await self._limiter.refuse_spent(context, context.caller)
        return receive

    async def charge(self, context: RequestContext, refusal: Refusal) -> None:
        """Count a call that can't be read.

        It counts as one item of the caller whose key was seen in it, else as a failed
        authentication of its address. Raises RateLimited.
        """
        if context.caller is not None:
            await self._limiter.take(context, context.caller, 1)
        elif isinstance(refusal, Unauthorized | RateLimited) or _was_cut_off(context, refusal):
            return
        else:
            await self._limiter.count_failure(context.address)

    async def _search(
        self, context: RequestContext, receive: Receive, limit: int, *, small: bool
    ) -> Receive:
        """Read a body until a known key is seen, a small one to its end; return it as a whole."""
        lock_out = _LockOut(self._limiter, context.address)
        reading = self._bodies.limited(context, receive, limit, counts=False)
        held = _HeldBeginning(self.held_small if small else self.held, self._most)
        search, body, more = _KeySearch(self._find, limit), b"", True
        try:
            while more and search.goes_on:
                try:
                    async with asyncio.timeout_at(lock_out.until):
                        message = await reading()
                except TimeoutError:
                    await lock_out.check()
                    continue
                body, more = message.get("body", b""), message.get("more_body", False)
                await search.search(body, at_once=small)
                if search.caller is None and more:
                    held.add(body)
                    body = b""
                if search.caller is None and search.seen > SMALL_BODY_BYTES:
                    await lock_out.check()
        finally:
            held.drop()
        context.caller = search.caller
        if context.caller is None:
            await lock_out.check()
            if not small:
                await self._refuse(context, search.first)
        return _replay_held(held, receive, body, more=more)

    async def _search_compressed(
        self, context: RequestContext, receive: Receive, limit: int, decompressor: Decompressor
    ) -> Receive:
        """Read and unpack a compressed body until a known key is seen; return it as a whole.

        The first slice waits for no place, so a client whose key comes early waits for nobody's
        large body. Of an address that has failed too often nothing is unpacked.
        """
        reading = self._bodies.limited(context, receive, limit, counts=False)
        held, more = _HeldBeginning(self.held, self._most), True
        search = _KeySearch(self._find, limit)
        try:
            while more and search.goes_on:
                message = await reading()
                body, more = message.get("body", b""), message.get("more_body", False)
                held.add(body)
                pieces = decompressor.feed(body)
                if await search.search_compressed(pieces, decompression.SLICE):
                    continue
                async with self._compressed.place():
                    # It may have failed too often while it waited.
                    await self._limiter.refuse_locked_out(context.address)
                    await search.search_compressed(pieces, math.inf)
        except Malformed:
            if context.cut_off and search.seen >= decompression.SLICE:
                # Unpacking cost more than a bad connection explains.
                await self._limiter.count_failure(context.address)
            raise
        finally:
            held.drop()
        context.caller = search.caller
        if context.caller is None:
            await self._refuse(context, search.first)
        return _replay_held(held, receive, more=more)

    def _find(self, key: str) -> Caller | None:
        return self._authenticator.find_by_key(key)

    async def _refuse(self, context: RequestContext, key: str) -> None:
        """Refuse a call by the key that was seen first, or by its headers. Raises Unauthorized."""
        await self._authenticate(context, key)
        raise Overloaded("The key became known while the call was read: send it again.")

    async def _authenticate(self, context: RequestContext, key: str) -> None:
        """Authenticate a call by the key that was seen, or by its headers. Raises Unauthorized."""
        if key:
            context.use_key(key)
        await self._authenticator.authenticate(context)


def _was_cut_off(context: RequestContext, refusal: Refusal) -> bool:
    """Tell whether a body can't be read since it was cut off: a bad connection is enough."""
    return context.cut_off and isinstance(refusal, Malformed)


def _names_key(context: RequestContext) -> bool:
    """Tell whether a header has a text that begins as this gateway's keys do."""
    bearer = context.header(b"authorization").partition(" ")[2]
    texts = (bearer, context.header(b"x-api-key"))
    return any(text.strip().startswith(PREFIX) for text in texts)


def _replay_held(held: _HeldBeginning, receive: Receive, *last: bytes, more: bool) -> Receive:
    """Return a body that begins with what was held and what came last.

    Raises Overloaded when that was dropped.
    """
    if held.parts is None:
        raise Overloaded(DROPPED)
    return _replay([*held.parts, *last], receive, more=more)


def _replay(parts: Iterable[bytes], receive: Receive, *, more: bool) -> Receive:
    remaining = list(parts)
    remaining.reverse()

    async def replay() -> object:
        if not remaining:
            return await receive()
        part = remaining.pop()
        return {"type": "http.request", "body": part, "more_body": bool(remaining) or more}

    return replay


FEW_BYTES = 4 * 1024  # a body that is no larger holds a few items, and is read at once
_Call = TypeVar("_Call")


async def read_within_limit(
    limiter: RateLimiter, context: RequestContext, read: Callable[[Fits], _Call], size: int
) -> _Call:
    """Return what `read` makes of a body of so many bytes, in a thread when it is large.

    The key that was seen need not be the one that counts, so the call is limited again once it is
    read. Raises RateLimited, and what `read` raises.
    """
    fits: Fits = anything_fits
    caller = context.caller
    if caller is not None and size > FEW_BYTES:
        fits = await limiter.room(context, caller, lends=True, ask=size > SMALL_BODY_BYTES)
    try:
        return await _read(partial(read, fits), size)
    except BeyondLimit as beyond:
        if caller is not None:
            await limiter.refuse_spent(context, caller, beyond.count, lends=True)
    # As many items pass by now.
    return await _read(partial(read, anything_fits), size)


async def _read(read: Callable[[], _Call], size: int) -> _Call:
    if size > IN_A_THREAD:
        return await in_turn(read)
    return read()
