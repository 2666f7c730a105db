"""Identification of callers whose key may be in the body, before the body is read and parsed.

Keys have a form of their own (`callers.key_scanner`), so the bytes of a body are searched for one
as they arrive. Before a known key is seen, only small bodies are parsed. For an address with too
many failures, only the beginning of an uncompressed body is searched, and nothing is parsed.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from app.callers.key_format import PREFIX
from app.callers.key_scanner import KeyScanner
from app.compat.body_formats import (
    THREAD_BYTES,
    BeyondLimit,
    Fits,
    anything_fits,
    parse_in_thread,
)
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

UNKNOWN_SHARE = 4  # the part of GATEWAY_MAX_HELD_BYTES for calls whose key is not known yet
DROPPED = "The limit of bytes being read at once, of calls whose key is in the body, is reached."
COMPRESSED_AT_ONCE = 1  # compressed bodies without a known key that are searched beyond a slice
MAX_COMPRESSED_WAITING = 64
BEGINNING_SECONDS = 0.5  # in which a body must begin when its address has too many failures
FindCaller = Callable[[str], Caller | None]


class HeldBytes:
    """The count of bytes that this process holds of bodies without a known key so far."""

    def __init__(self) -> None:
        self.count = 0


class _HeldBeginning:
    """The beginning of a body, held as long as there is room.

    After that, further bytes are searched and dropped: a client without a key is refused for that,
    and a client with a key has to send the body again.
    """

    def __init__(self, held: HeldBytes, most: int) -> None:
        self._held, self._most, self._size = held, most, 0
        self.parts: list[bytes] | None = []

    def add(self, part: bytes) -> None:
        """Hold a part, or drop everything when there is no room."""
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
    """The search for a known key in one body.

    `first` is the first key that was seen, known or not; `seen` counts the bytes.
    """

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
        """Search a piece, `at_once` or when no other large work is running. Raises TooLarge."""
        if at_once:
            self._count(len(piece), self._scanner.feed(piece))
            return
        async with turn():
            self._count(len(piece), self._scanner.feed(piece))
            await asyncio.sleep(0)  # other requests are served

    async def search_compressed(self, pieces: Iterator[bytes], most: float) -> bool:
        """Search the decompressed pieces, slice by slice; return whether all were searched.

        The search ends when a known key is seen, or after about `most` decompressed bytes of the
        body. Raises TooLarge, Malformed.
        """
        ended = False
        while not ended and self.goes_on and self.seen < most:
            size, keys, ended = await decompression.in_thread(lambda: self._slice(pieces))
            self._count(size, keys)
        return ended or not self.goes_on

    def _slice(self, pieces: Iterator[bytes]) -> tuple[int, list[str], bool]:
        """Return the size of the next slice, the keys in it, and whether it is the last."""
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
    """The refusal of an address with too many failures.

    It is refused once the beginning of a body has no known key, or did not arrive in time.
    """

    def __init__(self, limiter: RateLimiter, address: str) -> None:
        self._limiter, self._address = limiter, address
        self.until: float | None = asyncio.get_running_loop().time() + BEGINNING_SECONDS

    async def check(self) -> None:
        """Check the address once. Raises RateLimited."""
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
        # Of large bodies, and of small ones that arrive in pieces
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

        `context.caller` becomes the caller whose key was seen. Another key may be the call's: the
        caller is authenticated by that one after the call is read.

        Raises Unauthorized, RateLimited, Overloaded, and the errors of reading a body.
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
        """Count a call that cannot be read.

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
        """Read a body until a known key is seen, and a small one to its end.

        Return a `receive` for the whole body.
        """
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
        """Read and decompress a body until a known key is seen; return a `receive` for all of it.

        The first slice is searched without waiting for a place, so a client whose key comes early
        waits for no large body of others. Bodies of an address with too many failures are not
        decompressed.
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
                    # The address may have had too many failures while the call waited.
                    await self._limiter.refuse_locked_out(context.address)
                    await search.search_compressed(pieces, math.inf)
        except Malformed:
            if context.cut_off and search.seen >= decompression.SLICE:
                # Decompression cost more than a bad connection explains.
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
        """Refuse a call without a known key. Raises Unauthorized, RateLimited, Overloaded."""
        await self._authenticate(context, key)
        raise Overloaded("The key became known while the call was read: send it again.")

    async def _authenticate(self, context: RequestContext, key: str) -> None:
        """Authenticate a call by a key, or by its headers without one. Raises Unauthorized."""
        if key:
            context.use_key(key)
        await self._authenticator.authenticate(context)


def _was_cut_off(context: RequestContext, refusal: Refusal) -> bool:
    """Return whether a body cannot be read because the connection ended: no fault of the client."""
    return context.cut_off and isinstance(refusal, Malformed)


def _names_key(context: RequestContext) -> bool:
    """Return whether a header has a text that begins as the gateway's keys do."""
    bearer = context.header(b"authorization").partition(" ")[2]
    texts = (bearer, context.header(b"x-api-key"))
    return any(text.strip().startswith(PREFIX) for text in texts)


def _replay_held(held: _HeldBeginning, receive: Receive, *last: bytes, more: bool) -> Receive:
    """Return a `receive` that begins with the held parts and the last one.

    Raises Overloaded when held parts were dropped.
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


FEW_BYTES = 4 * 1024  # a body of at most this size has only a few items
_Call = TypeVar("_Call")


async def read_within_limit(
    limiter: RateLimiter, context: RequestContext, read: Callable[[Fits], _Call], size: int
) -> _Call:
    """Return the call that `read` parses from a body of `size` bytes, in a thread when it is large.

    A batch with more items than the rate limit lets pass is refused before they are parsed. The key
    that was seen may not be the call's, so the call is limited again after it is parsed. Raises
    RateLimited, and the errors of `read`.
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
    # The limit has room for the items by now.
    return await _read(partial(read, anything_fits), size)


async def _read(read: Callable[[], _Call], size: int) -> _Call:
    if size > THREAD_BYTES:
        return await parse_in_thread(read)
    return read()
