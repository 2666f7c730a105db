"""Finding out who calls before a body is read and parsed, where the key may be in the body.

A key has a form of its own (`callers.key_scanner`), so it is searched for in the bytes as they
come. Only a small body is parsed before a known key is seen in the call. Of an address that has
failed too often, only the beginning of a body that is not compressed is looked at, and nothing is
parsed.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator

from app.bootstrap import Gateway
from app.callers.key_format import PREFIX
from app.callers.key_scanner import KeyScanner
from app.errors import Malformed, Overloaded, RateLimited, Refusal, Unauthorized
from app.http import authentication, decompression, json_body, rate_limiting
from app.http import body as receiving
from app.http.body import Receive, is_small
from app.http.decompression import Queue
from app.http.json_body import Unpacker
from app.http.request import Context
from app.http.time_slices import turn
from app.model import Caller

SHARE = 4  # of GATEWAY_MAX_HELD_BYTES, a fourth is for calls of which no known key was seen yet
DROPPED = "As much is being read as may be held at once of calls whose key comes late."
COMPRESSED_AT_ONCE = 1  # compressed bodies without a known key that are searched beyond a slice
MAX_COMPRESSED_WAITING = 64
BEGINNING_SECONDS = 0.5  # in which a body must begin where its address has failed too often


class Strangers:
    """Counts the bytes that this process holds of bodies in which no known key was seen yet."""

    def __init__(self) -> None:
        self.held = 0


STRANGERS, SMALL_STRANGERS = Strangers(), Strangers()  # of large bodies, of small ones in pieces
_compressed = Queue(COMPRESSED_AT_ONCE, MAX_COMPRESSED_WAITING, seconds=15.0)


class _Held:
    """The beginning of a body, for as long as there is room. After that what comes is searched and
    dropped: so whoever has no key learns that, and whoever has one is asked to send it again."""

    def __init__(self, gateway: Gateway, strangers: Strangers) -> None:
        self._most, self._size = gateway.settings.gateway_max_held_bytes // SHARE, 0
        self._strangers = strangers
        self.parts: list[bytes] | None = []

    def add(self, part: bytes) -> None:
        """Hold what came."""
        if self.parts is None:
            return
        self._size += len(part)
        self._strangers.held += len(part)
        self.parts.append(part)
        if self._strangers.held > self._most:
            self.drop()
            self.parts = None

    def drop(self) -> None:
        """Count these bytes no longer."""
        self._strangers.held -= self._size
        self._size = 0


class _Search:
    """Looks for a known key in one body. `first` is the first key that was seen, known or not."""

    def __init__(self, gateway: Gateway, limit: int) -> None:
        self._gateway, self._limit = gateway, limit
        self._scanner = KeyScanner()
        self.first, self.seen = "", 0
        self.caller: Caller | None = None

    @property
    def goes_on(self) -> bool:
        """Tell whether a known key is still looked for."""
        return self.caller is None and not self._scanner.exhausted

    async def plain(self, piece: bytes, *, at_once: bool) -> None:
        """Search a piece, `at_once` or when it is its turn. Raises TooLarge."""
        if at_once:
            self._judge(len(piece), self._scanner.feed(piece))
            return
        async with turn():
            self._judge(len(piece), self._scanner.feed(piece))
            await asyncio.sleep(0)  # others have their turn

    async def compressed(self, pieces: Iterator[bytes], most: float) -> bool:
        """Search what comes out of a piece, slice by slice, until a known key is seen or about
        `most` bytes of the body have come out. Return whether the search of the piece has ended.
        Raises TooLarge, Malformed."""
        ended = False
        while not ended and self.goes_on and self.seen < most:
            size, found, ended = await decompression.in_thread(lambda: self._slice(pieces))
            self._judge(size, found)
        return ended or not self.goes_on

    def _slice(self, pieces: Iterator[bytes]) -> tuple[int, list[str], bool]:
        """Return how many bytes came out, the keys in them, and whether those were the last."""
        size, found = 0, list[str]()
        for piece in pieces:
            size += len(piece)
            found += self._scanner.feed(piece)
            if found or size >= decompression.SLICE:
                return size, found, False
        return size, found, True

    def _judge(self, size: int, found: list[str]) -> None:
        self.first = self.first or next(iter(found), "")
        self.caller = next(filter(None, map(self._gateway.directory.find, found)), None)
        self.seen += size
        if self.caller is None and self.seen > self._limit:
            raise json_body.too_large(self._limit)


async def identify(
    gateway: Gateway,
    context: Context,
    receive: Receive,
    *,
    limit: int,
    encoding: str,
    shown: str = "",
) -> Receive:
    """Return the body, to be read, of a call with a known key or with a small body.

    The key that is seen need not be the one that counts: the caller is to be authenticated by that,
    once the call is read. `context.caller` is whose key was seen. `shown`: a key in the query.

    Raises Unauthorized, RateLimited, Overloaded, and what reading raises.
    """
    small = is_small(context)
    context.caller = authentication.find(gateway, context, shown)
    if context.caller is None:
        if not small and (shown or _names_key(context)):
            await _authenticate(gateway, context, shown)
        elif (unpacker := json_body.unpacker_of(encoding)) is None:
            receive = await _searched(gateway, context, receive, limit, small=small)
        else:
            await rate_limiting.refuse_locked_out(gateway, context.address)
            receive = await _searched_compressed(gateway, context, receive, limit, unpacker)
    if context.caller is not None and not small:
        await rate_limiting.refuse_spent(gateway, context, context.caller)
    return receive


async def charge(gateway: Gateway, context: Context, refusal: Refusal) -> None:
    """Count a call that can't be read: as one item of the caller whose key was seen in it, else as
    a failed authentication of its address. Raises RateLimited."""
    if context.caller is not None:
        await rate_limiting.take(gateway, context, context.caller, 1)
    elif not isinstance(refusal, Unauthorized | RateLimited) and not _lost(context, refusal):
        await rate_limiting.count_failure(gateway, context.address)


def _lost(context: Context, refusal: Refusal) -> bool:
    """Tell whether a body can't be read since it was cut off, for which a bad connection is
    enough.
    """
    return context.cut_off and isinstance(refusal, Malformed)


def _names_key(context: Context) -> bool:
    """Tell whether a header has a text that begins as this gateway's keys do."""
    bearer = context.header(b"authorization").partition(" ")[2]
    shown = (bearer, context.header(b"x-api-key"))
    return any(text.strip().startswith(PREFIX) for text in shown)


