"""A mistake of ours is told by a request id, and in the log by its kind and place: never by a stack
trace.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from app.relay.service import Relay
from app.settings import Settings
from tests.support.gateway import CANARY, EVENT, PROBLEM, WIDE, Talk
from tests.support.http_server import Wire, served
from tests.support.processes import ended, environment

Start = Callable[..., Talk]
SDK = {"appId": "app_tests", "action": "multi", "data": [EVENT | {"action": "track"}]}


def fails(*_: Any, **__: Any) -> NoReturn:
    """Fail by a mistake, with what a caller sent in the error's text."""
    raise RuntimeError(f"{CANARY} in a part of the gateway")


CALLS: dict[str, tuple[str, Callable[[Talk], Any]]] = {
    "hot write": ("outbox.outbox.Outbox.accept", lambda t: t.event()),
    "hot batch": ("outbox.outbox.Outbox.accept", lambda t: t.batch([EVENT | {"action": "track"}])),
    "limit": ("limits.buckets.RatePolicies.policy_for", lambda t: t.event()),
    "who calls": ("callers.directory.Directory.recognise", lambda t: t.event()),
    "routed write": ("outbox.outbox.Outbox.accept", lambda t: t.post("/v1/users/u/states", {"state": "S"})),
    "receipt": ("outbox.outbox.Outbox.receipt", lambda t: t.get("/v1/receipts/x")),
    "dead letters": ("outbox.dead_letters.DeadLetterService.find", lambda t: t.get("/v1/dead-letters")),
    "keys": ("callers.store.KeyStore.page", lambda t: t.get("/v1/keys")),
    "a new key": ("callers.store.KeyStore.create", lambda t: t.post("/v1/keys", {"name": "n", "scopes": ["sdk"]})),
    "a question": ("relay.service.Relay.request_cached", lambda t: t.get("/v1/messages")),
    "a question with a body": ("relay.service.Relay.exchange", lambda t: t.post("/v1/users/u/sessions", {})),
    "a download": ("relay.service.Relay.download", lambda t: t.get("/v1/files/f")),
    "readiness": ("database.writer.Writer.probe", lambda t: t.get("/readyz")),
    "SDK": ("outbox.outbox.Outbox.accept", lambda t: t.post("/api", SDK | {"clientKey": t.key}, key=None)),
    "SDK's question": (
        "relay.service.Relay.exchange", lambda t: t.post("/api", SDK | {"clientKey": t.key, "action": "getVars"}, key=None)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("part", "call"), CALLS.values(), ids=CALLS.keys())
def test_a_call_that_fails_tells_its_id_and_nothing_of_the_mistake(
    start: Start,
    part: str,
    call: Callable[[Talk], Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talk = start(**WIDE, leanplum_content_read_only_key="cro", leanplum_development_key="dev")
    with monkeypatch.context() as patch:
        patch.setattr(f"app.{part}", fails)
        answer = call(talk)
    assert answer.status_code in {500, 503}
    assert answer.headers["x-request-id"]
    assert answer.headers["content-type"] in {PROBLEM, "application/json;charset=utf-8"}
    said = "".join(capfd.readouterr())
    for told in (answer.text, said):
        assert CANARY not in told
        assert "Traceback" not in told
        assert ".py" not in answer.text
    assert said.count("request.failed") == 1
    assert "RuntimeError" in said
    assert answer.headers["x-request-id"] in said


@pytest.fixture
def downloads(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[int, str]]:
    """A server whose downloads break off in the middle, by a mistake of ours."""
    made = settings(leanplum_content_read_only_key="cro", leanplum_development_key="dev")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        raise RuntimeError(CANARY)

    @asynccontextmanager
    async def download(*_: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(chunks=chunks(), headers={"content-length": "100"})

    monkeypatch.setattr(Relay, "download", download)
    with served(made) as port:
        assert made.gateway_bootstrap_key is not None
        yield port, made.gateway_bootstrap_key.get_secret_value()


@pytest.mark.parametrize(
    "url", ["/v1/files/f", "/api?appId=app_tests&action=downloadFile&filename=f&clientKey="]
)
def test_an_answer_that_breaks_off_in_the_middle_ends_the_connection_and_tells_no_more(
    downloads: tuple[int, str], url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    port, key = downloads
    address = url + key if url.endswith("=") else url
    with closing(Wire(port)) as wire:
        wire.say(f"GET {address} HTTP/1.1\r\nHost: g\r\nX-API-Key: {key}\r\n\r\n".encode())
        seen = b""
        with suppress(ConnectionResetError):
            while data := wire.socket.recv(65_536):
                seen += data
    head, _, body = seen.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b"first"
    said = "".join(capfd.readouterr())
    assert said.count("request.failed") == 1
    assert CANARY not in said
    assert "Traceback" not in said


LOUD = {
    "a task of our own": "asyncio.run(forgotten())",
    "a thread": "thread = threading.Thread(target=fails); thread.start(); thread.join()",
    "a finalizer": "Finalized(); gc.collect()",
    "the program itself": "fails()",
    "a library's log": "logging.getLogger('library').exception('it failed', exc_info=RuntimeError(CANARY))",
}
PROGRAM = """
import asyncio, gc, logging, sys, threading
from app.telemetry import configure_logging

CANARY = "cAnArY" + "-7f3b"
configure_logging("debug", "FORM")

def fails():
    raise RuntimeError(CANARY)

class Finalized:
    def __del__(self):
        fails()

async def forgotten():
    async def task():
        fails()
    asyncio.create_task(task())
    await asyncio.sleep(0.01)
    gc.collect()

"""


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("how", LOUD.values(), ids=LOUD.keys())
def test_what_nobody_caught_is_a_line_of_the_log_like_any_other(
    tmp_path: Path, how: str, form: str
) -> None:
    said, code = run(tmp_path, PROGRAM.replace("FORM", form) + how, "-X", "dev")
    assert "RuntimeError" in said
    assert CANARY not in said
    assert "Traceback" not in said
    assert code == (1 if how == "fails()" else 0)


def run(folder: Path, program: str, *options: str) -> tuple[str, int]:
    """What a program of Python's says, and how it ends."""
    command = [sys.executable, *options, "-W", "ignore", "-c", program]
    found = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return found.stdout + found.stderr, found.returncode


def test_a_start_that_fails_is_told_without_what_the_library_says_of_it(tmp_path: Path) -> None:
    """It may repeat the database's URL, and the password in it."""
    url = f"postgresql://user:{CANARY}@127.0.0.1:9/nothing"
    found = ended(
        tmp_path,
        "serve",
        GATEWAY_DATABASE_URL=url,
        LEANPLUM_APP_ID="a",
        LEANPLUM_PRODUCTION_KEY="p",
    )
    assert found.returncode != 0
    said = found.stdout + found.stderr
    assert said
    assert CANARY not in said
    assert "Traceback" not in said


CRASH = """
import ctypes, os, resource, signal, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
sys.argv = ["app", "--help"]
import app.__main__
secret = "-".join(["cAnArY", "in", "memory"])
try:
    app.__main__.main()
except SystemExit:
    pass
PR_GET_DUMPABLE = 3
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), flush=True)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # what a shell runs in the background ignores it
os.kill(os.getpid(), signal.SIGN)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize("sign", ["SIGABRT", "SIGSEGV", "SIGQUIT"])
@pytest.mark.parametrize("options", [[], ["-X", "faulthandler"]], ids=["plain", "faulthandler"])
def test_a_crash_leaves_no_core_and_tells_places_only(
    tmp_path: Path, sign: str, options: list[str]
) -> None:
    said, code = run(tmp_path, CRASH.replace("SIGN", sign), *options)
    assert code < 0
    assert "(0, 0) 0" in said, "no core file, and no dump by another process"
    assert "cAnArY" not in said
    assert list(tmp_path.iterdir()) == []
    if options and sign != "SIGQUIT":
        assert "Fatal Python error" in said, "the operator asked where it was"
