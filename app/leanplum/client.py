"""The HTTP client of Leanplum: the only module that makes calls to it."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any, NamedTuple, Self, TypeVar

import httpx
from pydantic import SecretStr

from app.clock import now_ms
from app.leanplum.connection_pool import ConnectionPool
from app.leanplum.connections import Route, failure_reason
from app.leanplum.http_response import (
    ACCEPT_ENCODING,
    MAX_DOWNLOAD_BYTES,
    MAX_RESPONSE_BYTES,
    UnreadableBody,
    decompress,
    read_body,
    resolve_retry_after,
    too_large,
)

T = TypeVar("T")
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
DIRECT = Route()
MAX_REDIRECTS = 5
FILE_SECONDS = 60.0  # how long a file may make no progress
MIN_BYTES_PER_SECOND = 10_000  # of a file, beyond those seconds
RESPONSE_SETTING = "GATEWAY_UPSTREAM_MAX_RESPONSE_BYTES"
DOWNLOAD_SETTING = "GATEWAY_UPSTREAM_MAX_DOWNLOAD_BYTES"
CONNECT_SECONDS = 5.0  # for each step to a connection: the address and TCP, then TLS
# Many servers close idle connections after 5 s. A call sent in that moment gets no answer, and
# counts as sent.
IDLE_SECONDS = 3.0
FIRST_BYTE_EVENT = "send_request_headers.started"
CONNECT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout)
NEVER_SENT_ERRORS = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.InvalidURL,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
JSON_HEADERS = {"content-type": "application/json"}


class LeanplumResponse(NamedTuple):
    """An HTTP response, unchanged but for a date in its Retry-After, which becomes seconds."""

    status: int
    body: bytes
    retry_after: str | None
    location: str | None = None  # the URL of a redirect, which is not followed


@dataclass(frozen=True, slots=True)
class Download:
    """A file as it comes; or, where `chunks` is None, the response that was no file."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    chunks: AsyncIterator[bytes] | None = None


# A form field's name, and its file's name, content and media type
FilePart = tuple[str, tuple[str, IO[bytes], str]]


class Unreachable(Exception):
    """No complete response came. The text says why, in a few words and without the request.

    `sent`: Leanplum may have received the call and done it; False where not one byte went out.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


NoteStatus = Callable[[int], None]
# Makes the span of a call from Leanplum's action and host
CallTracing = Callable[[str, str], AbstractContextManager[NoteStatus]]


def _untraced(action: str, host: str) -> AbstractContextManager[NoteStatus]:
    return nullcontext(lambda status: None)


class Progress:
    """The progress of one request, as the transport traces it.

    `traced` is set once the transport does anything for the request, `sent` once its first byte
    goes out. A connection that is looked up, opened or encrypted has sent nothing.
    """

    def __init__(self) -> None:
        self.traced = self.sent = self.asked_proxy = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Note one event of the trace."""
        self.traced = True
        if not event.endswith(FIRST_BYTE_EVENT):
            return
        if info["request"].method == b"CONNECT":  # goes no further than the proxy
            self.asked_proxy = True
        else:
            self.sent = True

    def may_have_arrived(self, error: Exception) -> bool:
        """Return whether Leanplum may have received the request that ended in this error.

        A transport without a trace leaves only the error's type to tell.
        """
        if self.traced:
            return self.sent
        return not isinstance(error, NEVER_SENT_ERRORS)


