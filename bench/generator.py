"""The load generator, a separate program: reads a job as JSON on stdin, prints a slice on stdout.

Without a rate the loop is closed: each connection sends when its last response has arrived. With a
rate it is open: request n is due at n/rate seconds, and its latency counts from then, so that a
stalled server cannot hide the requests that would have come in the meantime.
"""

import asyncio
import itertools
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import uvloop

from bench.bodies import Traffic, fill, make_bodies
from bench.figures import Slice, percentile
from bench.wire import LOST, Answer, acknowledged, read_answer, request


@dataclass(frozen=True)
class LoadJob:
    """The load to send: without `requests` only time limits it; without `rate` it is closed."""

    port: int
    key: str
    traffic: Traffic
    seconds: float
    connections: int
    users: int
    prefix: str
    bodies: int = 64
    requests: int = 0
    rate: float = 0.0


class Connection(asyncio.Protocol):
    """A keep-alive connection with at most one request in flight."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, message: bytes) -> "asyncio.Future[Answer]":
        """Send a request; the future holds its response, or `LOST`."""
        self._waiting = asyncio.get_running_loop().create_future()
        if self._transport is None:
            self._settle(LOST)
        else:
            self._transport.write(message)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        self._received += data
        if answer := read_answer(self._received):
            self._received.clear()
            self._settle(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._settle(LOST)

    def _settle(self, answer: Answer) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(answer)


@dataclass
class Progress:
    """The counts of the requests so far."""

    size: int
    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    items: int = 0

    def add(self, answer: Answer, latency: float) -> None:
        """Count a response; `latency` is in seconds."""
        promised = acknowledged(answer, self.size)
        self.items += promised
        self.failed += promised < self.size
        self.latencies.append(latency * 1e3)

    def slice(self, started: float, ended: float) -> Slice:
        """Return the figures of all requests."""
        ordered = sorted(self.latencies)
        return Slice(
            requests=len(ordered),
            failed=self.failed,
            items=self.items,
            seconds=ended - started,
            p50=percentile(ordered, 0.50),
            p99=percentile(ordered, 0.99),
            started=started,
        )


def messages(job: LoadJob) -> Iterator[bytes]:
    """Return the requests in the order of sending; all bodies are made in advance."""
    bodies = [text.encode() for text in make_bodies(job.traffic, job.bodies, job.users)]
    numbers = itertools.count(1)

    def to_request(body: bytes) -> bytes:
        return request(job.port, job.traffic.path, job.key, body)

    endless: Iterator[bytes]
    if job.traffic.ids:
        endless = (to_request(fill(body, job.prefix, numbers)) for body in itertools.cycle(bodies))
    else:
        endless = itertools.cycle([to_request(body) for body in bodies])
    return itertools.islice(endless, job.requests or None)


async def closed(ends: float) -> AsyncIterator[float]:
    """Yield the times to send at in a closed loop: always now, until the end."""
    while (now := time.monotonic()) < ends:
        yield now


async def scheduled(slots: Iterator[float], ends: float) -> AsyncIterator[float]:
    """Yield the times to send at in an open loop: wait for the next slot of all connections."""
    while (moment := next(slots)) < ends:
        if (early := moment - time.monotonic()) > 0:
            await asyncio.sleep(early)
        yield min(moment, time.monotonic())


async def drive(
    connection: Connection,
    moments: AsyncIterator[float],
    supply: Iterator[bytes],
    progress: Progress,
) -> None:
    """Send on one connection until the time, the requests or the connection end."""
    async for moment in moments:
        if (message := next(supply, None)) is None:
            return
        answer = await connection.send(message)
        progress.add(answer, time.monotonic() - moment)
        if answer is LOST:
            return


async def run(job: LoadJob) -> Slice:
    """Run a job."""
    loop, supply, progress = asyncio.get_running_loop(), messages(job), Progress(job.traffic.size)
    opened = [
        await loop.create_connection(Connection, "127.0.0.1", job.port)
        for _ in range(job.connections)
    ]
    started, spent = time.monotonic(), _processor_seconds()
    ends = started + job.seconds
    slots = (started + n / job.rate for n in itertools.count()) if job.rate else None

    def moments() -> AsyncIterator[float]:
        return scheduled(slots, ends) if slots else closed(ends)

    await asyncio.gather(
        *(drive(connection, moments(), supply, progress) for _, connection in opened)
    )
    ended, spent = time.monotonic(), _processor_seconds() - spent
    for transport, _ in opened:
        transport.close()
    return replace(progress.slice(started, ended), processor=spent)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def parse_job(text: str) -> LoadJob:
    """Parse the job that `load` wrote."""
    fields = json.loads(text)
    fields["traffic"] = Traffic(**fields["traffic"])
    return LoadJob(**fields)


def main() -> None:
    """Read a job, run it, and print its slice."""
    job = parse_job(sys.stdin.read())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(run(job)))))


if __name__ == "__main__":
    main()
