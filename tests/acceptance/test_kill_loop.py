"""The promise under kill -9: writers post numbered events while the gateway is killed again and again.

`GATEWAY_TESTS_KILLS` says how often; `make soak` sets 200.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer

from .processes import APP_ID, PRODUCTION_KEY, Deliverer, Process, delivering, serving, stats, until, values

KILLS = int(os.environ.get("GATEWAY_TESTS_KILLS", "20"))
WRITERS, USERS_EACH = 3, 6
PAUSE = 0.003


class Writer(threading.Thread):
    """Posts numbered events of its own users, in order, as a backend would: what got no answer is posted again with
    the same id, and only then the next. `acknowledged` has what was answered 202 or 200, by user."""

    def __init__(self, gateway: Process, name: str, ended: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._gateway, self._ended = gateway, ended
        self.acknowledged: dict[str, int] = {f"{name}-{user}": 0 for user in range(USERS_EACH)}
        self.refused: list[str] = []

    def run(self) -> None:
        while not self._ended.is_set():
            for user in self.acknowledged:
                self._post(user)

    def _post(self, user: str) -> None:
        """One event; a number is left only once it is acknowledged."""
        try:
            answer = self._gateway.event(user, self.acknowledged[user])
        except httpx.TransportError:
            self._ended.wait(0.05)
            return
        if answer.status_code in {200, 202}:
            self.acknowledged[user] += 1
        else:
            self.refused.append(answer.text)
        time.sleep(PAUSE)


def kill_again_and_again(processes: Sequence[Process | Deliverer], chance: random.Random) -> None:
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.05, 0.6))
        struck = chance.choice(processes)
        struck.kill()
        struck.start()


@pytest.mark.parametrize("deliverers", [0, 2], ids=["one process", "an API and two deliverers"])
def test_nothing_acknowledged_is_lost_reordered_or_sent_twice_whenever_a_process_is_killed(
    tmp_path: Path, record_property: Callable[[str, object], None], deliverers: int
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    record_property("seed", seed)
    config = SimulatorConfig(app_id=APP_ID, production_key=PRODUCTION_KEY, latency_seconds=0.02, deduplicate=False)
    ended = threading.Event()
    with ExitStack() as stack:
        leanplum = stack.enter_context(BackgroundServer(config))
        gateway = stack.enter_context(serving(tmp_path, leanplum.url, *(["--no-delivery"] if deliverers else [])))
        beside = [stack.enter_context(delivering(gateway, str(number))) for number in range(deliverers)]
        writers = [Writer(gateway, f"w{number}", ended) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        kill_again_and_again([gateway, *beside], random.Random(seed))
        ended.set()
        for writer in writers:
            writer.join(timeout=60)
        until(lambda: b"leanplum_gateway_queued_items 0.0" in gateway.http.get("/metrics").content, 120)
        assert [text for writer in writers for text in writer.refused] == []
        counts = Counter[str]()
        for writer in writers:
            for user, acknowledged in writer.acknowledged.items():
                counts += judge(gateway, leanplum.url, user, acknowledged)
        assert stats(leanplum.url)["overlaps"] == 0
        record_property("counts", dict(counts))  # in the report of --junit-xml, which `make soak` writes
        assert counts["acknowledged"] > 20 * KILLS


def judge(gateway: Process, leanplum: str, user: str, acknowledged: int) -> Counter[str]:
    """Hold what arrived of one user against what was acknowledged; the event in flight at the end may be one more."""
    arrived = [int(value) for value in values(leanplum, user)]
    first_seen = list(dict.fromkeys(arrived))
    assert first_seen in (list(range(acknowledged)), list(range(acknowledged + 1))), (user, acknowledged)
    repeated = {value: times for value, times in Counter(arrived).items() if times > 1}
    for value, times in repeated.items():
        receipt = gateway.call("GET", f"/v1/receipts/{user}-{value}").json()
        assert receipt["attempts"] >= times, "sent again though no attempt of it was open at a kill"
    return Counter(acknowledged=acknowledged, arrived=len(arrived), repeated=len(repeated))
