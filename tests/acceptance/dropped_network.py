"""A gateway whose network to PostgreSQL drops every packet: `unshare --net python -m
tests.acceptance.dropped_network URL FOLDER`, as root. The namespace is this program's own: its
firewall touches nobody else's packets.

It prints how long callers waited, as JSON, and ends with 1 and a traceback where a promise was
broken.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
from sqlalchemy import make_url

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.database_proxy import Proxy, proxied
from tests.support.processes import APP_ID, PRODUCTION_KEY, Process, serving, values
from tests.support.wait import until

# GATEWAY_COMMIT_SECONDS and a margin; what /readyz may take
CALLER_SECONDS, READY_SECONDS = 12.0, 6.0
FAILOVER_SECONDS, RECOVERY_SECONDS = 30.0, 40.0
NONE_OF_IT, PERHAPS = "nothing was accepted", "may have been accepted"


def port_of(proxy: Proxy) -> int:
    port = make_url(proxy.url).port
    assert port is not None
    return port


@contextmanager
def dropped(*ports: int) -> Iterator[None]:
    """Drop every packet to and from these ports, in the kernel and without a word."""
    rules = [
        ["INPUT", "-p", "tcp", side, str(port), "-j", "DROP"]
        for port in ports
        for side in ("--dport", "--sport")
    ]
    for rule in rules:
        subprocess.run(["iptables", "-A", *rule], check=True)
    try:
        yield
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-D", *rule], check=True)


def timed_event(gateway: Process, number: int) -> tuple[float, httpx.Response]:
    began = time.monotonic()
    answer = gateway.event("ann", number)
    return time.monotonic() - began, answer


def refused_in_time(gateway: Process, number: int) -> float:
    seconds, answer = timed_event(gateway, number)
    assert answer.status_code == 503, answer.text
    assert NONE_OF_IT in answer.text or PERHAPS in answer.text
    assert "retry-after" in answer.headers
    assert seconds <= CALLER_SECONDS
    return seconds


def unready_in_time(gateway: Process) -> float:
    began = time.monotonic()
    answer = gateway.http.get("/readyz")
    seconds = time.monotonic() - began
    assert (answer.status_code, answer.json()["parts"]["database"]["ok"]) == (503, False)
    assert seconds <= READY_SECONDS
    assert gateway.http.get("/livez").status_code == 200
    return seconds


def goes_on_with_the_second_host(gateway: Process, number: int) -> float:
    """Though the first one is silent; a caller that hears 503 sends the same id again. Returns
    after how long.
    """
    began = time.monotonic()
    while True:
        seconds, answer = timed_event(gateway, number)
        assert seconds <= CALLER_SECONDS
        if answer.status_code in {200, 202}:
            return time.monotonic() - began
        assert answer.status_code == 503, answer.text
        assert time.monotonic() - began < FAILOVER_SECONDS, "the second host was not tried"


def main(database_url: str, folder: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    config = SimulatorConfig(app_id=APP_ID, production_key=PRODUCTION_KEY, deduplicate=False)
    with (
        BackgroundServer(config) as leanplum,
        proxied(database_url) as first,
        proxied(database_url) as second,
    ):
        hosts = make_url(first.url).render_as_string(hide_password=False)
        one, other = f"127.0.0.1:{port_of(first)}", f"127.0.0.1:{port_of(second)}"
        both = hosts.replace(one, f"{one},{other}")
        with serving(folder, leanplum.url, GATEWAY_DATABASE_URL=both) as gateway:
            assert gateway.event("ann", 1).status_code == 202
            with dropped(port_of(first)):
                failover = goes_on_with_the_second_host(gateway, 2)
                until(gateway.ready, RECOVERY_SECONDS)
                with dropped(port_of(second)):
                    slowest = max(refused_in_time(gateway, number) for number in (3, 4))
                    unready = unready_in_time(gateway)
            until(gateway.ready, RECOVERY_SECONDS)
            again = [gateway.event("ann", number).status_code for number in (1, 2, 3, 4, 5)]
            assert again[:2] == [200, 200], "an id that is sent again is recognised"
            assert set(again[2:]) <= {200, 202}
            until(lambda: values(leanplum.url, "ann") == [1, 2, 3, 4, 5], 90)
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT count(*) FROM items").fetchone() == (5,)
    sys.stdout.write(json.dumps({"failover": failover, "slowest": slowest, "not ready": unready}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
