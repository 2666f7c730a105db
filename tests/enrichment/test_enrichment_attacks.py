"""Patterns of privacy rules against texts of attackers, through the real server: nobody waits."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.enrichment.service import check_files
from app.errors import StartRefused
from tests.support.processes import Process, ended, serving
from tests.support.wait import until

from .enriched import fields

RULES = r"""
[[privacy]]
do = "mask"
values = '[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}'

[[privacy]]
do = "drop"
values = '(a+)+$'

[[privacy]]
do = "hash"
paths = ['(c+)+$']
"""
SLOW = {
    "an e-mail pattern over 80 kB": "a" * 80_000 + " ",
    "at signs": "a@" * 40_000,
    "(a+)+$ over 35 letters": "a" * 35 + "!",
    "both": ("a" * 35 + "@") * 2_000,
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("patterns")
    (folder / "rules.toml").write_text(RULES)
    nowhere = "http://127.0.0.1:9"
    with serving(
        folder, nowhere, "--no-delivery", GATEWAY_ENRICHMENT_FILE=str(folder / "rules.toml")
    ) as running:
        yield running


@pytest.mark.parametrize("attack", SLOW)
def test_a_slow_text_is_answered_at_once_and_nobody_else_waits(
    gateway: Process, attack: str
) -> None:
    made = gateway.call("POST", "/v1/keys", json={"name": attack, "scopes": ["sdk"]})
    assert made.status_code == 201, made.text
    sdk = {
        "clientKey": made.json()["key"],
        "appId": "app_sandbox",
        "apiVersion": "1.0.6",
        "action": "track",
    }
    sdk |= {"userId": "u", "event": "E", "params": {"note": SLOW[attack], "c" * 35 + "!": 1}}
    statuses = list[int]()

    def attacking() -> None:
        with httpx.Client(base_url=gateway.url, timeout=40, trust_env=False) as http:
            statuses.append(http.post("/api", json=sdk).status_code)
            body = {"userId": "u", "event": "E", "params": {"note": SLOW[attack]}}
            headers = {"Authorization": f"Bearer {gateway.key}"}
            statuses.append(http.post("/v1/events", json=body, headers=headers).status_code)

    spent = cpu(gateway)
    thread = threading.Thread(target=attacking)
    thread.start()
    assert gateway.event("other", random.randrange(10**9)).status_code == 202
    thread.join(30)
    assert statuses == [200, 202]
    assert cpu(gateway) - spent < 1.0


def cpu(gateway: Process) -> float:
    """The seconds of processor time that the process has had."""
    told = Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / 100


@pytest.mark.parametrize("name", ["values", "paths"])
@pytest.mark.parametrize("pattern", [r"(a)\\1", "(?=a)b", "(a{1,500}){1,500}"])
def test_a_pattern_that_is_not_taken_is_refused_in_one_line_that_names_the_rule(
    tmp_path: Path, name: str, pattern: str
) -> None:
    file = tmp_path / "rules.toml"
    told = f'"{pattern}"' if name == "values" else f'["{pattern}"]'
    file.write_text(f'[[privacy]]\ndo = "drop"\n{name} = {told}\n')
    with pytest.raises(StartRefused) as refused:
        check_files(file, None)
    (line,) = refused.value.lines
    assert line.startswith(f"GATEWAY_ENRICHMENT_FILE: privacy.0.{name}")
    assert "write" in line


def test_a_start_is_refused_by_such_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("[[privacy]]\ndo = \"drop\"\nvalues = '(?<=a)b'\n")
    over = ended(
        tmp_path, "serve", "--port", "0",
        LEANPLUM_APP_ID="a", LEANPLUM_PRODUCTION_KEY="k", GATEWAY_ENRICHMENT_FILE=str(tmp_path / "rules.toml"),
    )  # fmt: skip
    assert over.returncode != 0
    assert (
        "privacy.0.values: has a look-around, which can't be searched for in linear time"
        in over.stderr
    )
    assert "Traceback" not in over.stderr


def test_rules_go_on_where_a_changed_file_has_such_a_pattern(gateway: Process) -> None:
    file = Path(gateway.settings["GATEWAY_ENRICHMENT_FILE"])
    file.write_text(RULES + "\n[[privacy]]\ndo = \"drop\"\nvalues = '(a)\\1'\n")
    try:
        until(lambda: b"back-reference" in gateway.output.read_bytes())
        seen = {
            "items": [{"action": "track", "userId": "u", "event": "E", "params": {"n": "a@b.de"}}]
        }
        told = gateway.call("POST", "/v1/preview", json=seen).json()
        assert told["results"][0]["leanplum"]["params"] == {"n": "***"}
    finally:
        file.write_text(RULES)


def test_looking_at_paths_costs_no_more_than_in_proportion_to_the_item() -> None:
    rule = "[[privacy]]\ndo = \"mask\"\npaths = ['secret']\n"
    dotted = {"params": {".".join(["a"] * 500)[:990] + str(number): 1 for number in range(1_000)}}
    long_name = {"params": {"n" * 900: {f"k{number}": 1 for number in range(100_000)}}}
    usual = {"params": {f"name_{number}": {"secret": 1, "sku": 2} for number in range(5_000)}}
    spent = time.process_time()
    assert len(fields("sendMessage", {"values": dotted["params"]}, rule)["values"]) == 1_000
    assert fields("sendMessage", {"values": long_name["params"]}, rule)["values"] == {}
    left = fields("sendMessage", {"values": usual["params"]}, rule)["values"]
    assert time.process_time() - spent < 3
    assert len(left) == 5_000
    assert set(map(str, left.values())) == {"{'secret': '***', 'sku': 2}"}


def test_the_check_command_tells_of_such_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("[[privacy]]\ndo = \"drop\"\nvalues = '(a)\\1'\n")
    settings = {
        "LEANPLUM_APP_ID": "a",
        "LEANPLUM_PRODUCTION_KEY": "k",
        "LEANPLUM_API_URL": "http://127.0.0.1:9/api",
    }
    over = ended(
        tmp_path, "check", GATEWAY_ENRICHMENT_FILE=str(tmp_path / "rules.toml"), **settings
    )
    assert over.returncode != 0
    assert "privacy.0.values: has a back-reference" in over.stderr
