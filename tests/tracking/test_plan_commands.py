"""The commands, and what docs/tracking-plan.md says, with real processes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.tracking.plan.load import load_plans
from tests.support.browser import Visit
from tests.support.processes import ended, serving
from tests.support.tracking_plans import shop, text
from tests.support.wait import until

PAGE = (Path(__file__).resolve().parents[2] / "docs/tracking-plan.md").read_text()
(EXAMPLE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_lint_tells_each_fault_with_its_file_and_line_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        "version: 1\ndefinitions: {u: {}}\nevents:\n  A: {value: {type: text}}\n"
    )
    done = ended(tmp_path, "plan", "lint", "plan.yaml")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "plan.yaml:2: definitions.u: is not used"
    assert lines[1].startswith("plan.yaml:4: events.A.value.type: must be one of string")


def test_lint_looks_at_the_plan_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(shop())
    done = ended(tmp_path, "plan", "lint", GATEWAY_TRACKING_PLAN="plan.yaml")
    assert (done.returncode, done.stdout) == (
        0,
        "version 1 for every app: events 1, states 0, attributes 0; no errors.\n",
    )
    assert ended(tmp_path, "plan", "lint").returncode == 2


def test_diff_ends_with_1_where_the_new_plan_may_refuse_what_the_old_one_let_through(
    tmp_path: Path,
) -> None:
    (tmp_path / "old.yaml").write_text(shop())
    (tmp_path / "new.yaml").write_text(shop(version="2").replace('"sku"\n', '"sku", "gift"\n'))
    done = ended(tmp_path, "plan", "diff", "old.yaml", "new.yaml")
    assert done.returncode == 1
    assert "tightened  events.Purchase.params: requires gift (breaking)" in done.stdout
    back = ended(tmp_path, "plan", "diff", "new.yaml", "old.yaml")
    assert back.returncode == 0
    assert "No breaking changes." in back.stdout
    (tmp_path / "old.yaml").write_text("no plan")
    assert ended(tmp_path, "plan", "diff", "old.yaml", "new.yaml").returncode == 2


def test_a_plan_with_a_fault_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("version: 1\nevents: {A: {value: 3}}\n")
    given = {
        "LEANPLUM_APP_ID": "a",
        "LEANPLUM_PRODUCTION_KEY": "p",
        "GATEWAY_TRACKING_PLAN": "plan.yaml",
    }
    done = ended(tmp_path, "serve", "--port", "0", **given)
    assert done.returncode == 2
    assert (
        done.stderr
        == "leanplum-gateway: plan.yaml:2: events.A.value: must be a JSON Schema: an object, true or false\n"
    )


def test_the_names_of_an_app_are_listed_and_forgotten_by_command(tmp_path: Path) -> None:
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery") as gateway:
        gateway.call("POST", "/v1/events", json={"userId": "u", "event": "A", "params": {"p": 1}})
        url = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/g.db"}
        listed = ended(tmp_path, "taxonomy", "list", **url).stdout
        assert "events\t1 of 500\tA\t" in listed
        rows = json.loads(ended(tmp_path, "taxonomy", "list", "--json", **url).stdout)
        assert [(row["kind"], row["name"]) for row in rows] == [("events", "A"), ("params", "p")]
        gone = ended(tmp_path, "taxonomy", "forget", "events", "A", **url)
        assert (gone.returncode, gone.stdout) == (0, "Forgot A.\n")
        assert ended(tmp_path, "taxonomy", "forget", "events", "A", **url).returncode == 1
        assert ended(tmp_path, "taxonomy", "forget", "users", "A", **url).returncode == 2
        assert gateway.call("GET", "/v1/taxonomy").json()["events"]["count"] == 0


# --- docs/tracking-plan.md --------------------------------------------------------------------------------------------


def test_the_plan_of_the_docs_is_good(tmp_path: Path) -> None:
    assert load_plans({"plan.yaml": EXAMPLE}).findings == ()
    (tmp_path / "plan.yaml").write_text(EXAMPLE)
    (command,) = re.findall(r"^python -m app (.*)$", PAGE, re.MULTILINE)
    assert ended(tmp_path, *command.split()).returncode == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_calls_of_the_docs_are_answered_as_they_say(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(EXAMPLE)
    curls = [
        command.replace("\\\n", " ")
        for command in re.findall(r"^curl (?:.*\\\n)*.*$", PAGE, re.MULTILINE)
    ]
    refused, warned = (json.loads(one) for one in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
    with serving(
        tmp_path, "http://127.0.0.1:9", "--no-delivery", GATEWAY_TRACKING_PLAN="plan.yaml"
    ) as gateway:
        environ = {"URL": gateway.url, "KEY": gateway.key}
        answers = []
        for curl in curls:
            done = subprocess.run(
                ["bash", "-c", curl], env=environ, capture_output=True, text=True, check=True
            )
            answers.append(json.loads(done.stdout))
    good, bad, told, counted = answers
    assert good["status"] == "accepted"
    assert "violations" not in good
    assert (bad["status"], sorted(map(str, bad["errors"]))) == (
        422,
        sorted(map(str, refused["errors"])),
    )
    assert (told["status"], told["violations"]) == ("accepted", warned["violations"])
    assert {(one["name"], one["code"]) for one in counted["violations"]} == {
        *(("Purchase", one["code"]) for one in refused["errors"]),
        ("Search", "plan-minimum"),
    }


# --- a process whose plan changes, and what a browser shows of it -----------------------------------------------------


OPERATION = "/docs#tag/events-users/POST/v1/events"


def test_a_browser_shows_each_event_s_schema_and_follows_the_plan(
    tmp_path: Path, visit: Visit
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(EXAMPLE)
    with serving(tmp_path, "http://127.0.0.1:9", GATEWAY_TRACKING_PLAN="plan.yaml") as gateway:
        page = visit(f"{gateway.url}{OPERATION}")
        described = page.get_by_text("A customer paid. Owner: checkout. Violations are refused.")
        expect(described.first).to_be_visible(timeout=60_000)
        beside = tmp_path / "new.yaml"
        beside.write_text(
            text(**{"version": "2", "events": {"Sign up": {"description": "Somebody is new."}}})
        )
        beside.replace(plan)
        until(lambda: gateway.call("GET", "/v1/tracking-plan").json()["version"] == "2")
        page.reload()
        expect(page.get_by_text("Somebody is new.").first).to_be_visible(timeout=60_000)
        expect(described).to_have_count(0)
        visit.check()
