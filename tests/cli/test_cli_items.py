"""Items by command: sent, found, followed and counted, beside a gateway that runs."""

import json
import re
import select
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Served
from tests.cli.terminal import on_terminal
from tests.support.gateway import CANARY
from tests.support.processes import command, ended, environment, serving
from tests.support.wait import until


def send(
    served: Served, folder: Path, *words: str, **more: str
) -> subprocess.CompletedProcess[str]:
    settings = {"LPGW_KEY": served.gateway.key, "GATEWAY_PORT": str(served.gateway.port)} | more
    return ended(folder, "send", *words, **settings)


# --- send -----------------------------------------------------------------------------------------


def test_an_event_is_sent_and_what_leanplum_says_is_shown(served: Served, tmp_path: Path) -> None:
    words = ("--value", "9.99", "--currency", "EUR", "--param", "sku=A-1", "--param", "count=2")
    done = send(served, tmp_path, "Purchase", "--user", "ann", *words, "--wait", "20", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    receipt = json.loads(done.stdout)
    assert (receipt["status"], receipt["userId"], receipt["event"]) == (
        "delivered",
        "ann",
        "Purchase",
    )
    (event,) = served.leanplum.user("ann")["events"]["Purchase"]["occurrences"]
    assert (event["value"], event["params"]) == (9.99, {"sku": "A-1", "count": 2})


def test_a_repeat_of_an_id_is_not_sent_again(served: Served, tmp_path: Path) -> None:
    words = ("Again", "--user", "rita", "--id", "rita-1", "--wait", "20")
    first, second = send(served, tmp_path, *words), send(served, tmp_path, *words)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "duplicate\tTrue" in second.stdout
    assert len(served.leanplum.user("rita")["events"]["Again"]["occurrences"]) == 1


def test_the_key_may_be_in_a_file_and_the_url_an_option(served: Served, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(served.gateway.key + "\n")
    words = ("--key-file", "key", "--url", served.gateway.url)
    done = ended(tmp_path, "send", "E", "--device", "d1", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "deviceId\td1\n" in done.stdout
    assert "status\taccepted\n" in done.stdout


def test_the_key_is_asked_for_on_a_terminal_and_not_shown(served: Served, tmp_path: Path) -> None:
    typed = f"{served.gateway.key}\n".encode()
    words = ("send", "E", "--user", "u", "--url", served.gateway.url)
    done = on_terminal(tmp_path, *words, ending=typed, after="Caller key: ")
    assert done.code == 0, done.text
    assert served.gateway.key not in done.text
    assert "accepted" in done.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("E",), "Validation failed: userId or deviceId is required"),
        (("E", "--user", "u", "--currency", CANARY), "Validation failed: /currencyCode: "),
        (("E", "--user", "u", "--app", "other"), "app"),
    ],
)
def test_what_the_gateway_refuses_is_told_in_its_words(
    served: Served, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    done = send(served, tmp_path, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("leanplum-gateway: ")
    assert message in done.stderr
    assert CANARY not in done.stderr


def test_a_gateway_that_does_not_answer_is_told(served: Served, tmp_path: Path) -> None:
    done = send(served, tmp_path, "E", "--user", "u", GATEWAY_PORT="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"leanplum-gateway: http://127.0.0.1:1/v1/events: the gateway does not answer: .*\n",
        done.stderr,
    )


def test_a_key_is_never_sent_to_a_proxy_of_the_environment(served: Served, tmp_path: Path) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    assert send(served, tmp_path, "E", "--user", "u", **proxies).returncode == 0


def test_an_event_that_leanplum_refuses_ends_with_1(served: Served, tmp_path: Path) -> None:
    served.leanplum.fault(mode="success-false", userId="bad", message="no such thing")
    done = send(served, tmp_path, "E", "--user", "bad", "--id", "bad-1", "--wait", "20")
    assert done.returncode == 1
    assert "status\trejected\n" in done.stdout
    assert done.stderr == "leanplum-gateway: Leanplum did not apply it: rejected\n"


# --- receipts -------------------------------------------------------------------------------------


def test_a_receipt_is_shown_by_the_id_of_the_caller_and_by_the_gateways(
    served: Served, tmp_path: Path
) -> None:
    own = json.loads(send(served, tmp_path, "E", "--user", "ida", "--id", "ida-1", "--json").stdout)
    made = json.loads(send(served, tmp_path, "E", "--user", "ida", "--json").stdout)
    for item_id in (own["id"], made["id"]):
        until(partial(_is_delivered, served, item_id))
        done = ended(tmp_path, "receipts", "show", item_id, "--json", **served.database())
        assert (done.returncode, done.stderr) == (0, "")
        over_http = served.gateway.call("GET", f"/v1/receipts/{item_id}").json()
        assert json.loads(done.stdout) == {"app": "default"} | over_http
    text = ended(tmp_path, "receipts", "show", "ida-1", **served.database()).stdout
    assert "status\tdelivered\n" in text
    assert "leanplum\tsuccess\n" in text


def _is_delivered(served: Served, item_id: str) -> bool:
    return served.gateway.status(item_id) == "delivered"


def test_a_receipt_that_is_not_there_ends_with_1(served: Served, tmp_path: Path) -> None:
    for words in (("none",), ("none", "--json"), ("ida-1", "--app", "other")):
        done = ended(tmp_path, "receipts", "show", *words, **served.database())
        assert (done.returncode, done.stdout) == (1, "")
        assert "No item has the id" in done.stderr


def test_receipts_are_found_newest_first_by_what_is_known_of_the_item(
    served: Served, tmp_path: Path
) -> None:
    for event, item_id in (("Found", "fay-1"), ("Lost", "fay-2"), ("Found", "fay-3")):
        send(served, tmp_path, event, "--user", "fay", "--id", item_id, "--wait", "20")
    answer = served.gateway.event("fay", 4)

    def found(*words: str) -> list[str]:
        done = ended(tmp_path, "receipts", "find", *words, "--json", **served.database())
        documents = json.loads(done.stdout)
        assert done.returncode == (0 if documents else 1), done.stderr
        return [document["id"] for document in documents]

    assert found("--user", "fay") == ["fay-4", "fay-3", "fay-2", "fay-1"]
    assert found("--user", " fay ", "--limit", "2") == ["fay-4", "fay-3"]
    assert found("--user", "fay", "--event", "Found") == ["fay-3", "fay-1"]
    assert found("--user", "fay", "--event", "Lost", "--status", "delivered") == ["fay-2"]
    assert found("--user", "fay", "--status", "rejected") == []
    assert found("--user", "fay", "--action", "advance") == []
    assert found("--request", answer.headers["x-request-id"]) == ["fay-4"]
    assert found("--user", "fay", "--app", "other") == []
    assert found("--user", "fay", "--since", "2020-01-01T00:00:00Z")[0] == "fay-4"
    assert found("--user", "fay", "--until", "2020-01-01T00:00:00Z") == []
    assert found("--device", "fay") == []


def test_found_receipts_are_a_table_with_leanplums_words(served: Served, tmp_path: Path) -> None:
    served.leanplum.fault(mode="success-false", userId="rob", message="no such thing")
    send(served, tmp_path, "E", "--user", "rob", "--id", "rob-1", "--wait", "20")
    done = ended(tmp_path, "receipts", "find", "--user", "rob", **served.database())
    header, row = (line.split("\t") for line in done.stdout.splitlines())
    cells = dict(zip(header, row, strict=True))
    assert (cells["STATUS"], cells["USER"], cells["ID"]) == ("rejected", "rob", "rob-1")
    assert "no such thing" in cells["LEANPLUM"]


@pytest.mark.parametrize("words", [("--value", "nan"), ("--value", "inf")])
def test_a_value_that_is_no_number_is_refused_in_one_line(
    served: Served, tmp_path: Path, words: tuple[str, str]
) -> None:
    done = send(served, tmp_path, "E", "--user", "u", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "leanplum-gateway: --value: must be a finite number\n"


def test_a_parameter_that_is_no_json_is_sent_as_a_text(served: Served, tmp_path: Path) -> None:
    words = ("E", "--user", "nina", "--param", "p=NaN", "--wait", "20")
    assert send(served, tmp_path, *words).returncode == 0
    assert [one["params"] for one in served.leanplum.arrived() if one.get("userId") == "nina"] == [
        {"p": "NaN"}
    ]


# --- tail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["accepted", "delivered"])
def test_tail_chooses_by_the_status_that_it_prints(
    served: Served, tmp_path: Path, status: str
) -> None:
    assert send(served, tmp_path, "E", "--user", f"tina-{status}", "--wait", "20").returncode == 0
    words = command("tail", "--json", "--user", f"tina-{status}", "--status", status)
    env = environment(tmp_path, **served.database())
    with subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        try:
            line = json.loads(tail.stdout.readline())
        finally:
            tail.kill()
    assert (line["status"], line["settled"]) == (status, status == "delivered")


def test_tail_follows_items_as_they_are_accepted_and_settle_without_their_content(
    served: Served, tmp_path: Path
) -> None:
    words = command("tail", "--json", "--user", "tom", "--history", "0")
    env = environment(tmp_path, **served.database())
    with subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        try:
            # What is new begins with its first look, which nothing tells; so send until it is seen
            sent = json.loads(
                send(
                    served, tmp_path, "Seen", "--user", "tom", "--param", f"p={CANARY}", "--json"
                ).stdout
            )
            lines = [_line_about(served, tail, tmp_path, sent["id"])]
            while not lines[-1]["settled"]:
                lines.append(json.loads(tail.stdout.readline()))
        finally:
            tail.kill()
    assert all(line["userId"] == "tom" for line in lines)
    assert CANARY not in str(lines)
    assert (lines[-1]["status"], lines[-1]["event"], lines[-1]["app"]) == (
        "delivered",
        "Seen",
        "default",
    )


def _line_about(
    served: Served, tail: "subprocess.Popen[str]", folder: Path, item_id: str
) -> dict[str, Any]:
    assert tail.stdout is not None
    while not select.select([tail.stdout], [], [], 1)[0]:
        send(served, folder, "Seen", "--user", "tom", "--param", f"p={CANARY}")
    found: dict[str, Any] = json.loads(tail.stdout.readline())
    return found


def test_tail_shows_columns_on_a_terminal_and_ends_with_ctrl_c(
    served: Served, tmp_path: Path
) -> None:
    send(served, tmp_path, "Shown", "--user", "sue\x1b[31m", "--wait", "20")
    done = on_terminal(
        tmp_path,
        "tail",
        "--event",
        "Shown",
        ending=b"\x03",
        after="delivered",
        settings=served.database(),
    )
    assert done.code == 0
    header, accepted, settled, *_ = done.text.splitlines()
    assert re.split(r" {2,}", header) == ["TIME", "STATUS", "APP", "ACTION", "EVENT", "USER", "ID"]
    assert ("accepted" in accepted, "delivered" in settled) == (True, True)
    assert "sue\\x1b[31m" in settled, "a user id cannot control the terminal"
    assert "Traceback" not in done.text


# --- status ---------------------------------------------------------------------------------------


def test_status_says_what_waits_and_what_needs_attention(served: Served, tmp_path: Path) -> None:
    served.leanplum.fault(mode="success-false", userId="dead", message="no such thing")
    send(served, tmp_path, "E", "--user", "dead", "--wait", "20")
    done = ended(tmp_path, "status", "--json", **served.database())
    found = json.loads(done.stdout)
    assert (done.returncode, found["deliverers"], found["database"]["kind"]) == (1, 1, "sqlite")
    (app,) = found["apps"]
    assert (app["app"], app["waiting"], app["held"]) == ("default", 0, 0)
    assert app["deadLetters"] >= 1
    (dead_letters,) = found["attention"]
    assert re.fullmatch(r"app default: \d+ dead letters; see `dead-letters list`", dead_letters)
    text = ended(tmp_path, "status", **served.database())
    assert text.stdout.startswith(f"! {dead_letters}\n")
    assert text.returncode == 1
    discarded = ended(tmp_path, "dead-letters", "discard", "--all", "--json", **served.database())
    assert json.loads(discarded.stdout)["matched"] == app["deadLetters"]
    calm = ended(tmp_path, "status", "--json", **served.database())
    assert (calm.returncode, json.loads(calm.stdout)["attention"]) == (0, [])


def test_status_tells_of_items_that_nobody_delivers(tmp_path: Path) -> None:
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery") as gateway:
        gateway.event("u", 1)
        url = {"GATEWAY_DATABASE_URL": gateway.settings["GATEWAY_DATABASE_URL"]}
        until(lambda: "oldest item has been waiting for" in str(_attention(tmp_path, url)))
        assert _attention(tmp_path, url)[0] == (
            "items wait, and no process delivers: start `serve` or `deliver`"
        )


def _attention(folder: Path, url: dict[str, str]) -> list[str]:
    done = ended(folder, "status", "--max-age", "0", "--json", **url)
    assert done.returncode == 1
    found: list[str] = json.loads(done.stdout)["attention"]
    return found
