"""The examples of docs/erasure.md and docs/encryption.md do what they say."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.processes import ended, serving
from tests.support.wait import until

DOCS = Path(__file__).resolve().parents[2] / "docs"
ERASURE, ENCRYPTION = (DOCS / "erasure.md").read_text(), (DOCS / "encryption.md").read_text()


def run(words: str) -> str:
    """What a shell prints for it."""
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def command(page: str, first: str) -> str:
    (found,) = re.findall(rf"^{first} .*$", page, re.MULTILINE)
    return str(found)


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("openssl")),
    reason="there is no curl or openssl here",
)
def test_the_key_is_made_and_the_user_erased_as_written(tmp_path: Path) -> None:
    name, _, key = run(command(ENCRYPTION, "echo")).strip().partition("=")
    settings = {name: key, "LEANPLUM_DEVELOPMENT_KEY": "dev_sandbox"}
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery", **settings) as gateway:
        output = gateway.output.read_bytes()
        assert b'"event.action":"bodies.encrypted"' in output
        assert b'"gateway.key":"2026a"' in output
        gateway.event("user-to-erase", 0)
        words = (
            command(ERASURE, "curl")
            .replace("http://127.0.0.1:8000", gateway.url)
            .replace("$KEY", gateway.key)
        )
        told = run(words + " -sS -f")
        assert '"erased":{"waiting":1,"inFlight":0,"deadLetters":0,"receipts":0,"ids":1}' in told
        (shown,) = re.findall(r'"erased":\{.*?\}', ERASURE)
        assert re.sub(r"\d+", "0", shown) in re.sub(r"\d+", "0", told)
        href = json.loads(told)["statementHref"]
        until(lambda: gateway.call("GET", href).status_code == 200)
        statement = gateway.call("GET", href)
        public = statement.json()["publicKey"]
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "statement.json").write_bytes(statement.content)
        verify = command(ERASURE, "python -m app").removeprefix("python -m app ")
        verify_words = [word.replace('"$PUBLIC"', public) for word in verify.split()]
        done = ended(elsewhere, *verify_words)
        assert (done.returncode, "items not sent yet: 1" in done.stdout) == (0, True), done


@pytest.mark.parametrize("page", [ERASURE, ENCRYPTION])
def test_every_setting_that_is_named_is_one(page: str) -> None:
    named = set(re.findall(r"`?(GATEWAY_[A-Z_]+)", page))
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}
