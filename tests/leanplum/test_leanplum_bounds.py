"""Responses that no server should give: reading them is bounded in memory and time, whatever they
are.
"""

import asyncio
import io
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from app.leanplum.client import DOWNLOAD_SETTING, RESPONSE_SETTING, LeanplumClient, Unreachable
from app.leanplum.http_response import UnreadableBody, read_body
from tests.support.hostile_server import ANSWERS, MARK, Hostile, bomb, hostile

MEBIBYTE = 1024 * 1024
Call = Callable[[LeanplumClient, str], Awaitable[Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with hostile() as running:
        yield running


async def called(client: LeanplumClient, url: str) -> Any:
    return await client.call(url, "track", MARK)


async def uploaded(client: LeanplumClient, url: str) -> Any:
    return await client.upload(
        url, "uploadFile", {}, [("file", ("a.txt", io.BytesIO(MARK), "text/plain"))]
    )


async def imported(client: LeanplumClient, url: str) -> Any:
    return await client.send_csv(url, "multi", {}, MARK)


async def downloaded(client: LeanplumClient, url: str) -> Any:
    async with client.download(url, "downloadFile", MARK) as found:
        return found.body


WAYS: list[Call] = [called, uploaded, imported, downloaded]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may take as short a time as calls."""
    monkeypatch.setattr("app.leanplum.client.FILE_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.sampled(4)
def test_no_hostile_response_takes_memory_or_time(server: Hostile, kind: str, way: Call) -> None:
    server.kind = kind

    async def once() -> Any:
        async with LeanplumClient(timeout=1.0, connections=1, max_response=4 * MEBIBYTE) as client:
            return await way(client, f"{server.url}/api")

    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(Unreachable) as caught:
            asyncio.run(once())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.sent
    assert time.monotonic() - started < 8
    # The hostile server's own memory is in the same process: up to 6 MB for the longest answer,
    # twice.
    assert peak < 40 * MEBIBYTE
    if kind == "a gzip bomb":
        assert (
            str(caught.value) == f"the response is larger than 4,194,304 bytes ({RESPONSE_SETTING})"
        )


def pieces(*told: bytes) -> Any:
    async def one_by_one() -> Any:
        for piece in told:
            yield piece

    return one_by_one()


def whole(*told: bytes, encoding: str = "", most: int = 4 * MEBIBYTE) -> bytes:
    return asyncio.run(read_body(pieces(*told), encoding, most, "SETTING"))


def gzipped(body: bytes, window: int = 31) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, window)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "window"), [("gzip", 31), ("x-gzip", 31), ("GZIP", 31), ("deflate", 15)]
)
def test_a_body_is_read_however_it_is_compressed_and_cut_into_pieces(
    encoding: str, window: int
) -> None:
    body = bytes(range(256)) * 2_000
    packed = gzipped(body, window)
    assert whole(packed, encoding=encoding) == body
    assert whole(*(packed[at : at + 1] for at in range(len(packed))), encoding=encoding) == body


def test_a_body_may_be_as_large_as_the_setting_and_not_a_byte_larger() -> None:
    for encoding, packed in (("", lambda body: body), ("gzip", gzipped)):
        assert whole(packed(b"x" * 1_000), encoding=encoding, most=1_000) == b"x" * 1_000
        with pytest.raises(UnreadableBody, match=r"larger than 1,000 bytes \(SETTING\)"):
            whole(packed(b"x" * 1_001), encoding=encoding, most=1_000)


def test_an_empty_body_with_an_encoding_is_empty() -> None:
    assert whole(encoding="gzip") == b""


def test_a_bomb_is_given_up_after_the_first_of_it() -> None:
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(UnreadableBody):
            whole(bomb(3_000), encoding="gzip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MEBIBYTE
    assert time.process_time() - started < 1


@pytest.mark.usefixtures("impatient")
def test_a_file_is_cut_off_where_it_is_larger_than_allowed() -> None:
    async def read(served: bytes, most: int) -> bytes:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(MARK)
            writer.write(served)
            writer.close()

        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
        client = LeanplumClient(timeout=1.0, connections=1, max_download=most)
        async with server, client, client.download(url, "downloadFile", MARK) as found:
            assert found.chunks is not None
            return b"".join([piece async for piece in found.chunks])

    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
    plain = head + b"Content-Length: 5000\r\n\r\n" + b"x" * 5_000
    chunked = (
        head + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nxxxxx\r\n" * 1_000 + b"0\r\n\r\n"
    )
    packed = gzipped(b"x" * 5_000)
    zipped = head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    for served in (plain, chunked, zipped):
        assert asyncio.run(read(served, 5_000)) == b"x" * 5_000
        with pytest.raises(Unreachable, match=rf"larger than 4,999 bytes \({DOWNLOAD_SETTING}\)"):
            asyncio.run(read(served, 4_999))


@pytest.mark.usefixtures("impatient")
def test_a_file_that_drips_ends(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_file() -> Iterator[tuple[bytes, float]]:
        yield (
            b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n",
            0.0,
        )
        while True:
            yield b"1\r\nx\r\n", 0.05

    monkeypatch.setitem(ANSWERS, "a slow file", slow_file)

    server.kind = "a slow file"

    async def read() -> None:
        client = LeanplumClient(timeout=1.0, connections=1)
        async with client, client.download(f"{server.url}/api", "downloadFile", MARK) as found:
            assert found.chunks is not None
            async for _ in found.chunks:
                pass

    started = time.monotonic()
    with pytest.raises(Unreachable, match="less than 10,000 bytes a second"):
        asyncio.run(read())
    assert time.monotonic() - started < 5
