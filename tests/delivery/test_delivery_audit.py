"""Each call to Leanplum has an audit record of its own, and what is no call has none."""

from typing import Any

from .harness import Delivering, Leanplum, deliver


def test_each_call_that_an_attempt_took_has_its_record(database: str, leanplum: Leanplum) -> None:
    """The whole is refused for its size, and sent again in halves, of which the second is
    refused.
    """
    leanplum.plan({"mode": "403-size"}, {"mode": "400", "userId": "bob"})

    async def body(at: Delivering) -> list[dict[str, Any]]:
        await at.accept("ann", 0)
        await at.accept("bob", 0)
        await at.step()
        return at.records()

    calls = deliver(database, leanplum, body)
    assert [(one["status_code"], one["unmapped"]["items"]) for one in calls] == [
        ("403", {"split": 2}),
        ("200", {"delivered": 1}),
        ("400", {"rejected": 1}),
    ]
    assert len({one["api"]["request"]["uid"] for one in calls}) == 1, "they are of one attempt"


def test_a_call_that_nobody_answered_has_its_record(database: str, leanplum: Leanplum) -> None:
    leanplum.plan({"mode": "disconnect"})

    async def body(at: Delivering) -> list[dict[str, Any]]:
        await at.accept("ann", 0)
        await at.step()
        return at.records()

    (call,) = deliver(database, leanplum, body)
    assert (call["status_code"], call["unmapped"]["items"]) == ("599", {"retrying": 1})


def test_what_can_not_be_sent_for_want_of_a_key_has_no_record_of_a_call(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> list[dict[str, Any]]:
        await at.accept("ann", 0)
        at.apps.clear()
        await at.step()
        assert await at.told("ann", 1) == [("held", 0)]
        return at.records()

    assert deliver(database, leanplum, body) == []
    assert leanplum.stats()["calls"] == 0
