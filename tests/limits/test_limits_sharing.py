"""Gateways that share a real Valkey, and one whose Valkey is away or refuses, as callers and
operators meet them.
"""

from collections.abc import Callable

import pytest

from tests.support.gateway import Talk
from tests.support.valkey import Valkey
from tests.support.wait import free_port, until

Start = Callable[..., Talk]
PATIENT = {"gateway_shared_limits_timeout_seconds": 2}  # the machine may be busy


def limits(talk: Talk) -> str:
    """What /readyz says of them."""
    answer = talk.get("/readyz")
    assert answer.status_code == 200
    part = answer.json()["parts"]["limits"]
    assert part["ok"] is True
    return str(part.get("detail", ""))


def test_a_gateway_by_itself_has_nothing_to_say_of_sharing(start: Start) -> None:
    talk = start()
    assert limits(talk) == ""
    assert "shared_limits" not in talk.get("/metrics").text


def test_a_limit_spent_at_one_replica_is_spent_at_the_other(start: Start, valkey: Valkey) -> None:
    given = PATIENT | {
        "gateway_shared_limits_url": valkey.url,
        "gateway_rate_per_second": 1,
        "gateway_rate_burst": 9,
    }
    one = start(**given)
    other = start(**given)
    items = [{"action": "track", "userId": "u", "event": "e"}] * 5
    assert one.batch(items).status_code == 202
    answer = other.batch(items, key=one.key)
    assert (answer.status_code, answer.headers["ratelimit-policy"]) == (429, '"caller";q=1;w=1')
    assert answer.headers["ratelimit"] in {'"caller";r=4;t=5', '"caller";r=4;t=4'}
    assert limits(other) == "shared by 2 replicas"


def test_failed_authentications_of_an_address_are_counted_together(
    start: Start, valkey: Valkey
) -> None:
    given = PATIENT | {"gateway_shared_limits_url": valkey.url, "gateway_failed_auth_per_minute": 6}
    pair = [start(**given), start(**given)]
    statuses = [talk.event(key="nonsense").status_code for talk in pair * 5]
    assert statuses[:6] == [401] * 6
    assert 429 in statuses[6:8]


@pytest.mark.parametrize("spoilt", ["read-only", "no memory"])
def test_a_valkey_that_refuses_to_write_is_as_one_that_is_away(
    start: Start, valkey: Valkey, spoilt: str
) -> None:
    talk = start(gateway_shared_limits_url=valkey.url, gateway_rate_per_second=1000)
    with valkey.client() as client:
        if spoilt == "read-only":
            client.replicaof("127.0.0.1", "1")
        else:
            client.config_set("maxmemory", "1")
        assert {talk.event().status_code for _ in range(3)} == {202}
        until(lambda: "are unavailable" in limits(talk))
        assert "leanplum_gateway_shared_limits_up 0.0" in talk.get("/metrics").text
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", "0")
    until(lambda: "shared by" in limits(talk))
    assert "leanplum_gateway_shared_limits_up 1.0" in talk.get("/metrics").text


def test_a_gateway_starts_where_valkey_is_away_and_its_password_is_shown_nowhere(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"valkey://:s3cret@127.0.0.1:{free_port()}"
    talk = start(gateway_shared_limits_url=url, gateway_rate_per_second=1, gateway_rate_burst=2)
    assert [talk.event().status_code for _ in range(3)][:2] == [202, 202]
    assert (
        limits(talk)
        == "the shared limits are unavailable; this replica applies the whole of each limit by itself"
    )
    said = capfd.readouterr().out
    assert "limits.away" in said
    assert "s3cret" not in said + talk.get("/metrics").text + repr(talk.app.services.settings)
