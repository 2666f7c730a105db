"""Parameters that clients send and responses that they get: development traffic, files, drafts,
hosts, migration.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
import pytest

from app.leanplum import replies
from app.leanplum.replies import MigrateStates
from app.model import ConfigRefused, Scope
from tests.support.gateway import WIDE, Talk, make_settings, problem
from tests.support.sdk import Sdk, entries, scoped
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

TRACK: dict[str, Any] = {"action": "track", "userId": "u1", "event": "E"}


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Callable[..., Any]:
    def started(**given: Any) -> Any:
        folder = tmp_path_factory.mktemp("parameters")

        def settings(**more: Any) -> Any:
            return make_settings(folder, migrated, WIDE | more)

        return delivering_to(leanplum, settings, folder / "g.db", **given)

    return started


@pytest.fixture(scope="module")
def talk(gateway: Callable[..., Any]) -> Iterator[Talk]:
    with gateway() as found:
        yield found


@pytest.fixture(autouse=True)
def anew(talk: Talk, leanplum: Leanplum) -> None:
    settled(talk)
    leanplum.mend()
    leanplum.forget()


@pytest.fixture
def sdk(talk: Talk) -> Sdk:
    return Sdk(talk)


def settled(talk: Talk) -> None:
    until(lambda: talk.app.services.outbox.queued == 0)


# --- devMode on writes ------------------------------------------------------------------------------------------------

WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/events", {"userId": "w1", "event": "E"}),
    ("PATCH", "/v1/users/w2", {"userAttributes": {"a": 1}}),
    ("PATCH", "/v1/devices/w3", {"appVersion": "1"}),
    ("POST", "/v1/users/w4/states", {"state": "S", "createDisposition": "CreateIfNeeded"}),
    ("POST", "/v1/users/w5/sessions/stop", {"createDisposition": "CreateIfNeeded"}),
    ("POST", "/v1/messages/1001/send", {"userId": "w6", "createDisposition": "CreateIfNeeded"}),
]


@pytest.mark.parametrize(("method", "url", "body"), WRITES)
def test_development_traffic_is_sent_with_the_development_key(
    talk: Talk, leanplum: Leanplum, method: str, url: str, body: dict[str, Any]
) -> None:
    answer = talk.post(url, {**body, "devMode": True}, method=method)
    assert answer.status_code == 202, answer.text
    settled(talk)
    (call,) = leanplum.calls()
    assert (call["args"]["clientKey"], call["args"]["devMode"]) == ("dev_sandbox", True)
    assert talk.get(answer.headers["location"]).json()["status"] == "delivered"


def test_other_items_of_a_batch_keep_the_production_key(talk: Talk, leanplum: Leanplum) -> None:
    items: list[dict[str, Any]] = [
        {**TRACK, "userId": "a", "devMode": True},
        {**TRACK, "userId": "b", "devMode": False},
        {**TRACK, "userId": "c", "params": {"devMode": True}},
    ]
    assert talk.batch(items).json()["accepted"] == 3
    settled(talk)
    assert {one["userId"]: one["clientKey"] for one in leanplum.arrived()} == {
        "a": "dev_sandbox",
        "b": "prod_sandbox",
        "c": "prod_sandbox",
    }


def test_without_a_development_key_development_traffic_is_refused(
    gateway: Callable[..., Any], leanplum: Leanplum
) -> None:
    with gateway(leanplum_development_key=None) as talk:
        told = problem(
            talk.event({"userId": "u1", "event": "E", "devMode": True}), 501, "key-not-configured"
        )
        assert "LEANPLUM_DEVELOPMENT_KEY" in told["detail"]
        found = talk.batch(
            [{**TRACK, "devMode": True}, {**TRACK, "params": {"devMode": True}}]
        ).json()
        assert [one["status"] for one in found["results"]] == ["rejected", "accepted"]
        problem(talk.post("/v1/users/u1/sessions", {"devMode": True}), 501, "key-not-configured")
        settled(talk)
    assert [one["params"] for one in leanplum.arrived()] == [{"devMode": True}]


def test_a_session_and_variables_in_development(talk: Talk, leanplum: Leanplum) -> None:
    assert talk.post("/v1/users/s1/sessions", {"devMode": True}).status_code == 200
    assert (
        talk.get("/v1/users/s2/variables?devMode=true&createDisposition=CreateIfNeeded").status_code
        == 200
    )
    start, variables = leanplum.arrived()
    assert (start["clientKey"], variables["clientKey"]) == ("dev_sandbox", "dev_sandbox")
    assert (start["devMode"], variables["devMode"]) == (True, True)


# --- createDisposition, includeDrafts ---------------------------------------------------------------------------------


def test_variables_of_an_unknown_user_are_told_where_that_makes_the_user(
    talk: Talk, leanplum: Leanplum
) -> None:
    problem(talk.get("/v1/users/new/variables"), 404, "not-found")
    problem(talk.get("/v1/users/new/variables?createDisposition=CreateNever"), 404, "not-found")
    answer = talk.get("/v1/users/new/variables?createDisposition=CreateIfNeeded")
    assert "vars" in answer.json()
    problem(talk.get("/v1/users/new/variables?createDisposition=Perhaps"), 422, "validation")


@pytest.mark.parametrize(("url", "name"), [
    ("/v1/messages/1005", "message"), ("/v1/ab-tests/2002", "abTest"), ("/v1/variants/3003", "variant"),
])  # fmt: skip
def test_a_draft_is_found_where_drafts_are_asked_for(
    talk: Talk, leanplum: Leanplum, url: str, name: str
) -> None:
    problem(talk.get(url), 404, "not-found")
    problem(talk.get(f"{url}?includeDrafts=false"), 404, "not-found")
    assert name in talk.get(f"{url}?includeDrafts=true").json()
    assert leanplum.arrived()[-1]["includeDrafts"] is True
    problem(talk.get(f"{url}?includeDrafts=maybe"), 422, "validation")


# --- hosts ------------------------------------------------------------------------------------------------------------

LEADING: dict[str, Any] = {"uploadUrl": "https://up.example/x", "vars": {"uploadUrl": "mine"}}


def test_no_host_of_leanplum_s_is_passed_on(sdk: Sdk) -> None:
    from app.compat.leanplum_sdk import response

    cleaned, faulty = response.clean_entry({"success": True, **LEADING}, {})
    assert (cleaned, faulty) == ({"success": True, "vars": {"uploadUrl": "mine"}}, False)


def test_no_upload_url_reaches_a_client_of_either_kind(migrated: Any, tmp_path: Any) -> None:
    body = {"response": [{"success": True, **LEADING}], "uploadUrl": "https://up.example/y"}
    with stand_in(httpx.Response(200, json=body)) as url:
        settings = make_settings(
            tmp_path, migrated, WIDE | {"leanplum_app_id": "app_sandbox", "leanplum_api_url": url,
                                        "leanplum_production_key": "prod_sandbox"}
        )  # fmt: skip
        from tests.support.gateway import running

        with running(settings, tmp_path / "g.db") as talk:
            start = {"action": "start", "userId": "u1", "deviceId": "d1"}
            for answer in (
                Sdk(talk).post(start), Sdk(talk).multi(start), talk.post("/v1/users/u1/sessions", {}),
            ):  # fmt: skip
                assert answer.status_code == 200, answer.text
                assert "up.example" not in answer.text
                assert '"mine"' in answer.text


# --- migrateState -----------------------------------------------------------------------------------------------------


def test_durable_responses_tell_the_migration_state_that_leanplum_told_last(
    gateway: Callable[..., Any], leanplum: Leanplum
) -> None:
    with gateway() as talk:
        sdk = Sdk(talk)
        assert "migrateState" not in sdk.multi(TRACK).json()  # Leanplum has not told it yet
        settled(talk)
        for answer in (sdk.multi(TRACK), sdk.post(TRACK), sdk.android(TRACK), sdk.get(**TRACK)):
            state = answer.json()["migrateState"]
            assert state == sdk.multi({"action": "getMigrateState"}).json()["migrateState"]


def test_only_the_state_beside_the_entries_is_one() -> None:
    states = MigrateStates()
    states.note("a", b'{"response":[{"vars":{"migrateState":{"sha256":"no"}}}]}')
    states.note("a", b'not JSON "migrateState":{}')
    assert states.fields("a") == {}
    states.note("a", b'{"response":[],"migrateState": {"sha256":"1"}}')
    states.note("a", b'{"response":[]}')
    assert (states.fields("a"), states.fields("b")) == ({"migrateState": {"sha256": "1"}}, {})
    states.note("a", b'{"response":[],"migrateState":{"sha256":"2"}}')
    assert states.fields("a") == {"migrateState": {"sha256": "2"}}


# --- development actions ----------------------------------------------------------------------------------------------


def test_the_file_parts_of_development_actions_are_sent_on(sdk: Sdk, leanplum: Leanplum) -> None:
    for action in ("saveInterfaceImage", "saveInterface", "setVars"):
        fields = {
            "appId": "app_sandbox",
            "clientKey": sdk.key,
            "action": action,
            "vars": '{"a":1}',
            "devMode": "1",
        }
        answer = sdk.call(
            "POST",
            "/api",
            data=fields,
            files={"file0": ("a.png", b"\x89PNG"), "file1": ("b", b"2")},
        )
        assert [one["success"] for one in entries(answer)] == [True], answer.text
        call = leanplum.calls()[-1]
        assert (call["args"]["action"], call["args"]["clientKey"]) == (action, "dev_sandbox")
        assert call["files"] == {
            "file0": {"filename": "a.png", "bytes": 4}, "file1": {"filename": "b", "bytes": 1},
        }  # fmt: skip


def test_files_of_other_calls_are_refused_and_not_dropped(
    talk: Talk, sdk: Sdk, leanplum: Leanplum
) -> None:
    batch = {"action": "multi", "data": json.dumps([TRACK])}
    for fields, status in ((TRACK, 400), ({**TRACK, "action": "unknown"}, 403), (batch, 400)):
        sent = {"appId": "app_sandbox", "clientKey": sdk.key, **fields}
        answer = sdk.call("POST", "/api", data=sent, files={"file0": ("a", b"1")})
        assert (answer.status_code, entries(answer)[0]["success"]) == (status, False)
    phone = Sdk(talk, scoped(talk, Scope.SDK))
    fields = {"appId": "app_sandbox", "clientKey": phone.key, "action": "saveInterfaceImage"}
    answer = phone.call("POST", "/api", data=fields, files={"file0": ("a", b"1")})
    assert "content:write" in entries(answer)[0]["error"]["message"]
    assert leanplum.calls() == []


@pytest.mark.parametrize("refused", [False, True])
def test_a_batch_in_development_mode_is_one_call(
    sdk: Sdk, leanplum: Leanplum, refused: bool
) -> None:
    common = {"userId": "u1", "deviceId": "d1", "devMode": True}
    batch: list[dict[str, Any]] = [
        {"action": "start"},
        {"action": "setVars", "vars": {"a": 1}},
        {"action": "track", "event": "E"},
        *([{"action": "track"}] if refused else []),
        {"action": "registerDevice", "email": "a@example.com"},
        {"action": "getAndroidNotificationChannels"},
        {"action": "getVars"},
    ]
    answer = sdk.multi(*[{**common, **one} for one in batch], devMode=True)
    found = entries(answer)
    assert [one["success"] for one in found] == [
        "event" in one or one["action"] != "track" for one in batch
    ]
    (call,) = leanplum.calls()
    assert call["args"]["clientKey"] == "dev_sandbox"
    assert [one["action"] for one in call["args"]["data"]] == [
        "start", "setVars", "track", "registerDevice", "getAndroidNotificationChannels", "getVars",
    ]  # fmt: skip


# --- redirects --------------------------------------------------------------------------------------------------------

MOVED = {
    "response": [
        {
            "success": False,
            "apiHost": "api2.example",
            "apiPath": "new",
            "error": {"message": "App endpoint configuration mismatch."},
        }
    ]
}


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, json=MOVED),
        httpx.Response(404, json=MOVED),
        httpx.Response(302, headers={"location": "https://api2.example/login"}),
        httpx.Response(307, headers={"location": "//user:secret@api2.example/x"}),
    ],
    ids=["200", "404", "302", "307"],
)
def test_the_host_of_a_redirect_is_told_in_log_receipt_and_readiness(
    answer: httpx.Response, migrated: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.gateway import running

    with stand_in(answer) as url:
        given = {
            "leanplum_app_id": "app_sandbox",
            "leanplum_production_key": "prod_sandbox",
            "leanplum_api_url": url,
        }
        with running(
            make_settings(tmp_path, migrated, WIDE | given), tmp_path / "g.db", delivery=True
        ) as talk:
            place = talk.event().headers["location"]
            receipt = until(lambda: held(talk.get(place).json()))
            assert "api2.example" in receipt["leanplum"]["error"]
            assert "api2.example" in talk.get("/readyz").json()["parts"]["delivery"]["detail"]
            assert "secret" not in talk.get("/readyz").text + str(receipt)
            refused = Sdk(talk).multi({"action": "getVars", "userId": "u2"})
            assert "api2.example" not in refused.text
    lines = [line for line in capsys.readouterr().out.splitlines() if "app.held" in line]
    assert lines
    assert all("api2.example" in line for line in lines)


def held(receipt: dict[str, Any]) -> dict[str, Any] | None:
    return receipt if receipt["status"] == "held" else None


@pytest.mark.parametrize("host", [7, None, "", "a b", "x" * 300, "evil\nline"])
def test_a_host_that_is_none_is_not_told(host: Any) -> None:
    body = orjson.dumps({"response": [{**MOVED["response"][0], "apiHost": host}]})
    assert replies.redirect_host(body) is None
    assert replies.read_reply(200, body, ["r"]) == [
        ConfigRefused("App endpoint configuration mismatch.")
    ]


# --- a stand-in for Leanplum that says one thing ----------------------------------------------------------------------


def stand_in(answer: httpx.Response) -> Any:
    """A server that answers everything alike; its URL."""
    import threading
    from contextlib import contextmanager
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name != "content-length":
                    self.send_header(name, value)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: Any) -> None:
            """Nothing is logged."""

    @contextmanager
    def serving() -> Iterator[str]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api"
        finally:
            server.shutdown()
            server.server_close()

    return serving()
