"""The shared buckets on a real Valkey: the same decisions as in memory, and every call ends in
time.
"""

import asyncio
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import RedisError

from app.limits.buckets import Buckets, Decision, Limit
from app.limits.valkey import PREFIX, TAKE_SECONDS, Valkey
from tests.support.clock import Clock
from tests.support.valkey import Valkey as Server
from tests.support.valkey import valkey as running

from .limiters import asked, limit


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One for all tests that leave it running."""
    with running() as found:
        yield found


BEGAN = 1_700_000_000_000_000
moments = st.tuples(
    st.integers(0, 5_000_000),  # microseconds since the one before
    st.sampled_from(["a", "b"]),
    st.booleans(),  # whether the app's limit counts as well
    st.integers(1, 15),
    # Rate and burst of the caller's, which may change
    st.sampled_from([(3, 10), (10, 20), (1000, 7)]),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(moments, min_size=1, max_size=6), min_size=1, max_size=12))
def test_valkey_decides_the_same_histories_as_memory_does(
    server: Server, flights: list[list[tuple[int, str, bool, int, tuple[int, int]]]]
) -> None:
    """Calls that go together have one time."""
    microseconds = BEGAN
    # As precise as the time since a process began; seconds since the epoch are not
    clock = Clock(0.0)
    memory = Buckets(clock)

    async def compare(shared: Valkey) -> None:
        nonlocal microseconds
        with server.client() as client:
            client.flushall()
        for flight in flights:
            microseconds += flight[0][0]
            clock.now = (microseconds - BEGAN) / 1e6
            wanted: list[tuple[tuple[Limit, ...], int]] = []
            for _, name, with_app, count, (rate, burst) in flight:
                mine = limit(name, rate, burst)
                wanted.append(((mine, limit("app", 5, 25)) if with_app else (mine,), count))
            here = [memory.take(limits, count) for limits, count in wanted]
            there = await shared.take(wanted, microseconds)
            assert [one.allowed for one in there] == [one.allowed for one in here]
            for one, other in zip(there, here, strict=True):
                assert one.deficits == pytest.approx(other.deficits, abs=1e-4)

    asked(server.url, compare)


def test_by_its_own_clock_it_refills_at_the_rate(server: Server) -> None:
    async def taken(shared: Valkey) -> list[bool]:
        mine = (limit("clock", 100, 10),)
        found = await shared.take([(mine, 10), (mine, 1)])
        await asyncio.sleep(0.1)
        return [one.allowed for one in [*found, *await shared.take([(mine, 5), (mine, 10)])]]

    assert asked(server.url, taken) == [True, False, True, False]


def test_buckets_expire_when_they_are_full(server: Server) -> None:
    asked(server.url, lambda shared: shared.take([((limit("expiring", 10, 20),), 5)]))
    with server.client() as client:
        assert 0 < client.pttl(f"{PREFIX}expiring") <= 501


def test_a_clock_that_was_set_back_stops_nobody_for_as_long(server: Server) -> None:
    async def taken(shared: Valkey) -> list[Decision]:
        mine = (limit("back", 10, 20),)
        await shared.take([(mine, 20)], 2_000_000_000_000_000)
        # Refused, and from then on it refills
        await shared.take([(mine, 20)], 1_000_000_000_000_000)
        return await shared.take([(mine, 20)], 1_000_000_002_000_000)

    assert asked(server.url, taken)[0].allowed


def test_replicas_are_counted_while_they_give_signs_of_life(server: Server) -> None:
    async def counted(shared: Valkey) -> list[int]:
        return [await shared.beat(name) for name in ("one", "two", "one")]

    assert asked(server.url, counted) == [1, 2, 2]
    with server.client() as client:
        client.zadd("leanplum-gateway:replicas", {"one": time.time() - 6})
    assert asked(server.url, lambda shared: shared.beat("two")) == 1
    asked(server.url, _left)
    assert asked(server.url, lambda shared: shared.beat("three")) == 1


async def _left(shared: Valkey) -> None:
    await shared.close("two")


def test_a_server_that_comes_back_empty_is_given_the_script_again(valkey: Server) -> None:
    async def taken(shared: Valkey) -> list[Decision]:
        mine = (limit("mine", 1, 5),)
        await shared.take([(mine, 5)])
        await asyncio.to_thread(valkey.kill)
        with pytest.raises((RedisError, OSError)):
            await shared.take([(mine, 5)])
        await asyncio.to_thread(valkey.start)
        return await shared.take([(mine, 5)])

    assert asked(valkey.url, taken)[0].allowed


def test_a_server_that_hangs_costs_the_time_limit_and_its_late_answers_are_nobodys(
    valkey: Server,
) -> None:
    async def taken(shared: Valkey) -> tuple[float, list[Decision]]:
        await shared.beat("me")  # with time to connect
        valkey.hang()
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await shared.take([((limit("late", 1, 5),), 3)])
        took = time.monotonic() - began
        with pytest.raises(TimeoutError):
            await shared.beat("me")
        valkey.go_on()
        await shared.beat("me")
        return took, await shared.take([((limit("early", 1, 5), limit("other", 1, 5)), 2)])

    took, found = asked(valkey.url, taken, TAKE_SECONDS)
    assert 3 * TAKE_SECONDS <= took < 3 * TAKE_SECONDS + 0.5
    assert found[0].deficits == [2, 2]


def test_a_busy_event_loop_does_not_pass_for_a_server_that_is_away(server: Server) -> None:
    async def taken(shared: Valkey) -> list[Decision]:
        await shared.beat("me")
        asking = asyncio.create_task(shared.take([((limit("busy", 1, 5),), 1)]))
        for _ in range(3):  # until it is sent
            await asyncio.sleep(0)
        time.sleep(TAKE_SECONDS * 3)  # noqa: ASYNC251
        return await asking

    assert asked(server.url, taken, TAKE_SECONDS)[0].allowed


@pytest.mark.parametrize("spoilt", ["read-only", "no memory", "a password", "another type"])
def test_what_a_server_refuses_is_raised(valkey: Server, spoilt: str) -> None:
    with valkey.client() as client:
        match spoilt:
            case "read-only":
                client.replicaof("127.0.0.1", "1")
            case "no memory":
                client.config_set("maxmemory", "1")
            case "a password":
                client.config_set("requirepass", "secret")
            case _:
                client.lpush(f"{PREFIX}a", "x")
    with pytest.raises(RedisError):
        asked(valkey.url, lambda shared: shared.take([((limit("a"),), 1)]))


def test_a_password_and_a_database_number_are_taken_from_the_url(valkey: Server) -> None:
    with valkey.client() as client:
        client.config_set("requirepass", "s3cret")
    url = valkey.url.replace("://", "://:s3cret@") + "/3"
    assert asked(url, lambda shared: shared.take([((limit("a"),), 1)]))[0].allowed
