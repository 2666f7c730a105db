"""The one place that calls Leanplum."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any, NamedTuple, Self, TypeVar

import httpx
from pydantic import SecretStr

from app.clock import now_ms
from app.leanplum.connections import Route, reason
from app.leanplum.response_body import (
    ACCEPTED,
    MAX_DOWNLOAD_BYTES,
    MAX_RESPONSE_BYTES,
    UnreadableBody,
    decoded,
    too_large,
    whole,
)
from app.leanplum.retry_after import as_number

T = TypeVar("T")
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
DIRECT = Route()


class Answer(NamedTuple):
    """An HTTP answer, as it came, but that a date in its Retry-After is told in seconds from
    now.
    """

    status: int
    body: bytes
    retry_after: str | None
    location: str | None = None  # where a redirect leads, which is not followed


@dataclass(frozen=True, slots=True)
class Download:
    """A file as it comes, or, where there is none, the answer that says so (`chunks` is None)."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    chunks: AsyncIterator[bytes] | None = None


# Of a form: its name, and the file's name, content and media type
Part = tuple[str, tuple[str, IO[bytes], str]]


class Unreachable(Exception):
    """No whole answer came. The text says why, in a few words and without what was sent. `sent`:
    Leanplum may have got the call and done it; False where not one byte of it went out.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Progress:
    """How far one request has come, as the transport traces it: `traced` once it does anything for
    the request, `sent` once the first byte goes out. A connection that is looked up, opened or
    encrypted has sent nothing.
    """

    def __init__(self) -> None:
        self.traced = self.sent = self.asked_proxy = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of one event of the trace. What asks a proxy for a connection goes no further
        than the proxy.
        """
        self.traced = True
        if event.endswith(FIRST_BYTE):
            to_proxy = info["request"].method == b"CONNECT"
            self.asked_proxy, self.sent = self.asked_proxy or to_proxy, self.sent or not to_proxy

    def may_have_arrived(self, error: Exception) -> bool:
        """Whether Leanplum may have got the request that ended in this error. A transport without a
        trace leaves only the error's type to tell.
        """
        return self.sent if self.traced else not isinstance(error, NEVER_SENT)


