"""Records from before there were marks: what nobody can vouch for isn't adopted; what is sealed
gets its mark.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.audit.adopting import adopt
from app.audit.checkpoints import encoded
from app.audit.marking import Marker
from app.audit.merkle import leaf_hash
from app.audit.sealing import NotSealed
from app.database.engine import transaction
from app.errors import StartRefused
from app.settings import Settings
from tests.audit.logs import Log, opened
from tests.audit.test_audit_tamper import empty, in_leaves

SEED = bytes(range(32))


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    """Of 5 records a gateway from before there were marks sealed 3; then it was killed."""
    with opened(database, SEED) as log:
        log.write(3)
        log.seal()
        log.write(2)
        log.change("UPDATE audit_records SET mark = NULL")
        yield log


def adopted(log: Log) -> tuple[int, list[str]]:
    """How many, and what was told."""
    url, told = log.url, list[str]()
    given = Settings(_env_file=None, gateway_database_url=url, gateway_audit_key=encoded(SEED))
    return adopt(given, told.append), told


def unmarked(log: Log) -> list[int]:
    return [
        seq for (seq,) in log.rows("SELECT seq FROM audit_records WHERE mark IS NULL ORDER BY seq")
    ]


def refused(log: Log, why: str) -> None:
    """Adopting is, and marks nothing; sealing is, and doesn't recommend to adopt."""
    before = unmarked(log)
    with pytest.raises(StartRefused, match=why):
        adopted(log)
    assert unmarked(log) == before
    with pytest.raises(NotSealed) as stopped:
        log.seal(2)
    assert "adopt" not in str(stopped.value)


def test_what_was_left_unsealed_from_before_there_were_marks_is_told_marked_sealed_and_recorded(
    log: Log,
) -> None:
    log.write(1)
    with pytest.raises(NotSealed, match=r"record 4 has no mark.*audit adopt"):
        log.seal()
    count, (told,) = adopted(log)
    assert (
        count,
        "records 4 to 5, from 1970-01-01T00:00:01.004Z to 1970-01-01T00:00:01.005Z" in told,
    ) == (2, True)
    log.seal()
    assert (log.verified().findings, log.verified().sealed) == ([], 7)
    (act,) = log.rows("SELECT record FROM audit_records WHERE seq = 7")[0]
    assert '"audit.adopt"' in act
    assert '"records 4 to 5"' in act
    assert adopted(log) == (0, [])


def test_nothing_is_adopted_once_the_checkpoints_were_taken_away(log: Log) -> None:
    empty(log)
    log.change("UPDATE audit_records SET record = replace(record, '127.', '10.') WHERE seq = 2")
    refused(log, "no checkpoint")


def test_nothing_is_adopted_where_the_tree_is_not_that_of_the_newest_checkpoint(log: Log) -> None:
    log.change("UPDATE audit_tree SET size = 2")
    refused(log, "no checkpoint")


def test_a_record_without_a_mark_that_was_put_behind_one_that_has_one_is_not_adopted(
    database: str,
) -> None:
    with opened(database, SEED) as log:
        log.write(3)
        log.seal()
        log.write(1)
        log.change("UPDATE audit_records SET mark = NULL WHERE seq = 4")
        refused(log, "record 4 has no mark, and record 1 before it has one")


def test_a_record_behind_the_last_that_was_written_is_not_adopted(log: Log) -> None:
    log.change("INSERT INTO audit_records (seq, time, record) VALUES (6, 1, '{}')")
    with pytest.raises(StartRefused, match="record 6 has no mark, and only 5 records were written"):
        adopted(log)


@pytest.mark.parametrize(
    "change",
    [
        "time = time + 1",
        "record = replace(record, '\"sequence\":5', '\"sequence\":4')",
        "record = 'no JSON'",
    ],
)
def test_a_row_that_differs_from_what_its_record_says_is_not_adopted(log: Log, change: str) -> None:
    log.change(f"UPDATE audit_records SET {change} WHERE seq = 5")
    with pytest.raises(StartRefused, match="record 5 has no mark, and its text"):
        adopted(log)
    assert unmarked(log) == [1, 2, 3, 4, 5]


def test_a_row_that_is_no_text_is_not_adopted(path: Path) -> None:
    with opened(f"sqlite:///{path}", SEED) as log:
        log.write(1)
        log.seal()
        log.write(1)
        log.change("UPDATE audit_records SET mark = NULL, record = CAST(record AS BLOB)")
        with pytest.raises(StartRefused, match="record 2 has no mark, and its text"):
            adopted(log)


# --- what is sealed gets its mark -------------------------------------------------------------------------------------


def old(log: Log, count: int) -> None:
    """So many records were sealed before there were marks."""
    log.write(count)
    log.seal()
    log.change("UPDATE audit_records SET mark = NULL")


def test_sealed_records_from_before_there_were_marks_get_theirs_and_then_they_speak_for_them(
    database: str,
) -> None:
    with opened(database, SEED) as log:
        old(log, 700)
        log.write(3)
        log.seal()
        assert unmarked(log) == []
        empty(log)
        log.change(
            "UPDATE audit_records SET record = replace(record, '127.', '10.') WHERE seq = 300"
        )
        with pytest.raises(NotSealed, match="record 300 "):
            log.seal(2)
        assert [(one.kind, one.first) for one in log.verified().findings] == [("changed", 300)]


@pytest.mark.parametrize("leaf_too", [False, True])
@pytest.mark.parametrize("seq", [300, 600])
def test_a_sealed_record_that_was_changed_gets_no_mark_whatever_the_hash_beside_it_says(
    database: str, seq: int, leaf_too: bool
) -> None:
    with opened(database, SEED) as log:
        old(log, 600)
        log.write(300)
        log.seal()
        log.change(
            "UPDATE audit_records SET mark = NULL, record = replace(record, '127.', '10.') WHERE seq = ?",
            seq,
        )
        if leaf_too:
            in_leaves(
                log,
                seq,
                leaf_hash(
                    log.rows("SELECT record FROM audit_records WHERE seq = ?", seq)[0][0].encode()
                ),
            )
        log.seal()
        assert seq in unmarked(log)


def test_sealed_records_are_marked_a_bounded_number_at_once_until_none_is_left(
    database: str,
) -> None:
    with opened(database, SEED) as log:
        old(log, 4_096)
        log.write(10)
        log.seal()
        log.change("UPDATE audit_records SET mark = NULL")
        marker, found = Marker(log.engine, log.signer.public, log.marks), list[int]()
        while not marker.done:
            assert len(found) < 9
            marking = marker.step()
            found.append(marking.rows if marking else 0)
            if marking:
                with transaction(log.engine) as cursor:
                    marking.run(cursor)
        assert found == [4_096, 0, 10, 0]
        assert log.verified().findings == []
