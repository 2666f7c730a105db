"""Load on a gateway whose promise is tested: callers who post histories until each call is
acknowledged, and the judgement of what arrived.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx

from tests.support.processes import APP_ID, Process
from tests.support.wait import until

from . import journal
from .histories import LOGINS, Call, History, Item, events
from .verdicts import Verdict, arrivals, judge

WRITERS, USERS_EACH, PERSONS_EACH = 3, 6, 3
PAUSE, LOGIN_PAUSE = 0.003, 0.02
# For a call that is posted until it is answered, in seconds; and then for the queue
PATIENCE = 120.0


class Person:
    """One user's history, as far as it was acknowledged; under several ids where it has logins."""

    def __init__(self, kind: str, history: History, name: str, seed: int) -> None:
        self.kind = kind
        self.calls = history(name, random.Random(f"{seed} {name}"))
        self.accepted: list[Item] = []


class Writer:
    """Posts the calls of its own persons, in order, as a backend would: what got no answer is
    posted again with the same ids, and only then the next.
    """

    def __init__(
        self,
        gateways: Sequence[Process],
        persons: Sequence[Person],
        pause: float,
        unavailable: list[httpx.Response] | None,
    ) -> None:
        self._gateways, self.persons, self._pause = gateways, persons, pause
        self._unavailable, self._chance = unavailable, random.Random()

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            for person in self.persons:
                call = next(person.calls)
                until(lambda call=call: self._acknowledged(call), PATIENCE, pause=0.05)  # type: ignore[misc]
                person.accepted += call.items
                time.sleep(self._pause)

    def _acknowledged(self, call: Call) -> bool:
        """Post a call through any of the gateways. Returns whether there was an answer."""
        try:
            answer = post(self._chance.choice(self._gateways), call)
        except httpx.TransportError:
            return False
        if answer.status_code == 503 and self._unavailable is not None:
            self._unavailable.append(answer)
            return False
        assert answer.status_code in {200, 202}, answer.text
        assert not refused(answer), answer.text
        return True


def post(gateway: Process, call: Call) -> httpx.Response:
    """Make a call with the gateway's key, as each protocol has it."""
    match call.protocol:
        case "v1":
            return gateway.call(call.method, call.path, json=call.body)
        case "sdk":
            args = {"appId": APP_ID, "clientKey": gateway.key, "apiVersion": "1.0.6"} | call.body
            return gateway.http.request(call.method, call.path, json=args)
        case "segment":
            return gateway.http.request(
                call.method, call.path, json=call.body, auth=(gateway.key, "")
            )


def refused(answer: httpx.Response) -> bool:
    """Whether any item of a call that was answered with success was refused."""
    body = answer.json()
    sdk = [entry["success"] for entry in body.get("response", ())]
    return not all([*sdk, body.get("success", True), not body.get("rejected", 0)])


def callers(
    gateways: Sequence[Process], seed: int, unavailable: list[httpx.Response] | None = None
) -> list[Writer]:
    """Make the writers of users who never log in, and one for each kind of history with logins.

    `unavailable` gets the 503 answers, where some are expected.
    """
    plain = [[f"w{writer}-{user}" for user in range(USERS_EACH)] for writer in range(WRITERS)]
    writers = [
        Writer(
            gateways, [Person("events", events, name, seed) for name in names], PAUSE, unavailable
        )
        for names in plain
    ]
    for kind, history in LOGINS.items():
        persons = [Person(kind, history, f"{kind}{number}", seed) for number in range(PERSONS_EACH)]
        writers.append(Writer(gateways, persons, LOGIN_PAUSE, unavailable))
    return writers


@contextmanager
def writing(writers: Sequence[Writer]) -> Iterator[None]:
    """Let them write; at the end each call is acknowledged."""
    ended = threading.Event()
    with ThreadPoolExecutor(len(writers)) as threads:
        running: list[Future[None]] = [threads.submit(writer.run, ended) for writer in writers]
        try:
            yield
        finally:
            ended.set()
        for task in running:
            task.result()


def judged(
    persons: Sequence[Person],
    calls: Sequence[journal.Call],
    gateway: Process,
    kills: Sequence[float],
) -> tuple[dict[str, Counter[str]], dict[str, object]]:
    """Return the counts by kind of history, and what breaks the promise, by what it is.

    `kills`: when processes that deliver were killed.
    """
    arrived = arrivals(calls)
    verdicts = [(person, judge(person.accepted, arrived, kills)) for person in persons]
    counts: dict[str, Counter[str]] = {person.kind: Counter() for person in persons}
    for person, verdict in verdicts:
        counts[person.kind] += counted(verdict)
    found: dict[str, list[object]] = {
        "lost": [mark for _, one in verdicts for mark in one.lost],
        "out of order": [mark for _, one in verdicts for mark in one.out_of_order],
        "sent again without a kill": [mark for _, one in verdicts for mark in one.without_a_kill],
        "sent more often than attempted": [
            item.mark for person, one in verdicts for item in unattempted(gateway, person, one)
        ],
        "overlaps": list[object](journal.overlaps(journal.by_name(calls))),
    }
    return counts, {name: broken for name, broken in found.items() if broken}


def counted(verdict: Verdict) -> Counter[str]:
    return Counter(
        acknowledged=verdict.acknowledged,
        logins=verdict.logins,
        arrived=verdict.arrived,
        repeated=len(verdict.repeated),
        lost=len(verdict.lost),
        out_of_order=len(verdict.out_of_order),
    )


def unattempted(gateway: Process, person: Person, verdict: Verdict) -> Iterator[Item]:
    """Find items whose receipts tell of fewer attempts than arrived."""
    for item in person.accepted:
        times = verdict.repeated.get(item.mark, 0)
        if times and item.item_id is not None:
            receipt = gateway.call("GET", f"/v1/receipts/{item.item_id}").json()
            if receipt["attempts"] < times:
                yield item
