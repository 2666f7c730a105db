"""The attacks, each beside a well-behaved caller: short with bounds that a busy machine holds, or
as long and as strict as `make soak` wants (GATEWAY_TESTS_ATTACK_SECONDS).
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks import outages
from tests.attacks.measuring import Row, measured
from tests.attacks.rows import REQUESTS, Attack
from tests.support.postgres import Server

pytestmark = pytest.mark.timed
SECONDS = float(os.environ.get("GATEWAY_TESTS_ATTACK_SECONDS", "0"))
LONG = SECONDS > 0
SHORT_SECONDS, SHORT_BEFORE, BEFORE = 1.5, 0.3, 4.0
SHORT_CONNECTIONS = 12
# What parses and writes much at once holds the interpreter, or the one writer; docs/security.md
# says for how long.
ABOVE = {
    "hostile-bodies": 300.0,
    "packed-with-key": 600.0,
    "beyond-the-rest": 1_500.0,
    "large-batches": 2_500.0,
}
P99_MS, BUSY_MS = 100.0, 5_000.0
MEMORY_MB = 400
Note = Callable[[str, object], None]
# `make test` makes the first of each group
GROUPS = {
    "without a key": ("unknown-key", "packed-without-key", "packed-write-key", "early-answers"),
    "slow connections": ("slow-heads", "slow-bodies"),
    "hostile texts of a phone": ("packed-with-key", "slow-texts", "hostile-bodies", "bombs"),
    "many calls": ("empty-bucket", "nowhere", "keys"),
    "batches beyond a limit": ("beyond-the-rest", "debts"),
    "large calls": ("large-batches", "unknown-actions"),
}


def test_every_attack_is_in_a_group() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(REQUESTS)


@pytest.mark.parametrize("group", GROUPS)
def test_a_well_behaved_caller_is_answered_during_attacks(
    tmp_path: Path, group: str, record_property: Note
) -> None:
    attacks = [REQUESTS[name] for name in GROUPS[group]]
    if LONG:
        rows = measured(tmp_path, attacks, SECONDS, BEFORE)
    else:
        attacks = attacks[:1]
        rows = measured(tmp_path, attacks, SHORT_SECONDS, SHORT_BEFORE, SHORT_CONNECTIONS)
    for attack, row in zip(attacks, rows, strict=True):
        record_property(row.name, row.as_dict())
        faults = faults_of(attack, row)
        assert not faults, (faults, row)


def faults_of(attack: Attack, row: Row) -> list[str]:
    """What is wrong about an attack and what came of it."""
    most = ABOVE.get(row.name, P99_MS) if LONG else BUSY_MS
    checks = {
        "the attack was made": row.requests > 0,
        "every event was accepted": set(row.outcomes) == {"202"},
        f"p99 is at most {most} ms": row.during.p99 <= most,
        f"at most {MEMORY_MB} MB": row.memory_mb <= MEMORY_MB,
        "answers are as they should be": set(row.answers) <= attack.answers,
    }
    return [check for check, holds in checks.items() if not holds]


def test_a_hostile_leanplum_delays_no_caller(tmp_path: Path, record_property: Note) -> None:
    row = outages.hostile_leanplum(tmp_path, SECONDS or 3.0, 0.3)
    record_property(row.name, row.as_dict())
    assert set(row.outcomes) == {"202"}
    assert row.during.p99 <= (P99_MS if LONG else BUSY_MS)
    assert row.memory_mb <= MEMORY_MB
    assert set(row.answers) <= {"202", "504"}


def test_while_its_file_is_away_callers_are_refused_at_once(
    tmp_path: Path, record_property: Note
) -> None:
    row = outages.deleted_file(tmp_path, SECONDS or 2.0, 0.3)
    record_property(row.name, row.as_dict())
    assert set(row.outcomes) <= {"202", "503"}
    assert row.outcomes["503"] > 1
    assert row.during.longest <= BUSY_MS
    assert "/livez 503" not in row.answers
    assert row.answers["/readyz 503"] > 0


def test_while_its_database_is_silent_callers_hear_in_time(
    tmp_path: Path, postgresql_server: Server, record_property: Note
) -> None:
    commit_seconds = 10 if LONG else 2
    row = outages.silent_database(
        tmp_path, 30.0 if LONG else 6.0, 0.3, postgresql_server, commit_seconds
    )
    record_property(row.name, row.as_dict())
    assert set(row.outcomes) <= {"202", "503"}
    assert row.outcomes["503"] >= 1
    assert row.during.longest <= (commit_seconds + 2) * 1000
    assert "/livez 503" not in row.answers
    assert row.answers["/readyz 503"] > 0
