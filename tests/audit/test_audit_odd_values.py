"""Values of any type: SQLite's columns take whatever somebody puts there, and an export is a file
that anybody may have written. Verifying, exporting and reading end with a finding or a sentence,
never with a crash, and soon.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.audit import proofs, record_search
from app.audit.evidence import read_evidence
from app.audit.export import read_export
from app.audit.findings import Report
from app.audit.record_search import RecordFilter
from app.audit.tree import to_base64
from app.audit.verify import verify
from app.database.engine import snapshot
from app.errors import GatewayError, StartRefused
from tests.support.postgres import Server
from tests.support.processes import ended

from .logs import Log, opened

pytestmark = pytest.mark.timeout(60, func_only=True)  # a value that makes a loop endless fails
SEALED, WRITTEN = 1_030, 1_034  # four blocks, so that there are hashes of two and of four
TABLES = ("audit_records", "audit_nodes", "audit_tree", "audit_checkpoints", "sequence")
NOTE = "name\n{}\nroot\n\n- name signature\n"
VALUES = {
    "NULL": "NULL", "a blob": "x'ff00'", "32 bytes": f"x'{'07' * 32}'", "text": "'text'", "no text": "''",
    "bad UTF-8": "CAST(x'22fffe80' AS TEXT)", "a real": "0.5", "infinite": "9e999", "negative": "-1", "zero": "0",
    "large": str(10**12), "largest": str(2**63 - 1), "smallest": str(-(2**63)),
    "a note of 5,000 digits": f"'{NOTE.format('9' * 5_000)}'", "a note of other digits": f"'{NOTE.format('٣')}'",
    "deep JSON": "replace(hex(zeroblob(50000)), '00', '[')",
    "an app that is a list": """'{"unmapped":{"app":["x"]},"api":{"operation":"x"},"status_code":"200"}'""",
    "lists": """'{"metadata":{"sequence":[1]},"time":[],"api":[]}'""",
}  # fmt: skip
# Which row of each table, and what of it; a finding is due where the value speaks for records
WHERE = {
    "audit_records": ("seq = 300", ("seq", "time", "record", "mark")),
    "audit_nodes": ("level = 8 AND place = 1", ("level", "place", "hash", "leaves")),
    "audit_nodes above": ("level = 9 AND place = 1", ("level", "place", "hash")),
    "audit_tree": ("1 = 1", ("size", "peaks", "tail", "removed", "statement")),
    "audit_checkpoints": (f"size = {SEALED}", ("size", "note", "time")),
    "audit_checkpoints before": ("size = 1000", ("size", "note")),
    "sequence": ("1 = 1", ("records",)),
}
# as good as the value before: no statement; the time of a checkpoint is not signed
SAME = {
    ("audit_tree", "removed", "zero"),
    ("audit_tree", "statement", "NULL"),
}
UNSIGNED = {("audit_checkpoints", "time")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """A log whose tables take anything: somebody has made them anew without their constraints."""
    with opened(f"sqlite:///{tmp_path_factory.mktemp('odd')}/g.db") as log:
        for count in (1_000, SEALED - 1_000):
            log.write(count)
            log.seal()
        log.write(WRITTEN - SEALED)
        for table in TABLES:
            log.change(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
            log.change(f"DROP TABLE {table}")
            log.change(f"CREATE TABLE {table} AS SELECT * FROM kept_{table}")
        assert log.verified().findings == []
        yield log


@pytest.fixture
def log(made: Log) -> Iterator[Log]:
    yield made
    for table in TABLES:
        made.change(f"DELETE FROM {table}")
        made.change(f"INSERT INTO {table} SELECT * FROM kept_{table}")
    made.engine.dispose()


def reads(log: Log) -> None:
    """What the API reads: it is told, or refused by one of our own errors."""
    public = log.signer.public
    calls: list[Callable[..., Any]] = [
        partial(
            record_search.find_page,
            record_filter=which,
            after=None,
            limit=9,
            oldest_first=oldest_first,
        )
        for which in (
            RecordFilter(),
            RecordFilter(since=1, until=10**6, users=["x"]),
            RecordFilter(app="default"),
        )
        for oldest_first in (True, False)
    ]
    calls += [
        partial(proofs.newest_checkpoint, public=public),
        partial(proofs.consistency, public=public, old=1, new=1_000),
    ]
    calls += [
        partial(proofs.inclusion, public=public, seq=seq, apps=apps)
        for seq in (1, 300)
        for apps in (None, {"x"})
    ]
    for call in calls:
        with suppress(GatewayError), snapshot(log.engine) as connection:
            call(connection)


def offline(log: Log, folder: Path) -> list[Any]:
    try:
        return list(log.verified_offline(folder).findings)
    except StartRefused as refused:
        return [*refused.lines]


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("table", "column"), [(table, one) for table, (_, of) in WHERE.items() for one in of]
)
@pytest.mark.sampled(6)
def test_a_value_that_a_column_should_not_have_is_found_and_nothing_crashes_on_it(
    log: Log, tmp_path: Path, table: str, column: str, value: str
) -> None:
    which = WHERE[table][0]
    log.change(f"UPDATE {table.split()[0]} SET {column} = {VALUES[value]} WHERE {which}")
    report: Report = log.verified()
    if (table, column, value) not in SAME and (table, column) not in UNSIGNED:
        assert report.findings, "it is found"
    if table == "audit_records" and report.findings:
        assert any(one.first <= 300 <= one.last for one in report.findings), report.findings
    offline(log, tmp_path)
    reads(log)


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("table", ["audit_tree", "sequence"])
def test_a_row_that_is_gone_or_not_alone_is_found(
    log: Log, tmp_path: Path, table: str, count: int
) -> None:
    log.change(
        f"DELETE FROM {table}" if count == 0 else f"INSERT INTO {table} SELECT * FROM {table}"
    )
    assert log.verified().findings != []
    assert offline(log, tmp_path) != []
    reads(log)


TYPED = [  # what PostgreSQL's columns take as well
    "audit_tree SET size = 1000000000000", "audit_tree SET size = -1", "audit_tree SET peaks = ''::bytea",
    "audit_tree SET tail = 'x'::bytea", "audit_tree SET removed = 9223372036854775807", "audit_tree SET removed = -1",
    "audit_tree SET statement = 'text'", "audit_nodes SET hash = ''::bytea WHERE level = 8",
    "audit_nodes SET hash = 'x'::bytea WHERE level = 9", "audit_nodes SET leaves = 'x'::bytea WHERE place = 0",
    "audit_nodes SET leaves = NULL", "audit_nodes SET place = -1 WHERE level = 9",
    "audit_nodes SET level = 7 WHERE place = 1",
    "audit_checkpoints SET note = ''", "audit_checkpoints SET size = 9223372036854775807 WHERE size = 600",
    "audit_records SET seq = -9223372036854775808 WHERE seq = 300", "audit_records SET record = '[[' WHERE seq = 300",
    "audit_records SET mark = ''::bytea WHERE seq = 300", "audit_records SET time = -1 WHERE seq = 300",
    "sequence SET records = -1", "sequence SET records = 9223372036854775807",
]  # fmt: skip


def test_odd_values_are_found_on_postgresql_too(postgresql_server: Server, tmp_path: Path) -> None:
    with opened(postgresql_server.empty()) as log:
        log.write(600)
        log.seal()
        log.write(4)
        for table in TABLES:
            log.change(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
        for change in TYPED:
            log.change(f"UPDATE {change}")
            assert log.verified().findings != [], change
            offline(log, tmp_path)
            reads(log)
            for table in TABLES:
                log.change(f"DELETE FROM {table}")
                log.change(f"INSERT INTO {table} SELECT * FROM kept_{table}")
        assert log.verified().findings == []


def test_the_commands_name_a_record_of_another_type_and_end_with_1(
    path: Path, tmp_path: Path
) -> None:
    seed = bytes(range(32))
    given = {"GATEWAY_DATABASE_URL": f"sqlite:///{path}", "GATEWAY_AUDIT_KEY": to_base64(seed)}
    with opened(f"sqlite:///{path}", seed) as log:
        log.write(3)
        log.seal()
        public = log.signer.public.text
        log.change("UPDATE audit_records SET record = CAST(x'22fffe80' AS TEXT) WHERE seq = 2")
        log.change("UPDATE audit_records SET record = x'ff00' WHERE seq = 3")
    export = "audit", "export", "export.jsonl"
    assert ended(tmp_path, *export, **given).returncode == 0
    for words in (
        ["audit", "verify"],
        ["audit", "verify", "--export", "export.jsonl", "--public-key", public],
    ):
        done = ended(tmp_path, *words, **given)
        assert (done.returncode, done.stderr) == (1, "")
        assert "changed: record 2 to 3: " in done.stdout


def test_an_empty_database_is_read_like_any_other(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}/empty.db") as log:
        assert log.verified().findings == offline(log, tmp_path) == []
        reads(log)


ODD: dict[str, Any] = {
    "null": None, "a list": [], "an object": {}, "a number": 7, "negative": -1, "large": 2**64 - 1, "larger": 10**40,
    "text": "text", "true": True, "a real": 0.5, "a note of 5,000 digits": NOTE.format("9" * 5_000),
}  # fmt: skip
HEAD = (
    "checkpoint",
    "publicKey",
    "written",
    "removed",
    "first",
    "last",
    "peaks",
    "firstBlock",
    "treeSize",
)
LINES = {
    b'{"note"': ("note",),
    b'{"block"': ("hash", "leaves"),
    b'{"seq"': ("seq", "time", "record"),
}


def dumped(told: dict[str, Any]) -> bytes:
    """As orjson does, and with integers that it can't have."""
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@pytest.fixture(scope="module")
def exported(made: Log, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("export")
    assert made.verified_offline(folder).findings == []
    return (folder / "export.jsonl").read_bytes().splitlines(keepends=True)


def judged(log: Log, folder: Path, lines: list[bytes]) -> list[Any]:
    (folder / "odd.jsonl").write_bytes(b"".join(lines))
    try:
        return list(verify(read_export(folder / "odd.jsonl"), log.signer.public).findings)
    except StartRefused as refused:
        return [*refused.lines]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("field", HEAD)
def test_an_export_with_anything_in_its_head_is_refused_with_its_line_or_judged(
    log: Log, exported: list[bytes], tmp_path: Path, field: str, value: str
) -> None:
    head = orjson.loads(exported[0])
    found = judged(log, tmp_path, [dumped(head | {field: ODD[value]}), *exported[1:]])
    part = field in {"first", "last"} and value in {"null", "large", "negative"}
    assert (
        found
        or part
        or field == "publicKey"
        or (field, value) in {("removed", "null"), ("peaks", "a list")}
    )


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    ("kind", "field"), [(kind, one) for kind, of in LINES.items() for one in of]
)
def test_an_export_with_anything_in_a_line_is_refused_with_the_line_or_judged(
    log: Log, exported: list[bytes], tmp_path: Path, kind: bytes, field: str, value: str
) -> None:
    at = next(number for number, line in enumerate(exported) if line.startswith(kind))
    line = dumped(orjson.loads(exported[at]) | {field: ODD[value]})
    assert judged(log, tmp_path, [*exported[:at], line, *exported[at + 1 :]]) != []


