"""Whoever changes the audit in the database, past the gateway, is found, and what they changed is
named: online, and offline from an export.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from app.audit.evidence import read_evidence
from app.audit.export import read_export
from app.audit.findings import Report
from app.audit.merkle import leaf_hash
from app.audit.records import AuditMacs, administrative_act, insert
from app.audit.sealer import NotSealed
from app.audit.tree import BLOCK, block_hash
from app.audit.verify import verify
from app.cli.audit_report import report_lines
from app.database.engine import snapshot, transaction

from .logs import Log, empty, in_leaves, opened

SEALED, UNSEALED = 530, 12  # two blocks and a part of one, and what came after the last checkpoint
WRITTEN = SEALED + UNSEALED
Named = list[tuple[str, int]]
ANOTHER = AuditMacs(b"another key, of somebody else    ")
ROW = "SELECT record, mark, time FROM audit_records WHERE seq = ?"
SET = "UPDATE audit_records SET record = ?, mark = ? WHERE seq = ?"
MOVE = "UPDATE audit_records SET seq = ? WHERE seq = ?"
PUT = "INSERT INTO audit_records (seq, time, record, mark) VALUES (?, ?, ?, ?)"


def row(log: Log, seq: int) -> tuple[str, bytes, int]:
    record, mark, time = log.rows(ROW, seq)[0]
    return record, bytes(mark), time


def forged(log: Log, seq: int) -> tuple[str, bytes]:
    """Another record, with the best mark that somebody without the key can make."""
    text = row(log, seq)[0].replace('"127.0.0.1"', '"10.6.6.6"')
    return text, ANOTHER.of_record(seq, text.encode())


def edit(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(1, WRITTEN)
    log.change(SET, forged(log, seq)[0], row(log, seq)[1], seq)
    return [("changed", seq)]


def edit_with_a_mark(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(1, WRITTEN)
    log.change(SET, *forged(log, seq), seq)
    return [("changed", seq)]


def edit_white_space(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(1, SEALED)
    text = row(log, seq)[0] + chance.choice([" ", "\n", "\n{}"])
    log.change(SET, text, row(log, seq)[1], seq)
    return [("changed", seq)]


def edit_time_beside(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(1, WRITTEN)
    log.change("UPDATE audit_records SET time = 5 WHERE seq = ?", seq)
    return [("changed", seq)]


def edit_mark_beside(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(1, WRITTEN)
    mark = chance.choice([bytes(32), b"short", row(log, seq % WRITTEN + 1)[1]])
    log.change("UPDATE audit_records SET mark = ? WHERE seq = ?", mark, seq)
    return [("changed", seq)]


def take_the_mark_away(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(SEALED + 1, WRITTEN)
    log.change("UPDATE audit_records SET mark = NULL WHERE seq = ?", seq)
    return [("inserted", seq)]


def renumber(log: Log, chance: random.Random) -> Named:
    """Two that are not sealed yet, each with the other's number in its text as well."""
    one, two = chance.sample(range(SEALED + 1, WRITTEN + 1), 2)
    (first, *_), (second, *_) = row(log, one), row(log, two)
    for text, seq, before in ((second, one, two), (first, two, one)):
        text = text.replace(f'"sequence":{before}', f'"sequence":{seq}')
        log.change(SET, text, ANOTHER.of_record(seq, text.encode()), seq)
    return [("changed", one), ("changed", two)]


