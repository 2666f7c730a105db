"""The links between workers and supervisor: lost messages, silent workers, and ends."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import orjson

from app.server import worker_links
from app.server.worker_links import ENDED_WORKERS, METRICS, LinkHub, SupervisorLink, WorkerLink
from tests.support.wait import until_async

COUNTER = [["items", "Items", "counter", [["items_total", {}, 5.0]]]]


class Pair:
    """A hub, and a link with both of its ends."""

    def __init__(self, hub: LinkHub, name: str = "one") -> None:
        self.ours, self.theirs = socket.socketpair()
        self.hub = hub
        self.link = SupervisorLink(name, hub, self.ours)
        self.worker = WorkerLink(name, self.theirs)
        self.running = asyncio.create_task(self.link.run())

    async def open(self) -> None:
        await self.worker.open()
        await self.link.ready.wait()

    async def close(self) -> None:
        self.worker.on_end = lambda: None
        await self.worker.close()
        self.theirs.close()
        await self.running


@asynccontextmanager
async def linked(*names: str) -> AsyncIterator[list[Pair]]:
    """The links of one hub to workers, which are closed at the end."""
    hub = LinkHub()
    pairs = [Pair(hub, name) for name in names or ["one"]]
    try:
        yield pairs
    finally:
        for pair in pairs:
            await pair.close()


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


async def answer_one() -> int:
    return 1


@on_a_loop
async def test_a_question_reaches_all_workers() -> None:
    async with linked("one", "two") as pairs:
        for pair in pairs:
            pair.worker.answerers["count"] = answer_one
            await pair.open()
        assert list((await pairs[0].worker.ask("count")).values()) == [1, 1]


@on_a_loop
async def test_a_worker_that_is_killed_within_a_message_is_left_out() -> None:
    async with linked("one", "two") as (one, two):
        one.worker.answerers["count"] = answer_one
        await one.open()
        two.theirs.sendall(b'{"ready":true}\n{"publish":"acc')
        await two.link.ready.wait()
        two.theirs.close()
        await two.running
        assert list((await one.worker.ask("count")).values()) == [1]


@on_a_loop
async def test_a_worker_learns_of_the_end_of_its_supervisor_within_a_message() -> None:
    ours, theirs = socket.socketpair()
    worker, ended = WorkerLink("one", theirs), asyncio.Event()
    worker.on_end = ended.set
    await worker.open()
    ours.sendall(b'{"answers":{')
    ours.close()
    await asyncio.wait_for(ended.wait(), 30)
    await worker.close()


@on_a_loop
async def test_what_is_sent_before_the_link_is_open_arrives() -> None:
    async with linked() as (pair,):
        steps = list[bool]()
        pair.worker.on_stop = steps.append
        pair.link.stop()
        pair.link.stop(replaced=True)
        await pair.open()
        await until_async(lambda: steps == [False, True])


@on_a_loop
async def test_the_reason_for_which_a_worker_does_not_start_arrives() -> None:
    async with linked() as (pair,):
        pair.worker.refuse("GATEWAY_APPS_FILE: not readable")
        pair.theirs.close()
        await pair.running
        assert pair.link.refusal == "GATEWAY_APPS_FILE: not readable"


@on_a_loop
async def test_of_a_worker_that_does_not_answer_the_last_answer_counts() -> None:
    async with linked() as (pair,):
        pair.worker.answerers["count"] = answer_one
        await pair.open()
        assert list((await pair.hub.ask_all("count")).values()) == [1]
        answers = asyncio.Event()

        async def answer_late() -> Any:
            await answers.wait()

        pair.worker.answerers["count"] = answer_late
        assert list((await pair.hub.ask_all("count")).values()) == [1]
        assert not pair.link.answering, "nobody waits for it again"
        answers.set()
        await until_async(lambda: pair.link.answering)


async def five() -> Any:
    return COUNTER


@on_a_loop
async def test_counters_of_a_worker_that_has_ended_stay() -> None:
    async with linked("one", "two", "three") as pairs:
        for number, pair in enumerate(pairs, 1):
            pair.worker.answerers[METRICS] = five
            await pair.open()
            await pair.worker.leave(0)
            await pair.worker.close()
            await pair.running
            kept = (await pair.hub.ask_all(METRICS))[ENDED_WORKERS]
            assert kept[0][3] == [["items_total", {}, 5.0 * number]]


@on_a_loop
async def test_counters_of_a_worker_that_was_killed_are_those_that_were_seen_last() -> None:
    async with linked() as (pair,):
        pair.worker.answerers[METRICS] = five
        await pair.open()
        await pair.hub.ask_all(METRICS)
        pair.theirs.shutdown(socket.SHUT_RDWR)
        await pair.running
        assert (await pair.hub.ask_all(METRICS))[ENDED_WORKERS] == COUNTER


@on_a_loop
async def test_messages_to_a_worker_that_does_not_read_are_left_out_in_the_end() -> None:
    async with linked() as (pair,):
        pair.theirs.sendall(orjson.dumps({"ready": True}) + b"\n")
        await pair.link.ready.wait()
        message = {"publish": "settled", "values": list(range(10_000))}
        for _ in range(1_000):
            pair.link.send(message)
        assert pair.link._writer is not None
        unread = pair.link._writer.transport.get_write_buffer_size()
        assert unread < worker_links.MAX_UNREAD + 100_000
