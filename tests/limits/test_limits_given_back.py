"""A batch of which nothing was taken for a cause of the gateway's own costs one item, so that it
can be sent again.
"""

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from app.limits.buckets import Buckets, Limit
from app.limits.valkey import Valkey
from tests.support.clock import Clock
from tests.support.processes import APP_ID, Process, bearer, serving
from tests.support.valkey import valkey as running
from tests.support.wait import until

from .limiters import asked

SCOPES = ("sdk", "events:write", "users:write")
EVENT = {"userId": "u", "event": "E"}
Send = Callable[[Process, str, int], httpx.Response]


def segment(gateway: Process, key: str, count: int) -> httpx.Response:
    basic = "Basic " + base64.b64encode(f"{key}:".encode()).decode()
    batch = [{"type": "track", **EVENT}] * count
    return gateway.http.post(
        "/segment/v1/batch", json={"batch": batch}, headers={"Authorization": basic}
    )


def segment_in_body(gateway: Process, key: str, count: int) -> httpx.Response:
    batch = [{"type": "track", **EVENT}] * count
    return gateway.http.post("/segment/v1/batch", json={"batch": batch, "writeKey": key})


def sdk(gateway: Process, key: str, count: int) -> httpx.Response:
    data = [{"action": "track", **EVENT}] * count
    call = {"appId": APP_ID, "clientKey": key, "action": "multi", "data": data}
    return gateway.http.post("/api", json=call)


def sdk_in_steps(gateway: Process, key: str, count: int) -> httpx.Response:
    data = [{"action": "track", "reqId": str(at), **EVENT} for at in range(count)]
    call = {"appId": APP_ID, "clientKey": key, "action": "multi", "data": data}
    return gateway.http.post("/api", json=call)


def v1(gateway: Process, key: str, count: int) -> httpx.Response:
    items = [{"action": "track", **EVENT}] * count
    return gateway.http.post("/v1/batch", json={"items": items}, headers=bearer(key))


LENDING: dict[str, Send] = {
    "Segment": segment,
    "Segment, key in the body": segment_in_body,
    "SDK": sdk,
    "SDK, with ids": sdk_in_steps,
}
SENDS: dict[str, Send] = {**LENDING, "/v1/batch": v1}


@pytest.fixture(scope="module", params=["memory", "Valkey"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    with ExitStack() as stack:
        more = {"GATEWAY_LOG_LEVEL": "error"}
        if request.param == "Valkey":
            more["GATEWAY_SHARED_LIMITS_URL"] = stack.enter_context(running()).url
            more["GATEWAY_SHARED_LIMITS_TIMEOUT_SECONDS"] = "5"
        folder = tmp_path_factory.mktemp("given-back")
        yield stack.enter_context(serving(folder, "http://127.0.0.1:9", "--no-delivery", **more))


@contextmanager
def without_database(folder: Path) -> Iterator[None]:
    """Move the database's files away, and back."""
    hidden = folder / "hidden"
    hidden.mkdir()
    files = sorted(folder.glob("g.db*"))
    for file in files:
        shutil.move(file, hidden / file.name)
    try:
        yield
    finally:
        for file in files:
            shutil.move(hidden / file.name, file)
        hidden.rmdir()


def test_a_batch_that_the_database_refused_passes_when_it_is_back(gateway: Process) -> None:
    count = 100
    keys = {name: gateway.create_key(*SCOPES, ratePerSecond=1, rateBurst=5)[1] for name in LENDING}
    keys["/v1/batch"] = gateway.create_key(*SCOPES, ratePerSecond=1, rateBurst=count + 1)[1]
    with without_database(gateway.folder):
        until(lambda: not gateway.ready(), 30, pause=0.1)
        for name, send in SENDS.items():
            answer = send(gateway, keys[name], count)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), name
            assert answer.headers["ratelimit"].endswith("t=1"), name
    until(gateway.ready, 30, pause=0.1)
    for name, send in SENDS.items():
        answer = send(gateway, keys[name], count)
        assert answer.status_code in (200, 202), (name, answer.text)
        assert int(answer.headers["ratelimit"].rpartition("t=")[2]) >= count, f"{name}: now it pays"


def test_a_batch_that_found_the_queue_full_pays_nothing_but_one_item(tmp_path: Path) -> None:
    more = {"GATEWAY_LOG_LEVEL": "error", "GATEWAY_MAX_QUEUED_ITEMS": "1"}
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery", **more) as full:
        key = full.create_key(*SCOPES)[1]
        assert v1(full, key, 1).status_code == 202
        for name, send in SENDS.items():
            limits = {"ratePerSecond": 1, "rateBurst": 101 if send is v1 else 5}
            answer = send(full, full.create_key(*SCOPES, **limits)[1], 100)
            assert answer.status_code in (429, 503), name
            assert answer.headers["ratelimit"].endswith("t=1"), name


def test_a_batch_that_is_refused_for_what_is_in_it_pays_for_all_of_it(gateway: Process) -> None:
    key = gateway.create_key(*SCOPES, ratePerSecond=1, rateBurst=5)[1]
    basic = "Basic " + base64.b64encode(f"{key}:".encode()).decode()
    answer = gateway.http.post(
        "/segment/v1/batch",
        json={"batch": [{"type": "track", "userId": "u"}] * 100},
        headers={"Authorization": basic},
    )
    assert (answer.status_code, answer.headers["ratelimit"]) == (400, '"caller";r=0;t=100')


def test_no_bucket_gets_more_back_than_it_lacks_in_memory_as_in_valkey() -> None:
    mine = Limit("mine", 1, 5, 5, lends=True)
    ours = Limit("ours", 10, 20, 20, lends=True)
    microseconds = 1_700_000_000_000_000
    history = [100, -99, 3, -2, -50, 0, 5, 1, -1, 200, -100, -100, 7]

    async def compare(shared: Valkey) -> list[float]:
        buckets, found = Buckets(Clock()), list[float]()
        for count in history:
            decide = buckets.give if count < 0 else buckets.take
            here = decide((mine, ours), abs(count))
            (there,) = await shared.take([((mine, ours), count)], microseconds)
            assert (there.allowed, list(there.deficits)) == (here.allowed, list(here.deficits)), (
                count
            )
            found.append(here.deficits[0])
        return found

    with running() as server:
        assert asked(server.url, compare) == [100, 1, 4, 2, 0, 0, 5, 5, 4, 204, 104, 4, 11]
