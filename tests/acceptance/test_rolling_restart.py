"""Two gateways behind nginx on one database, restarted one after the other under load."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from app.callers import key_format
from app.simulator.server import BackgroundServer
from tests.support.nginx import needs_nginx, nginx
from tests.support.postgres import Server
from tests.support.processes import Process, bearer, serving, values
from tests.support.wait import until

CLIENTS = 4
Answers = dict[str, Counter[str]]  # by user: how many answers of each status


@contextmanager
def posting(port: int, key: str) -> Iterator[Answers]:
    """Post numbered events of several users until the end of the block."""
    ended = threading.Event()
    answers: Answers = {f"user-{number}": Counter() for number in range(CLIENTS)}

    def post(user: str) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=40) as client:
            while not ended.is_set():
                number = answers[user].total() + 1
                body = {"userId": user, "event": "E", "value": number}
                answer = client.post("/v1/events", json=body, headers=bearer(key))
                answers[user][str(answer.status_code)] += 1

    with ThreadPoolExecutor(CLIENTS) as threads:
        running = [threads.submit(post, user) for user in answers]
        try:
            yield answers
        finally:
            ended.set()
        for task in running:
            task.result()


def database(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    if kind == "SQLite":
        return f"sqlite:///{folder}/both.db"
    server: Server = request.getfixturevalue("postgresql_server")
    return server.empty()


@needs_nginx
@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_a_rolling_restart_behind_nginx_fails_no_request(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = {
        "GATEWAY_DATABASE_URL": database(kind, tmp_path, request),
        "GATEWAY_BOOTSTRAP_KEY": key_format.make(),
        "GATEWAY_DRAIN_SECONDS": "0.5",
    }
    with ExitStack() as stack:
        leanplum = stack.enter_context(BackgroundServer())
        gateways = list[Process]()
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            gateways.append(stack.enter_context(serving(tmp_path / name, leanplum.url, **settings)))
        # By default nginx avoids a server for ten seconds after it refused a connection
        addresses = " ".join(f"server 127.0.0.1:{one.port} max_fails=0;" for one in gateways)
        proxy = nginx(
            "location / { proxy_pass http://gateways; }", f"upstream gateways {{ {addresses} }}"
        )
        port = stack.enter_context(proxy)
        with posting(port, gateways[0].key) as answers:
            for gateway in gateways:
                until(_more(answers, 20))
                assert gateway.terminate() == 0
                gateway.start()
            until(_more(answers, 20))
        assert {status for counts in answers.values() for status in counts} == {"202"}
        for user, counts in answers.items():
            expected = list(range(1, counts["202"] + 1))
            until(lambda user=user, expected=expected: values(leanplum.url, user) == expected, 60)  # type: ignore[misc]


def _more(answers: Answers, count: int) -> Callable[[], bool]:
    """Return whether so many more answers have come."""
    wanted = sum(counts.total() for counts in answers.values()) + count
    return lambda: sum(counts.total() for counts in answers.values()) >= wanted
