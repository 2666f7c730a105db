"""What is sent again while the first is in progress, or shortly after: the register of it, and
requests whose sender has gone.
"""

import asyncio
import hashlib
import json
import sqlite3
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from app.compat.leanplum_sdk.call_plan import BatchKeys, EntryClaims, compute_key, is_unique
from app.relay.answers import ENTRY_BYTES, KEPT_SECONDS, EntryAnswer, Repeats
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.sdk import Sdk, entries
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

DONE = EntryAnswer({"success": True, "vars": {}})
FAILED = EntryAnswer({"success": False}, 503)

# --- the register -----------------------------------------------------------------------------------------------------


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


def kept(register: Repeats, key: bytes, told: EntryAnswer = DONE) -> Repeats:
    register.claim(key)
    register.settle(key, told, keep=True)
    register.release(key)
    return register


@on_a_loop
async def test_whoever_comes_while_a_request_is_in_progress_gets_its_answer() -> None:
    register = Repeats(Clock())
    register.claim(b"k")
    found = register.find(b"k")
    assert isinstance(found, asyncio.Future)
    register.settle(b"k", DONE)
    assert await found == DONE
    assert register.find(b"k") is found  # until the request has ended
    register.release(b"k")
    assert register.find(b"k") is None


@on_a_loop
async def test_an_owner_who_gives_up_leaves_nobody_waiting() -> None:
    register = Repeats(Clock())
    register.claim(b"k")
    found = register.find(b"k")
    assert isinstance(found, asyncio.Future)
    register.release(b"k")
    assert await found is None
    assert register.find(b"k") is None


@on_a_loop
async def test_a_good_answer_is_kept_for_two_minutes() -> None:
    clock = Clock()
    register = kept(Repeats(clock), b"k")
    clock.now += KEPT_SECONDS - 1
    assert register.find(b"k") == DONE
    clock.now += 1
    assert register.find(b"k") is None


@pytest.mark.parametrize(
    "told", [FAILED, EntryAnswer({"success": False}), EntryAnswer({"success": True}, 503)]
)
def test_a_failure_is_not_kept(told: EntryAnswer) -> None:
    @on_a_loop
    async def run() -> None:
        assert kept(Repeats(Clock()), b"k", told).find(b"k") is None

    run()


@on_a_loop
async def test_what_is_kept_is_bounded_by_its_bytes_and_its_time() -> None:
    clock, told = Clock(), EntryAnswer({"success": True, "vars": "x" * 100})
    register = Repeats(clock, max_bytes=7 * (ENTRY_BYTES + 140))
    for number in range(20):
        kept(register, b"%d" % number, told)
    assert [number for number in range(20) if register.find(b"%d" % number)] == list(range(13, 20))
    clock.now += KEPT_SECONDS
    kept(register, b"new", told)
    assert len(register._kept) == 1
    kept(register, b"large", EntryAnswer({"success": True, "vars": "x" * 4_000}))
    assert register.find(b"large") is None
    assert register._bytes == 0


@on_a_loop
async def test_an_entry_that_stands_twice_in_a_request_does_not_wait_for_itself() -> None:
    claims = EntryClaims(Repeats(Clock()))
    claims.look_up(0, b"k", claim=True)
    claims.look_up(1, b"k", claim=True)
    assert claims.others == {}
    claims.release()


@on_a_loop
async def test_what_is_being_asked_outlives_the_request() -> None:
    register = Repeats(Clock())
    first, second = EntryClaims(register), EntryClaims(register)
    for place in (0, 1):
        first.look_up(place, b"%d" % place, claim=True)
        second.look_up(place, b"%d" % place, claim=True)
    first.keep_until_settled([0])
    first.release()
    asked, left = second.others[0], second.others[1]
    assert isinstance(asked, asyncio.Future) and isinstance(left, asyncio.Future)
    assert (asked.done(), left.result()) == (False, None)
    first.settle([(0, DONE)], remember={0})
    assert asked.result() == DONE
    assert register.find(b"0") == DONE
    assert register.find(b"1") is None


ENTRY: dict[str, Any] = {"action": "start", "userId": "u", "reqId": "r", "uuid": "v", "time": "1.5"}


