"""What became of a durable entry at /api is found by its reqId."""

import time
import uuid
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Connection, text

from app import ids
from app.database.driver import DIALECTS
from app.database.engine import connect
from app.model import Scope
from app.outbox.search import OWN_IDS, ReceiptSearch
from tests.support.gateway import WIDE, Talk, make_settings, problem
from tests.support.postgres import Server
from tests.support.sdk import Sdk, entries, scoped, settled
from tests.support.simulator import Leanplum, delivering_to, simulated

FIND = "/v1/receipts"
YEARS = 2 * 366 * 86_400


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def talk(
    request: pytest.FixtureRequest,
    leanplum: Leanplum,
    tmp_path_factory: pytest.TempPathFactory,
    migrated: Any,
    postgresql_server: Server,
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("receipts")
    own = (
        {"gateway_database_url": postgresql_server.empty()} if request.param == "postgresql" else {}
    )

    def settings(**given: Any) -> Any:
        return make_settings(folder, migrated, WIDE | own | given)

    with delivering_to(leanplum, settings, folder / "g.db") as found:
        yield found


@pytest.fixture
def sdk(talk: Talk) -> Sdk:
    return Sdk(talk)


def track(**more: Any) -> dict[str, Any]:
    return {"action": "track", "userId": "u1", "event": "E", **more}


def fresh() -> str:
    return str(uuid.uuid4())


def found(talk: Talk, **query: Any) -> list[dict[str, Any]]:
    answer = talk.get(FIND, params=query)
    assert answer.status_code == 200, answer.text
    page = answer.json()
    assert set(page) <= {"receipts", "nextCursor"}
    receipts: list[dict[str, Any]] = page["receipts"]
    return receipts


def test_an_entry_is_found_by_its_req_id_with_what_became_of_it(talk: Talk, sdk: Sdk) -> None:
    old, skipped, usual = fresh(), fresh(), fresh()
    answer = sdk.multi(
        track(reqId=old, uuid=fresh(), time=time.time() - YEARS),
        {"action": "advance", "userId": "nobody", "state": "S", "reqId": skipped, "uuid": fresh()},
        track(reqId=usual, uuid=fresh()),
    )
    assert [one["success"] for one in entries(answer)] == [True] * 3
    settled(talk)
    (receipt,) = found(talk, reqId=old)
    assert (receipt["status"], receipt["action"], receipt["userId"]) == ("delivered", "track", "u1")
    assert receipt["leanplum"]["warning"].startswith("Past event detected (73")
    assert talk.get(receipt["href"]).json() == receipt
    (receipt,) = found(talk, reqId=skipped)
    assert (receipt["status"], receipt["leanplum"]["warning"]) == (
        "skipped",
        "User not found; request skipped.",
    )
    (receipt,) = found(talk, reqId=usual)
    assert (receipt["status"], receipt["leanplum"]) == ("delivered", {"success": True})


@pytest.mark.parametrize("form", ["form", "javascript", "single", "get"])
def test_it_is_found_however_it_came(talk: Talk, sdk: Sdk, form: str) -> None:
    req_id, own = fresh(), fresh()
    entry = track(reqId=req_id, uuid=own)
    if form == "form":
        sdk.android(entry)
    elif form == "javascript":
        sdk.javascript(entry)
    elif form == "single":
        sdk.post(entry)
    else:
        sdk.get(**entry)
    assert [one["action"] for one in found(talk, reqId=req_id, uuid=own)] == ["track"]


@pytest.mark.parametrize("change", [str.upper, str.lower, str.swapcase])
@pytest.mark.parametrize("own", [True, False])
def test_case_makes_no_difference(talk: Talk, sdk: Sdk, change: Any, own: bool) -> None:
    req_id = f"Ab-{fresh()}"
    more = {"uuid": f"Cd-{fresh()}"} if own else {}
    sdk.multi(track(reqId=req_id, **more))
    query = {name: change(value) for name, value in more.items()}
    assert len(found(talk, reqId=change(req_id), **query)) == 1


@pytest.mark.parametrize("given", [7_000_000_001, "7000000001"])
def test_a_number_is_found_as_text(talk: Talk, sdk: Sdk, given: Any) -> None:
    known = len(found(talk, reqId="7000000001"))
    sdk.multi(track(reqId=given))
    assert len(found(talk, reqId="7000000001")) == known + 1


@pytest.mark.parametrize(
    "req_id", ["ключ & 1%2F", "a" * 5_000, "sdk:0", "' OR 1=1 --", "100%", "_", "\x01", "İ"]
)
def test_any_text_is_a_req_id(talk: Talk, sdk: Sdk, req_id: str) -> None:
    before = len(found(talk, reqId=req_id))
    sdk.multi(track(reqId=req_id), track(reqId=f"{req_id}x"))
    assert len(found(talk, reqId=req_id)) == before + 1


def test_all_entries_of_a_req_id_are_found_newest_first_and_the_uuid_chooses_among_them(
    talk: Talk, sdk: Sdk
) -> None:
    req_id, own, other = fresh(), fresh(), fresh()
    sdk.multi(
        track(reqId=req_id, uuid=own),
        {
            "action": "setUserAttributes",
            "userId": "u2",
            "userAttributes": {"a": 1},
            "reqId": req_id,
            "uuid": own,
        },
        {"action": "stop", "deviceId": "d1", "reqId": req_id, "uuid": other},
        {"action": "heartbeat", "userId": "u3", "reqId": req_id},
        track(reqId=fresh(), uuid=own),
    )
    settled(talk)
    assert [one["action"] for one in found(talk, reqId=req_id)] == [
        "heartbeat",
        "stop",
        "setUserAttributes",
        "track",
    ]
    assert [one["action"] for one in found(talk, reqId=req_id, uuid=own)] == [
        "setUserAttributes",
        "track",
    ]
    assert [one["action"] for one in found(talk, reqId=req_id, uuid=other)] == ["stop"]
    assert found(talk, reqId=req_id, uuid=fresh()) == []


def test_nothing_known_is_an_empty_list(talk: Talk, sdk: Sdk) -> None:
    assert talk.get(FIND, params={"reqId": fresh()}).json() == {"receipts": []}


def test_pages_follow_each_other(talk: Talk, sdk: Sdk) -> None:
    sdk.multi(*(track(reqId="batch 9", event=f"E{number}") for number in range(5)))
    times, ids = list[str](), list[str]()
    query = {"reqId": "batch 9", "limit": "2"}
    for left in (3, 1, 0):
        page = talk.get(FIND, params=query).json()
        times += [one["acceptedAt"] for one in page["receipts"]]
        ids += [one["id"] for one in page["receipts"]]
        assert ("nextCursor" in page) == (left > 0)
        query |= {"cursor": page.get("nextCursor", "")}
    assert len(set(ids)) == len(ids) == 5
    assert all(a >= b for a, b in pairwise(times))
    assert [one["id"] for one in found(talk, reqId="batch 9")] == ids


@pytest.mark.parametrize(
    "marks", ["reqId and uuid", "reqId, a UUID", "reqId, a UUID without hyphens"]
)
def test_a_repeat_is_known_as_one(talk: Talk, sdk: Sdk, marks: str) -> None:
    given = {
        "reqId and uuid": {"reqId": f"r-{fresh()}", "uuid": fresh()},
        "reqId, a UUID": {"reqId": fresh().upper()},
        "reqId, a UUID without hyphens": {"reqId": fresh().replace("-", "")},
    }[marks]
    entry = track(time=time.time(), **given)
    for _ in range(2):
        assert entries(sdk.multi(entry))[0]["success"] is True
    assert len(found(talk, **given)) == 1


@pytest.mark.parametrize("marks", ["reqId and uuid", "reqId, a UUID"])
def test_other_contents_with_the_same_marks_are_items_of_their_own_and_found_as_well(
    talk: Talk, sdk: Sdk, marks: str
) -> None:
    given = {"reqId": fresh()} | ({"uuid": fresh()} if marks == "reqId and uuid" else {})
    sdk.multi(track(event="A", **given), track(event="B", **given), track(event="C", **given))
    sdk.multi(track(event="A", **given))
    settled(talk)
    assert len(found(talk, **given)) == 3
    assert {one["status"] for one in found(talk, **given)} == {"delivered"}


@pytest.mark.parametrize("req_id", ["1", "a", "00000000-0000-0000-0000-00000000000g"])
def test_a_req_id_that_is_no_uuid_never_makes_a_duplicate(
    talk: Talk, sdk: Sdk, req_id: str
) -> None:
    known = len(found(talk, reqId=req_id))
    for _ in range(2):
        sdk.multi(*[track(reqId=req_id, time=5.0)] * 3)
    assert len(found(talk, reqId=req_id)) == known + 6


def test_items_of_one_req_id_are_different_items_to_leanplum(
    talk: Talk, sdk: Sdk, leanplum: Leanplum
) -> None:
    user = fresh()
    for number in range(4):
        sdk.multi(track(userId=user, reqId="5", params={"n": number}))
    settled(talk)
    assert leanplum.user(user)["events"]["E"]["count"] == 4
    sent = [one for one in leanplum.arrived() if one.get("userId") == user]
    assert {one["reqId"] for one in sent} == {"5"}
    assert len({one["uuid"] for one in sent}) == 4


@pytest.mark.parametrize(
    "given", [{}, {"reqId": ""}, {"reqId": None}, {"reqId": True}, {"reqId": {"a": 1}}]
)
def test_an_entry_without_a_req_id_is_accepted_as_it_is(
    talk: Talk, sdk: Sdk, given: dict[str, Any]
) -> None:
    assert [one["success"] for one in entries(sdk.multi(*[track(uuid="u", **given)] * 2))] == [
        True,
        True,
    ]
    settled(talk)


def test_what_was_asked_has_no_receipt(talk: Talk, sdk: Sdk) -> None:
    req_id = fresh()
    sdk.multi({"action": "start", "userId": "u1", "reqId": req_id, "uuid": fresh()})
    assert found(talk, reqId=req_id) == []


@pytest.mark.parametrize(
    ("query", "name", "said"),
    [
        ({"uuid": "u"}, "uuid", "requires reqId"),
        ({"uuid": "u", "reqId": ""}, "reqId", "must not be empty"),
        ({"reqId": ""}, "reqId", "must not be empty"),
        ({"reqId": "r", "reqid": "r"}, "reqid", "unknown query parameter; did you mean reqId?"),
    ],
)
def test_a_query_that_would_find_everything_is_refused(
    talk: Talk, query: dict[str, str], name: str, said: str
) -> None:
    (fault,) = problem(talk.get(FIND, params=query), 422, "validation")["errors"]
    assert (fault["parameter"], fault["detail"]) == (name, said)


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "1001"}, {"cursor": "x"}, {"cursor": "-1"}]
)
def test_a_bad_page_is_refused(talk: Talk, query: dict[str, str]) -> None:
    problem(talk.get(FIND, params={"reqId": "r", **query}), 422, "validation")


