"""A TLS server in front of one that speaks none: what stands before Valkey in many clouds."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def terminated(port: int, certificate: Path) -> Iterator[int]:
    """Yield a port of 127.0.0.1 that speaks TLS, and forwards to the other port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            plain_reader, plain_writer = await asyncio.open_connection("127.0.0.1", port)
            pumps = (_pump(reader, plain_writer), _pump(plain_reader, writer))
            await asyncio.gather(*pumps)

        return await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # one of the two has ended the connection
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