def test_an_entry_is_known_by_all_that_it_says_itself() -> None:
    key = compute_key(b"me", ENTRY)
    assert key == compute_key(b"me", dict(reversed(ENTRY.items())))
    # From another network
    assert key == compute_key(b"me", {**ENTRY, "country": "DE", "locale": "de_DE"})
    others = [{**ENTRY, name: "x"} for name in ENTRY] + [{**ENTRY, "more": None}]
    assert (
        len({key, compute_key(b"you", ENTRY), *(compute_key(b"me", one) for one in others)})
        == len(others) + 2
    )


@pytest.mark.parametrize("name", ["reqId", "uuid", "time"])
def test_something_must_make_it_one_certain_request(name: str) -> None:
    bare = {"action": "start", "userId": "u"}
    assert compute_key(b"me", bare) is None
    assert compute_key(b"me", {**bare, name: ""}) is None
    assert compute_key(b"me", {**bare, name: "1"}) is not None
    assert (compute_key(b"me", {**bare, name: "1"}, read_only=True) is not None) == (
        name == "reqId"
    )
    assert not is_unique({**bare, name: "1"})
    event = {"action": "track", "userId": "u", "event": "e", name: "1"}
    assert (compute_key(b"me", event) is None) == (
        name == "time"
    )  # two of the same second may be alike


def test_entries_with_nothing_of_their_own_are_known_by_their_batch() -> None:
    one, same, other = (BatchKeys(b"me", sent) for sent in (["a", "a"], ["a", "a"], ["a", "b"]))
    assert one.compute_key(0) == same.compute_key(0) != one.compute_key(1)
    assert one.compute_key(0) != other.compute_key(0)
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    assert BatchKeys(b"me", [deep]).compute_key(0) is None


# --- through the server -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def talk(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("repeats")

    def settings(**given: Any) -> Any:
        return make_settings(folder, migrated, WIDE | given)

    with delivering_to(
        leanplum, settings, folder / "g.db", gateway_relay_timeout_seconds=20
    ) as found:
        yield found


@pytest.fixture
def sdk(talk: Talk, leanplum: Leanplum) -> Sdk:
    leanplum.mend()
    at_rest(talk)
    leanplum.forget()
    return Sdk(talk)


def at_rest(talk: Talk) -> None:
    gateway = talk.app.services
    until(lambda: gateway.outbox.queued == 0 and not gateway.relay._tasks, 30)


def marked(action: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "action": action,
        "userId": "u1",
        "deviceId": "d1",
        "reqId": name,
        "uuid": f"{name}-{time.time_ns()}",
        **more,
    }


def batch(sdk: Sdk, sent: list[dict[str, Any]]) -> dict[str, Any]:
    body = {
        "appId": "app_sandbox",
        "clientKey": sdk.key,
        "action": "multi",
        "time": time.time(),
        "data": sent,
    }
    return {"content": json.dumps(body).encode(), "key": None}


