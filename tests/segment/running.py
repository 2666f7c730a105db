"""Runs a real library, and a proxy that loses answers."""

import http.client
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
LIBRARIES = {
    "segment-analytics-python": ("python", "segment"),
    "rudder-sdk-python": ("python", "rudder"),
    "@segment/analytics-node": ("node", "segment"),
    "@rudderstack/rudder-sdk-node": ("node", "rudder"),
}


def installed(library: str) -> bool:
    """Whether it can be run here."""
    return not library.startswith("@") or (
        shutil.which("node") is not None and (HERE / "node_modules" / library).exists()
    )


def start(
    library: str, url: str, key: str, messages: list[dict[str, Any]], batch: int
) -> "subprocess.Popen[str]":
    """A process that sends the messages with the library, `batch` of them in a call."""
    kind, name = LIBRARIES[library]
    command = [sys.executable, "-W", "ignore", str(HERE / "python_libraries.py")] if kind == "python" else [
        "node", str(HERE / "node_libraries.js")
    ]  # fmt: skip
    process = subprocess.Popen(
        [*command, name, url, key, str(batch)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(messages))
    process.stdin.close()
    process.stdin = None
    return process


def said(process: "subprocess.Popen[str]") -> list[str]:
    """What went wrong, in the library's eyes."""
    try:
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    found: list[str] = json.loads(out)
    return found


def send(
    library: str, url: str, key: str, messages: list[dict[str, Any]], batch: int = 100
) -> list[str]:
    """Send the messages; what went wrong, in the library's eyes."""
    return said(start(library, url, key, messages, batch))


@contextmanager
def losing(port: int, how: Literal["503", "reset"]) -> Iterator[tuple[str, list[int]]]:
    """A proxy before the gateway at `port`, and what was answered there: the first answer never
    reaches the caller, who gets a 503 or a broken connection instead.
    """
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            onward = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            onward.request("POST", self.path, body, dict(self.headers.items()))
            answer = onward.getresponse()
            told, status = answer.read(), answer.status
            onward.close()
            answers.append(status)
            if len(answers) == 1 and how == "reset":
                self.close_connection = True
                return
            self.send_response(503 if len(answers) == 1 else status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests tell what matters."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", answers
        finally:
            server.shutdown()
            thread.join()
