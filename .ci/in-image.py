"""Runs inside the image, as its user: start without settings, sandbox, one event, health check,
stop.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

COMMAND = ["python", "-m", "app", "serve"]  # the image's ENTRYPOINT and CMD
HEALTHCHECK = json.loads(sys.argv[1])
SECONDS_TO_START = 30


def refuses_to_start_without_settings() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    named = [
        name
        for name in ("LEANPLUM_APP_ID", "LEANPLUM_PRODUCTION_KEY")
        if f" {name}: " in done.stderr
    ]
    assert done.returncode == 2, done
    assert len(named) == 2, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def delivers_in_the_sandbox() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment = os.environ | {
            "GATEWAY_PORT": str(free.getsockname()[1]),
            "GATEWAY_DRAIN_SECONDS": "0",
        }
    server = subprocess.Popen(
        [*COMMAND, "--sandbox"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        line = next(line for line in server.stdout if line.strip().startswith("curl "))
        wait_for_health(environment)
        receipt = json.loads(post(line))
        assert receipt["status"] == "delivered", receipt
        assert Path("/data/sandbox.db").exists(), list(Path("/data").iterdir())
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0, server.returncode
    finally:
        server.kill()


def wait_for_health(environment: dict[str, str]) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while subprocess.run(HEALTHCHECK, env=environment, capture_output=True, check=False).returncode:
        assert time.monotonic() < until, "the health check never passed"
        time.sleep(0.2)


def post(curl: str) -> bytes:
    """What the printed curl line would do; the image has no curl."""
    _, _, url, *words = shlex.split(curl)
    options = list(zip(words[::2], words[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in options if option == "-H")
    body = next(value for option, value in options if option == "-d")
    with urllib.request.urlopen(
        urllib.request.Request(url, body.encode(), headers), timeout=20
    ) as answer:
        return bytes(answer.read())


assert os.getuid() != 0, "the image runs as root"
refuses_to_start_without_settings()
delivers_in_the_sandbox()
print(f"container, as {os.getuid()}:{os.getgid()}: refuses to start without settings,", end=" ")
print("delivers in the sandbox, ends with 0 at SIGTERM")