def test_it_needs_the_scope(talk: Talk) -> None:
    query = {"reqId": "r"}
    assert talk.get(FIND, params=query, key=scoped(talk, Scope.RECEIPTS_READ)).status_code == 200
    problem(
        talk.get(FIND, params=query, key=scoped(talk, Scope.SDK, Scope.EVENTS_WRITE)),
        403,
        "forbidden",
    )
    problem(talk.get(FIND, params=query, key=None), 401, "unauthorized")


def test_another_app_s_items_are_not_found(talk: Talk, sdk: Sdk) -> None:
    req_id = fresh()
    sdk.multi(track(reqId=req_id))
    bounds = ids.sdk_item_id_bounds(req_id, None)
    search = talk.app.services.outbox.search_receipts
    for app, count in (("default", 1), ("other", 0)):
        page = talk.do(partial(search, ReceiptSearch(app, own_ids=bounds)))
        assert len(page.receipts) == count


def test_a_user_who_is_erased_takes_their_receipts_along(talk: Talk, sdk: Sdk) -> None:
    req_id = fresh()
    sdk.multi({"action": "advance", "userId": req_id, "state": "S", "reqId": req_id})
    settled(talk)
    assert len(found(talk, reqId=req_id)) == 1
    assert talk.call("DELETE", f"/v1/users/{req_id}?fullErasure=true").status_code == 202
    settled(talk)
    assert found(talk, reqId=req_id) == []


