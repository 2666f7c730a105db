"""The links between the processes of `serve --workers N`: questions to all, and published events.

Each worker has a socket to the supervisor. It passes questions on to every worker and collects the
answers, and passes on what a worker publishes. Over it the supervisor also stops a worker. Messages
are JSON, one in each line. The end of the socket shows a worker that the supervisor is gone, and
the supervisor that a worker is.
"""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import orjson

from app.telemetry.merged_metrics import Rendered, add_totals, render
from app.telemetry.process_metrics import ProcessMetrics

GATHER_SECONDS = 0.005  # during which published values are gathered into one message
ANSWER_SECONDS = 2.0  # longest wait for a worker's answer; the next question does not wait again
MAX_MESSAGE = 64 * 1024 * 1024  # bytes
# Bytes that wait for a worker that does not read; further messages to it are left out. Whoever
# would have got one looks again within seconds.
MAX_UNREAD = 4 * 1024 * 1024
PING = "ping"  # a question that every worker answers, as long as its event loop runs
METRICS = "metrics"  # the question whose answers the supervisor keeps when a worker ends
WORKERS = "workers"  # the question that the supervisor answers: the state of each worker, by name
SUPERVISOR = "supervisor"  # the name of its answers
ENDED_WORKERS = "ended workers"  # the name of the answer for all of them

Message = dict[str, Any]


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[Message]:
    """Yield messages until the other process is gone; a last one that is not whole is left out."""
    with suppress(OSError):  # it was killed
        async for line in reader:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


def _send(writer: asyncio.StreamWriter | None, message: Message) -> None:
    if writer is None or writer.is_closing():
        return
    if writer.transport.get_write_buffer_size() < MAX_UNREAD:
        writer.write(orjson.dumps(message) + b"\n")