class _LockOut:
    """Refuses an address that has failed too often: once the beginning of a body has no known key,
    or is not here in time.
    """

    def __init__(self, gateway: Gateway, address: str) -> None:
        self._gateway, self._address = gateway, address
        self.until: float | None = asyncio.get_running_loop().time() + BEGINNING_SECONDS

    async def check(self) -> None:
        """Let the address go on. Raises RateLimited."""
        if self.until is not None:
            self.until = None
            await rate_limiting.refuse_locked_out(self._gateway, self._address)


async def _searched(
    gateway: Gateway, context: Context, receive: Receive, limit: int, *, small: bool
) -> Receive:
    """Return the whole body again, which is read until a known key is seen; a small one, until its
    end."""
    lock_out = _LockOut(gateway, context.address)
    reading = receiving.limited(gateway, context, receive, limit, room=None)
    held = _Held(gateway, SMALL_STRANGERS if small else STRANGERS)
    search, body, more = _Search(gateway, limit), b"", True
    try:
        while more and search.goes_on:
            try:
                async with asyncio.timeout_at(lock_out.until):
                    message = await reading()
            except TimeoutError:
                await lock_out.check()
                continue
            body, more = message.get("body", b""), message.get("more_body", False)
            await search.plain(body, at_once=small)
            if search.caller is None and more:
                held.add(body)
                body = b""
            if search.caller is None and search.seen > receiving.SMALL:
                await lock_out.check()
    finally:
        held.drop()
    context.caller = search.caller
    if context.caller is None:
        await lock_out.check()
        if not small:
            await _refuse(gateway, context, search.first)
    return _again(held, receive, body, more=more)


async def _searched_compressed(
    gateway: Gateway, context: Context, receive: Receive, limit: int, unpacker: Unpacker
) -> Receive:
    """Return the whole compressed body again, which is read and unpacked until a known key is seen.

    The first slice waits for no place, so a client whose key comes early waits for no one's large
    body. Of an address that has failed too often nothing is unpacked.
    """
    reading = receiving.limited(gateway, context, receive, limit, room=None)
    held, search, more = _Held(gateway, STRANGERS), _Search(gateway, limit), True
    try:
        while more and search.goes_on:
            message = await reading()
            body, more = message.get("body", b""), message.get("more_body", False)
            held.add(body)
            pieces = unpacker.feed(body)
            if await search.compressed(pieces, decompression.SLICE):
                continue
            async with _compressed.place():
                # It may have failed too often while it waited.
                await rate_limiting.refuse_locked_out(gateway, context.address)
                await search.compressed(pieces, math.inf)
    except Malformed:
        if context.cut_off and search.seen >= decompression.SLICE:
            await rate_limiting.count_failure(
                gateway, context.address
            )  # it cost more than a bad line
        raise
    finally:
        held.drop()
    context.caller = search.caller
    if context.caller is None:
        await _refuse(gateway, context, search.first)
    return _again(held, receive, more=more)


async def _refuse(gateway: Gateway, context: Context, key: str) -> None:
    """Refuse a call by the key that was seen first, or by its headers. Raises Unauthorized."""
    await _authenticate(gateway, context, key)
    raise Overloaded("The key became known while the call was read: send it again.")


async def _authenticate(gateway: Gateway, context: Context, key: str) -> None:
    """Authenticate a call by the key that was seen, or by its headers. Raises Unauthorized."""
    if key:
        context.headers.pop(b"authorization", None)
        context.headers[b"x-api-key"] = key.encode("latin-1", "replace")
    await authentication.authenticate(gateway, context)


def _again(held: _Held, receive: Receive, *last: bytes, more: bool) -> Receive:
    """Return a body that begins with what was held and what came last. Raises Overloaded where it
    was dropped."""
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
