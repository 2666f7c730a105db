"""What passes between the bench and wrk."""

import pytest

from bench.wrk import parse, script

OUTPUT = """\
Running 1s test @ http://127.0.0.1:8000/v1/batch
  Latency Distribution
     50%    2.00ms

BENCH {"requests":200,"microseconds":2000000,"refused":3,"broken":2,"p50":2000.0,"p99":9500.0}
"""


def test_the_result_counts_items_of_answered_requests_and_all_kinds_of_failure() -> None:
    found = parse(OUTPUT, size=100)
    assert (found.requests, found.failed, found.items) == (200, 5, 19_700)
    assert (found.seconds, found.p50, found.p99) == (2.0, 2.0, 9.5)


def test_output_without_a_result_is_refused_with_its_end() -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1", size=1)


def test_the_script_holds_key_and_bodies_and_makes_fresh_ids_only_when_asked() -> None:
    plain, fresh = (script(['{"a":1}'], "lpgw_k", "run", ids=ids) for ids in (False, True))
    assert '"Bearer lpgw_k"' in plain
    assert '[==[{"a":1}]==]' in plain
    assert "if false then" in plain
    assert "if true then" in fresh