class LeanplumClient:
    """Sends bodies to Leanplum.

    Keys are sent in the body, never in a URL or header (Leanplum's docs, Authentication). Responses
    are logged, stored and shown, so any of `secrets` that a response echoes is replaced by "[key]"
    first.

    Reading is bounded, whatever the other side sends: a response by `max_response` bytes, both
    compressed and decompressed, a file by `max_download`, and either by a total time. A response
    beyond that is not complete.
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
        tracing: CallTracing = _untraced,
    ) -> None:
        """`tracing` makes the span of a call, given Leanplum's action and host."""
        self._timeout, self._tracing = timeout, tracing
        # Shorter than the whole call's, so that this one is reported
        self._connect_timeout = min(CONNECT_SECONDS, timeout / 2)
        self._max_response, self._max_download = max_response, max_download
        self._secrets = secrets
        self._timeouts = set[asyncio.Timeout]()  # of the calls in flight
        self._given_up = False
        context = route.context()
        mounts: dict[str, httpx.AsyncBaseTransport] = {}
        if transport is None:
            mounts = _mounts(route, context, connections)
            if not route.uses_env_proxies:
                transport = _pool(connections, verify=context)
        self._proxied = bool(mounts)
        self._http = httpx.AsyncClient(
            headers={"accept-encoding": ACCEPT_ENCODING},
            timeout=self._patience(timeout),
            # Of httpx's own pool, which is used only where the environment names a proxy
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=connections,
                keepalive_expiry=IDLE_SECONDS,
            ),
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
        """End every call in flight, and make no more."""
        self._given_up = True
        self.end_calls()

    def end_calls(self) -> None:
        """End every call in flight, as if its time were over."""
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(0)

    async def call(
        self, url: str, action: str, body: bytes, headers: Mapping[str, str] = NO_HEADERS
    ) -> LeanplumResponse:
        """Make one call. `headers`: those about the end user.

        Raises Unreachable where no complete response came within the timeout.
        """
        # httpx's own timeouts begin anew with each chunk of a response; this one is for all of it.
        request = self._http.build_request(
            "POST",
            url,
            params={"action": action},
            content=body,
            headers={**JSON_HEADERS, **headers},
        )
        return await self._send(request, self._timeout)

    async def upload(
        self, url: str, action: str, fields: Mapping[str, str], files: Sequence[FilePart]
    ) -> LeanplumResponse:
        """Send files as multipart/form-data, each read chunk by chunk as it goes out.

        Raises Unreachable where nothing moved for a minute, or the whole took longer than at
        `MIN_BYTES_PER_SECOND`.
        """
        request = self._http.build_request(
            "POST",
            url,
            params={"action": action},
            data=fields,
            files=files,
            timeout=self._patience(FILE_SECONDS),
        )
        return await self._send(request, self._file_seconds(sum(map(_size, files))))

    async def send_csv(
        self, url: str, action: str, args: Mapping[str, str], content: bytes
    ) -> LeanplumResponse:
        """Send CSV as the body, and the arguments, keys included, in the query.

        No other place is left for them (fact sheet §12). Raises Unreachable as `upload` does.
        """
        request = self._http.build_request(
            "POST",
            url,
            params={"action": action, **args},
            content=content,
            headers={"content-type": "text/csv"},
            timeout=self._patience(FILE_SECONDS),
        )
        return await self._send(request, self._file_seconds(len(content)))

    @asynccontextmanager
    async def download(self, url: str, action: str, body: bytes) -> AsyncIterator[Download]:
        """Fetch a file, following redirects. Only the first request has keys.

        Raises Unreachable where nothing moved for as long as the timeout, or a redirect leads to a
        place that is not https.
        """
        request = self._http.build_request(
            "POST", url, params={"action": action}, content=body, headers=JSON_HEADERS
        )
        response = await self._send_for_headers(request)
        try:
            for _ in range(MAX_REDIRECTS):
                if response.next_request is None:
                    break
                target = response.next_request.url
                await response.aclose()
                if not _may_redirect_to(target, request.url):
                    raise Unreachable("a redirect to a place that is not https", sent=True)
                get = self._http.build_request("GET", target, timeout=self._patience(FILE_SECONDS))
                response = await self._send_for_headers(get)
            redirected = response.request.method == "GET"
            is_json = "json" in response.headers.get("content-type", "")
            if int(response.headers.get("content-length", 0)) > self._max_download:
                raise Unreachable(too_large(self._max_download, DOWNLOAD_SETTING), sent=True)
            status, headers = response.status_code, response.headers
            if status == httpx.codes.OK and (redirected or not is_json):
                yield Download(status, headers, chunks=self._file_chunks(response))
            else:
                reading = self._read_body(response)
                body = await self._within(self._timeout, reading, Progress())
                yield Download(status, headers, body=self._mask(body))
        finally:
            await response.aclose()

    def _patience(self, seconds: float) -> httpx.Timeout:
        """Return timeouts of `seconds` without a byte, and less for making a connection."""
        return httpx.Timeout(seconds, connect=self._connect_timeout, pool=self._connect_timeout)

    def _file_seconds(self, size: int) -> float:
        """Return the seconds that sending a file and reading the response may take in total."""
        return FILE_SECONDS + self._timeout + size / MIN_BYTES_PER_SECOND

    async def _send(self, request: httpx.Request, seconds: float) -> LeanplumResponse:
        """Send a request and read the whole response within the time. Raises Unreachable."""
        progress = request.extensions["trace"] = Progress()
        with self._traced(request) as note_status:
            response = await self._within(seconds, self._exchange(request), progress)
            note_status(response.status)
        return response

    def _traced(self, request: httpx.Request) -> AbstractContextManager[NoteStatus]:
        """Make the span of a call; a file's own place, to which a redirect leads, has none."""
        if request.method != "POST":
            return _untraced("", "")
        return self._tracing(request.url.params["action"], request.url.host)

    async def _exchange(self, request: httpx.Request) -> LeanplumResponse:
        response = await self._http.send(request, stream=True)
        try:
            body = await self._read_body(response)
        finally:
            await response.aclose()
        retry_after = resolve_retry_after(
            response.headers.get("retry-after"),
            date=response.headers.get("date"),
            now=now_ms() / 1000,
        )
        location = response.headers.get("location") if response.is_redirect else None
        return LeanplumResponse(response.status_code, self._mask(body), retry_after, location)

    async def _read_body(self, response: httpx.Response) -> bytes:
        encoding = response.headers.get("content-encoding", "")
        return await read_body(_raw(response), encoding, self._max_response, RESPONSE_SETTING)

    async def _file_chunks(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Yield a file's content as it comes. Raises Unreachable."""
        encoding = response.headers.get("content-encoding", "")
        failure: Unreachable | None = None
        try:
            async for chunk in decompress(
                _at_min_rate(_raw(response)), encoding, self._max_download, DOWNLOAD_SETTING
            ):
                yield chunk
        except httpx.HTTPError as error:
            failure = Unreachable(failure_reason(error), sent=True)
        except (UnreadableBody, TimeoutError) as error:
            failure = Unreachable(str(error), sent=True)
        if failure is not None:  # raised outside the handler, as in `_within`
            raise failure

    async def _send_for_headers(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response before its body is read. Raises Unreachable."""
        progress = request.extensions["trace"] = Progress()
        sending = self._http.send(request, stream=True)
        with self._traced(request) as note_status:
            response = await self._within(self._timeout, sending, progress)
            note_status(response.status_code)
        return response

    async def _within(self, seconds: float | None, call: Awaitable[T], progress: Progress) -> T:
        """Return the result of a call that takes at most `seconds`. Raises Unreachable."""
        failure: Unreachable | None = None
        try:
            async with asyncio.timeout(0 if self._given_up else seconds) as timeout:
                self._timeouts.add(timeout)
                try:
                    return await call
                finally:
                    self._timeouts.discard(timeout)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            reason = failure_reason(error)
            reached_proxy = progress.asked_proxy or progress.sent
            if self._proxied and not reached_proxy and isinstance(error, CONNECT_ERRORS):
                reason = f"proxy: {reason}"
            failure = Unreachable(reason, sent=progress.may_have_arrived(error))
        except UnreadableBody as error:
            failure = Unreachable(str(error), sent=True)
        # Raised outside the handlers: the original error holds the request, and so the key
        raise failure

    def _mask(self, body: bytes) -> bytes:
        for secret in self._secrets():
            body = body.replace(secret.get_secret_value().encode(), b"[key]")
        return body


async def _raw(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the body's chunks before httpx decompresses them, which it does without a bound."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for chunk in response.stream:
        yield chunk


async def _at_min_rate(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield chunks that come at `MIN_BYTES_PER_SECOND` or faster. Raises TimeoutError.

    Only the time in which chunks are waited for counts.
    """
    size, waited = 0, 0.0
    while True:
        began = time.monotonic()
        chunk = await anext(chunks, None)
        waited += time.monotonic() - began
        if chunk is None:
            return
        size += len(chunk)
        if waited > FILE_SECONDS + size / MIN_BYTES_PER_SECOND:
            raise TimeoutError(
                f"the file comes at less than {MIN_BYTES_PER_SECOND:,} bytes a second"
            )
        yield chunk


def _size(part: FilePart) -> int:
    """Return the bytes of a form's file from its current position on."""
    file = part[1][1]
    position = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(position)
    return end - position


def _pool(connections: int, **options: Any) -> ConnectionPool:
    """Return a pool that keeps so many idle connections. `options` are of httpx's transport."""
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=1, keepalive_expiry=IDLE_SECONDS
    )
    return ConnectionPool(
        lambda: httpx.AsyncHTTPTransport(limits=limits, **options), connections, IDLE_SECONDS
    )


def _mounts(
    route: Route, context: ssl.SSLContext, connections: int
) -> dict[str, httpx.AsyncBaseTransport]:
    """Return the transport through the proxy, by the URLs that go there.

    Plain http, which only a simulator on this machine uses, shows its keys to a proxy, so that must
    be on this machine as well.
    """
    if route.proxy is None:
        return {}
    url = httpx.URL(route.proxy.get_secret_value())
    proxy = httpx.Proxy(url, ssl_context=context if url.scheme == "https" else None)
    transport = _pool(connections, verify=context, proxy=proxy, trust_env=False)
    return {"all://" if route.proxy_is_safe else "https://": transport}


def _may_redirect_to(target: httpx.URL, first: httpx.URL) -> bool:
    """Return whether a URL is https, or on Leanplum's own host (the simulator has http)."""
    return target.scheme == "https" or (target.scheme, target.host) == (first.scheme, first.host)
