"""A database that is away is no tampering: the metrics, the log and /readyz keep the two apart."""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.audit.sealer import Sealer
from app.database.writer import Writer
from tests.support.database_proxy import Proxy, proxied
from tests.support.gateway import WIDE, Talk, make_settings, running
from tests.support.postgres import Server
from tests.support.wait import until

from .logs import Log, opened

NOT_SEALED, MISFIT = (
    "leanplum_gateway_audit_sealing_failing",
    "leanplum_gateway_audit_tampering_detected",
)
QUICK = {"gateway_commit_seconds": 1}


def metrics(talk: Talk) -> tuple[float, float]:
    """Whether sealing has stopped, and whether the audit does not fit."""
    text = talk.get("/metrics", key=None).text
    found = [re.search(rf"^{name} (\S+)$", text, re.MULTILINE) for name in (NOT_SEALED, MISFIT)]
    assert all(found), text
    stopped, misfit = (float(one[1]) for one in found if one)
    return stopped, misfit


def part(talk: Talk) -> dict[str, Any]:
    found: dict[str, Any] = talk.get("/readyz", key=None).json()["parts"]["audit"]
    return found


def sealed_size(talk: Talk) -> int:
    return int(talk.get("/v1/audit/checkpoint").json()["size"])


@contextmanager
def away(how: str, proxy: Proxy) -> Iterator[None]:
    if how == "refuses":
        proxy.refuse()
    elif how == "silent":
        proxy.fall_silent()
    else:
        proxy.lose_commits(reach=False)
    try:
        yield
    finally:
        proxy.speak()


@pytest.mark.parametrize("how", ["refuses", "silent", "loses commits"])
def test_an_outage_of_postgresql_is_told_as_one_and_sealing_goes_on_after_it(
    tmp_path: Path, migrated: Path, postgresql_server: Server, how: str
) -> None:
    with proxied(postgresql_server.empty()) as proxy:
        settings = make_settings(
            tmp_path, migrated, WIDE | QUICK | {"gateway_database_url": proxy.url}
        )
        with running(settings, tmp_path / "unused.db") as talk:
            assert talk.event().status_code == 202
            until(lambda: talk.get("/v1/audit/checkpoint").status_code == 200)
            before = sealed_size(talk)
            with away(how, proxy):
                talk.event()
                until(lambda: metrics(talk) == (1.0, 0.0), 30)
                told = part(talk)
                assert told["ok"]
                assert "waits for the database" in told["detail"]
                assert "audit.not_sealed" not in told["detail"]
            until(lambda: metrics(talk) == (0.0, 0.0), 30)
            until(lambda: part(talk) == {"ok": True}, 30)
            until(lambda: talk.event().status_code == 202, 30)
            until(lambda: sealed_size(talk) > before, 30)
            assert metrics(talk) == (0.0, 0.0)


def test_a_locked_sqlite_is_told_as_an_outage_and_sealing_goes_on_after_it(
    tmp_path: Path, migrated: Path
) -> None:
    settings = make_settings(tmp_path, migrated, WIDE | QUICK)
    path = Path(settings.gateway_database_url.removeprefix("sqlite:///"))
    with (
        running(settings, path) as talk,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        assert talk.event().status_code == 202
        until(lambda: talk.get("/v1/audit/checkpoint").status_code == 200)
        before = sealed_size(talk)
        assert talk.event().status_code == 202
        other.execute("BEGIN IMMEDIATE")
        until(lambda: metrics(talk) == (1.0, 0.0), 30)
        assert "waits for the database" in part(talk)["detail"]
        other.execute("COMMIT")
        until(lambda: metrics(talk) == (0.0, 0.0), 30)
        until(lambda: sealed_size(talk) > before, 30)


# --- what was found stays found ---------------------------------------------------------------------------------------


def states(log: Log, *acts: Callable[[], object]) -> list[tuple[bool, bool]]:
    """Return what a sealer says after an attempt, and after an attempt that follows each of the
    acts.
    """

    async def attempts() -> list[tuple[bool, bool]]:
        writer = Writer(log.engine)
        writer.start()
        sealer: Sealer = log.sealer(writer)
        found = list[tuple[bool, bool]]()
        try:
            for act in (lambda: None, *acts):
                act()
                await sealer.attempt()
                found.append((sealer.tampered, sealer.waiting))
        finally:
            await writer.stop()
        return found

    return asyncio.run(attempts())


GROW, SHRINK = "UPDATE audit_tree SET size = size + 1", "UPDATE audit_tree SET size = size - 1"
FINE, FOUND, WAITS, BOTH = (False, False), (True, False), (False, True), (True, True)


def test_a_misfit_that_was_found_stays_told_while_the_database_is_away(
    postgresql_server: Server,
) -> None:
    with proxied(postgresql_server.empty()) as proxy, opened(proxy.url) as log:
        log.write(3)
        found = states(
            log,
            proxy.refuse,
            proxy.speak,
            lambda: log.change(GROW),
            proxy.refuse,
            proxy.speak,
            lambda: log.change(SHRINK),
        )
        assert found == [FINE, WAITS, FINE, FOUND, BOTH, FOUND, FINE]


@pytest.mark.parametrize(
    "change",
    ["UPDATE audit_tree SET tail = peaks", "DELETE FROM audit_tree", "UPDATE audit_checkpoints SET note = 'x'",
     "UPDATE sequence SET records = 1", "UPDATE audit_records SET mark = NULL WHERE seq = 4"],
)  # fmt: skip
def test_each_kind_of_tampering_is_a_misfit_and_no_outage(database: str, change: str) -> None:
    with opened(database) as log:
        log.write(3)

        def tamper() -> None:
            log.write(1)
            log.change(change)

        assert states(log, tamper) == [FINE, FOUND]
