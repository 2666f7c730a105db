"""The gateway's promises in random histories of several processes, on a virtual clock.

`GATEWAY_TESTS_HISTORIES` says how many; `GATEWAY_TESTS_SEED=n` runs one alone, and
`GATEWAY_TESTS_PROFILE=name` makes all of one kind (`histories.PROFILES`). What is shown of one that
broke a promise is its trace: seconds of virtual time, the process (`-`: outside), what happened.
"""

import os
import traceback
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.postgres import Server

from .clockwork import VirtualLoop, run_in_virtual_time
from .histories import PROFILES, History
from .promises import broken
from .seam import Database, Postgresql, Sqlite

HISTORIES = int(os.environ.get("GATEWAY_TESTS_HISTORIES", "40"))
SEED = os.environ.get("GATEWAY_TESTS_SEED")
PROFILE = os.environ.get("GATEWAY_TESTS_PROFILE")
POSTGRESQL_SHARE = 4  # one history in so many is run on PostgreSQL, which takes longer
PARTS = 4  # that the workers of a run may share
SHOWN = 400  # lines of a trace
REPEAT = "GATEWAY_TESTS_SEED=n repeats one of them"


@pytest.fixture
def sqlite(tmp_path: Path, migrated: Path) -> Database:
    return Sqlite(tmp_path / "g.db", migrated)


@pytest.fixture
def postgresql(postgresql_server: Server) -> Database:
    return Postgresql(postgresql_server)


def judge(database: Database, seed: int) -> tuple[str, list[str], list[str]]:
    """One history: its profile, what it broke, and its trace."""
    profile = PROFILE or list(PROFILES)[seed % len(PROFILES)]
    found: list[str] = []
    lines: list[str] = []
    database.reset()

    async def live(loop: VirtualLoop) -> None:
        history = History(loop, database, seed, profile)
        lines_of = history.world.lines
        try:
            with history.world.logging():
                await history.run()
                found.extend(await broken(history))
                await history.end()
        except Exception:  # whatever it is, it belongs to a seed and a trace
            found.append(traceback.format_exc())
        finally:
            lines.extend(lines_of)

    run_in_virtual_time(live, seed)
    return profile, found, lines


def run(database: Database, seeds: Iterable[int]) -> None:
    """Judge histories; the first that breaks a promise is shown whole, the others are named."""
    failed: list[str] = []
    shown = ""
    for seed in seeds:
        profile, found, lines = judge(database, seed)
        if found:
            failed.append(f"seed {seed} ({profile}): {found[0]}")
            shown = shown or "\n".join([*lines[-SHOWN:], "", *found])
    if failed:
        pytest.fail("\n".join([shown, "", *failed, REPEAT]), pytrace=False)


def test_a_seed_gives_the_same_history_again(sqlite: Database) -> None:
    assert judge(sqlite, 10)[2] == judge(sqlite, 10)[2]


def seeds_of(part: int, of: int) -> Iterable[int]:
    """The seeds of one of several parts."""
    return [int(SEED)] if SEED else range(part, of, PARTS)


@pytest.mark.parametrize("part", range(1 if SEED else PARTS))
def test_promises_hold_in_random_histories_on_sqlite(sqlite: Database, part: int) -> None:
    run(sqlite, seeds_of(part, HISTORIES))


@pytest.mark.parametrize("part", range(1 if SEED else PARTS))
def test_promises_hold_in_random_histories_on_postgresql(postgresql: Database, part: int) -> None:
    run(postgresql, seeds_of(part, HISTORIES // POSTGRESQL_SHARE))
