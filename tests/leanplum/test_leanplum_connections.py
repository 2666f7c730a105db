"""A connection that is never made sends nothing, however its making fails, and no failure is told
sooner or later than it is known.
"""

import asyncio
import io
import time

import httpx
import pytest

from app.leanplum.client import CONNECT_SECONDS, LeanplumClient, LeanplumResponse, Unreachable
from tests.support.unreachable import PLACES

TIMEOUT = 0.6


def unreached(
    url: str, timeout: float = TIMEOUT, transport: httpx.AsyncBaseTransport | None = None
) -> Unreachable:
    """What calling this place raises."""

    async def once() -> LeanplumResponse:
        async with LeanplumClient(timeout=timeout, connections=1, transport=transport) as client:
            return await client.call(url, "multi", b'{"data":[]}')

    with pytest.raises(Unreachable) as caught:
        asyncio.run(once())
    return caught.value


@pytest.mark.parametrize("place", PLACES)
def test_a_connection_that_is_never_made_has_sent_nothing(place: str) -> None:
    with PLACES[place]() as url:
        assert not unreached(url).sent


@pytest.mark.parametrize("place", PLACES)
def test_an_upload_that_finds_no_connection_has_sent_nothing_and_ends_soon(place: str) -> None:
    async def once(url: str) -> LeanplumResponse:
        async with LeanplumClient(timeout=TIMEOUT, connections=1) as client:
            part = ("file0", ("a.txt", io.BytesIO(b"a"), "text/plain"))
            return await client.upload(url, "uploadFile", {}, [part])

    with PLACES[place]() as url, pytest.raises(Unreachable) as caught:
        asyncio.run(once(url))
    assert not caught.value.sent


@pytest.mark.parametrize("place", PLACES)
def test_a_download_that_finds_no_connection_has_sent_nothing(place: str) -> None:
    async def once(url: str) -> None:
        async with (
            LeanplumClient(timeout=TIMEOUT, connections=1) as client,
            client.download(url, "downloadFile", b"{}"),
        ):
            pass

    with PLACES[place]() as url, pytest.raises(Unreachable) as caught:
        asyncio.run(once(url))
    assert not caught.value.sent


@pytest.mark.parametrize(("timeout", "connect"), [(30.0, 5.0), (10.0, 5.0), (7.0, 3.5), (1.0, 0.5)])
def test_a_connection_is_given_up_well_before_the_call_is(timeout: float, connect: float) -> None:
    seen: dict[str, float] = {}

    def note(request: httpx.Request) -> httpx.Response:
        seen.update(request.extensions["timeout"])
        return httpx.Response(200, content=b"{}")

    async def once() -> None:
        async with LeanplumClient(
            timeout=timeout, connections=1, transport=httpx.MockTransport(note)
        ) as client:
            await client.call("https://leanplum.test/api", "multi", b"{}")

    asyncio.run(once())
    assert seen == {"connect": connect, "pool": connect, "read": timeout, "write": timeout}
    assert CONNECT_SECONDS == 5.0


def test_the_deadline_of_the_call_may_come_while_the_connection_is_made_and_nothing_was_sent() -> (
    None
):
    """TCP takes nearly the whole of its time, then TLS begins to take as long again."""

    class SlowThenSilent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            trace = request.extensions["trace"]
            await trace("connection.connect_tcp.started", {})
            await trace("connection.connect_tcp.complete", {})
            await trace("connection.start_tls.started", {})
            await asyncio.sleep(60)
            raise AssertionError("the deadline comes first")

    assert not unreached("https://leanplum.test/api", 0.1, SlowThenSilent()).sent


@pytest.mark.parametrize(
    "failure",
    [
        httpx.PoolTimeout("no"),
        httpx.ConnectError("no"),
        httpx.ConnectTimeout("no"),
        httpx.ProxyError("no"),
        httpx.UnsupportedProtocol("no"),
        httpx.InvalidURL("no"),
    ],
)
def test_without_a_trace_the_kind_of_error_tells_that_nothing_was_sent(failure: Exception) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure

    assert not unreached("https://leanplum.test/api", transport=httpx.MockTransport(fail)).sent


@pytest.mark.parametrize(
    "failure", [httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.WriteError]
)
def test_without_a_trace_what_is_not_known_to_be_unsent_counts_as_sent(
    failure: type[Exception],
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure("no")

    assert unreached("https://leanplum.test/api", transport=httpx.MockTransport(fail)).sent


async def meets(answers: list[bytes], timeout: float) -> Unreachable:
    """What a call raises that comes after those with these answers, on the same connection, and
    gets none. The server reads it whole and waits for the client to leave; where there were answers
    before, it hangs up.
    """
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"{}")
            writer.write(answer)
        await reader.readuntil(b"{}")
        if not answers:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
    async with server, LeanplumClient(timeout=timeout, connections=1) as client:
        for _ in answers:
            await client.call(url, "multi", b"{}")
        with pytest.raises(Unreachable) as caught:
            await client.call(url, "multi", b"{}")
        await ended.wait()
    return caught.value


def test_a_server_that_takes_the_request_and_says_nothing_may_have_done_it() -> None:
    started = time.monotonic()
    assert asyncio.run(meets([], 0.3)).sent
    assert time.monotonic() - started >= 0.3


def test_a_request_on_a_connection_of_before_may_have_arrived_although_none_was_made_for_it() -> (
    None
):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    assert asyncio.run(meets([answer], 5.0)).sent
