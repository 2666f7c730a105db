"""Many writers, killed whenever: what was answered has its record, and the audit is whole."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx

from app.audit.folded_refusals import FOLDED
from tests.support.processes import Process

from .logs import Log, opened

KILLS, WRITERS = 2, 2
PAUSE = 0.01  # between two events of one backend


KINDS: dict[str, Callable[[Process, str, int, dict[str, str]], httpx.Response]] = {
    "write": lambda at, name, number, headers: at.event(name, number, **headers),
    "read": lambda at, name, number, headers: at.call(
        "GET", f"/v1/receipts/{name}-{number}", headers=headers
    ),
    "refused": lambda at, name, number, headers: at.call(
        "POST", "/v1/events", json={}, headers=headers
    ),
}


class Backend(threading.Thread):
    """Posts to one of the processes, reads and is refused there, and remembers which requests were
    answered.
    """

    def __init__(self, process: Process, name: str, ended: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._process, self._ended = process, ended
        self.answered: list[tuple[str, str]] = []  # request id, status

    def run(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            for kind, ask in KINDS.items():
                request_id = f"{self.name}-{number}-{kind}"
                try:
                    answer = ask(self._process, self.name, number, {"X-Request-ID": request_id})
                except httpx.TransportError:
                    self._ended.wait(0.05)
                else:
                    self.answered.append((request_id, str(answer.status_code)))
            time.sleep(PAUSE)


def test_two_processes_that_write_at_once_and_are_killed_lose_no_record(
    tmp_path: Path, database: str
) -> None:
    ended, backends = threading.Event(), list[Backend]()
    with ExitStack() as stack:
        processes = list[Process]()
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            given = {"GATEWAY_DATABASE_URL": database}
            if processes:
                given["GATEWAY_BOOTSTRAP_KEY"] = processes[0].key
            process = Process(folder, "http://127.0.0.1:9", "--no-delivery", **given)
            process.key = processes[0].key if processes else process.key
            stack.callback(process.close)
            process.start()
            processes.append(process)
            backends += [Backend(process, f"b{number}{writer}", ended) for writer in range(WRITERS)]
        for backend in backends:
            backend.start()
        for kill in range(KILLS):
            time.sleep(0.3)  # what is written meanwhile is what matters; any moment will do
            processes[kill % 2].kill()
            processes[kill % 2].start()
        ended.set()
        for backend in backends:
            backend.join(30)
        for process in processes:
            process.kill()
    with opened(database, seed(database)) as log:
        log.now = int(time.time() * 1000)
        report = log.verified()
        assert report.findings == []
        assert report.sealed > 0
        assert missing(log, backends) == []
        (written,) = log.rows("SELECT records FROM sequence")[0]
        assert report.records == written > 20
        log.seal()
        assert (log.verified().findings, log.verified().sealed) == ([], written)


def missing(log: Log, backends: list[Backend]) -> list[tuple[str, str]]:
    """Requests that were answered and have no record that says so."""
    found = [json.loads(record) for (record,) in log.rows("SELECT record FROM audit_records")]
    recorded = {
        (one["api"]["request"]["uid"], one["status_code"])
        for one in found
        if "request" in one["api"]
    }
    answered = {told for backend in backends for told in backend.answered}
    assert {status for _, status in answered} >= {"202", "200", "422"}
    # Counts wait for ten seconds
    answered = {(uid, status) for uid, status in answered if int(status) not in FOLDED}
    return sorted(answered - recorded)


def seed(database: str) -> bytes:
    from app.audit.signing_keys import load_keys_to_write
    from app.database.engine import connect

    engine = connect(database)
    try:
        return load_keys_to_write(engine, None).root_key
    finally:
        engine.dispose()
