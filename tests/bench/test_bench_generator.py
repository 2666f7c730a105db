"""The generator against a small server of its own."""

import asyncio
import itertools
from contextlib import suppress
from dataclasses import replace

from bench.bodies import BATCH_WITH_IDS, EVENT
from bench.generator import LoadJob, messages, run

JOB = LoadJob(
    port=0, key="lpgw_k", traffic=EVENT, seconds=5.0, connections=2, users=5, prefix="run", bodies=3
)


def against(job: LoadJob, status: str) -> "tuple[int, int, int]":
    """Run a job against a server that answers everything with `status`; requests, failed and
    items.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(
                    int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                )
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        writer.close()

    async def both() -> "tuple[int, int, int]":
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            found = await run(replace(job, port=server.sockets[0].getsockname()[1]))
            await asyncio.sleep(0.01)
        return found.requests, found.failed, found.items

    return asyncio.run(both())


def test_a_counted_job_sends_exactly_as_many_requests() -> None:
    assert against(replace(JOB, requests=7), "202 Accepted") == (7, 0, 7)


def test_refused_requests_are_counted_as_failed() -> None:
    assert against(replace(JOB, requests=4), "503 Unavailable") == (4, 4, 0)


def test_an_open_loop_sends_at_its_rate_however_fast_answers_come() -> None:
    requests, failed, _ = against(replace(JOB, rate=100.0, seconds=0.1), "202 Accepted")
    assert (requests, failed) in ((10, 0), (11, 0))


def test_no_id_is_sent_twice() -> None:
    sent = b"".join(itertools.islice(messages(replace(JOB, traffic=BATCH_WITH_IDS)), 5))
    assert all(sent.count(b'"run-%d"' % number) == 1 for number in range(1, 501))