class WorkerLink:
    """A worker's end of its link.

    `on_stop` is called for each step of a stop, with whether another worker takes over; `on_end` if
    the supervisor is gone.
    """

    def __init__(self, name: str, end: socket.socket) -> None:
        """`end` is this worker's end of the socket."""
        self.name, self._end = name, end
        self.on_stop: Callable[[bool], object] = lambda replaced: None
        self.on_end: Callable[[], object] = lambda: None
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
        self._reading.add_done_callback(self._end_of_link)
        _send(self._writer, {"ready": True})

    def refuse(self, reason: str) -> None:
        """Report to the supervisor why this worker does not start. The link must not be open."""
        self._end.sendall(orjson.dumps({"refused": reason}) + b"\n")

    def publish(self, topic: str, values: Iterable[int] = ()) -> None:
        """Send values to the other workers soon, with what is published meanwhile."""
        if not self._unpublished:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._publish_gathered)
        self._unpublished.setdefault(topic, []).extend(values)

    def _publish_gathered(self) -> None:
        for topic, values in self._unpublished.items():
            _send(self._writer, {"publish": topic, "values": values})
        self._unpublished = {}

    async def ask(self, question: str) -> dict[str, Any]:
        """Return the answers of all workers to a question, this one's too, by their names.

        A worker that is not ready is left out. For one that does not answer within two seconds it
        is the last answer that it gave.
        """
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            _send(self._writer, {"ask": question, "number": number})
            async with asyncio.timeout(2 * ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            return {self.name: await self._answer(question)}
        finally:
            del self._asked[number]

    async def leave(self, queued: int) -> None:
        """Tell the supervisor what this worker has counted, and how many items wait, at its end."""
        if self._writer is not None and not self._writer.is_closing():
            _send(
                self._writer, {"left": {"metrics": await self._answer(METRICS), "queued": queued}}
            )
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
            with suppress(OSError):  # the supervisor is gone
                await self._writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for message in _messages(reader):
            self._take(message)

    def _end_of_link(self, reading: "asyncio.Task[None]") -> None:
        if not reading.cancelled():
            self.on_end()

    def _take(self, message: Message) -> None:
        if "answers" in message:
            asked = self._asked.get(message["number"])
            if asked is not None and not asked.done():
                asked.set_result(message["answers"])
        elif "publish" in message:
            if message["publish"] in self.listeners:
                self.listeners[message["publish"]](message["values"])
        elif "stop" in message:
            self.on_stop(message["replaced"])
        else:
            task = asyncio.create_task(self._reply(message["ask"], message["number"]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _reply(self, question: str, number: int) -> None:
        _send(self._writer, {"answer": await self._answer(question), "number": number})

    async def _answer(self, question: str) -> Any:
        if question == PING:
            return True
        answerer = self.answerers.get(question)
        return None if answerer is None else await answerer()


class SupervisorLink:
    """The supervisor's end of the link to one worker.

    `answering` is False after a question that the worker has not answered in time, until it answers
    one. `refusal` is the reason for which the worker does not start.
    """

    def __init__(self, name: str, hub: "LinkHub", end: socket.socket) -> None:
        """`end` is the supervisor's end of the socket."""
        self.name, self._hub, self._end = name, hub, end
        self.ready = asyncio.Event()
        self.answering = True
        self.refusal: str | None = None
        self.last_answers = dict[str, Any]()  # by question
        self._numbers = itertools.count(1)
        self._asked = dict[int, asyncio.Future[Any]]()
        self._unsent = list[Message]()  # before the link is open
        self._writer: asyncio.StreamWriter | None = None
        self._passing = set[asyncio.Task[None]]()

    async def run(self) -> None:
        """Pass on questions until the worker has ended."""
        reader, self._writer = await asyncio.open_connection(sock=self._end, limit=MAX_MESSAGE)
        for message in self._unsent:
            _send(self._writer, message)
        self._hub.add(self)
        try:
            async for message in _messages(reader):
                self._take(message)
        finally:
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
        except TimeoutError:
            self.answering = False
            return None
        finally:
            del self._asked[number]

    async def ask_or_recall(self, question: str) -> Any:
        """Return the worker's answer, or the last one that it gave; None if there is neither."""
        answer = await self.ask(question) if self.answering else None
        if answer is None:
            return self.last_answers.get(question)
        self.last_answers[question] = answer
        return answer

    def stop(self, *, replaced: bool = False) -> None:
        """Let the worker take the next step of a stop; `replaced`: another one takes over."""
        self.send({"stop": True, "replaced": replaced})

    def send(self, message: Message) -> None:
        """Send a message, unless the worker has ended."""
        if self._writer is None:
            self._unsent.append(message)
        else:
            _send(self._writer, message)

    def _take(self, message: Message) -> None:
        if "ready" in message:
            self.ready.set()
        elif "publish" in message:
            self._hub.pass_on(message, self)
        elif "left" in message:
            self.last_answers[METRICS] = message["left"]["metrics"] or self.last_answers.get(
                METRICS
            )
            self._hub.queued = message["left"]["queued"]
        elif "ask" in message:
            task = asyncio.create_task(self._pass_on(message["ask"], message["number"]))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)
        elif "refused" in message:
            self.refusal = message["refused"]
        else:
            self.answering = True
            asked = self._asked.get(message["number"])
            if asked is not None and not asked.done():
                asked.set_result(message["answer"])

    async def _pass_on(self, question: str, number: int) -> None:
        answers = await self._hub.ask_all(question)
        self.send({"answers": answers, "number": number})


class LinkHub:
    """The links of the supervisor to all workers.

    It keeps the counters of workers that have ended: a sum that fell would look like a restart of
    all of them.
    """

    def __init__(self) -> None:
        # Return the supervisor's own answer to a question, which no worker is asked
        self.answerers = dict[str, Callable[[], Any]]()
        self._links = set[SupervisorLink]()
        self.queued: int | None = None  # items that waited when a worker has ended last
        self._ended: Rendered = []  # counted by workers that have ended
        self._own_metrics = ProcessMetrics(SUPERVISOR)

    def add(self, link: SupervisorLink) -> None:
        """Include a worker."""
        self._links.add(link)

    def remove(self, link: SupervisorLink) -> None:
        """Leave a worker out that has ended."""
        self._links.discard(link)
        self._ended = add_totals(self._ended, link.last_answers.get(METRICS) or [])

    def pass_on(self, message: Message, sender: SupervisorLink) -> None:
        """Send a message to all workers but the one that it is from."""
        for link in self._links - {sender}:
            link.send(message)

    async def ask_all(self, question: str) -> dict[str, Any]:
        """Return the answers of all workers that are ready, by their names."""
        if question in self.answerers:
            return {SUPERVISOR: self.answerers[question]()}
        links = [link for link in self._links if link.ready.is_set()]
        found = await asyncio.gather(*(link.ask_or_recall(question) for link in links))
        # While a worker is replaced there are two of a name. One that has ended meanwhile is in the
        # totals.
        answers = {
            f"{link.name} {id(link)}": answer
            for link, answer in zip(links, found, strict=True)
            if answer is not None and link in self._links
        }
        if question == METRICS:
            answers |= {ENDED_WORKERS: self._ended, SUPERVISOR: render(self._own_metrics)}
        return answers
