"""Enrichment as callers see it: receipts, batch results, repeats, previews, proxies; and files that
change.
"""

import base64
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.enrichment.service import GeoDatabase
from app.errors import StartRefused
from app.model import Scope
from app.server.preparation import prepare
from app.settings import Settings
from tests.enrichment.mmdb import BERLIN, FRANCE, PLACES, write
from tests.support.gateway import NDJSON, Talk, pointers, problem
from tests.support.wait import until

Start = Callable[..., Talk]
IN_BERLIN = {
    "country": "DE",
    "region": "State of Berlin",
    "city": "Berlin",
    "location": "52.5,13.25",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "enrichment.toml"


@pytest.fixture
def maxmind(tmp_path: Path) -> Path:
    return write(tmp_path / "places.mmdb", PLACES)


def bodies(talk: Talk) -> list[dict[str, Any]]:
    """What is on disk to be sent, in order."""
    return [orjson.loads(body) for (body,) in talk.rows("SELECT body FROM items ORDER BY seq")]


def track(**fields: Any) -> dict[str, Any]:
    return {"action": "track", "userId": "u", "event": "e", **fields}


# --- what is told -----------------------------------------------------------------------------------------------------


def test_a_receipt_tells_the_steps_and_the_warnings_when_it_is_new_and_later(start: Start) -> None:
    talk = start()
    body = {
        "userId": "u",
        "event": "e",
        "value": 1,
        "currencyCode": "eur",
        "time": time.time() - 400 * 86_400,
    }
    fresh = talk.event(body)
    told = {
        "steps": ["currency"],
        "warnings": ["time: more than 365 days ago; Leanplum rewrites it to now"],
    }
    assert (fresh.status_code, fresh.json()["enrichment"]) == (202, told)
    assert talk.get(fresh.json()["href"]).json()["enrichment"] == told


def test_an_item_of_which_there_is_nothing_to_tell_costs_nothing_and_tells_nothing(
    start: Start,
) -> None:
    talk = start()
    fresh = talk.event({"userId": "u", "event": "e", "value": 1, "currencyCode": "EUR"})
    assert "enrichment" not in fresh.json()
    assert "enrichment" not in talk.get(fresh.json()["href"]).json()
    ((notes,),) = talk.rows("SELECT notes FROM items")  # of the deletion
    assert notes is None or orjson.loads(notes).keys() == {"erasureRecord"}


def test_each_result_of_a_batch_tells_its_own_steps(start: Start) -> None:
    talk = start()
    items = [
        track(),
        track(currencyCode="usd"),
        track(params={"a": {"b": 1}}),
        track(id="x", currencyCode="usd"),
    ]
    for content in (
        items,
        b"\n".join(map(orjson.dumps, items[:3])) + b"\n" + orjson.dumps(track(currencyCode="usd")),
    ):
        kind = {"headers": {"Content-Type": NDJSON}} if isinstance(content, bytes) else {}
        results = talk.batch(content, **kind).json()["results"]
        assert [one.get("enrichment", {}).get("steps") for one in results] == [
            None, ["currency"], ["flatten"], ["currency"]
        ]  # fmt: skip
    again = talk.batch([items[3]]).json()["results"][0]
    assert again == {"index": 0, "id": "x", "status": "duplicate", "href": "/v1/receipts/x"}


def test_what_is_mended_is_accepted_and_a_fault_is_told_in_the_words_that_were_sent(
    start: Start, file: Path
) -> None:
    file.write_text('[renames.track]\n"params.colour" = "params.color"')
    talk = start(gateway_enrichment_file=file)
    assert (
        talk.event({"userId": "u", "event": "e", "params": {"item": {"sku": "A"}}}).status_code
        == 202
    )
    refused = talk.event({"userId": "u", "event": "e", "params": {"colour": [1]}})
    assert pointers(problem(refused, 422, "validation")) == {"/params/colour": "type"}
    assert bodies(talk) == [{"userId": "u", "event": "e", "params": {"item.sku": "A"}}]


def test_what_a_configured_step_makes_of_good_fields_is_held_against_the_rules_again(
    start: Start, file: Path
) -> None:
    file.write_text('[[privacy]]\ndo = "mask"\nkeys = ["value"]')
    talk = start(gateway_enrichment_file=file)
    assert pointers(
        problem(talk.event({"userId": "u", "event": "e", "value": 5}), 422, "validation")
    ) == {"/value": "type"}
    assert talk.items() == 0


@pytest.mark.parametrize("field", ["sentAt", "ip", "userAgent"])
def test_what_is_for_enrichment_alone_must_be_of_its_kind_and_is_never_stored(
    start: Start, field: str
) -> None:
    talk = start()
    assert pointers(
        problem(talk.event({"userId": "u", "event": "e", field: [1]}), 422, "validation")
    ) == {f"/{field}": "type"}
    assert (
        talk.event({"userId": "u", "event": "e", field: "2026-01-31T12:00:00Z"}).status_code == 202
    )
    assert bodies(talk) == [{"userId": "u", "event": "e"}]


def test_an_unknown_currency_is_refused_where_that_is_configured(start: Start, file: Path) -> None:
    file.write_text('[currency]\nunknown = "refuse"')
    talk = start(gateway_enrichment_file=file)
    for body in ({"currencyCode": "EUX"}, {"currencyCode": "EUX", "params": {"a": {"b": 1}}}):
        refused = problem(talk.event({"userId": "u", "event": "e", **body}), 422, "validation")
        assert pointers(refused) == {"/currencyCode": "currency"}
    assert talk.event({"userId": "u", "event": "e", "currencyCode": "eur"}).status_code == 202


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_a_repeat_is_a_duplicate_though_its_clock_is_corrected_anew(
    start: Start, maxmind: Path
) -> None:
    talk = start(gateway_maxmind_file=maxmind)
    item = {
        "action": "setUserAttributes", "id": "one", "userId": "u", "time": 1_790_000_000, "sentAt": 1_790_000_001,
        "timezone": "Europe/Berlin", "ip": "203.0.113.7",
    }  # fmt: skip
    later = {**item, "sentAt": 1_790_000_009, "ip": "198.51.100.3"}
    moved = {**item, "time": 1_790_000_002}
    dirty = track(params={"a": {"b": 1}})  # makes the whole batch be read with care
    statuses = [
        [one["status"] for one in talk.batch(items).json()["results"]]
        for items in ([item], [item], [later], [dirty, later], [moved])
    ]
    assert statuses == [
        ["accepted"],
        ["duplicate"],
        ["duplicate"],
        ["accepted", "duplicate"],
        ["rejected"],
    ]


# --- where and what the end user is -----------------------------------------------------------------------------------


def test_the_address_leads_to_a_place_and_is_on_no_disk(start: Start, maxmind: Path) -> None:
    talk = start(gateway_maxmind_file=maxmind)
    answer = talk.post("/v1/users/u", {"ip": "203.0.113.7"}, method="PATCH")
    assert answer.json()["enrichment"] == {"steps": ["location"]}
    assert bodies(talk) == [{"userId": "u", **IN_BERLIN}]
    assert b"203.0.113.7" not in everything(talk)


@pytest.mark.parametrize(
    ("proxies", "forwarded", "found"),
    [
        ("127.0.0.0/8,10.0.0.0/8", "203.0.113.7, 10.0.0.9", True),
        ("127.0.0.0/8", "203.0.113.7", True),
        ("127.0.0.0/8", "203.0.113.7, 192.0.2.9", False),
        ("127.0.0.0/8", "2001:db8::5", True),
        ("127.0.0.0/8", "", False),
        ("127.0.0.0/8", "203.0.113.7, nonsense", False),
        ("10.0.0.0/8", "203.0.113.7", False),
        ("", "203.0.113.7", False),
    ],
)
def test_a_proxy_that_is_trusted_and_no_other_names_the_end_user(
    start: Start, maxmind: Path, proxies: str, forwarded: str, found: bool
) -> None:
    talk = start(gateway_maxmind_file=maxmind, gateway_trusted_proxies=proxies)
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    talk.post("/v1/users/u", {"userAttributes": {"a": 1}}, method="PATCH", headers=headers)
    assert bodies(talk) == [
        {"userId": "u", "userAttributes": {"a": 1}, **(IN_BERLIN if found else {})}
    ]
    # The audit alone has it, as the address from which the call came.
    assert "203.0.113.7" not in repr(talk.rows("SELECT * FROM items"))


def everything(talk: Talk) -> bytes:
    """All bytes that are on the disk, the write-ahead log's as well."""
    talk.get("/readyz")
    return b"".join(path.read_bytes() for path in talk.path.parent.glob("g.db*"))


# --- files that change ------------------------------------------------------------------------------------------------


def test_a_changed_file_is_taken_without_a_restart_and_a_bad_one_is_not(
    start: Start, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("")
    talk = start(gateway_enrichment_file=file)

    def currency() -> Any:
        return preview(talk, track(value=1))["leanplum"].get("currencyCode")

    assert currency() is None
    file.write_text('[currency]\ndefault = "SEK"')
    until(lambda: currency() == "SEK")
    file.write_text('[currency]\ndefault = "EUX"\n[steps]\nfoo = true')
    until(lambda: "enrichment.refused" in capsys.readouterr().out)
    assert currency() == "SEK"
    file.write_text("")
    until(lambda: currency() is None)


def test_a_replaced_database_of_addresses_is_taken_and_a_broken_one_is_not(
    start: Start, maxmind: Path
) -> None:
    talk = start(gateway_maxmind_file=maxmind)

    def place() -> Any:
        return preview(talk, {"action": "setUserAttributes", "userId": "u", "ip": "203.0.113.7"})[
            "leanplum"
        ]["country"]

    assert place() == "DE"
    write(maxmind, {"203.0.113.0/24": FRANCE})
    until(lambda: place() == "FR")
    maxmind.write_bytes(maxmind.read_bytes()[:50])  # in its place: what is open must not break
    talk.do(lambda: talk.app.services.enrichment.refresh())
    assert place() == "FR"
    write(maxmind, {"203.0.113.0/24": BERLIN})
    until(lambda: place() == "DE")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"gateway_enrichment_file": "none.toml"},
            "GATEWAY_ENRICHMENT_FILE: none.toml can't be read",
        ),
        ({"gateway_maxmind_file": "none.mmdb"}, "GATEWAY_MAXMIND_FILE: none.mmdb can't be read"),
        ({"gateway_maxmind_file": __file__}, "is not a MaxMind database"),
        ({"gateway_enrichment_file": __file__}, "GATEWAY_ENRICHMENT_FILE: is not TOML"),
    ],
)
def test_a_file_that_can_not_be_used_stops_the_start(
    settings: Callable[..., Settings], given: dict[str, str], told: str
) -> None:
    with pytest.raises(StartRefused) as caught:
        prepare(settings(**given))
    (line,) = caught.value.lines
    assert told in line