# --- how it is found --------------------------------------------------------------------------------------------------


def plan(connection: Connection, bounds: ids.Bounds) -> str:
    """How the database finds the items of an SDK's reqId."""
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    statement = DIALECTS[connection.dialect.name].sql(f"{explain} {OWN_IDS}")
    rows = connection.exec_driver_sql(statement, (0, 1 << 60, "default", *bounds, 100))
    return "\n".join(map(str, rows))


def test_the_items_of_a_req_id_are_read_from_the_primary_key(database: str) -> None:
    engine = connect(database)
    insert = text(
        "INSERT INTO item_ids (app, id, seq, digest, accepted_at) VALUES ('default', :id, :seq, :digest, 1)"
    )
    with engine.begin() as connection:
        rows = [
            {"id": ids.sdk_item_id("track", f"r{number}", "u"), "seq": number, "digest": b"d"}
            for number in range(3_000)
        ]
        connection.execute(insert, rows)
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ANALYZE item_ids")
        how = plan(connection, ids.sdk_item_id_bounds("r7", None))
    engine.dispose()
    sqlite = "SEARCH item_ids USING PRIMARY KEY (app=? AND id>? AND id<?)"
    assert sqlite in how or "on item_ids" in how.partition("item_ids_pkey")[2], how
    assert "Seq Scan on item_ids" not in how
    assert "SCAN item_ids" not in how


@pytest.mark.parametrize("own", ["", "u", "U" * 900])
@pytest.mark.parametrize("req_id", ["r", "R" * 900, "ß", "5b2c8e0e-7d64-4a57-9d5c-2a7f5a3f0c11"])
def test_an_id_lies_between_its_bounds_in_every_collation(req_id: str, own: str) -> None:
    made = ids.sdk_item_id("track", req_id, own)
    for which in (None, own):
        least, greatest = ids.sdk_item_id_bounds(req_id, which)
        for one in (made, ids.sdk_item_id_for_content(made, "track", "{}")):
            # Digits of one length: no language sorts them otherwise, alone or in pairs.
            assert {len(least), len(one), len(greatest)} == {len("sdk:") + 59}
            assert all(text.removeprefix("sdk:").isdecimal() for text in (least, one, greatest))
            assert least <= one <= greatest


def test_the_parts_of_an_id_have_room_for_what_stands_in_them() -> None:
    assert len(ids.sdk_item_id("track", "r", "", lambda size: b"\xff" * size)) == ids.SDK_LENGTH
    assert 2 ** (8 * ids.REQUEST_BYTES) < 10**29
    assert 2**32 < 10**10
