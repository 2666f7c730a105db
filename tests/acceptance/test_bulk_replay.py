"""Dead letters sent again in bulk while their users have steady traffic.

`GATEWAY_TESTS_REPLAYS` says how many; `make soak` sets 10,000.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import APP_ID, PRODUCTION_KEY, Process, fleet, plan, serving
from tests.support.wait import until

from . import journal
from .journal import Call
from .stored import DEAD, WAITING, counting, stuck

REPLAYS = int(os.environ.get("GATEWAY_TESTS_REPLAYS", "800"))
USERS = [f"u{number}" for number in range(100)]
WRITERS = 4
PAUSE = 0.05  # between the rounds of a writer
BATCH = 1_000
REPLAYED, STEADY = "Replayed", "Steady"


class Writer(threading.Thread):
    """Posts numbered events of its own users, one for each in a batch, until it is told to end."""

    def __init__(self, gateway: Process, users: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._gateway, self._ended = gateway, threading.Event()
        self.users, self.rounds = users, 0
        self.refused = list[str]()

    def run(self) -> None:
        while not self._ended.wait(PAUSE):
            self._post()

    def _post(self) -> None:
        answer = post(self._gateway, [(user, STEADY, self.rounds) for user in self.users])
        if answer.status_code != 202:
            self.refused.append(answer.text)
        self.rounds += 1

    def end(self) -> None:
        self._ended.set()
        self.join(timeout=60)


@contextmanager
def writing(gateway: Process) -> Iterator[list[Writer]]:
    """Steady traffic of all users."""
    writers = [Writer(gateway, USERS[number::WRITERS]) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.end()


def post(gateway: Process, events: Sequence[tuple[str, str, int]]) -> httpx.Response:
    items = [
        {"action": "track", "userId": user, "event": event, "value": value}
        for user, event, value in events
    ]
    return gateway.call("POST", "/v1/batch", json={"items": items})


def make_dead_letters(gateway: Process, simulator: str, count: Callable[[str], int]) -> None:
    """Have Leanplum refuse `REPLAYS` numbered events, those of a user one after the other."""
    plan(simulator, {"mode": "success-false", "message": "Bad.", "times": None})
    events = [
        (USERS[number % len(USERS)], REPLAYED, number // len(USERS)) for number in range(REPLAYS)
    ]
    for first in range(0, REPLAYS, BATCH):
        assert post(gateway, events[first : first + BATCH]).status_code == 202
    until(lambda: count(DEAD) == REPLAYS, 120, pause=0.1)
    httpx.delete(f"{simulator}/_simulator/faults", trust_env=False).raise_for_status()


def replay_all(gateway: Process) -> None:
    answer = gateway.call("POST", "/v1/dead-letters/replay", json={"filter": {}})
    assert answer.json() == {"matched": REPLAYS, "replayed": REPLAYS, "dryRun": False}


Done = Sequence[tuple[Call, dict[str, Any]]]  # what Leanplum did for one user, in its order


def values(done: Done, event: str) -> list[float]:
    return [action["value"] for _, action in done if action["event"] == event]


def out_of_order(done: Done, replayed_at: float, late: int) -> bool:
    """Whether a user's events came in another order than the documentation of the replay promises.

    Those that were sent again keep their order, and so do the others. Those that were sent again go
    before whatever of their user has not been sent yet: before events that were accepted after the
    replay (numbers from `late` on), and before others, but for those of the one call that may have
    been on its way.
    """
    replayed, steady = values(done, REPLAYED), values(done, STEADY)
    last = max(
        (place for place, (_, one) in enumerate(done) if one["event"] == REPLAYED), default=0
    )
    before = [(call, one["value"]) for call, one in done[:last] if one["event"] == STEADY]
    calls = {call.index for call, _ in before if call.began > replayed_at}
    passed = len(calls) > 1 or any(value >= late for _, value in before)
    return passed or replayed != sorted(replayed) or steady != sorted(steady)


def repeats(done: Done) -> int:
    """How many events were done more than once."""
    return sum(
        times - 1 for times in Counter((one["event"], one["value"]) for _, one in done).values()
    )


@contextmanager
def gateway_with(deliverers: int, folder: Path, simulator: str, database: str) -> Iterator[Process]:
    """One process that accepts and delivers; or one that accepts, with `deliverers` beside it."""
    if not deliverers:
        with serving(folder, simulator, GATEWAY_DATABASE_URL=database) as gateway:
            yield gateway
        return
    with fleet(
        folder, simulator, apis=1, deliverers=deliverers, GATEWAY_DATABASE_URL=database
    ) as gateways:
        yield gateways[0]


def made_up(text: str) -> Done:
    """Make what Leanplum did: calls at the times 1, 2, … with events such as R0 (sent again) and S0
    (another).
    """
    return [
        (
            Call(at, at, at + 1, ("ann",), [], []),
            {"event": REPLAYED if word[0] == "R" else STEADY, "value": int(word[1:])},
        )
        for at, call in enumerate(text.split("|"), 1)
        for word in call.split()
    ]


@pytest.mark.parametrize(
    ("done", "wrong"),
    [
        ("S0|S1|R0 R1|S2|S3", False),
        ("S0|S1|R0 R1 S2 S3", False),
        ("S0|S1|R1 R0|S2", True),
        ("S1|S0|R0 R1|S2", True),
        ("S0|R0|S1|R1", False),  # the one call that was on its way
        ("S0|R0|S1|S2|R1", True),
        ("S0|R0|S3|R1", True),  # it was accepted after the replay
        ("S0|S1", False),
    ],
)
def test_the_documented_order_of_what_is_sent_again(done: str, wrong: bool) -> None:
    """The replay is at the time 1.5, and events from number 3 on were accepted after it."""
    assert out_of_order(made_up(done), 1.5, 3) is wrong


@pytest.mark.parametrize("deliverers", [0, 2], ids=["one process", "two deliverers"])
def test_dead_letters_sent_again_in_bulk_beside_steady_traffic_all_arrive_once_in_order_and_alone(
    tmp_path: Path, record_property: Callable[[str, object], None], database: str, deliverers: int
) -> None:
    config = SimulatorConfig(
        app_id=APP_ID,
        production_key=PRODUCTION_KEY,
        latency_seconds=0.6,
        deduplicate=False,
        keep_requests=10**6,
    )
    with ExitStack() as stack:
        leanplum = stack.enter_context(BackgroundServer(config)).url
        gateway = stack.enter_context(gateway_with(deliverers, tmp_path, leanplum, database))
        count = stack.enter_context(counting(database))
        make_dead_letters(gateway, leanplum, count)
        with writing(gateway) as writers:
            until(lambda: count(f"settled_at IS NOT NULL AND NOT ({DEAD})") >= len(USERS))
            replay_all(gateway)
            replayed_at = time.time()
            late = {user: writer.rounds + 1 for writer in writers for user in writer.users}
            stuck(count, f"replayed_at IS NOT NULL AND {WAITING}")
        left = stuck(count, WAITING)
        calls = journal.calls(leanplum)
        done = journal.done_for(calls)
        assert [text for writer in writers for text in writer.refused] == []
        accepted = sum(writer.rounds * len(writer.users) for writer in writers)
        counts = {
            "replayed": REPLAYS,
            "steady": accepted,
            "stuck": left,
            "out of order": sum(
                out_of_order(done[user], replayed_at, late[user]) for user in USERS
            ),
            "overlaps": len(journal.overlaps(calls)),
            "repeated": sum(repeats(done[user]) for user in USERS),
            "never done": REPLAYS + accepted - sum(len(done[user]) for user in USERS),
        }
        record_property("counts", counts)  # in the report of --junit-xml, which `make soak` writes
        wrong = ("stuck", "out of order", "overlaps", "repeated", "never done")
        assert {name: counts[name] for name in wrong} == dict.fromkeys(wrong, 0), counts
