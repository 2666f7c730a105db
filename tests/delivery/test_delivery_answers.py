"""Prescribed answers of Leanplum, one after the other: order, attempts and final receipts (contract
§4).
"""

from typing import Any

import pytest

from app.delivery.verdicts import RetryPolicy

from .harness import Delivering, Leanplum, deliver

Fault = dict[str, Any]
SKIPPED = "User not found; request skipped."


def once(mode: str, **more: Any) -> Fault:
    return {"mode": mode, "userId": "ann", **more}


@pytest.mark.parametrize(
    ("faults", "attempts"),
    [
        ([], 1),
        ([once("500-html")], 2),
        ([once("503", times=3)], 4),
        ([once("503"), once("500-html"), once("disconnect")], 4),
        ([once("429", times=2)], 1),
        ([once("408")], 1),
        ([once("429"), once("503"), once("429")], 2),
        ([once("html-200")], 2),
        ([once("truncated")], 2),
        ([once("empty")], 2),
        ([once("disconnect")], 2),
        ([once("applied-500")], 2),
        ([once("shuffle")], 1),
        ([once("no-reqid")], 1),
        ([once("wrong-reqid")], 2),
        ([once("403-key", times=2)], 1),
        ([once("404-app")], 1),
        ([once("redirect-item")], 1),
        ([once("403-size")], 1),
        ([once("403-size", times=2)], 1),
        ([once("slow", delay=0.05)], 1),
        ([once("warning", message="Past event detected (731 days ago). Rewriting timestamp.")], 1),
    ],
)
@pytest.mark.sampled(2)
def test_after_what_passes_everything_is_delivered_once_and_in_order(
    database: str, leanplum: Leanplum, faults: list[Fault], attempts: int
) -> None:
    leanplum.plan(*faults)

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0, 1, 2)
        await at.accept("bob", 0, 1, 2)
        await at.accept("ann", 3)
        await at.finish()
        assert await at.told("ann", 4) == [("delivered", attempts)] * 4
        assert {status for status, _ in await at.told("bob", 3)} == {"delivered"}

    deliver(database, leanplum, body)
    assert (leanplum.values("ann"), leanplum.values("bob")) == ([0, 1, 2, 3], [0, 1, 2])
    assert leanplum.stats()["overlaps"] == 0


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (once("success-false", message="Bad."), "rejected", {"success": False, "error": "Bad."}),
        (once("error-with-success", message="Bad."), "skipped", {"success": True, "error": "Bad."}),
        (
            once("warning", message=SKIPPED, applied=False),
            "skipped",
            {"success": True, "warning": SKIPPED},
        ),
        (
            once("451", times=None),
            "rejected",
            {"success": False, "error": "HTTP 451: User is blocked."},
        ),
        (once("400", times=None), "rejected", {"success": False, "error": "HTTP 400: Bad request"}),
    ],
)
def test_what_leanplum_will_not_do_ends_with_its_reason_and_harms_no_other_user(
    database: str, leanplum: Leanplum, fault: Fault, status: str, said: Fault
) -> None:
    leanplum.plan(fault)

    async def body(at: Delivering) -> None:
        await at.accept("bob", 0)
        await at.accept("ann", 0, 1)
        await at.accept("cid", 0)
        await at.finish()
        assert await at.told("ann", 2) == [(status, 1)] * 2
        assert (await at.receipt("ann-0")).leanplum == said
        assert await at.told("bob", 1) == await at.told("cid", 1) == [("delivered", 1)]

    deliver(database, leanplum, body)
    assert (leanplum.values("ann"), leanplum.values("bob"), leanplum.values("cid")) == (
        [],
        [0],
        [0],
    )


def test_of_a_mixed_answer_under_404_only_the_failed_item_is_rejected(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "mixed-404"})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0, 1)
        await at.accept("bob", 0)
        await at.finish()
        assert await at.told("ann", 2) == [("rejected", 1), ("delivered", 1)]
        assert await at.told("bob", 1) == [("delivered", 1)]

    deliver(database, leanplum, body)


def test_of_a_short_answer_only_what_it_does_not_tell_is_sent_again(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "short"})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0, 1, 2)
        await at.finish()
        assert await at.told("ann", 3) == [("delivered", 1), ("delivered", 1), ("delivered", 2)]

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [0, 1, 2]
    assert leanplum.stats()["duplicates"] == 1


def test_a_long_answer_loses_and_repeats_nothing(database: str, leanplum: Leanplum) -> None:
    leanplum.plan({"mode": "long"})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0, 1, 2)
        await at.finish()
        assert {status for status, _ in await at.told("ann", 3)} == {"delivered"}

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [0, 1, 2]


def test_one_bad_item_among_many_is_found_by_halves(database: str, leanplum: Leanplum) -> None:
    leanplum.plan({"mode": "400", "userId": "user17", "times": None})

    async def body(at: Delivering) -> None:
        for number in range(40):
            await at.accept(f"user{number}", 0)
        await at.finish()
        for number in range(40):
            expected = "rejected" if number == 17 else "delivered"
            assert await at.told(f"user{number}", 1) == [(expected, 1)]

    deliver(database, leanplum, body)
    assert leanplum.stats()["calls"] <= 1 + 2 * 6


def test_in_trouble_that_outlasts_the_window_an_item_expires_with_the_last_reason(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "503", "times": None})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0)
        await at.finish()
        ((status, attempts),) = await at.told("ann", 1)
        assert status == "expired"
        assert attempts > 1
        assert (await at.receipt("ann-0")).leanplum == {"success": False, "error": "HTTP 503"}

    deliver(database, leanplum, body, policy=RetryPolicy(window=1.0, least=0.02, most=0.04))


def test_leanplums_retry_after_is_waited_for(database: str, leanplum: Leanplum) -> None:
    leanplum.plan({"mode": "503", "retryAfter": 1})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0)
        await at.finish()

    deliver(database, leanplum, body)
    first, second = leanplum.calls()
    assert second["receivedAt"] - first["finishedAt"] >= 0.95


def test_a_repeat_is_sent_with_the_same_reqid_and_uuid(database: str, leanplum: Leanplum) -> None:
    leanplum.plan({"mode": "503", "times": 2})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0)
        await at.finish()

    deliver(database, leanplum, body)
    sent = [call["args"]["data"][0] for call in leanplum.calls()]
    assert len(sent) == 3
    assert len({(one["reqId"], one["uuid"]) for one in sent}) == 1
