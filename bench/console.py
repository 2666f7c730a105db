"""The cost of an open console: `python -m bench.console`, or with the numbers of comparisons.

One gateway takes the same load alternately with three tabs of the console open, the overview and
two live pages, and with none; each pair of slices gives a ratio.
"""

import http.client
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

from bench.__main__ import ROOT, scratch_folder
from bench.bodies import BATCH, EVENT, Traffic
from bench.children import Child, Fleet
from bench.cost import PAIRS, SECONDS, Measured, measure, render
from bench.keys import make_key
from bench.load import Load
from bench.plan import QUICK
from bench.stage import Stage

TABS = ("/console/stream", "/console/live/stream", "/console/live/stream?kind=accepted")
CALLED = re.compile(r"^leanplum_gateway_calls_total", re.MULTILINE)
QUEUED = re.compile(r"^leanplum_gateway_queue_items{.*} (\S+)$", re.MULTILINE)
CLOSING_SECONDS = 4.0  # after which a gateway has noticed that a tab was closed
COMPARISONS = (
    ("a single event, with three tabs of the console open to without", EVENT, False),
    ("a batch of 100, with three tabs of the console open to without", BATCH, False),
    ("a single event while the process also delivers, likewise", EVENT, True),
    ("a batch of 100 while the process also delivers, likewise", BATCH, True),
)


def sign_in(child: Child, key: str) -> str:
    """Return the cookie of a new session."""
    connection = http.client.HTTPConnection(urlsplit(child.url).netloc, timeout=30)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/console/sign-in", urlencode({"key": key}), headers)
    response = connection.getresponse()
    connection.close()
    return str(response.headers["Set-Cookie"]).partition(";")[0]


@contextmanager
def tab(child: Child, path: str, cookie: str) -> Iterator[None]:
    """Keep a stream open, and read it."""
    connection = http.client.HTTPConnection(urlsplit(child.url).netloc, timeout=30)
    connection.request("GET", path, headers={"Cookie": cookie})
    sock = connection.sock
    reading = threading.Thread(target=_read, args=(sock,), daemon=True)
    reading.start()
    try:
        yield
    finally:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        reading.join()


def _read(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(65_536):
            pass


def compare(
    stage: Stage, load: Load, traffic: Traffic, *, delivery: bool
) -> list[tuple[Measured, Measured]]:
    """Return pairs of slices: with the tabs and without."""
    child = stage.gateway(stage.upstream(), delivery=delivery)
    with child.resumed():
        load.warm(child, traffic)
        cookie = sign_in(child, stage.key)
    pairs = []
    for number in range(PAIRS):
        measured: dict[bool, Measured] = {}
        for is_open in (True, False) if number % 2 else (False, True):
            measured[is_open] = _slice(load, child, traffic, cookie if is_open else "")
        pairs.append((measured[True], measured[False]))
    return pairs


def _slice(load: Load, child: Child, traffic: Traffic, cookie: str) -> Measured:
    """Measure a slice; with a cookie, while tabs are open. Then wait until nothing is left."""
    with child.resumed(), ExitStack() as stack:
        for path in TABS if cookie else ():
            stack.enter_context(tab(child, path, cookie))
        measured = measure(load, child, traffic)
    with child.resumed():
        time.sleep(CLOSING_SECONDS)
        while _is_delivering(child):
            time.sleep(0.2)
    return measured


def _is_delivering(child: Child) -> bool:
    """Return whether items still wait, in a gateway that delivers."""
    with urlopen(f"{child.url}/metrics", timeout=30) as response:
        text = response.read().decode()
    called = CALLED.search(text) is not None
    return called and sum(map(float, QUEUED.findall(text))) > 0


def main() -> None:
    """Measure, and print the ratios."""
    with scratch_folder(ROOT / "data") as scratch, Fleet(ROOT, scratch) as fleet:
        stage = Stage(fleet, scratch, make_key())
        load = Load(stage, replace(QUICK, slice=SECONDS))
        chosen = [COMPARISONS[int(number)] for number in sys.argv[1:]] or COMPARISONS
        for title, traffic, delivery in chosen:
            with fleet.scope():
                pairs = compare(stage, load, traffic, delivery=delivery)
                print(render(title, pairs), flush=True)


if __name__ == "__main__":
    main()