def test_a_leanplum_that_takes_too_long_keeps_no_phone_waiting_and_its_answer_is_there_for_the_next_try(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sent = [marked("track", "1", event="a"), marked("start", "2"), marked("track", "3", event="b")]
    leanplum.fault(mode="slow", delay=8.5, times=1, action="start")
    began = time.monotonic()
    answer = sdk.multi(*sent)
    assert 7.5 < time.monotonic() - began < 9.5
    assert (answer.status_code, [one["success"] for one in entries(answer)]) == (
        503,
        [True, False, True],
    )
    assert int(answer.headers["retry-after"]) >= 1
    again = sdk.multi(*sent)
    assert (again.status_code, "vars" in entries(again)[1]) == (200, True)
    at_rest(talk)
    assert sorted(one["reqId"] for one in leanplum.arrived()) == ["1", "2", "3"]


def test_what_was_begun_goes_on_when_its_request_is_cancelled(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sent = [marked("track", "1", event="a"), marked("start", "2"), marked("track", "3", event="b")]
    leanplum.fault(mode="slow", delay=0.5, times=1, action="start")
    relay = talk.app.services.relay
    ask = partial(talk._request, "POST", "/api", **batch(sdk, sent))

    async def begin() -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(ask())

    first: asyncio.Task[httpx.Response] = talk.do(begin)
    until(lambda: relay._tasks)

    async def cancel_the_first_and_ask_again() -> httpx.Response:
        second = await begin()
        await asyncio.sleep(0)
        first.cancel()
        assert (await first).status_code == 503
        return await second

    answer = talk.do(cancel_the_first_and_ask_again)
    assert [one["success"] for one in entries(answer)] == [True] * 3
    assert "vars" in entries(answer)[1]
    at_rest(talk)
    assert [one["reqId"] for one in leanplum.arrived()] == ["1", "2", "3"]
    assert not relay.repeats._pending


def test_a_session_that_was_asked_as_the_last_is_not_sent_again_as_an_earlier_one(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sent = [marked("start", "1"), marked("track", "2", event="a"), marked("start", "3")]
    sdk.multi(*sent)
    answer = sdk.multi(*sent, marked("start", "4"))
    assert ["vars" in one for one in entries(answer)] == [False, False, False, True]
    at_rest(talk)
    assert [one["reqId"] for one in leanplum.arrived()] == ["1", "2", "3", "4"]


def test_a_session_whose_question_failed_is_sent_as_an_earlier_one(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sent = [marked("start", "1"), marked("start", "2")]
    leanplum.fault(mode="503", times=1, action="start")
    answer = sdk.multi(sent[1])
    assert (answer.status_code, entries(answer)[0]["success"]) == (503, False)
    again = sdk.multi(*sent, marked("start", "3"))
    assert (again.status_code, [one["success"] for one in entries(again)]) == (200, [True] * 3)
    at_rest(talk)
    assert [one["reqId"] for one in leanplum.arrived()][-3:] == ["1", "2", "3"]


@pytest.mark.parametrize("batched", [True, False], ids=["in a batch", "alone"])
def test_a_single_session_that_is_sent_again_is_asked_once(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, batched: bool
) -> None:
    start = marked("start", "1", country="(detect)")
    first, second = (sdk.multi(start) if batched else sdk.post(start) for _ in range(2))
    assert first.json() == second.json()
    assert "vars" in entries(first)[0]
    assert len(leanplum.calls()) == 1


def test_a_start_that_is_delivered_has_a_receipt_a_place_and_no_detection(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    detect = dict.fromkeys(("country", "region", "city", "location", "locale"), "(detect)")
    sdk.multi(
        marked("start", "1", **detect, clientKey=sdk.key, time=5.0), marked("start", "2"), time=10.0
    )
    at_rest(talk)
    ((item_id,),) = talk.rows(
        "SELECT id FROM items WHERE action = 'start' ORDER BY seq DESC LIMIT 1"
    )
    receipt = talk.get(f"/v1/receipts/{item_id}").json()
    assert (receipt["action"], receipt["status"]) == ("start", "delivered")
    assert receipt["timeCorrection"]["seconds"] > 1e9
    first = leanplum.arrived()[0]
    assert first["clientKey"] == "prod_sandbox"
    assert first["time"] == pytest.approx(time.time() - 5, abs=10)
    assert not detect.keys() & first.keys()


def test_in_development_mode_every_session_is_asked(sdk: Sdk, leanplum: Leanplum) -> None:
    answer = sdk.multi(marked("start", "1"), marked("start", "2"), devMode=True)
    assert ["vars" in one for one in entries(answer)] == [True, True]
    (call,) = leanplum.calls()
    assert [one["reqId"] for one in call["args"]["data"]] == ["1", "2"]


def test_a_delivered_start_is_under_the_policy_for_lost_answers(
    tmp_path: Any, migrated: Any
) -> None:
    def not_twice(policy: str) -> frozenset[str]:
        return make_settings(tmp_path, migrated, {"gateway_unknown_policy": policy}).not_twice

    assert "start" in not_twice("hold")
    assert "start" not in not_twice("hold,start=resend")
    assert not_twice("resend,start=hold") == {"start"}


def test_dead_letters_of_sessions_can_be_listed(talk: Talk) -> None:
    assert talk.get("/v1/dead-letters?action=start").status_code == 200


# --- what only writes -------------------------------------------------------------------------------------------------


async def begin_at_once(
    talk: Talk, sdk: Sdk, sent: list[Any], times: int, *, single: bool = False
) -> "asyncio.Future[list[httpx.Response]]":
    """Begin the same request so often at the same moment."""
    options = batch(sdk, sent)
    if single:
        body = {"appId": "app_sandbox", "clientKey": sdk.key, **sent[0]}
        options = {"content": json.dumps(body).encode(), "key": None}
    return asyncio.gather(*(talk._request("POST", "/api", **options) for _ in range(times)))


async def ended(asked: "asyncio.Future[list[httpx.Response]]") -> list[httpx.Response]:
    return await asked


def at_once(talk: Talk, sdk: Sdk, sent: list[Any], times: int) -> list[httpx.Response]:
    """Answers to the same request, made so often at the same moment."""
    found: list[httpx.Response] = talk.do(
        partial(ended, talk.do(partial(begin_at_once, talk, sdk, sent, times)))
    )
    return found


@contextmanager
def writes_held(talk: Talk) -> Iterator[None]:
    """Let no write of the gateway be committed meanwhile."""
    with closing(sqlite3.connect(talk.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def waiting_for_another(talk: Talk) -> int:
    """Return how many requests wait for the answer to another."""
    pending = talk.app.services.relay.repeats._pending.values()
    return sum(len(answer._callbacks or ()) for answer in list(pending))


@pytest.mark.parametrize("own", [{"uuid": "of-this"}, {"reqId": "77"}, {"reqId": 77, "uuid": ""}])
@pytest.mark.parametrize("single", [False, True], ids=["in a batch", "alone"])
def test_an_event_that_is_sent_again_while_it_is_written_arrives_once(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, own: dict[str, Any], single: bool
) -> None:
    sent = [{"action": "track", "userId": "u1", "event": "e", **own}]
    with writes_held(talk):
        asked = talk.do(partial(begin_at_once, talk, sdk, sent, 3, single=single))
        until(lambda: waiting_for_another(talk) == 2)
    found = talk.do(partial(ended, asked))
    assert [(one.status_code, entries(one)[0]["success"]) for one in found] == [(200, True)] * 3
    at_rest(talk)
    assert len(leanplum.arrived()) == 1


def test_events_that_are_alike_and_have_nothing_of_their_own_all_arrive(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sent = [{"action": "track", "userId": "u1", "event": "e"}]
    at_once(talk, sdk, sent, 3)
    # Two backends that do the same
    at_once(talk, sdk, [*sent, {"action": "getVars", "userId": "u1"}], 2)
    at_rest(talk)
    assert [one["action"] for one in leanplum.arrived()].count("track") == 5


@pytest.mark.parametrize(
    "own", [{"reqId": "r", "uuid": "v"}, {"reqId": "3f2504e0-4f89-11d3-9a0c-0305e82c3301"}]
)
@pytest.mark.parametrize("asks", [False, True], ids=["written alone", "with a session"])
def test_two_contents_with_the_same_ids_arrive_once_each_however_often_they_come(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, own: dict[str, Any], asks: bool
) -> None:
    own = {
        name: f"{value}"[:-6] + f"{time.time_ns() % 10**6:06}"
        for name, value in own.items()
        if len(value) > 6
    } or {name: f"{value}{time.time_ns()}" for name, value in own.items()}
    sent = [{"action": "track", "userId": "u1", "event": event, **own} for event in "ABC"]
    for _ in range(4):
        answer = sdk.multi(*sent, *([marked("start", "s")] if asks else []))
        assert all(one["success"] for one in entries(answer))
    at_rest(talk)
    tracked = [one["event"] for one in leanplum.arrived() if one["action"] == "track"]
    assert sorted(tracked) == ["A", "B", "C"]


@pytest.mark.parametrize("later", ["fr", ""])
@pytest.mark.parametrize("action", ["track", "setUserAttributes"])
def test_an_entry_that_comes_again_from_another_network_arrives_once(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, action: str, later: str
) -> None:
    detect = dict.fromkeys(("country", "city", "locale"), "(detect)")
    sent = marked(action, "1", event="e", userAttributes={"a": 1}, **detect)
    for language in ("de-DE", later):
        body = batch(sdk, [sent])
        assert (
            talk.call("POST", "/api", **body, headers={"Accept-Language": language}).status_code
            == 200
        )
    at_rest(talk)
    assert [one["locale"] for one in leanplum.arrived()] == ["de_DE"]


# --- what others give up, and what is kept ----------------------------------------------------------------------------


@on_a_loop
async def test_what_is_given_up_is_claimed_by_one_of_those_who_waited() -> None:
    register = Repeats(Clock())
    first, second, third = (EntryClaims(register) for _ in range(3))
    for claims in (first, second, third):
        claims.look_up(0, b"k", claim=True)
    first.release()
    assert second.retry_abandoned()
    assert second.others == {}
    assert third.retry_abandoned()
    found = third.others[0]
    assert isinstance(found, asyncio.Future) and not found.done()
    assert not third.retry_abandoned()
    second.settle([(0, DONE)])
    assert found.result() == DONE
    second.release()
    third.release()
    assert not register._pending


@on_a_loop
async def test_a_question_that_ends_without_an_answer_is_given_up_at_once() -> None:
    register = Repeats(Clock())
    first, second = EntryClaims(register), EntryClaims(register)
    for claims in (first, second):
        claims.look_up(0, b"k", claim=True)
    first.keep_until_settled([0])
    first.settle([(0, None)])
    assert second.retry_abandoned()
    assert second.others == {}
    first.release()
    assert isinstance(register.find(b"k"), asyncio.Future)  # it is the second's
    second.release()
    assert register.find(b"k") is None


@on_a_loop
async def test_the_memory_of_what_is_kept_is_bounded() -> None:
    most = 2 * 1024 * 1024
    answers = [EntryAnswer({"success": True}), EntryAnswer({"success": True, "vars": "x" * 1_100})]
    for told in answers:
        tracemalloc.start()
        try:
            register = Repeats(Clock(), max_bytes=most)
            before, _ = tracemalloc.get_traced_memory()
            for number in range(3 * most // 300):
                kept(register, hashlib.blake2b(b"%d" % number, digest_size=16).digest(), told)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 0 < after - before < 1.1 * most


def test_whoever_waited_for_a_request_that_was_given_up_asks_once(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sent = [
        {"action": "start", "userId": "u1", "deviceId": "d1", "reqId": "1"},
        {"action": "track", "userId": "u1", "event": "e", "reqId": "2"},
        {"action": "start", "userId": "u1", "deviceId": "d2", "reqId": "3"},
    ]
    leanplum.fault(mode="slow", delay=0.5, times=1, action="start")
    ask = partial(talk._request, "POST", "/api", **batch(sdk, sent))
    relay = talk.app.services.relay

    async def begin() -> list[asyncio.Task[httpx.Response]]:
        return [asyncio.create_task(ask()) for _ in range(3)]

    tasks: list[asyncio.Task[httpx.Response]] = talk.do(begin)
    first, *others = tasks
    until(lambda: relay._tasks)

    async def cancel() -> list[httpx.Response]:
        first.cancel()
        await asyncio.wait([first])
        return await asyncio.gather(*others)

    found: list[httpx.Response] = talk.do(cancel)
    assert [one.status_code for one in found] == [200, 200]
    assert entries(found[0]) == entries(found[1])
    at_rest(talk)
    assert [one["reqId"] for one in leanplum.arrived()] == ["1", "2", "3"]
    assert not relay.repeats._pending


def test_what_was_answered_about_a_user_is_not_told_after_the_user_was_erased(
    leanplum: Leanplum, tmp_path: Any, migrated: Any
) -> None:
    def settings(**given: Any) -> Any:
        return make_settings(tmp_path, migrated, WIDE | given)

    with delivering_to(leanplum, settings, tmp_path / "g.db", gateway_erased_seconds=600) as talk:
        sdk = Sdk(talk)
        earlier, start = (marked("start", name, userId="gone", deviceId=name) for name in "12")
        assert ["vars" in one for one in entries(sdk.multi(earlier, start))] == [True, True]
        single = marked("start", "4", userId="gone", deviceId="4")
        assert "vars" in entries(sdk.post(single))[0]
        assert talk.call("DELETE", "/v1/users/gone?fullErasure=true").status_code == 202
        at_rest(talk)
        other = marked("start", "3", userId="u2", deviceId="3")
        again = sdk.multi(earlier, start, other)
        assert (again.status_code, ["vars" in one for one in entries(again)]) == (
            200,
            [False, False, True],
        )
        assert all("was erased" in one["error"]["message"] for one in entries(again)[:2])
        assert sdk.post(single).status_code == 451