@pytest.mark.parametrize(
    "line",
    [
        b"5\n",
        b"[]\n",
        b"null\n",
        b"\n",
        b'{"x":1}\n',
        b"\xff\n",
        b'{"seq":\n',
        b'{"seq":' + b"[" * 9_000 + b"\n",
    ],
)
def test_an_export_with_a_line_that_is_none_is_refused_with_its_number(
    log: Log, exported: list[bytes], tmp_path: Path, line: bytes
) -> None:
    assert "line 1 " in judged(log, tmp_path, [line, *exported[1:]])[0]
    assert "line 5 " in judged(log, tmp_path, [*exported[:4], line, *exported[4:]])[0]


def test_an_export_whose_head_leaves_blocks_out_speaks_for_none_of_their_records(
    log: Log, exported: list[bytes], tmp_path: Path
) -> None:
    """As somebody makes it who wants a changed record to be taken for a good one."""
    head, hash_ = (
        orjson.loads(exported[0]),
        log.rows("SELECT hash FROM audit_nodes WHERE level = 10")[0][0],
    )
    forged = dumped(head | {"firstBlock": 4, "peaks": [to_base64(bytes(hash_))]})
    lines = [
        line
        for line in exported[1:]
        if not line.startswith(b'{"block"') or line.startswith(b'{"block":4')
    ]
    changed = [
        line.replace(b"127.0.0.1", b"10.6.6.6") if line.startswith(b'{"seq":7,') else line
        for line in lines
    ]
    found = judged(log, tmp_path, [forged, *changed])
    assert any(one.kind == "changed" and one.first <= 7 <= one.last for one in found), found


def test_a_block_without_its_leaves_is_found_with_the_public_key_alone(log: Log) -> None:
    """Else a record of it could be changed unseen by whoever has no key to look at its mark."""
    log.change("UPDATE audit_nodes SET leaves = NULL WHERE level = 8 AND place = 1")
    log.change("UPDATE audit_records SET record = replace(record, '127.', '10.') WHERE seq = 300")
    with snapshot(log.engine) as connection:
        found = verify(read_evidence(connection, log.signer.public), log.signer.public).findings
    assert any(one.kind == "changed" and one.first <= 300 <= one.last for one in found), found
