"""PostgreSQL with a full disk, and a slow one, while items are accepted and delivered.

A call is refused, or its items arrive in their order; and all goes on by itself afterwards.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import httpx
import psycopg

from app.settings import Settings
from tests.support.database_proxy import proxied
from tests.support.disks import file_system, fill
from tests.support.gateway import Talk, problem
from tests.support.postgres import Server
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

USERS = ("ann", "bob", "cid")
LOAD = 8_000  # bytes of an event that cannot be compressed
REFUSALS = 6
COMMIT_SECONDS = 2.0
SLOW_SECONDS, TOO_SLOW_SECONDS = 0.03, 0.6  # of each answer; a commit takes some eight


class Sender:
    """Sends numbered events of some users, and remembers what was promised."""

    def __init__(self, talk: Talk, leanplum: Leanplum) -> None:
        self._talk, self._leanplum = talk, leanplum
        self._number = 0
        self.promised: dict[str, list[int]] = {user: [] for user in USERS}
        self.doubtful, self.refused = set[int](), set[int]()

    def send(self) -> list[int]:
        """Send an event of each user; return the statuses."""
        return [self._send(user).status_code for user in USERS]

    def _send(self, user: str) -> httpx.Response:
        self._number += 1
        number = self._number
        answer = self._talk.event({
            "userId": user, "event": "E", "value": number, "id": f"id-{number}",
            "params": {"load": os.urandom(LOAD // 2).hex()},
        })  # fmt: skip
        if answer.status_code == 202:
            self.promised[user].append(number)
            return answer
        assert "storage-unavailable" in answer.text, answer.text
        assert answer.headers["retry-after"]
        if "may have been" in answer.text:
            self.doubtful.add(number)
        else:
            problem(answer, 503, "storage-unavailable")
            self.refused.add(number)
        return answer

    def all_promises_are_kept(self) -> None:
        """Wait until nothing waits, and compare what has arrived with what was promised."""
        self._talk.until_nothing_waits(60)
        for user in USERS:
            arrived = [
                int(float(action["value"]))
                for action in self._leanplum.arrived()
                if action.get("userId") == user
            ]
            numbers = [number for number, _ in groupby(arrived)]
            assert numbers == sorted(set(numbers)), "in the order accepted"
            assert set(self.promised[user]) <= set(numbers), "nothing is lost"
            assert self.refused.isdisjoint(numbers), "what was refused was not stored"
        for number in self.refused:
            assert self._talk.get(f"/v1/receipts/id-{number}").status_code == 404


@contextmanager
def small_space(server: Server) -> Iterator[tuple[str, Path]]:
    """A database whose tables are on a file system of 48 MB; its URL, and that place."""
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)  # noqa: S103 - another user's server goes through it
        with (
            file_system(Path(folder) / "disk", "48m") as place,
            psycopg.connect(server.url("postgres"), autocommit=True) as connection,
        ):
            space = place / "space"
            space.mkdir()
            found = connection.execute("SHOW data_directory").fetchone()
            assert found is not None
            owner = os.stat(found[0])
            os.chown(space, owner.st_uid, owner.st_gid)
            connection.execute(f"CREATE TABLESPACE small LOCATION '{space}'".encode())
            connection.execute("CREATE DATABASE full_disk TEMPLATE migrated TABLESPACE small")
            try:
                yield server.url("full_disk"), place
            finally:
                connection.execute("DROP DATABASE full_disk WITH (FORCE)")
                connection.execute("DROP TABLESPACE small")


def test_on_a_full_disk_calls_are_refused_and_all_that_was_promised_arrives_in_order(
    postgresql_server: Server, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with small_space(postgresql_server) as (url, place), simulated() as leanplum:
        given = {"gateway_database_url": url}
        with delivering_to(leanplum, settings, tmp_path / "none", **given) as talk:
            sender = Sender(talk, leanplum)
            assert sender.send() == [202] * 3
            filler = fill(place, but=300_000)
            while len(sender.refused) < REFUSALS:
                sender.send()
            assert talk.get("/readyz", key=None).status_code == 503
            filler.unlink()
            until(lambda: sender.send() == [202] * 3)
            assert talk.get("/readyz", key=None).status_code == 200
            sender.all_promises_are_kept()


def test_a_slow_server_delays_calls_and_a_slower_one_refuses_them_and_nothing_is_lost(
    postgresql_server: Server, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with proxied(postgresql_server.empty()) as proxy, simulated() as leanplum:
        given = {"gateway_database_url": proxy.url, "gateway_commit_seconds": COMMIT_SECONDS}
        with delivering_to(leanplum, settings, tmp_path / "none", **given) as talk:
            sender = Sender(talk, leanplum)
            assert sender.send() == [202] * 3
            proxy.slow_down(SLOW_SECONDS)
            assert sender.send() == [202] * 3
            proxy.slow_down(TOO_SLOW_SECONDS)
            for _ in range(2):
                assert 202 not in sender.send()
            proxy.slow_down(0)
            until(lambda: sender.send() == [202] * 3)
            sender.all_promises_are_kept()
            assert len(sender.refused) + len(sender.doubtful) >= 2 * len(USERS)