class LeanplumClient:
    """Sends bodies to Leanplum. Keys travel in the body, never in a URL or header (Leanplum's docs,
    Authentication).

    An answer is what is logged, stored and shown of a call, so none of `secrets` passes: where one
    is echoed, it is replaced by "[key]" before anything else sees the answer.

    Whatever the other side sends, reading it is bounded: an answer by `max_response` bytes as it
    came and decompressed, a file by `max_download`, and either by a time in all. What goes beyond
    is no whole answer.
    """

    def __init__(
        self,
        *,
        timeout: float,
        connections: int,
        max_response: int = MAX_RESPONSE_BYTES,
        max_download: int = MAX_DOWNLOAD_BYTES,
        secrets: Callable[[], Iterable[SecretStr]] = tuple,
        transport: httpx.AsyncBaseTransport | None = None,
        route: Route = DIRECT,
    ) -> None:
        self._timeout = timeout
        # Ends before the deadline of the whole call does
        self._connect = min(CONNECT_SECONDS, timeout / 2)
        self._max_response, self._max_download = max_response, max_download
        self._secrets = secrets
        self._open = set[asyncio.Timeout]()  # of the calls that are at work
        self._given_up = False
        context = route.context()
        limits = httpx.Limits(
            max_connections=None,
            max_keepalive_connections=connections,
            keepalive_expiry=IDLE_SECONDS,
        )
        mounts = {} if transport is not None else _mounts(route, context, limits)
        self._proxied = bool(mounts)
        self._http = httpx.AsyncClient(
            headers={"accept-encoding": ACCEPTED},
            timeout=self._patience(timeout),
            limits=limits,
            follow_redirects=False,
            transport=transport,
            trust_env=route.trust_env and route.proxy is None,
            verify=context,
            mounts=mounts,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def give_up(self) -> None:
        """End every call that is at work, and make no more."""
        self._given_up = True
        for timeout in self._open:
            if not timeout.expired():
                timeout.reschedule(0)

    async def call(
        self, url: str, action: str, body: bytes, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        """Make one call. `headers`: what tells of the end user. Raises Unreachable where no whole
        answer came within the timeout.
        """
        # httpx's own timeouts begin anew with each piece of an answer; this one is for all of it.
        request = self._http.build_request(
            "POST", url, params={"action": action}, content=body, headers={**JSON, **headers}
        )
        return await self._answered(request, self._timeout)

    async def upload(
        self, url: str, action: str, fields: Mapping[str, str], files: Sequence[Part]
    ) -> Answer:
        """Send files as multipart/form-data, read piece by piece as they go out. Raises Unreachable
        where nothing moved for a minute, or all of it took longer than at the least rate.
        """
        request = self._http.build_request(
            "POST",
            url,
            params={"action": action},
            data=fields,
            files=files,
            timeout=self._patience(FILE_SECONDS),
        )
        return await self._answered(request, self._file_seconds(sum(map(_size, files))))

    async def send_csv(
        self, url: str, action: str, args: Mapping[str, str], content: bytes
    ) -> Answer:
        """Send CSV as the body itself. The arguments, the keys among them, stand in the query,
        since nothing else is left for them (fact sheet §12). Raises Unreachable as `upload`
        does.
        """
        request = self._http.build_request(
            "POST",
            url,
            params={"action": action, **args},
            content=content,
            headers={"content-type": "text/csv"},
            timeout=self._patience(FILE_SECONDS),
        )
        return await self._answered(request, self._file_seconds(len(content)))

    @asynccontextmanager
    async def download(self, url: str, action: str, body: bytes) -> AsyncIterator[Download]:
        """Fetch a file, by way of the redirects that Leanplum answers with: keys go to the first
        place alone. Raises Unreachable where nothing moved for as long as the timeout, or a
        redirect leads where we don't go.
        """
        request = self._http.build_request(
            "POST", url, params={"action": action}, content=body, headers=JSON
        )
        response = await self._head(request)
        try:
            for _ in range(MAX_REDIRECTS):
                if response.next_request is None:
                    break
                target = response.next_request.url
                await response.aclose()
                if not _may_visit(target, request.url):
                    raise Unreachable("a redirect to a place that is not https", sent=True)
                get = self._http.build_request("GET", target, timeout=self._patience(FILE_SECONDS))
                response = await self._head(get)
            asked_again = response.request.method == "GET"
            is_json = "json" in response.headers.get("content-type", "")
            if int(response.headers.get("content-length", 0)) > self._max_download:
                raise Unreachable(too_large(self._max_download, DOWNLOAD_SETTING), sent=True)
            if response.status_code == httpx.codes.OK and (asked_again or not is_json):
                yield Download(
                    response.status_code, response.headers, chunks=self._pieces(response)
                )
            else:
                told = await self._whole(self._body(response), self._timeout, Progress())
                yield Download(response.status_code, response.headers, body=self._masked(told))
        finally:
            await response.aclose()

    def _patience(self, seconds: float) -> httpx.Timeout:
        """Timeouts of `seconds` without a byte, and of less where a connection must be made
        first.
        """
        return httpx.Timeout(seconds, connect=self._connect, pool=self._connect)

    def _file_seconds(self, size: int) -> float:
        """How long sending so many bytes, and reading the answer, may take as a whole."""
        return FILE_SECONDS + self._timeout + size / LEAST_BYTES_PER_SECOND

    async def _answered(self, request: httpx.Request, seconds: float) -> Answer:
        """Send a request and read the whole answer within the time. Raises Unreachable."""
        progress = request.extensions["trace"] = Progress()
        return await self._whole(self._exchange(request), seconds, progress)

    async def _exchange(self, request: httpx.Request) -> Answer:
        response = await self._http.send(request, stream=True)
        try:
            return self._answer(response, await self._body(response))
        finally:
            await response.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        encoding = response.headers.get("content-encoding", "")
        return await whole(_raw(response), encoding, self._max_response, RESPONSE_SETTING)

    async def _pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """A file's content, as it comes. Raises Unreachable outside the handler, as `_whole`
        does.
        """
        encoding = response.headers.get("content-encoding", "")
        failed: Unreachable | None = None
        try:
            async for piece in decoded(
                _steady(_raw(response)), encoding, self._max_download, DOWNLOAD_SETTING
            ):
                yield piece
        except httpx.HTTPError as error:
            failed = Unreachable(reason(error), sent=True)
        except (UnreadableBody, TimeoutError) as error:
            failed = Unreachable(str(error), sent=True)
        if failed is not None:
            raise failed

    async def _head(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response before its body is read. Raises Unreachable."""
        progress = request.extensions["trace"] = Progress()
        return await self._whole(self._http.send(request, stream=True), self._timeout, progress)

    async def _whole(self, doing: Awaitable[T], seconds: float | None, progress: Progress) -> T:
        """What comes of it within the time. Raises Unreachable outside the handler: the original
        error holds the request, and so the key.
        """
        failed: Unreachable | None = None
        try:
            async with asyncio.timeout(0 if self._given_up else seconds) as timeout:
                self._open.add(timeout)
                try:
                    return await doing
                finally:
                    self._open.discard(timeout)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            at_proxy = self._proxied and not (progress.asked_proxy or progress.sent)
            where = "proxy: " if at_proxy and isinstance(error, CONNECTING) else ""
            failed = Unreachable(where + reason(error), sent=progress.may_have_arrived(error))
        except UnreadableBody as error:
            failed = Unreachable(str(error), sent=True)
        raise failed

    def _answer(self, response: httpx.Response, body: bytes) -> Answer:
        date = response.headers.get("date")
        wish = as_number(response.headers.get("retry-after"), date=date, now=now_ms() / 1000)
        location = response.headers.get("location") if response.is_redirect else None
        return Answer(response.status_code, self._masked(body), wish, location)

    def _masked(self, body: bytes) -> bytes:
        for secret in self._secrets():
            body = body.replace(secret.get_secret_value().encode(), b"[key]")
        return body


async def _raw(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes, before httpx decompresses it: that would be all of a piece at once."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for piece in response.stream:
        yield piece


async def _steady(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pieces that come at the least rate, by the time in which they are waited for. Raises
    TimeoutError.
    """
    came, waited = 0, 0.0
    while True:
        began = time.monotonic()
        piece = await anext(pieces, None)
        waited += time.monotonic() - began
        if piece is None:
            return
        came += len(piece)
        if waited > FILE_SECONDS + came / LEAST_BYTES_PER_SECOND:
            raise TimeoutError(
                f"the file comes at less than {LEAST_BYTES_PER_SECOND:,} bytes a second"
            )
        yield piece


def _size(part: Part) -> int:
    """The bytes of a form's file, from where it is on."""
    file = part[1][1]
    at = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(at)
    return end - at


def _mounts(
    route: Route, context: ssl.SSLContext, limits: httpx.Limits
) -> dict[str, httpx.AsyncBaseTransport]:
    """Return the transport through the proxy, by what goes there. Plain http, which only a
    simulator on this machine has, shows its keys to a proxy, so that must be on this machine as
    well.
    """
    if route.proxy is None:
        return {}
    url = httpx.URL(route.proxy.get_secret_value())
    proxy = httpx.Proxy(url, ssl_context=context if url.scheme == "https" else None)
    transport = httpx.AsyncHTTPTransport(
        verify=context, limits=limits, proxy=proxy, trust_env=False
    )
    return {"all://" if route.proxy_is_safe else "https://": transport}


def _may_visit(target: httpx.URL, first: httpx.URL) -> bool:
    """https, or where Leanplum itself is (the simulator speaks http)."""
    return target.scheme == "https" or (target.scheme, target.host) == (first.scheme, first.host)


MAX_REDIRECTS = 5
FILE_SECONDS = 60.0  # without a byte
LEAST_BYTES_PER_SECOND = 10_000  # of a file, beyond those seconds
RESPONSE_SETTING, DOWNLOAD_SETTING = (
    "GATEWAY_UPSTREAM_MAX_RESPONSE_BYTES",
    "GATEWAY_UPSTREAM_MAX_DOWNLOAD_BYTES",
)
CONNECT_SECONDS = 5.0  # for each step to a connection: the address and TCP, then TLS
# Many servers close idle connections after 5 s. A call that goes out in that moment gets no answer,
# and counts as sent.
IDLE_SECONDS = 3.0
FIRST_BYTE = "send_request_headers.started"
CONNECTING = (httpx.ConnectError, httpx.ConnectTimeout)
NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.InvalidURL,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
JSON = {"content-type": "application/json"}
