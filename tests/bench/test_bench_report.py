"""The table, the document and the exit status."""

import json
from dataclasses import replace

from bench.figures import Slice
from bench.report import Row, Target, document, exit_status, summarise, table

SLICE = Slice(requests=10, failed=0, items=1_000, seconds=1.0, p50=1.0, p99=2.0, pss=50.0)
MISSED = Target(">= 4 a", got=3.9, bound=4)
MET = Target("p99 <= 25 ms", got=25, bound=25, at_least=False)


def test_a_target_is_met_at_its_bound_and_missed_beyond_it() -> None:
    assert MET.met
    assert not replace(MET, got=25.1).met
    assert not MISSED.met


def test_a_row_takes_medians_the_greatest_memory_and_all_failures() -> None:
    slices = [replace(SLICE, items=n, p99=n / 10, pss=float(n), failed=1) for n in (10, 30, 20)]
    row = summarise("(x)", slices)
    assert (row.rate, row.p99, row.pss, row.failed) == (20, 2, 30, 3)


def test_the_table_says_of_each_target_whether_it_was_met() -> None:
    text = table([Row("(x) row", rate=1234.5, targets=(MISSED, MET), notes=("a note",))])
    assert "1,234" in text
    assert text.splitlines()[2].endswith("NO, yes")
    assert text.endswith("(x) a note")


def test_lost_items_stand_out_in_the_table() -> None:
    assert "0 + 7 LOST" in table([Row("(x)", lost=7)])


def test_a_missed_target_is_no_error_and_a_failed_request_or_a_lost_item_is() -> None:
    assert exit_status([Row("(x)", targets=(MISSED,))]) == 0
    assert exit_status([Row("(x)"), Row("(y)", failed=1)]) == 1
    assert exit_status([Row("(x)", lost=1)]) == 1


def test_the_document_is_json_and_carries_verdicts_and_slices() -> None:
    found = json.loads(
        json.dumps(document([summarise("(x)", [SLICE], targets=(MISSED,))], {"cores": 2}))
    )
    assert found["cores"] == 2
    assert found["rows"][0]["targets"][0]["met"] is False
    assert found["rows"][0]["slices"][0]["items"] == 1_000
