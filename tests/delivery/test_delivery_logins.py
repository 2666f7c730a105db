"""Logins join two users: whatever is accepted after one, under either id, is delivered after it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import orjson
import pytest

from app import ids
from app.clock import now_ms
from app.delivery.deliverer import login_pause
from app.model import Acceptance, NewItem
from app.outbox.dead_letters import DeadLetterFilter
from app.outbox.retention import RetentionLimits
from tests.support.wait import until_async

from .harness import Delivering, Leanplum, deliver, erase, other_process

pytestmark = pytest.mark.slow

LONG = RetentionLimits(receipts=10**9, dead_letters=10**9)


def item(action: str, item_id: str, subject: str | None = None, **fields: Any) -> NewItem:
    """An item of the user that the fields name, whose id Leanplum is told as well."""
    body = orjson.dumps({**fields, "reqId": item_id}, option=orjson.OPT_SORT_KEYS).decode()
    return NewItem(subject or f"u{fields['userId']}", action, body, item_id)


def login(old: str, new: str, item_id: str = "login", **more: Any) -> NewItem:
    return item("setUserAttributes", item_id, userId=old, newUserId=new, **more)


def advance(user: str, item_id: str, **more: Any) -> NewItem:
    return item(
        "advance", item_id, userId=user, state=item_id, createDisposition="CreateNever", **more
    )


def track(user: str, item_id: str, **more: Any) -> NewItem:
    return item("track", item_id, userId=user, event="E", createDisposition="CreateNever", **more)


def sets(user: str, item_id: str, value: str) -> NewItem:
    return item("setUserAttributes", item_id, userId=user, userAttributes={"plan": value})


async def accept(at: Delivering, *items: NewItem) -> None:
    now = now_ms()
    call = Acceptance(
        "default", "k", "r", "POST /v1/batch", "::1", now, ids.new_prefix(now), list(items)
    )
    await at.outbox.accept(call)


def sent(leanplum: Leanplum) -> list[str]:
    """The (action, user) of all that Leanplum was sent, in the order of its arrival."""
    told = [call["args"] for call in leanplum.calls()]
    entries = [
        one for args in told for one in (args["data"] if args["action"] == "multi" else [args])
    ]
    return [f"{one['action']} {one.get('userId') or one.get('deviceId')}" for one in entries]


def plan(leanplum: Leanplum, user: str) -> object:
    found = httpx.get(f"{leanplum.url}/_simulator/users/{user}", trust_env=False)
    return found.json()["attributes"].get("plan") if found.status_code == 200 else None


async def statuses(at: Delivering, *item_ids: str) -> list[str]:
    return [(await at.receipt(item_id)).status.value for item_id in item_ids]


def logins(at: Delivering) -> list[tuple[int, int]]:
    with at.engine.connect() as connection:
        return [
            tuple(row)
            for row in connection.exec_driver_sql("SELECT lane, seq FROM logins ORDER BY seq, lane")
        ]


@pytest.mark.parametrize("make", [advance, track])
@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
def test_what_follows_a_login_under_the_new_id_finds_the_user(
    database: str, leanplum: Leanplum, make: Any, together: bool
) -> None:
    async def body(at: Delivering) -> None:
        pairs = [
            (login(f"a{n}", f"k{n}", f"login{n}"), make(f"k{n}", f"then{n}")) for n in range(6)
        ]
        await busy(at, leanplum, [f"a{n}" for n in range(6)])
        for pair in pairs:
            for calls in [pair] if together else [[one] for one in pair]:
                await accept(at, *calls)
        await at.finish()
        assert await statuses(at, *[f"then{n}" for n in range(6)]) == ["delivered"] * 6

    deliver(database, leanplum, body)


async def busy(at: Delivering, leanplum: Leanplum, users: Sequence[str]) -> None:
    """Let a call of these users be on its way, so that their logins have to wait."""
    leanplum.plan({"mode": "slow", "delay": 0.3, "times": 1})
    await at.accept_many(list(users))
    assert await at.deliverer.step() == 1


def leanplum_user(leanplum: Leanplum, user: str) -> None:
    """Let the user be there."""
    call = {
        "appId": "app_sandbox",
        "clientKey": "prod_sandbox",
        "apiVersion": "1.0.6",
        "userId": user,
    }
    attributes = {"action": "setUserAttributes", "userAttributes": {"there": 1}}
    httpx.post(f"{leanplum.url}/api", json=call | attributes, trust_env=False).raise_for_status()


def test_attributes_end_up_with_the_newest_value(database: str, leanplum: Leanplum) -> None:
    async def body(at: Delivering) -> None:
        await busy(at, leanplum, [f"a{n}" for n in range(4)])
        for n in range(4):
            await accept(at, login(f"a{n}", f"k{n}", f"login{n}", userAttributes={"plan": "old"}))
            await accept(at, sets(f"k{n}", f"then{n}", "new"))
        await at.finish()

    deliver(database, leanplum, body)
    assert [plan(leanplum, f"k{n}") for n in range(4)] == ["new"] * 4


def test_a_login_behind_many_events_is_not_overtaken(database: str, leanplum: Leanplum) -> None:
    async def body(at: Delivering) -> None:
        await at.accept("a", *range(501))
        await accept(at, login("a", "k"), advance("k", "then"))
        await at.finish(20)
        assert await statuses(at, "then") == ["delivered"]

    deliver(database, leanplum, body)
    assert sent(leanplum)[-2:] == ["setUserAttributes a", "advance k"]


def test_what_waits_for_a_login_is_looked_at_as_soon_as_that_has_settled(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await accept(at, login("a", "k"))
        leanplum.hold_a_call()
        at.deliverer.notify()
        assert await at.deliverer.step() == 1
        await accept(at, sets("k", "then", "new"))
        at.deliverer.notify()
        await at.deliverer.step()
        deferred, lane = at.deliverer.window._deferred, ids.lane("default", "uk")
        await until_async(lambda: lane in deferred)
        deferred[lane] += 3_600_000  # as if it had been looked at often
        leanplum.unplan()
        await at.finish(20)
        assert await statuses(at, "login", "then") == ["delivered"] * 2

    deliver(database, leanplum, body)


def test_what_the_new_id_had_before_the_login_goes_at_once(
    database: str, leanplum: Leanplum
) -> None:
    """Also where what follows the login is in the same attempt."""

    async def body(at: Delivering) -> None:
        await accept(at, sets("k", "before", "old"), login("a", "k"), sets("k", "after", "new"))
        assert await at.step() == 1
        assert await statuses(at, "before", "login", "after") == [
            "delivered",
            "delivered",
            "accepted",
        ]
        await at.finish()

    deliver(database, leanplum, body)
    assert plan(leanplum, "k") == "new"


def test_chains_of_logins_and_a_login_back_arrive_in_order(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await accept(
            at, sets("a", "0", "0"), login("a", "b", "1"), sets("b", "2", "2"), login("b", "c", "3")
        )
        await accept(
            at, sets("c", "4", "4"), login("c", "b", "5"), sets("b", "6", "6"), login("b", "a", "7")
        )
        await accept(at, sets("a", "8", "8"))
        await at.finish()

    deliver(database, leanplum, body)
    assert [one.split()[1] for one in sent(leanplum)] == list("aabbccbba")
    assert plan(leanplum, "a") == "8"


def test_an_anonymous_device_logs_in_before_what_is_sent_by_its_id_afterwards(
    database: str, leanplum: Leanplum
) -> None:
    """Segment's logins wait in the lane of the user, an SDK's in that of the id before; two devices
    of one user.
    """

    async def body(at: Delivering) -> None:
        leanplum.plan({"mode": "500-html", "contains": "newUserId", "times": 4})
        await accept(
            at,
            item("setUserAttributes", "segment", "uk", deviceId="d1", newUserId="k"),
            item("track", "device1", "dd1", deviceId="d1", event="E"),
            login("anon", "k", "sdk", deviceId="d2"),
            item("track", "device2", "dd2", deviceId="d2", event="E"),
            track("k", "user"),
        )
        await at.finish()

    deliver(database, leanplum, body)
    done = delivered(leanplum)
    for first, then in [
        ("segment", "device1"),
        ("sdk", "device2"),
        ("sdk", "user"),
        ("segment", "user"),
    ]:
        assert done.index(first) < done.index(then), done


def delivered(leanplum: Leanplum) -> list[str]:
    """The ids of all items of calls that Leanplum took, in order."""
    taken = [call["args"] for call in leanplum.calls() if call["status"] == 200]
    return [one["reqId"] for args in taken for one in args["data"]]


def test_a_new_deliverer_knows_of_the_login(database: str, leanplum: Leanplum) -> None:
    async def body(at: Delivering) -> None:
        leanplum.plan({"mode": "500-html", "contains": "newUserId", "times": 1})
        await accept(at, login("a", "k"), advance("k", "then"))
        await at.step()
        assert await statuses(at, "login", "then") == ["retrying", "accepted"]
        await at.deliverer.leave()
        at.deliverer = at.another()
        await at.finish()
        assert await statuses(at, "login", "then") == ["delivered", "delivered"]

    deliver(database, leanplum, body)


def test_several_deliverers_keep_the_order(database: str, leanplum: Leanplum) -> None:
    """Whose lanes the two ids are in is left to chance, so there are many."""

    async def body(at: Delivering) -> None:
        one, two = at.deliverer, at.another()
        running = [asyncio.create_task(deliverer.run()) for deliverer in (one, two)]
        await until_async(
            lambda: len(one.window.shards) == len(two.window.shards) == ids.SHARDS // 2
        )
        for n in range(40):
            leanplum_user(leanplum, f"a{n}")
            await accept(at, login(f"a{n}", f"k{n}", f"login{n}"), advance(f"k{n}", f"then{n}"))
        await settled(at, [f"then{n}" for n in range(40)])
        for deliverer in (one, two):
            deliverer.stop()
        await asyncio.gather(*running)
        assert await statuses(at, *[f"then{n}" for n in range(40)]) == ["delivered"] * 40

    deliver(database, leanplum, body)


async def settled(at: Delivering, item_ids: Sequence[str]) -> None:
    for item_id in item_ids:
        found = await at.outbox.settled_receipt("default", item_id, 20)
        assert found is not None
        assert found.settled


def test_a_login_that_is_tried_again_and_again_is_waited_for(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        leanplum.plan({"mode": "503", "contains": "newUserId", "times": 6})
        await accept(at, login("a", "k"), advance("k", "then"))
        await at.finish(20)
        assert (await at.receipt("login")).attempts == 7
        assert await statuses(at, "then") == ["delivered"]
        assert (await at.receipt("then")).attempts == 1, "what waits is not tried"

    deliver(database, leanplum, body)


REFUSED = {"mode": "success-false", "contains": "newUserId", "message": "Bad."}


def test_a_login_that_is_refused_lets_others_go_on(database: str, leanplum: Leanplum) -> None:
    async def body(at: Delivering) -> None:
        leanplum.plan(REFUSED | {"times": 1})
        await accept(at, login("a", "k"), sets("k", "then", "new"))
        await at.finish()
        assert await statuses(at, "login", "then") == ["rejected", "delivered"]

    deliver(database, leanplum, body)


def test_a_login_that_an_operator_sends_again_goes_before_what_was_not_sent(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        leanplum.plan(REFUSED | {"times": 1})
        await accept(at, login("a", "k"), sets("k", "then", "then"))
        await at.finish()
        leanplum.unplan()
        await at.outbox.dead_letters.replay(
            "default", DeadLetterFilter(), lambda count: (now_ms(), records_of(count))
        )
        await accept(at, sets("k", "later", "later"))
        await at.finish()
        assert await statuses(at, "login", "later") == ["delivered", "delivered"]

    deliver(database, leanplum, body)
    assert delivered(leanplum)[-2:] == ["login", "later"]


def records_of(count: int) -> str:
    return orjson.dumps({"count": count}).decode()


def test_the_erasure_of_whoever_logs_in_frees_the_other(database: str, leanplum: Leanplum) -> None:
    async def body(at: Delivering) -> None:
        leanplum.plan({"mode": "503", "contains": "newUserId", "times": 1000})
        await accept(at, login("a", "k"), sets("k", "then", "new"))
        await at.step()
        assert await statuses(at, "then") == ["accepted"]
        await erase(at, "a")
        await at.finish()
        assert await statuses(at, "then") == ["delivered"]
        assert await at.outbox.receipt("default", "login") is None

    deliver(database, leanplum, body)


def test_the_erasure_of_the_new_id_comes_after_the_login(database: str, leanplum: Leanplum) -> None:
    async def body(at: Delivering) -> None:
        leanplum.plan({"mode": "503", "contains": "newUserId", "times": 2})
        await accept(at, login("a", "k"))
        await erase(at, "k")
        await at.finish()

    deliver(database, leanplum, body)
    assert sent(leanplum)[-2:] == ["setUserAttributes a", "deleteUser k"]


def test_a_call_that_a_caller_waits_for_waits_for_the_login(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        async with other_process(at, database) as locks:
            leanplum.plan({"mode": "503", "contains": "newUserId", "times": 3})
            await accept(at, login("a", "k"))

            async def ask() -> list[str]:
                async with locks.hold("default", ["uk"], patience=10, timeout=1):
                    return await statuses(at, "login")

            asking = asyncio.create_task(ask())
            await asyncio.sleep(0.2)
            assert not asking.done()
            await at.finish()
            assert await asking == ["delivered"]

    deliver(database, leanplum, body)


def test_rows_of_logins_are_swept_once_they_are_done_for_good(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        leanplum.plan(REFUSED | {"times": 1})
        await accept(at, login("bad", "k", "bad"))
        await at.finish()
        leanplum.unplan()
        await accept(at, login("good", "k", "good"))
        await at.finish()
        await accept(at, login("waits", "k", "waits"))
        kept = [(await at.receipt(name)).seq for name in ("bad", "waits")]
        assert await at.outbox.sweep(LONG) == 1
        assert [seq for _, seq in logins(at)] == kept
        assert await at.outbox.sweep(LONG) == 0

    deliver(database, leanplum, body)


def test_items_without_a_login_leave_no_row(database: str, leanplum: Leanplum) -> None:
    async def body(at: Delivering) -> None:
        await accept(
            at,
            login("k", "k", "same"),
            login("a", "", "none"),
            track("a", "1", params={"x": "newUserId"}),
        )
        assert logins(at) == []

    deliver(database, leanplum, body)


def test_a_lane_that_waits_very_long_for_a_login_is_looked_at_seldom_and_never_given_up() -> None:
    pauses = [login_pause(waits) for waits in range(5_000)]
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1] <= 1.0
