"""No secret and no attribute value comes out anywhere: planted, a day's work done, everything
searched.
"""

import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest
import typer

from app.cli.main import cli
from app.server.application import create_app
from app.settings import Settings
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import Process, ended, plan, requests, serving_fresh
from tests.support.wait import until

LEANPLUM_KEYS = {
    name: f"canary-{name.lower()}-5e1f"
    for name in (
        "LEANPLUM_PRODUCTION_KEY",
        "LEANPLUM_DEVELOPMENT_KEY",
        "LEANPLUM_DATA_EXPORT_KEY",
        "LEANPLUM_CONTENT_READ_ONLY_KEY",
    )
}
VALUE = "canary-value-77aa"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
Seen = dict[str, bytes]
Day = tuple[Process, Seen, str]
# Three don't end; the document is looked at where it is served
NOT_RUN = {"serve", "deliver", "simulate", "openapi", "tail"}


def bodies() -> list[tuple[str, str, Any]]:
    """Calls good and bad, each with an attribute value in it."""
    return [
        ("POST", "/v1/events", {"userId": "ann", "event": "E", "params": {"p": VALUE}}),
        (
            "POST",
            "/v1/events",
            {"userId": "ann", "event": "E", "value": VALUE, "params": {"p": [VALUE]}},
        ),
        (
            "POST",
            "/v1/events",
            {"userId": "ann", "event": "E", "unknown": VALUE, "time": VALUE, "currencyCode": VALUE},
        ),
        ("POST", "/v1/events", {"event": "E", "info": VALUE + "\x00"}),
        ("PATCH", "/v1/users/ann", {"userAttributes": {"a": VALUE, "b": [VALUE]}}),
        (
            "PATCH",
            "/v1/users/ann",
            {"userAttributes": VALUE, "created": VALUE, "locationAccuracyType": VALUE},
        ),
        ("PATCH", "/v1/users/ann", {"userAttributes": {"a": {"deep": VALUE}}}),
        ("POST", "/v1/users/ann/states", {"state": "S", "params": {"p": VALUE}}),
        (
            "POST",
            "/v1/batch",
            {
                "items": [
                    {"action": "track", "userId": "bob", "event": "E", "info": VALUE},
                    {"a": VALUE},
                    VALUE,
                ]
            },
        ),
        ("POST", "/v1/batch", {"items": VALUE}),
        ("POST", "/v1/events", {"id": "one", "userId": "ann", "event": "E", "info": VALUE}),
        ("POST", "/v1/events", {"id": "one", "userId": "ann", "event": "E", "info": VALUE + "2"}),
        ("POST", "/v1/users/ann/sessions", {"userAttributes": {"a": VALUE}}),
        ("POST", "/v1/users/ann/sessions", {"userAttributes": VALUE, "unknown": VALUE}),
        ("GET", "/v1/users/ann/variables", None),
        ("GET", "/v1/messages", None),
        ("POST", "/v1/exports/users", {"audienceName": VALUE}),
        ("PUT", "/v1/variables", {"vars": VALUE}),
        ("POST", "/v1/apps/default/check", None),
        ("DELETE", "/v1/users/bob", None),
        ("GET", "/v1/receipts/one", None),
        ("GET", "/v1/receipts/none", None),
        ("GET", "/nowhere", None),
        ("DELETE", "/v1/events", None),
    ]


def planned(simulator: str) -> list[Any]:
    """The faults that have not struck yet."""
    faults: list[Any] = httpx.get(f"{simulator}/_simulator/faults", trust_env=False).json()[
        "faults"
    ]
    return faults


