"""Several apps in one gateway, as processes: a file that changes under load, and an app that is
refused.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import Process, ended, requests, serving, stats, values
from tests.support.wait import until

UNSET: dict[str, str | None] = {
    "LEANPLUM_APP_ID": None,
    "LEANPLUM_PRODUCTION_KEY": None,
    "GATEWAY_RETRY_MAX_SECONDS": "1",  # how soon a held app is asked again
}
Simulators = tuple[BackgroundServer, BackgroundServer]


@pytest.fixture
def leanplums() -> Iterator[Simulators]:
    """The same app before and after its key was made anew: each takes only its own key."""
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(
                BackgroundServer(SimulatorConfig(app_id="app_1", production_key=key))
            )
            for key in ("prod_old", "prod_new")
        )
        yield old, new


def say(file: Path, server: BackgroundServer, key: str, more: str = "") -> None:
    """In one step, as a mounted file is replaced."""
    beside = file.with_suffix(".new")
    beside.write_text(
        f'[apps.shop]\napp_id = "app_1"\nproduction_key = "{key}"\napi_url = "{server.url}/api"\n{more}'
    )
    beside.replace(file)


def app_event(gateway: Process, app: str, user: str, value: int) -> httpx.Response:
    body = {"userId": user, "event": "E", "value": value}
    return gateway.call("POST", "/v1/events", json=body, headers={"X-Leanplum-App": app})


def test_a_key_of_leanplums_is_rotated_under_load_and_no_call_fails(
    tmp_path: Path, leanplums: Simulators
) -> None:
    old, new = leanplums
    file = tmp_path / "apps.toml"
    say(file, old, "prod_old")
    with serving(tmp_path, old.url, GATEWAY_APPS_FILE=str(file), **UNSET) as gateway:
        stop, sent = threading.Event(), list[int]()

        def load() -> None:
            while not stop.is_set():
                sent.append(app_event(gateway, "shop", f"u{len(sent) % 20}", len(sent)).status_code)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            until(lambda: stats(old.url)["calls"] > 5)
            say(file, new, "prod_new")
            until(lambda: stats(new.url)["calls"] > 5)
        finally:
            stop.set()
            thread.join()
        assert set(sent) == {202}
        gateway.until_nothing_waits()
        arrived = sum(len(values(one.url, f"u{user}")) for one in leanplums for user in range(20))
        assert arrived == len(sent)
        statuses = {call["status"] for one in leanplums for call in requests(one.url)}
        assert statuses == {200}, "a call went with the wrong key"
        assert b"apps.changed" in gateway.output.read_bytes()


def test_a_bad_file_is_told_in_the_log_and_the_apps_go_on_as_they_were(
    tmp_path: Path, leanplums: Simulators
) -> None:
    old, new = leanplums
    file = tmp_path / "apps.toml"
    say(file, old, "prod_old")
    with serving(tmp_path, old.url, GATEWAY_APPS_FILE=str(file), **UNSET) as gateway:
        file.write_text("[apps.shop]\nproduction_key = 'prod_half")
        until(lambda: b"apps.refused" in gateway.output.read_bytes())
        assert app_event(gateway, "shop", "ann", 1).status_code == 202
        until(lambda: values(old.url, "ann") == [1])
        say(file, new, "prod_new")
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: b"apps.changed" in gateway.output.read_bytes())
        assert app_event(gateway, "shop", "ann", 2).status_code == 202
        until(lambda: values(new.url, "ann") == [2])
        assert gateway.terminate() == 0
        assert b"prod_" not in gateway.output.read_bytes()


def test_an_app_that_leanplum_refuses_is_held_and_keeps_no_other_app_waiting(
    tmp_path: Path, leanplums: Simulators
) -> None:
    old, _ = leanplums
    file = tmp_path / "apps.toml"
    other = (
        f'[apps.other]\napp_id = "app_1"\nproduction_key = "prod_gone"\napi_url = "{old.url}/api"\n'
    )
    say(file, old, "prod_old", other)
    with serving(tmp_path, old.url, GATEWAY_APPS_FILE=str(file), **UNSET) as gateway:
        for number in range(20):
            items = [
                {"action": "track", "userId": f"{number}-{one}", "event": "E"}
                for one in range(1_000)
            ]
            answer = gateway.call(
                "POST", "/v1/batch", json={"items": items}, headers={"X-Leanplum-App": "other"}
            )
            assert answer.status_code == 202
        until(
            lambda: (
                "held" in gateway.http.get("/readyz").json()["parts"]["delivery"].get("detail", "")
            )
        )
        receipt = gateway.call(
            "POST",
            "/v1/events",
            json={"userId": "ann", "event": "E", "value": 1},
            headers={"X-Leanplum-App": "shop", "Prefer": "wait=5"},
        ).json()
        assert receipt["status"] == "delivered"
        assert "other" in gateway.http.get("/readyz").json()["parts"]["delivery"]["detail"]
        say(file, old, "prod_old", other.replace("prod_gone", "prod_old"))
        gateway.until_nothing_waits(60)


def test_what_waits_for_an_app_that_is_taken_out_is_held_until_it_is_back(
    tmp_path: Path, leanplums: Simulators
) -> None:
    old, _ = leanplums
    file = tmp_path / "apps.toml"
    more = f'[apps.b]\napp_id = "app_1"\nproduction_key = "prod_old"\napi_url = "{old.url}/api"\n'
    say(file, old, "prod_old", more)
    with serving(
        tmp_path, old.url, "--no-delivery", GATEWAY_APPS_FILE=str(file), **UNSET
    ) as gateway:
        receipt = app_event(gateway, "b", "ann", 1).json()
        assert gateway.terminate() == 0
        say(file, old, "prod_old")
        gateway.words = ()
        gateway.start()
        href = receipt["href"]
        until(
            lambda: (
                "held" in gateway.http.get("/readyz").json()["parts"]["delivery"].get("detail", "")
            )
        )
        assert gateway.call("GET", href, headers={"X-Leanplum-App": "b"}).status_code == 403
        say(file, old, "prod_old", more)
        until(lambda: values(old.url, "ann") == [1], 40)
        until(
            lambda: (
                gateway.call("GET", href, headers={"X-Leanplum-App": "b"}).json().get("status")
                == "delivered"
            )
        )


def test_check_asks_for_the_keys_of_every_app_and_names_where_each_stands(
    tmp_path: Path, leanplums: Simulators
) -> None:
    old, _ = leanplums
    file = tmp_path / "apps.toml"
    say(
        file,
        old,
        "prod_old",
        f'[apps.b]\napp_id = "app_1"\nproduction_key = "x"\napi_url = "{old.url}/api"\n',
    )
    done = ended(tmp_path, "check", GATEWAY_APPS_FILE=str(file))
    assert done.returncode == 1
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["shop", "production_key", "of", "[apps.shop]", "accepted", "-"] in lines
    refused = ["b", "production_key", "of", "[apps.b]", "refused"]
    assert any(line[:5] == refused for line in lines)


def test_the_sandbox_refuses_a_file_of_real_apps(tmp_path: Path, leanplums: Simulators) -> None:
    file = tmp_path / "apps.toml"
    say(file, leanplums[0], "prod_old")
    done = ended(tmp_path, "serve", "--sandbox", GATEWAY_APPS_FILE=str(file))
    assert done.returncode == 2
    assert "GATEWAY_APPS_FILE" in done.stderr
