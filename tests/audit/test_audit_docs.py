"""What docs/audit.md says is so: its commands run, against an audit as it was recorded and one that
was changed.
"""

import json
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.audit.row_macs import initialize_sets
from app.audit.tree import to_base64
from tests.support.processes import Process, ended, serving
from tests.support.wait import until

from .logs import opened

PAGE = (Path(__file__).resolve().parents[2] / "docs/audit.md").read_text()
CURLS = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
COMMANDS = [line.split() for line in re.findall(r"^python -m app (.*)$", PAGE, re.MULTILINE)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_its_commands_look_up_prove_export_and_verify_and_find_what_was_changed(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery") as gateway:
        gateway.event("user-1", 1)
        until(lambda: checkpoint(gateway).get("size", 0) >= 2)
        found, tracked, sealed, proof, grew = [asked(gateway, curl) for curl in CURLS]
        assert found["records"] == tracked["records"] != []
        assert proof["checkpoint"]["note"].split("\n")[0] == sealed["note"].split("\n")[0]
        assert grew["hashes"]
        until(lambda: b"audit.checkpoint" in gateway.output.read_bytes())
        lines = [
            json.loads(line)
            for line in gateway.output.read_text().splitlines()
            if line.startswith("{")
        ]
        told = [
            line["gateway.note"] for line in lines if line["event.action"] == "audit.checkpoint"
        ]
        assert any(line["event.action"] == "audit.key_in_database" for line in lines)
        assert gateway.terminate() == 0
        public = ran(tmp_path, gateway, COMMANDS[1], "", 0).strip()
        assert public == sealed["publicKey"]
        for command in COMMANDS:
            ran(tmp_path, gateway, command, public, 0)
        ran(tmp_path, gateway, ["audit", "verify", "--checkpoint", told[0]], public, 0)
        with closing(sqlite3.connect(tmp_path / "g.db")) as database:
            database.execute(
                "UPDATE audit_records SET record = replace(record, '127.0.0.1', '10.1.1.1') WHERE seq = 2"
            )
            database.commit()
        assert "changed: record 2: " in ran(tmp_path, gateway, COMMANDS[0], public, 1)
        ran(tmp_path, gateway, COMMANDS[2], public, 0)
        assert "changed: record 2: " in ran(tmp_path, gateway, COMMANDS[3], public, 1)
        as_json = json.loads(ran(tmp_path, gateway, ["audit", "verify", "--json"], public, 1))
        assert [(one["kind"], one["first"]) for one in as_json["findings"]] == [("changed", 2)]


def checkpoint(gateway: Process) -> Any:
    return gateway.call("GET", "/v1/audit/checkpoint").json()


def asked(gateway: Process, curl: str) -> Any:
    environ = {"URL": gateway.url, "KEY": gateway.key}
    done = subprocess.run(
        ["bash", "-c", f"{curl} -f"], env=environ, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def ran(folder: Path, gateway: Process, words: list[str], public: str, code: int) -> str:
    given = [word.replace('"$PUBLIC"', public) for word in words]
    offline = "--export" in words  # needs no settings
    done = ended(folder, *given, **({} if offline else gateway.settings))
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout


def test_an_export_is_not_verified_with_a_key_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "export.jsonl").write_text("{}\n")
    done = ended(tmp_path, "audit", "verify", "--export", "export.jsonl")
    assert (done.returncode, "--public-key" in done.stderr) == (2, True)


def test_another_key_is_refused_at_the_start(tmp_path: Path) -> None:
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery") as gateway:
        until(lambda: "size" in checkpoint(gateway))
        gateway.terminate()
        done = ended(
            tmp_path, "serve", "--port", "0", **gateway.settings, GATEWAY_AUDIT_KEY="A" * 43 + "="
        )
        assert (done.returncode, "GATEWAY_AUDIT_KEY" in done.stderr) == (2, True)


def test_with_what_is_acknowledged_verifying_ends_with_0_where_nothing_else_is_wrong(
    tmp_path: Path,
) -> None:
    given = {
        "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/g.db",
        "GATEWAY_AUDIT_KEY": to_base64(bytes(32)),
    }
    with opened(given["GATEWAY_DATABASE_URL"], bytes(32)) as log:
        initialize_sets(log.engine, log.macs.rows)  # as the first start does
        log.write(5)
        log.change("DELETE FROM audit_records WHERE seq = 2")
        log.seal()
    for words, code in (([], 1), (["--acknowledge", "3"], 1), (["--acknowledge", "2"], 0)):
        done = ended(tmp_path, "audit", "verify", *words, **given)
        assert (done.returncode, "record 2: it was gone before it was sealed" in done.stdout) == (
            code,
            True,
        )