def do_everything(gateway: Process, seen: Seen) -> None:
    def keep(name: str, answer: Any) -> None:
        seen[f"{len(seen)} {name}"] = repr(answer.headers.raw).encode() + answer.content

    for method, path, body in bodies():
        keep(f"{method} {path}", gateway.call(method, path, json=body))
        keep(
            f"{method} {path} refused",
            gateway.http.request(method, path, json=body, headers={"X-API-Key": gateway.key + "x"}),
        )
    entry: dict[str, Any] = {
        "action": "track",
        "userId": "ann",
        "event": "E",
        "params": {"p": VALUE},
    }
    entries = [
        entry,
        {**entry, "action": "start", "userAttributes": {"a": VALUE}},
        {**entry, "event": None},
        VALUE,
    ]
    for key in (gateway.key, gateway.key + "x"):
        endpoint: dict[str, Any] = {
            "appId": gateway.settings["LEANPLUM_APP_ID"],
            "clientKey": key,
            "action": "multi",
            "time": 1,
        }
        keep("endpoint", gateway.http.post("/api", json={**endpoint, "data": entries}))
        keep(
            "endpoint by GET",
            gateway.http.get(
                "/api", params={**endpoint, "action": "getVars", "userId": "ann", "info": VALUE}
            ),
        )
        message: dict[str, Any] = {
            "userId": "ann",
            "event": "E",
            "properties": {"p": VALUE},
            "traits": {"t": VALUE},
        }
        messages = [{"type": kind, **message} for kind in ("track", "identify", "page", VALUE)]
        bad = {**message, "type": "track", "timestamp": VALUE, "context": VALUE}
        keep(
            "segment",
            gateway.http.post(
                "/segment/v1/batch", json={"batch": [*messages, bad, VALUE]}, auth=(key, "")
            ),
        )
        keep("segment alone", gateway.http.post("/segment/v1/track", json=bad | {"writeKey": key}))
    for content in (VALUE.encode(), b'{"userId":"' + VALUE.encode(), b"\xff" + VALUE.encode()):
        headers = {"Content-Type": "application/json"}
        keep("not JSON", gateway.call("POST", "/v1/events", content=content, headers=headers))
        keep(
            "not NDJSON",
            gateway.call(
                "POST",
                "/v1/batch",
                content=content,
                headers={"Content-Type": "application/x-ndjson"},
            ),
        )
        keep(
            "not gzip",
            gateway.call(
                "POST",
                "/v1/events",
                content=content,
                headers=headers | {"Content-Encoding": "gzip"},
            ),
        )
    for path in (
        "/metrics",
        "/openapi.json",
        "/",
        "/docs",
        "/problems",
        "/problems/validation",
        "/readyz",
        "/livez",
    ):
        keep(path, gateway.http.get(path))


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every operation that the gateway says it has: a new one is called with no more ado."""
    return [
        (method.upper(), path, told)
        for path, methods in document["paths"].items()
        for method, told in methods.items()
    ]


def example(document: dict[str, Any], operation: dict[str, Any]) -> Any:
    """A good body, as the document has it; None where the operation takes none."""
    for media in operation.get("requestBody", {}).get("content", {}).values():
        name = media["schema"].get("$ref", "").rpartition("/")[2]
        return (document["components"]["schemas"].get(name, {}).get("examples") or [{}])[0]
    return None


def visit_everything(gateway: Process, seen: Seen) -> None:
    """Each operation three times: as its example has it, with a value wherever one may stand, and
    by a stranger.
    """
    document = gateway.http.get("/openapi.json").json()
    for method, path, operation in operations(document):
        url = re.sub(r"{\w+}", "7", path)
        body = example(document, operation)
        trace = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        good = gateway.call(
            method, url, headers=trace, **({"json": body} if body is not None else {})
        )
        made = re.findall(rb"lpgw_\w{36}", good.content)
        bad = gateway.call(
            method, f"{url}?unknown={VALUE}", json={"unknown": VALUE, "userId": [VALUE]}
        )
        strange = gateway.http.request(
            method, url, json=body, headers={"Authorization": f"Bearer {gateway.key}x"}
        )
        leaked = gateway.http.request(method, f"{url}?api_key={gateway.key}", json=body)
        seen[f"visited {method} {path}"] = b"".join(
            repr(answer.headers.raw).encode()
            + answer.content.replace(made[0] if made else b"\0", b"shown once")
            for answer in (good, bad, strange, leaked)
        )
        MADE.update(one.decode() for one in made)


MADE: set[str] = set()  # keys that were shown to whoever made them


def commands() -> list[list[str]]:
    """Every command that ends by itself, as it is and with --json where it has that."""

    def inside(group: Any, words: list[str]) -> Iterator[list[str]]:
        for name, one in group.commands.items():
            if hasattr(one, "commands"):
                yield from inside(one, [*words, name])
                continue
            yield [*words, name]
            if any("--json" in option.opts for option in one.params):
                yield [*words, name, "--json"]

    return [words for words in inside(typer.main.get_command(cli), []) if words[0] not in NOT_RUN]


def run_commands(gateway: Process, seen: Seen) -> None:
    """Each with nothing more than it needs; a key is shown to whoever makes one."""
    given = {"create": ["--name", "n"], "rotate": ["key_0"], "revoke": ["key_0"]}

    def done(words: list[str]) -> tuple[str, str]:
        more = given.get(words[1], []) if words[0] == "keys" else []
        ran = ended(gateway.folder, *words, *more, **gateway.settings)
        return ran.stdout, ran.stderr

    with ThreadPoolExecutor(4) as several:
        for words, (out, err) in zip(commands(), several.map(done, commands()), strict=True):
            made = re.findall(r"lpgw_\w{36}", out) if words[:2] == ["keys", "create"] else []
            MADE.update(made)
            seen[" ".join(["command", *words])] = (
                re.sub("|".join(made) or "\0", "shown once", out) + err
            ).encode()


def with_files(gateway: Process) -> None:
    """From the next start on the secrets are in files: there the environment, which `ps` shows, has
    none.
    """
    for name in (*LEANPLUM_KEYS, "GATEWAY_BOOTSTRAP_KEY"):
        (gateway.folder / name.lower()).write_text(gateway.settings.pop(name))


def crash(gateway: Process, seen: Seen) -> None:
    """Killed by SIGABRT in the middle of its work, with whatever dumps the machine is set to
    make.
    """
    gateway.settings["PYTHONFAULTHANDLER"] = "1"
    gateway.start()
    gateway.event("ann", 2)
    shown = subprocess.run(
        ["ps", "eww", "-p", str(gateway.process.pid)], capture_output=True, check=True
    ).stdout
    seen["ps with the environment"] = shown
    gateway.process.send_signal(signal.SIGABRT)
    assert gateway.process.wait(20) == -signal.SIGABRT
    others = {"output", *(name.lower() for name in (*LEANPLUM_KEYS, "GATEWAY_BOOTSTRAP_KEY"))}
    seen["files beside the database"] = repr(
        sorted(path.name for path in gateway.folder.iterdir() if path.name not in others)
    ).encode()


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """A day's work: successes, refusals, an upstream that fails in every way and then is gone,
    SIGTERM.
    """
    folder = tmp_path_factory.mktemp("canary")
    seen: Seen = {}
    config = SimulatorConfig(
        production_key=LEANPLUM_KEYS["LEANPLUM_PRODUCTION_KEY"],
        development_key=LEANPLUM_KEYS["LEANPLUM_DEVELOPMENT_KEY"],
        data_export_key=LEANPLUM_KEYS["LEANPLUM_DATA_EXPORT_KEY"],
        content_read_only_key=LEANPLUM_KEYS["LEANPLUM_CONTENT_READ_ONLY_KEY"],
    )
    settings = LEANPLUM_KEYS | {
        "GATEWAY_LOG_LEVEL": "debug",
        "GATEWAY_RATE_BURST": "100000",
        "GATEWAY_RETRY_MAX_SECONDS": "1",
    }
    server = BackgroundServer(config)
    with serving_fresh(folder, "http://127.0.0.1:1", **settings) as gateway:
        do_everything(gateway, seen)
        assert gateway.terminate() == 0
        with server:
            gateway.settings["LEANPLUM_API_URL"] = f"{server.url}/api"
            with_files(gateway)
            modes = ("500-html", "truncated", "disconnect", "success-false")
            plan(server.url, *({"mode": mode, "action": "track"} for mode in modes))
            gateway.start()
            do_everything(gateway, seen)
            args = ["ps", "-ww", "-o", "args=", "-p", str(gateway.process.pid)]
            seen["ps"] = subprocess.run(args, capture_output=True, check=True).stdout
            visit_everything(gateway, seen)
            run_commands(gateway, seen)
            until(lambda: not planned(server.url), 90)
            calls = requests(server.url)
            echo = LEANPLUM_KEYS["LEANPLUM_PRODUCTION_KEY"]
            plan(
                server.url,
                {
                    "mode": "success-false",
                    "message": f"{echo} may not",
                    "userId": "echo",
                    "times": None,
                },
            )
            seen["echo"] = gateway.event("echo", 1, Prefer="wait=10").content
            plan(
                server.url,
                {"mode": "403-key", "message": f"Invalid access key: {echo}", "times": None},
            )
            gateway.event("ann", 1)
            until(
                lambda: (
                    b'leanplum_gateway_app_held{app="default"} 1.0'
                    in gateway.http.get("/metrics").content
                )
            )
            seen["held"] = (
                gateway.http.get("/readyz").content + gateway.http.get("/metrics").content
            )
            assert gateway.terminate() == 0
            crash(gateway, seen)
        seen["output"] = gateway.output.read_bytes()
        with closing(sqlite3.connect(gateway.folder / "g.db")) as connection:
            seen["audit"] = repr(
                connection.execute("SELECT * FROM audit_records").fetchall()
            ).encode()
        alive = [any(key in call["body"] for key in LEANPLUM_KEYS.values()) for call in calls]
        assert all(alive), "the canary must be alive: Leanplum gets the keys"
        seen["headers to Leanplum"] = repr(
            [(call["headers"], call["query"], call["path"]) for call in calls]
        ).encode()
        yield gateway, seen, repr([call["body"] for call in calls])


def found(secret: str, seen: Seen) -> list[str]:
    """Where a text was seen."""
    return [name for name, content in seen.items() if secret.encode() in content]


@pytest.mark.parametrize("name", LEANPLUM_KEYS)
def test_no_leanplum_key_comes_out(day: Day, name: str) -> None:
    assert found(LEANPLUM_KEYS[name], day[1]) == []


def test_a_key_that_leanplum_echoes_is_masked_where_its_words_are_kept(day: Day) -> None:
    assert b'"status":"rejected"' in day[1]["echo"]
    assert b"[key] may not" in day[1]["echo"]
    assert b"Invalid access key: [key]" in day[1]["output"]


def test_no_caller_key_comes_out(day: Day) -> None:
    assert found(day[0].key, day[1]) == []


def test_a_key_that_was_made_is_shown_to_its_maker_and_nowhere_else(day: Day) -> None:
    assert len(MADE) >= 2, "one over HTTP, one by command"
    files = {path.name: path.read_bytes() for path in day[0].folder.glob("g.db*")}
    for key in MADE:
        assert found(key, day[1]) == []
        assert found(key, files) == []


def test_every_operation_and_every_command_was_tried(day: Day) -> None:
    visited = {name.removeprefix("visited ") for name in day[1] if name.startswith("visited ")}
    assert visited == {
        f"{method} {path}" for method, path, _ in operations(create_app(Settings()).openapi())
    }
    assert {
        "command settings --json",
        "command check",
        "command keys list",
        "command dead-letters list",
    } <= day[1].keys()
    assert b"LEANPLUM_PRODUCTION_KEY" in day[1]["command settings"]
    assert b"accepted" in day[1]["command check"]


def test_a_trace_is_an_id_in_the_log_and_nothing_else(day: Day) -> None:
    assert TRACE.encode() in day[1]["output"]
    assert "traceparent" not in day[2]


def test_a_crash_tells_places_and_leaves_no_dump(day: Day) -> None:
    assert b"Fatal Python error: Aborted" in day[1]["output"]
    names = day[1]["files beside the database"]
    assert re.fullmatch(rb"\['g\.db'[^\]]*\]", names), names
    assert b"core" not in names


def test_the_environment_has_no_secret_where_they_are_in_files(day: Day) -> None:
    shown = day[1]["ps with the environment"]
    assert b"GATEWAY_DATABASE_URL" in shown, "ps must show the environment, or this shows nothing"
    assert [found(secret, {"ps": shown}) for secret in (*LEANPLUM_KEYS.values(), day[0].key)] == [
        []
    ] * 5


def test_no_attribute_value_comes_out(day: Day) -> None:
    assert found(VALUE, day[1]) == []


def test_no_key_is_in_the_database(day: Day) -> None:
    files = {path.name: path.read_bytes() for path in day[0].folder.glob("g.db*")}
    assert files
    assert [found(secret, files) for secret in (*LEANPLUM_KEYS.values(), day[0].key)] == [[]] * 5


def test_leanplum_gets_its_own_keys_and_never_a_caller_s(day: Day) -> None:
    calls = {"calls": day[2].encode()}
    assert [found(secret, calls) for secret in LEANPLUM_KEYS.values()] == [["calls"]] * 4
    assert found(day[0].key, calls) == []


def test_no_output_has_a_traceback_or_a_warning_of_python(day: Day) -> None:
    output = day[1]["output"]
    assert b"Traceback" not in output
    assert b"Warning" not in output
