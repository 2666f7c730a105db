"""Runs the scenario with one real client, and tells what the client said of it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

from tests.support import chromium

HERE = Path(__file__).parent
CLIENTS = Path(sys.prefix) / "clients"  # where `make test` puts the PyPI clients
Said = dict[str, Any]


def sdk_file(version: str) -> Path:
    """The SDK as pages load it."""
    return HERE / "node_modules" / f"leanplum-sdk-{version}" / "dist" / "leanplum.min.js"


def python_client(name: str, *words: str) -> list[Said]:
    """What a PyPI client was answered, call by call."""
    environment = {**os.environ, "PYTHONPATH": str(CLIENTS / name)}
    script = [sys.executable, "-W", "ignore", str(HERE / "python_clients.py"), name, *words]
    done = subprocess.run(
        script, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[Said] = json.loads(done.stdout)
    return found


@contextmanager
def in_jsdom(version: str, *words: str) -> Iterator[Said]:
    """What the SDK said; it goes on sending until the end of the context."""
    script = ["node", str(HERE / "jsdom.js"), str(sdk_file(version)), *words]
    process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    killer = threading.Timer(40, process.kill)
    killer.start()
    try:
        line = process.stdout.readline()
        assert line, process.communicate()
        yield json.loads(line)
    finally:
        killer.cancel()
        process.kill()
        process.communicate()


@contextmanager
def in_chromium(version: str, folder: Path, *words: str) -> Iterator[Said]:
    """The same in a page of another origin than the gateway's."""
    config = dict(zip(("url", "appId", "key", "user"), words, strict=True))
    with _page(version, config) as (url, said), (folder / "chromium").open("wb") as output:
        process = subprocess.Popen(chromium.command(folder, url), stdout=output, stderr=output)
        try:
            yield said.get(timeout=60)
        finally:
            process.terminate()
            process.wait(timeout=20)


PAGE = """<!doctype html><script src="/sdk.js"></script><script src="/scenario.js"></script><script>
scenario(Leanplum.default || Leanplum, %s, (seen) => fetch('/said', {method: 'POST', body: JSON.stringify(seen)}));
</script>"""


@contextmanager
def _page(version: str, config: dict[str, str]) -> Iterator[tuple[str, "Queue[Said]"]]:
    said: Queue[Said] = Queue()
    files = {
        "/": ("text/html", (PAGE % json.dumps(config)).encode()),
        "/sdk.js": ("text/javascript", sdk_file(version).read_bytes()),
        "/scenario.js": ("text/javascript", (HERE / "scenario.js").read_bytes()),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            media, content = files.get(self.path, ("text/plain", b""))
            self._answer(200 if self.path in files else 404, media, content)

        def do_POST(self) -> None:
            said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(204, "text/plain", b"")

        def _answer(self, status: int, media: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the tests tell what matters."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", said
        finally:
            server.shutdown()
            thread.join()
