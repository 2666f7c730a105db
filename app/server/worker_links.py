"""The links between the processes of `serve --workers N`: questions to all, and published events.

Each worker has a socket to the supervisor. It passes questions on to every worker and collects the
answers, and passes on what a worker publishes. Messages are JSON, one in each line. The end of the
socket shows a worker that the supervisor is gone, and the supervisor that a worker is.
"""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import orjson

from app.telemetry.merged_metrics import Rendered, add_totals, render
from app.telemetry.process_metrics import ProcessMetrics

METRICS = "metrics"  # the question for a worker's metrics; the last answers are kept
# Names beside those of workers in the answers about metrics
SUPERVISOR, ENDED = "supervisor", "ended"
GATHER_SECONDS = 0.005  # during which published values are gathered into one message
ANSWER_SECONDS = 2.0  # longest wait for a worker's answer
MAX_MESSAGE = 64 * 1024 * 1024  # bytes


class WorkerLink:
    """A worker's end of its link."""

    def __init__(self, name: str, end: socket.socket, on_end: Callable[[], object]) -> None:
        """`end` is this worker's end; `on_end` is called if the supervisor is gone."""
        self.name, self._end, self._on_end = name, end, on_end
        # Return the answer to a question as a value for JSON; other questions are not answered
        self.answerers = dict[str, Callable[[], Awaitable[Any]]]()
        # Called with the values that another worker has published, by topic
        self.listeners = dict[str, Callable[[list[int]], object]]()
        self._unpublished = dict[str, list[int]]()
        self._numbers = itertools.count(1)
        self._asked = dict[int, asyncio.Future[dict[str, Any]]]()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answering = set[asyncio.Task[None]]()

    async def open(self) -> None:
        """Begin to answer questions, and report to the supervisor that this worker is ready."""
        reader, self._writer = await asyncio.open_connection(sock=self._end, limit=MAX_MESSAGE)
        self._reading = asyncio.create_task(self._read(reader))
        self._send({"ready": True})

    def publish(self, topic: str, values: Iterable[int] = ()) -> None:
        """Send values to the other workers soon, with what is published meanwhile."""
        if not self._unpublished:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._publish_gathered)
        self._unpublished.setdefault(topic, []).extend(values)

    def _publish_gathered(self) -> None:
        for topic, values in self._unpublished.items():
            self._send({"publish": topic, "values": values})
        self._unpublished = {}

    async def ask(self, question: str) -> dict[str, Any]:
        """Return the answers of all workers to a question, this one's too, by their names.

        A worker that is not ready, or does not answer within two seconds, is left out.
        """
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send({"ask": question, "number": number})
            async with asyncio.timeout(2 * ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            return {self.name: await self._answer(question)}
        finally:
            del self._asked[number]

    async def leave(self, queued: int) -> None:
        """Tell the supervisor what this worker has counted, and how many items wait, at its end."""
        if self._writer is not None and not self._writer.is_closing():
            self._send({"left": {"metrics": await self._answer(METRICS), "queued": queued}})
            with suppress(OSError, TimeoutError):  # the supervisor is gone, or hangs
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._writer.drain()

    async def close(self) -> None:
        """Close the link."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        if self._writer is not None:
            self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):  # the supervisor was killed
            async for line in reader:
                self._take(orjson.loads(line))
        self._on_end()

    def _take(self, message: dict[str, Any]) -> None:
        if "answers" in message:
            asked = self._asked.get(message["number"])
            if asked is not None and not asked.done():
                asked.set_result(message["answers"])
        elif "publish" in message:
            if message["publish"] in self.listeners:
                self.listeners[message["publish"]](message["values"])
        else:
            task = asyncio.create_task(self._reply(message["ask"], message["number"]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _reply(self, question: str, number: int) -> None:
        self._send({"answer": await self._answer(question), "number": number})

    async def _answer(self, question: str) -> Any:
        answerer = self.answerers.get(question)
        return None if answerer is None else await answerer()

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")


class SupervisorLink:
    """The supervisor's end of the link to one worker."""

    def __init__(self, name: str, hub: "LinkHub", end: socket.socket) -> None:
        """`end` is the supervisor's end of the socket."""
        self.name, self._hub, self._end = name, hub, end
        self.ready = asyncio.Event()
        self.metrics: Rendered = []  # as the worker told them last
        self._numbers = itertools.count(1)
        self._asked = dict[int, asyncio.Future[Any]]()
        self._writer: asyncio.StreamWriter | None = None
        self._passing = set[asyncio.Task[None]]()

    async def run(self) -> None:
        """Pass on questions until the worker has ended."""
        reader, self._writer = await asyncio.open_connection(sock=self._end, limit=MAX_MESSAGE)
        self._hub.links.add(self)
        with suppress(OSError):  # the worker was killed
            async for line in reader:
                self._take(orjson.loads(line))
        self._hub.remove(self)
        self._writer.close()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_result(None)

    async def ask(self, question: str) -> Any:
        """Return the worker's answer; None if none comes within two seconds."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self.send({"ask": question, "number": number})
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except (TimeoutError, OSError):
            return None
        finally:
            del self._asked[number]

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.ready.set()
        elif "publish" in message:
            for link in self._hub.links - {self}:
                link.send(message)
        elif "left" in message:
            self.metrics = message["left"]["metrics"] or self.metrics
            self._hub.queued = message["left"]["queued"]
        elif "ask" in message:
            task = asyncio.create_task(self._pass_on(message["ask"], message["number"]))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)
        elif (asked := self._asked.get(message["number"])) is not None and not asked.done():
            asked.set_result(message["answer"])

    async def _pass_on(self, question: str, number: int) -> None:
        answers = await self._hub.ask_all(question)
        self.send({"answers": answers, "number": number})

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, unless the worker has ended."""
        assert self._writer is not None, "the link is open"
        if not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")


class LinkHub:
    """The links of the supervisor to all workers."""

    def __init__(self) -> None:
        self.links = set[SupervisorLink]()
        self.queued: int | None = None  # items that waited when a worker has ended last
        self._ended: Rendered = []  # what workers counted that have ended
        self._own_metrics = ProcessMetrics(SUPERVISOR)

    def remove(self, link: SupervisorLink) -> None:
        """Remove the link to a worker that has ended; keep what it has counted."""
        self.links.discard(link)
        self._ended = add_totals(self._ended, link.metrics)

    async def ask_all(self, question: str) -> dict[str, Any]:
        """Return the answers of all workers that are ready, by their names.

        Of a worker that does not answer about its metrics, the last ones are returned. What workers
        had counted that have ended, and the metrics of this process, are returned as well.
        """
        links = [link for link in self.links if link.ready.is_set()]
        answers = await asyncio.gather(*(link.ask(question) for link in links))
        found = dict[str, Any]()
        for link, answer in zip(links, answers, strict=True):
            if link not in self.links:  # what it has counted is in the totals of those that ended
                continue
            if question == METRICS:
                link.metrics = answer or link.metrics
                found[f"{link.name} {id(link)}"] = link.metrics
            elif answer is not None:
                found[link.name] = answer
        if question == METRICS:
            found |= {ENDED: self._ended, SUPERVISOR: render(self._own_metrics)}
        return found
