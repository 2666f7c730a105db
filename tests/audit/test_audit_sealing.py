"""Sealing: one sealer at a time, each second; old records go, and what is left can still be
verified.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from app.audit import merkle, proofs
from app.audit.sealer import HOUR, NotSealed, Sealer
from app.audit.signing_keys import AuditKeys
from app.cli.audit_log import parse_ranges
from app.cli.audit_report import report_lines
from app.database.engine import snapshot
from app.database.writer import Writer
from app.errors import NotFound, StartRefused

from .logs import KEEP, opened


def test_records_are_numbered_without_a_gap_say_their_number_and_have_a_mark(database: str) -> None:
    with opened(database) as log:
        log.write(5)
        found = log.rows("SELECT seq, record, mark FROM audit_records ORDER BY seq")
        assert [seq for seq, _, _ in found] == [1, 2, 3, 4, 5]
        for seq, text, mark in found:
            assert f'"sequence":{seq}}}' in text
            assert log.macs.is_valid(seq, text.encode(), bytes(mark))


def test_of_sealers_that_go_for_the_same_records_one_seals_them(database: str) -> None:
    with opened(database) as log:
        log.write(600)

        async def race() -> None:
            writer = Writer(log.engine)
            writer.start()
            sealers = [log.sealer(writer) for _ in range(6)]
            await asyncio.gather(*(one.step() for one in sealers))
            log.write(10)
            await asyncio.gather(*(one.step() for one in sealers))
            await writer.stop()

        asyncio.run(race())
        assert [
            size for (size,) in log.rows("SELECT size FROM audit_checkpoints ORDER BY size")
        ] == [600, 610]
        assert log.verified().findings == []


def test_a_checkpoint_is_logged_at_most_once_in_its_interval_and_the_last_one_always(
    database: str,
) -> None:
    with opened(database) as log, structlog.testing.capture_logs() as lines:

        async def seal() -> list[list[int]]:
            seconds = [0.0]
            writer = Writer(log.engine)
            writer.start()
            sealer = Sealer(
                log.engine,
                writer,
                log.signer,
                log.macs,
                KEEP,
                lambda: log.now,
                checkpoint_seconds=60,
                ticks=lambda: seconds[0],
            )
            shown = []
            for seconds[0], written in ((0, 3), (1, 2), (59, 2), (60, 0), (61, 1)):
                log.write(written)
                await sealer.attempt()
                shown.append(logged())
            sealer.log_checkpoint()
            shown.append(logged())
            sealer.log_checkpoint()
            await writer.stop()
            return [*shown, logged()]

        def logged() -> list[int]:
            return [line["size"] for line in lines if line["event"] == "audit.checkpoint"]

        first, later = [3], [3, 7]
        assert asyncio.run(seal()) == [first, first, first, later, later, [*later, 8], [*later, 8]]


def test_a_record_that_is_gone_before_it_is_sealed_is_told_for_good(
    database: str, tmp_path: Path
) -> None:
    with opened(database) as log:
        log.write(9)
        log.change("DELETE FROM audit_records WHERE seq IN (4, 9)")
        log.seal()
        for report in (log.verified(), log.verified_offline(tmp_path)):
            assert [(one.kind, one.first, one.last) for one in report.findings] == [
                ("removed", 4, 4),
                ("removed", 9, 9),
            ]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_tree SET size = 2", "UPDATE audit_tree SET tail = peaks", "DELETE FROM audit_tree",
        "DELETE FROM audit_checkpoints", "UPDATE audit_checkpoints SET note = 'x'",
    ],
)  # fmt: skip
def test_a_tree_that_somebody_changed_is_not_signed(database: str, change: str) -> None:
    with opened(database) as log:
        log.write(3)
        log.seal()
        log.change(change)
        log.write(1)
        with pytest.raises(NotSealed):
            log.seal()
        assert log.verified().findings


def test_a_sealer_knows_when_the_log_was_set_back_while_it_ran(database: str) -> None:
    with opened(database) as log:

        async def body() -> None:
            writer = Writer(log.engine)
            writer.start()
            sealer = log.sealer(writer)
            log.write(3)
            await sealer.step()
            before = log.rows("SELECT size, peaks, tail FROM audit_tree")[0]
            log.write(3)
            await sealer.step()
            log.change("DELETE FROM audit_checkpoints WHERE size > 3")
            log.change("UPDATE audit_tree SET size = ?, peaks = ?, tail = ?", *before)
            with pytest.raises(NotSealed):
                await sealer.step()
            await writer.stop()

        asyncio.run(body())


def test_a_log_that_was_set_back_is_seen_by_whoever_kept_a_checkpoint(
    database: str, tmp_path: Path
) -> None:
    with opened(database) as log:
        log.write(300)
        log.seal()
        older, tree = log.note(), log.rows("SELECT size, peaks, tail FROM audit_tree")[0]
        log.write(50)
        log.seal()
        kept = log.note()
        log.change("DELETE FROM audit_records WHERE seq > 300")
        log.change("DELETE FROM audit_checkpoints WHERE size > 300")
        log.change("UPDATE sequence SET records = 300")
        log.change("UPDATE audit_tree SET size = ?, peaks = ?, tail = ?", *tree)
        assert log.verified(older).findings == [], (
            "it is consistent in itself: only from outside it can be seen"
        )
        for report in (log.verified(kept), log.verified_offline(tmp_path, kept)):
            assert [(one.kind, one.first, one.last) for one in report.findings] == [
                ("cut off", 301, 350)
            ]


def test_a_log_made_anew_from_changed_records_is_seen_by_whoever_kept_a_checkpoint(
    database: str,
) -> None:
    seed = bytes(32)
    with opened(database, seed) as log:
        log.write(20)
        log.seal()
        kept = log.note()
        log.change("DELETE FROM audit_checkpoints")
        log.change("UPDATE audit_tree SET size = 0, tail = peaks")
        log.change("DELETE FROM audit_records")
        log.change("UPDATE sequence SET records = 0")
        log.write(20, key_id="key_2")
        log.seal()
        assert log.verified().findings == []
        assert [one.kind for one in log.verified(kept).findings] == ["changed"]


@pytest.mark.parametrize("gone", [1, 255, 256, 257, 600, 700])
def test_what_retention_leaves_can_be_verified_and_proven(
    database: str, tmp_path: Path, gone: int
) -> None:
    with opened(database) as log:
        log.write(gone)
        log.now += KEEP
        log.write(713 - gone)
        log.seal()
        old = log.note()
        log.write(300)
        log.seal()
        assert log.rows("SELECT min(seq), max(seq) FROM audit_records") == [(gone + 1, 1013)]
        for report in (log.verified(old), log.verified_offline(tmp_path, old)):
            assert (report.findings, report.removed, report.records) == ([], gone, 1013 - gone)
        with snapshot(log.engine) as connection:
            newest = log.signer.public.verify(
                proofs.newest_checkpoint(connection, log.signer.public).checkpoint.note
            )
            for seq in {gone + 1, 713, 714, 1013}:
                found = proofs.inclusion(connection, log.signer.public, seq, None)
                leaf = merkle.leaf_hash(found.record.encode())
                assert merkle.included(leaf, seq - 1, 1013, found.path, newest.root)
            kept = log.signer.public.verify(old)
            grew = proofs.consistency(connection, log.signer.public, kept.size, 1013)
            assert merkle.consistent(kept.size, kept.root, 1013, newest.root, grew)
            with pytest.raises(NotFound, match="older than GATEWAY_AUDIT_SECONDS"):
                proofs.inclusion(connection, log.signer.public, gone, None)


def test_a_kept_checkpoint_of_records_that_retention_has_removed_is_told_and_is_no_finding(
    database: str, tmp_path: Path
) -> None:
    with opened(database) as log:
        log.write(10)
        log.seal()
        old = log.note()
        log.now += KEEP
        log.write(600)
        log.seal()
        log.write(600)
        log.now += KEEP - 900
        log.seal()
        for report in (log.verified(old), log.verified_offline(tmp_path, old)):
            assert (report.findings, report.unchecked) == ([], [10])
            lines = list(report_lines(report))
            assert lines[0].startswith("not verifiable: the kept checkpoint of 10 ")
            assert "NOT" not in "".join(lines)


def test_what_is_acknowledged_takes_exactly_records_that_were_gone_before_they_were_sealed(
    database: str,
) -> None:
    with opened(database) as log:
        log.write(20)
        log.change("DELETE FROM audit_records WHERE seq IN (4, 5, 6, 9)")
        log.seal()
        log.change("DELETE FROM audit_records WHERE seq = 12")
        log.change(
            "UPDATE audit_records SET record = replace(record, '127.', '10.') WHERE seq = 14"
        )
        report = log.verified()
        report.acknowledge(parse_ranges(["5-8", "12-14"]))
        assert [(one.kind, one.first, one.last) for one in report.findings] == [
            ("removed", 4, 4), ("removed", 9, 9), ("removed", 12, 12), ("changed", 14, 14)
        ]  # fmt: skip
        assert "acknowledged: record 5 to 6: it was gone before it was sealed" in report_lines(
            report
        )


@pytest.mark.parametrize("given", ["", "0", "x", "-3", "5-", "7-5", "1-2-3"])
def test_a_range_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(StartRefused, match="--acknowledge"):
        parse_ranges([given])


def test_retention_takes_nothing_that_is_not_sealed_or_that_is_young(database: str) -> None:
    with opened(database) as log:
        log.write(10)
        log.seal()
        log.write(10)
        log.now += KEEP - 5
        log.seal()
        (low,) = log.rows("SELECT min(seq) FROM audit_records")[0]
        assert 1 <= low <= 16


TAMPERINGS = {
    "the first ones are deleted": "DELETE FROM audit_records WHERE seq < {first} + 50",
    "the first one is deleted": "DELETE FROM audit_records WHERE seq = {first}",
    "all are deleted": "DELETE FROM audit_records",
    "the times beside them are old": "UPDATE audit_records SET time = 0 WHERE seq < {first} + 100",
    "their own times are old": """UPDATE audit_records SET record = replace(record, '"time":1', '"time":0')""",
    "the first one is changed": "UPDATE audit_records SET record = replace(record, '127.', '10.') WHERE seq = {first}",
    "the first one is no record": "UPDATE audit_records SET record = '' WHERE seq = {first}",
}


@pytest.mark.parametrize("change", TAMPERINGS.values(), ids=TAMPERINGS.keys())
@pytest.mark.parametrize("old", [0, 20])
def test_retention_never_signs_for_what_somebody_else_removed_or_changed(
    database: str, change: str, old: int
) -> None:
    with opened(database) as log:
        log.write(old)
        log.now += KEEP
        log.write(600)
        log.seal()
        log.change(change.format(first=old + 1))
        for _ in range(3):
            # Which it is, but where it is only the times beside the records
            with suppress(NotSealed):
                log.seal()
        report = log.verified()
        assert report.removed == old
        assert report.findings != []
        log.write(1)
        with suppress(NotSealed):
            log.seal()
        assert log.verified().sealed == old + 601, "what comes later is sealed all the same"


def test_old_checkpoints_are_thinned_to_one_an_hour_and_the_newest_stays(database: str) -> None:
    with opened(database) as log:
        for _ in range(6):
            log.write(1)
            log.seal()
            log.now += HOUR // 3
        log.now += 30 * HOUR
        log.seal()
        sizes = [size for (size,) in log.rows("SELECT size FROM audit_checkpoints ORDER BY size")]
        assert sizes[-1] == 6
        assert len(sizes) < 5
        assert [one for one in log.verified().findings if one.kind == "checkpoint"] == []


def test_an_export_of_a_time_is_verified_by_itself(database: str, tmp_path: Path) -> None:
    with opened(database) as log:
        log.write(1_200)
        log.seal()
        report = log.verified_offline(tmp_path, since=1_300, until=1_900)
        assert (report.findings, report.records) == ([], 600)
        log.change("UPDATE audit_records SET record = '{}' WHERE seq = 500")
        log.change("DELETE FROM audit_records WHERE seq = 501")
        report = log.verified_offline(tmp_path, since=1_300, until=1_900)
        assert [(one.kind, one.first) for one in report.findings] == [
            ("changed", 500),
            ("removed", 501),
        ]


def test_another_key_does_not_verify_it(database: str) -> None:
    with opened(database) as log:
        log.write(3)
        log.seal()
        log.signer = AuditKeys.derive(bytes(32)).signer
        assert "checkpoint" in {one.kind for one in log.verified().findings}
        log.write(1)
        with pytest.raises(NotSealed):
            log.seal()


def test_a_sealed_record_whose_mac_was_removed_is_found_and_in_an_export_the_tree_vouches_for_it(
    database: str, tmp_path: Path
) -> None:
    with opened(database) as log:
        log.write(300)
        log.seal()
        log.change("UPDATE audit_records SET mark = NULL WHERE seq <= 200")
        log.write(3)
        log.seal()
        found = [(one.kind, one.first, one.last) for one in log.verified().findings]
        assert found == [("changed", 1, 200)]
        report = log.verified_offline(tmp_path)
        assert (report.findings, report.sealed) == ([], 303)


def test_what_is_good_before_a_record_with_a_wrong_mac_is_sealed_and_nothing_from_there_on(
    database: str,
) -> None:
    with opened(database) as log:
        log.write(9)
        log.change("UPDATE audit_records SET record = replace(record, '127.', '10.') WHERE seq = 5")
        log.seal()
        with pytest.raises(NotSealed, match="record 5 is not what was recorded"):
            log.seal()
        assert log.verified().sealed == 4
        log.change("DELETE FROM audit_records WHERE seq = 5")
        log.seal()
        assert [(one.kind, one.first, one.last) for one in log.verified().findings] == [
            ("removed", 5, 5)
        ]
