"""The one outgoing call, against respx: what is sent, and what comes of no answer."""

import asyncio
import traceback
from collections.abc import Iterator

import httpx
import pytest
import respx
from pydantic import SecretStr

from app.leanplum.client import LeanplumClient, LeanplumResponse, Unreachable
from app.leanplum.mapping import request_for

from .items import KEY, LEANPLUM, item

URL = LEANPLUM.api_url
BODY = request_for(LEANPLUM, [item()], 1.0).body


def send(timeout: float = 5.0) -> LeanplumResponse:
    async def once() -> LeanplumResponse:
        async with LeanplumClient(timeout=timeout, connections=2) as client:
            return await client.call(URL, "multi", BODY)

    return asyncio.run(once())


@pytest.fixture
def leanplum() -> Iterator[respx.Route]:
    with respx.mock() as router:
        yield router.post(url__startswith=URL)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it hangs on to."""
    waiting, seen = [error], set[int]()
    while waiting:
        at = waiting.pop()
        if id(at) not in seen:
            seen.add(id(at))
            yield at
            waiting += [one for one in (at.__cause__, at.__context__) if one is not None]


def test_a_call_is_a_post_of_the_body_to_the_url_with_the_action(leanplum: respx.Route) -> None:
    leanplum.respond(200, content=b"{}")
    send()
    request = leanplum.calls.last.request
    assert (request.method, str(request.url)) == ("POST", f"{URL}?action=multi")
    assert request.content == BODY
    assert request.headers["content-type"] == "application/json"


def test_no_key_is_in_the_url_or_a_header(leanplum: respx.Route) -> None:
    leanplum.respond(200)
    send()
    request = leanplum.calls.last.request
    assert KEY not in str(request.url) + str(request.headers.raw)
    assert KEY.encode() in request.content


def test_the_answer_comes_as_it_is(leanplum: respx.Route) -> None:
    leanplum.respond(429, content=b"later", headers={"Retry-After": "3"})
    assert send() == LeanplumResponse(429, b"later", "3")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_not_followed(leanplum: respx.Route, status: int) -> None:
    leanplum.respond(status, headers={"Location": "https://elsewhere.test/api"})
    assert send().status == status
    assert leanplum.call_count == 1


FAILURES = [
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.PoolTimeout,
    httpx.ReadError,
    httpx.RemoteProtocolError,
    httpx.DecodingError,
]


WORDS: dict[type[Exception], str] = {
    httpx.ConnectTimeout: "connection timed out",
    httpx.PoolTimeout: "no free connection",
    httpx.ReadTimeout: "no answer in time",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_no_whole_answer_is_unreachable_and_says_only_its_kind(
    leanplum: respx.Route, failure: type[Exception]
) -> None:
    leanplum.side_effect = failure(f"failed sending {KEY}")
    with pytest.raises(Unreachable) as caught:
        send()
    assert str(caught.value) == WORDS.get(failure, failure.__name__)
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("failure", FAILURES)
def test_what_is_raised_holds_on_to_no_request(
    leanplum: respx.Route, failure: type[Exception]
) -> None:
    """Whoever shows the error with its chain (a debugger, an error tracker) must not find the key
    in it.
    """
    leanplum.side_effect = failure("no")
    with pytest.raises(Unreachable) as caught:
        send()
    assert [
        type(one) for one in chain(caught.value) if getattr(one, "_request", None) is not None
    ] == []


def test_a_real_connection_that_is_refused_is_unreachable() -> None:
    async def once() -> None:
        async with LeanplumClient(timeout=5, connections=1) as client:
            await client.call("http://127.0.0.1:1/api", "multi", BODY)

    with pytest.raises(Unreachable, match="connection refused"):
        asyncio.run(once())


async def said_by_a_server(said: bytes, timeout: float) -> LeanplumResponse:
    """Send to a server that reads the request and says these bytes, or nothing."""
    over = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"]}")
        writer.write(said)
        if not said:
            await over.wait()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with LeanplumClient(timeout=timeout, connections=1) as client:
            return await client.call(f"http://127.0.0.1:{port}/api", "multi", BODY)
    finally:
        over.set()
        server.close()
        await asyncio.sleep(0)


def test_a_slow_answer_is_unreachable_after_the_timeout() -> None:
    with pytest.raises(Unreachable, match="no answer in time"):
        asyncio.run(said_by_a_server(b"", 0.1))


def test_an_answer_that_is_cut_off_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="RemoteProtocolError"):
        asyncio.run(said_by_a_server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", 5))


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the key would go to whatever HTTP_PROXY names."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    answer = asyncio.run(said_by_a_server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 5))
    assert answer == LeanplumResponse(200, b"{}", None)


def test_a_compressed_answer_that_is_broken_is_unreachable(leanplum: respx.Route) -> None:
    leanplum.mock(
        return_value=httpx.Response(200, stream=Broken(), headers={"content-encoding": "gzip"})
    )
    with pytest.raises(Unreachable, match="DecodingError"):
        send()


class Broken(httpx.AsyncByteStream):
    """Bytes that are no gzip."""

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        yield b"this is no gzip"


def test_a_key_that_the_other_side_echoes_goes_no_further(leanplum: respx.Route) -> None:
    leanplum.respond(403, text=f"no such key: {KEY}")

    async def once() -> LeanplumResponse:
        async with LeanplumClient(
            timeout=5, connections=2, secrets=lambda: [SecretStr(KEY)]
        ) as client:
            return await client.call(URL, "multi", BODY)

    assert asyncio.run(once()).body == b"no such key: [key]"