def blank(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(1, WRITTEN)
    log.change(
        "UPDATE audit_records SET record = ? WHERE seq = ?",
        chance.choice(["", "{}", "no JSON", "[1]"]),
        seq,
    )
    return [("changed", seq)]


def delete(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(1, WRITTEN - 1)
    log.change("DELETE FROM audit_records WHERE seq = ?", seq)
    return [("removed", seq)]


def delete_some(log: Log, chance: random.Random) -> Named:
    first = chance.randint(1, SEALED)
    last = min(first + chance.randint(0, 300), WRITTEN - 1)
    log.change("DELETE FROM audit_records WHERE seq BETWEEN ? AND ?", first, last)
    return [("removed", first), ("removed", last)]


def delete_and_close_the_gap(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(1, SEALED)
    log.change("DELETE FROM audit_records WHERE seq = ?", seq)
    for later in range(seq + 1, WRITTEN + 1):
        log.change(MOVE, later - 1, later)
    return [("removed", seq), ("cut off", WRITTEN)]


def cut_off(log: Log, chance: random.Random) -> Named:
    after = chance.randint(0, WRITTEN - 1)
    log.change("DELETE FROM audit_records WHERE seq > ?", after)
    return [("cut off", after + 1), ("cut off", WRITTEN)]


def cut_off_with_the_counter(log: Log, chance: random.Random) -> Named:
    after = chance.randint(0, SEALED - 1)
    log.change("DELETE FROM audit_records WHERE seq > ?", after)
    log.change("UPDATE sequence SET records = ?", after)
    return [("cut off", after + 1), ("cut off", SEALED)]


def cut_off_the_front(log: Log, chance: random.Random) -> Named:
    upto = chance.randint(1, SEALED)
    log.change("DELETE FROM audit_records WHERE seq <= ?", upto)
    return [("removed", 1), ("removed", upto)]


def cut_off_the_front_as_retention_would(log: Log, chance: random.Random) -> Named:
    upto = chance.randint(1, SEALED)
    log.change("DELETE FROM audit_records WHERE seq <= ?", upto)
    log.change("UPDATE audit_tree SET removed = ?", upto)
    return [("removed", 1), ("removed", upto)]


def swap(log: Log, chance: random.Random) -> Named:
    one, two = chance.sample(range(1, WRITTEN + 1), 2)
    first, second = row(log, one), row(log, two)
    log.change(SET, *second[:2], one)
    log.change(SET, *first[:2], two)
    return [("reordered", one), ("reordered", two)]


def swap_numbers(log: Log, chance: random.Random) -> Named:
    one, two = chance.sample(range(1, WRITTEN + 1), 2)
    for old, new in ((one, 0), (two, one), (0, two)):
        log.change(MOVE, new, old)
    return [("reordered", one), ("reordered", two)]


def copy_over(log: Log, chance: random.Random) -> Named:
    one, two = chance.sample(range(1, SEALED + 1), 2)
    log.change(SET, *row(log, one)[:2], two)
    return [("changed", two)]


def move_far_away(log: Log, chance: random.Random) -> Named:
    seq, far = chance.randint(1, SEALED), 10**15
    log.change(MOVE, far, seq)
    log.change("UPDATE sequence SET records = ?", far)
    return [("reordered", seq), ("removed", WRITTEN + 1), ("removed", far - 1), ("reordered", far)]


def insert_far_away(log: Log, chance: random.Random) -> Named:
    text, mark = forged(log, 1)
    far = chance.choice([2**63 - 1, -(2**63), 2**62 + 1, -(2**62) - 1])
    log.change(PUT, far, log.now, text, mark)
    return [("inserted", far)]


def insert_behind(log: Log, chance: random.Random) -> Named:
    text, mark = forged(log, chance.randint(1, WRITTEN))
    log.change(PUT, WRITTEN + 1, log.now, text, mark)
    return [("inserted", WRITTEN + 1)]


def insert_before(log: Log, chance: random.Random) -> Named:
    text, mark = forged(log, 1)
    log.change(PUT, -chance.randint(0, 5), log.now, text, mark)
    return [("inserted", log.rows("SELECT min(seq) FROM audit_records")[0][0])]


def insert_and_renumber(log: Log, chance: random.Random) -> Named:
    seq = chance.randint(1, SEALED)
    text, mark = forged(log, seq)
    for later in range(WRITTEN, seq - 1, -1):
        log.change(MOVE, later + 1, later)
    log.change(PUT, seq, log.now, text, mark)
    log.change("UPDATE sequence SET records = records + ?", chance.randint(0, 1))
    return [("inserted", seq)]


TAMPERINGS: list[Callable[[Log, random.Random], Named]] = [
    edit, edit_with_a_mark, edit_white_space, edit_time_beside, edit_mark_beside, take_the_mark_away, renumber, blank,
    delete, delete_some, delete_and_close_the_gap, cut_off, cut_off_with_the_counter,
    cut_off_the_front, cut_off_the_front_as_retention_would, swap, swap_numbers,
    copy_over, move_far_away, insert_far_away, insert_behind, insert_before, insert_and_renumber,
]  # fmt: skip


def names(report: Report, named: Named) -> list[tuple[str, int]]:
    """What of `named` the report does not name."""
    return [
        (kind, seq)
        for kind, seq in named
        if not any(kind == one.kind and one.first <= seq <= one.last for one in report.findings)
    ]


@pytest.mark.parametrize("seq", [1, 200, 256, 257, 512, 513, 530])
@pytest.mark.parametrize("hashes_too", [False, True])
def test_a_record_that_is_changed_with_every_hash_of_it_is_found_and_named_with_its_neighbours(
    log: Log, tmp_path: Path, seq: int, hashes_too: bool
) -> None:
    text, mark = forged(log, seq)
    log.change(SET, text, mark, seq)
    in_leaves(log, seq, leaf_hash(text.encode()))
    if hashes_too:
        for place, leaves in log.rows("SELECT place, leaves FROM audit_nodes WHERE level = 8"):
            changed = block_hash(bytes(leaves))
            log.change(
                "UPDATE audit_nodes SET hash = ? WHERE level = 8 AND place = ?", changed, place
            )
    for report in (log.verified(), log.verified_offline(tmp_path)):
        assert names(report, [("changed", seq)]) == [], report.findings
        assert all(one.last - one.first <= 300 for one in report.findings), report.findings


TABLES = ("audit_records", "audit_nodes", "audit_tree", "audit_checkpoints", "sequence")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """One log on each kind of database, for the whole module, with a copy of its tables."""
    if request.param == "sqlite":
        path = shutil.copy(
            request.getfixturevalue("migrated"), tmp_path_factory.mktemp("tamper") / "g.db"
        )
        url = f"sqlite:///{path}"
    else:
        url = request.getfixturevalue("postgresql_server").empty()
    with opened(url) as found:
        for count in (200, 300, SEALED - 500):
            found.write(count)
            found.seal()
        found.write(UNSEALED)
        for table in TABLES:
            found.change(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
        assert (
            found.verified().findings
            == found.verified_offline(tmp_path_factory.mktemp("whole")).findings
            == []
        )
        yield found


@pytest.fixture
def log(made: Log) -> Iterator[Log]:
    """The same, put right again afterwards."""
    yield made
    restore(made)
    assert made.verified().findings == []


def restore(log: Log) -> None:
    for table in TABLES:
        log.change(f"DELETE FROM {table}")
        log.change(f"INSERT INTO {table} SELECT * FROM kept_{table}")


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda one: one.__name__)
@pytest.mark.sampled(2)
def test_each_tampering_is_found_and_named_online_and_offline(
    log: Log, tmp_path: Path, tamper: Callable[..., Named]
) -> None:
    chance = random.Random(tamper.__name__)
    for _ in range(2 if "gap" in tamper.__name__ or "renumber" in tamper.__name__ else 4):
        named = tamper(log, chance)
        found = log.verified()
        assert names(found, named) == [], (named, found.findings[:20])
        found, named = (
            log.verified_offline(tmp_path),
            [] if tamper in BY_MARKS else [*filter(sealed, named)],
        )
        assert names(found, named) == [], (named, found.findings[:20])
        restore(log)


BY_MARKS = (edit_mark_beside, take_the_mark_away)  # which no export has


def sealed(named: tuple[str, int]) -> bool:
    """Whether it is found without the key: of what isn't sealed yet, only that something is gone or
    misplaced.
    """
    return named[1] <= SEALED or named[0] != "changed"


def test_a_log_of_which_nothing_is_signed_is_held_against_its_marks(
    log: Log, tmp_path: Path
) -> None:
    empty(log)
    log.change(SET, *forged(log, 7), 7)
    assert [(one.kind, one.first) for one in log.verified().findings] == [("changed", 7)]
    assert log.verified().nothing_sealed
    assert [one.kind for one in log.verified_offline(tmp_path).findings] == ["checkpoint"]


CHECKPOINTS = ("audit_nodes", "audit_tree", "audit_checkpoints")


def test_a_log_of_which_a_gateway_must_have_sealed_something_is_not_let_pass_without_a_checkpoint(
    log: Log,
) -> None:
    for table in CHECKPOINTS:
        log.change(f"DELETE FROM {table}")
    first = row(log, 1)[2]
    for now, found in ((first + 60_000, []), (first + 60_001, [("checkpoint", 0)])):
        report = verified_at(log, now)
        assert [(one.kind, one.first) for one in report.findings] == found
        assert report.nothing_sealed is not bool(found)
    assert "although record 1, " in report.findings[0].detail
    assert "NOT as they were recorded" in "".join(report_lines(report))


def test_what_commands_alone_have_recorded_need_not_be_sealed(database: str) -> None:
    with opened(database) as log:
        text = administrative_act(time=1, act="key.create", subject="key_1")
        with transaction(log.engine) as cursor:
            insert(cursor, log.macs, [(1, text)])
        report = verified_at(log, 10**12)
        assert (report.findings, report.nothing_sealed) == ([], True)
        log.write(1)
        assert [one.kind for one in verified_at(log, 10**12).findings] == ["checkpoint"]
        log.seal()
        assert verified_at(log, 10**12).findings == []


def verified_at(log: Log, now: int) -> Report:
    with snapshot(log.engine) as connection:
        return verify(
            read_evidence(connection, log.signer.public), log.signer.public, (), log.macs, now
        )


def insert_last(log: Log, chance: random.Random) -> Named:
    text, _ = forged(log, WRITTEN)
    text = text.replace(f'"sequence":{WRITTEN}', f'"sequence":{WRITTEN + 1}')
    log.change(PUT, WRITTEN + 1, log.now, text, ANOTHER.of_record(WRITTEN + 1, text.encode()))
    log.change("UPDATE sequence SET records = records + 1")
    return [("changed", WRITTEN + 1)]


@pytest.mark.parametrize(
    "tamper",
    [edit, edit_with_a_mark, edit_mark_beside, take_the_mark_away, swap, renumber, insert_last],
)
def test_with_the_tree_emptied_and_records_changed_while_it_is_stopped_a_new_gateway_seals_none_of_them(
    log: Log, tamper: Callable[..., Named]
) -> None:
    empty(log)
    named = tamper(log, random.Random(tamper.__name__))
    first = min(seq for _, seq in named)
    with pytest.raises(NotSealed, match=f"record {first} "):
        log.seal(3)
    found = log.verified()
    assert found.sealed == first - 1, "what was recorded before it, as it was recorded"
    assert names(found, named) == [], found.findings[:20]


def test_a_record_that_is_changed_before_it_is_sealed_is_named_and_not_sealed(log: Log) -> None:
    log.change(SET, *forged(log, WRITTEN), WRITTEN)
    with pytest.raises(NotSealed, match=f"record {WRITTEN} "):
        log.seal(2)
    assert names(log.verified(), [("changed", WRITTEN)]) == []


def test_cutting_off_what_is_last_with_the_tree_and_the_count_is_seen_with_a_checkpoint_from_outside(
    log: Log,
) -> None:
    kept = log.note()
    empty(log)
    log.change("DELETE FROM audit_records WHERE seq > 400")
    log.change("UPDATE sequence SET records = 400")
    log.seal()
    assert log.verified().findings == [], "it is consistent in itself"
    assert names(log.verified(kept), [("cut off", 401), ("cut off", SEALED)]) == []


def test_an_export_that_was_cut_together_with_its_head_tells_that_it_is_a_part(
    log: Log, tmp_path: Path
) -> None:
    log.verified_offline(tmp_path)
    head, *lines = (tmp_path / "export.jsonl").read_bytes().splitlines(keepends=True)
    cut = orjson.dumps(orjson.loads(head) | {"last": WRITTEN - 5}) + b"\n"
    (tmp_path / "cut").write_bytes(
        cut + b"".join(line for line in lines if _number(line) <= WRITTEN - 5)
    )
    report = verify(read_export(tmp_path / "cut"), log.signer.public)
    assert report.part == (None, WRITTEN - 5)
    assert f"from record 1 to {WRITTEN - 5}" in "".join(report_lines(report))
    assert "7 records are newer" in "".join(report_lines(report))


@pytest.mark.parametrize(
    ("since", "until", "reach"),
    [
        (None, 0, "without a record"), (10**9, None, f"from record {WRITTEN + 1} on"),
        (1_300, None, "from record 300 on"), (1_300, 1_400, "from record 300 to 399"),
        (1_400, 1_300, "without a record"),
    ],
)  # fmt: skip
def test_what_part_an_export_is_of_is_told(
    log: Log, tmp_path: Path, since: int | None, until: int | None, reach: str
) -> None:
    report = log.verified_offline(tmp_path, since=since, until=until)
    assert report.findings == []
    assert f"This is a part, {reach}: " in "".join(report_lines(report))


def _number(line: bytes) -> int:
    return int(orjson.loads(line)["seq"]) if line.startswith(b'{"seq"') else 0


def test_a_hash_that_proofs_are_made_of_is_found_where_it_alone_was_changed(
    log: Log, tmp_path: Path
) -> None:
    log.change("UPDATE audit_nodes SET hash = ? WHERE level = 8 AND place = 1", bytes(32))
    for report in (log.verified(), log.verified_offline(tmp_path)):
        assert [(one.kind, one.first) for one in report.findings] == [("checkpoint", 2 * BLOCK)]
        assert "the hash of the last 256" in report.findings[0].detail


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_nodes SET hash = ? WHERE level = 9",
        "DELETE FROM audit_nodes WHERE level = 9 AND hash != ?",
    ],
)
def test_a_hash_above_those_of_256_records_is_found_where_it_alone_was_changed(
    log: Log, change: str
) -> None:
    log.change(change, bytes(32))
    (found,) = log.verified().findings
    assert (found.kind, found.first) == ("checkpoint", 512)
    assert "the hash of the last 512, which proofs use" in found.detail