@pytest.mark.parametrize("networks", ["x", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8;::1"])
def test_what_is_no_network_is_no_setting(settings: Callable[..., Settings], networks: str) -> None:
    with pytest.raises(ValueError, match="gateway_trusted_proxies"):
        settings(gateway_trusted_proxies=networks)


# --- the preview ------------------------------------------------------------------------------------------------------


def preview(talk: Talk, item: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = talk.post("/v1/preview", item, **options)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    assert result.pop("index") == 0
    found: dict[str, Any] = result
    return found


def test_a_preview_shows_what_leanplum_would_get_and_stores_nothing(
    start: Start, maxmind: Path
) -> None:
    talk = start(gateway_maxmind_file=maxmind)
    item = {
        "action": "setUserAttributes", "userId": "u", "id": "mine", "ip": "203.0.113.7", "time": 1_790_000_000,
        "userAttributes": {"email": "A@B.C", "address": {"zip": "1"}},
    }  # fmt: skip
    found = preview(talk, item)
    sent = found["leanplum"]
    assert found["enrichment"] == {"steps": ["flatten", "location", "contact"]}
    assert sent.pop("reqId") == sent.pop("uuid")
    assert sent == {
        "action": "setUserAttributes", "userId": "u", "time": 1_790_000_000,
        "userAttributes": {"email": "a@b.c", "address.zip": "1"}, **IN_BERLIN,
    }  # fmt: skip
    assert talk.items() == 0
    # The id is not used up
    assert talk.event({"id": "mine", "userId": "u", "event": "e"}).status_code == 202


def test_a_preview_is_what_is_sent_indeed(start: Start) -> None:
    talk = start()
    item = track(id="x", time=1_790_000_000, currencyCode="eur", params={"a": {"b": 1}})
    sent = preview(talk, item)["leanplum"]
    talk.batch([item])
    (body,) = bodies(talk)
    assert {
        name: value for name, value in sent.items() if name not in ("action", "reqId", "uuid")
    } == body


def test_a_preview_of_a_batch_tells_of_each_item_its_faults_too(start: Start) -> None:
    talk = start()
    items = [
        track(),
        track(params={"a": [1]}),
        {"action": "nothing"},
        {"action": "deleteUser", "userId": "u"},
        5,
    ]
    results = talk.post("/v1/preview", {"items": items}).json()["results"]
    assert [one["index"] for one in results] == [0, 1, 2, 3, 4]
    assert results[0]["leanplum"]["event"] == "e"
    assert [one["problem"]["type"] for one in results[1:]] == [
        "/problems/validation", "/problems/validation", "/problems/key-not-configured", "/problems/validation"
    ]  # fmt: skip
    assert results[1]["problem"]["errors"][0]["pointer"] == "/items/1/params/a"


@pytest.mark.parametrize(
    "body", [[], 5, {"items": []}, {"items": 5}, {"items": [{}] * 101}, {"items": [{}], "x": 1}]
)
def test_what_is_neither_an_item_nor_a_batch_is_no_preview(start: Start, body: Any) -> None:
    assert problem(start().post("/v1/preview", body), 422, "validation")


def test_a_preview_needs_the_scope_of_each_item_and_counts_for_the_limits(start: Start) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=4)
    gateway = talk.app.services
    key, _ = gateway.keys.create("events only", [Scope.EVENTS_WRITE], None, int(time.time() * 1000))
    talk.do(gateway.directory.refresh)
    items = [
        track(),
        {"action": "setUserAttributes", "userId": "u", "userAttributes": {"a": 1}},
        track(),
    ]
    results = talk.post("/v1/preview", {"items": items}, key=key).json()["results"]
    assert ["leanplum" in one for one in results] == [True, False, True]
    assert results[1]["problem"]["type"] == "/problems/forbidden"
    problem(talk.post("/v1/preview", {"items": items}, key=key), 429, "rate-limited")


def test_a_preview_that_cannot_be_read_counts_as_one(start: Start) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=5)
    assert talk.post("/v1/preview", b"{").headers["ratelimit"].startswith('"caller";r=4;')


def test_the_audit_says_whose_preview_it_was(start: Start) -> None:
    talk = start()
    talk.post("/v1/preview", track(userId="ann"), headers={"X-Request-ID": "looked"})
    (record,) = talk.audit("looked")
    assert record["api"]["operation"] == "POST /v1/preview"
    assert record["unmapped"] == {
        "app": "default",
        "user": talk.app.services.pseudonyms.of("default", "uann"),
    }


# --- at rest ----------------------------------------------------------------------------------------------------------


def test_what_is_told_of_an_item_is_no_value_and_its_body_is_sealed(start: Start) -> None:
    value, zone, phone = "cAnArY-zone", "cAnArY/zone", "cAnArY-phone"
    update = {
        "userAttributes": {"phone": phone, "nested": {"a": value}},
        "timezone": zone,
        "locale": "en-us",
    }
    talk = start(gateway_data_key=f"k:{base64.b64encode(bytes(32)).decode()}")
    fresh = talk.post("/v1/users/ann", update, method="PATCH")
    assert {"flatten", "locale"} <= set(fresh.json()["enrichment"]["steps"])
    assert len(fresh.json()["enrichment"]["warnings"]) == 2
    assert talk.get(fresh.json()["href"]).json()["enrichment"] == fresh.json()["enrichment"]
    assert "cAnArY" not in repr(talk.rows("SELECT * FROM items"))
    assert talk.rows("SELECT body FROM items")[0][0].startswith("~k.")


def test_with_a_user_who_is_erased_goes_what_was_told_of_their_items(start: Start) -> None:
    talk = start(leanplum_development_key="dev_sandbox")
    told = talk.event({"userId": "ann", "event": "e", "currencyCode": "usd"}).json()
    assert talk.call("DELETE", "/v1/users/ann").json()["erased"]["waiting"] == 1
    assert talk.get(told["href"]).status_code == 404
    ((notes,),) = talk.rows("SELECT notes FROM items")  # of the deletion
    assert notes is None or orjson.loads(notes).keys() == {"erasureRecord"}


def test_places_are_found_where_no_temporary_file_can_be_written_either(
    maxmind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a container whose root is read-only
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    addresses = GeoDatabase(maxmind)
    found = addresses.find_place("203.0.113.9")
    assert found is not None
    assert (found.country, found.city) == ("DE", "Berlin")
    (maxmind.parent / "none.mmdb").write_bytes(b"no database")
    with pytest.raises(StartRefused, match="is not a MaxMind database"):
        GeoDatabase(maxmind.parent / "none.mmdb")
