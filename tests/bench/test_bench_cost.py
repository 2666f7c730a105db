"""What a part costs is held against a gateway that works without that part, and has nothing of
it.
"""

import urllib.request
from pathlib import Path

import pytest

from bench.__main__ import ROOT
from bench.bodies import BATCH, EVENT
from bench.children import Fleet
from bench.cost import Measured, program, render
from bench.keys import make_key
from bench.load import Load
from bench.plan import QUICK
from bench.servers.without import WITHOUT
from bench.stage import Stage


@pytest.mark.parametrize("part", WITHOUT)
def test_without_a_part_the_gateway_takes_what_it_is_sent(part: str, tmp_path: Path) -> None:
    with Fleet(ROOT, tmp_path) as fleet:
        stage = Stage(fleet, tmp_path, make_key())
        child = stage.gateway(stage.upstream(pinned=False), pinned=False, program=program(part))
        load = Load(stage, QUICK)
        for traffic in (EVENT, BATCH):
            load._probe(child, traffic)
        request = urllib.request.Request(
            f"{child.url}/v1/receipts/x", headers={"X-API-Key": stage.key}
        )
        with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(request):
            pass
        with caught.value as answer:
            assert ("RateLimit" in answer.headers) == (part != "limits")


def test_a_cost_is_told_as_the_median_of_the_pairs_and_where_half_of_them_are() -> None:
    pairs = [
        (Measured(ratio, 2 * ratio), Measured(1.0, 1.0)) for ratio in (0.8, 0.9, 0.95, 1.0, 1.1)
    ]
    assert render("with to without", pairs).splitlines() == [
        "with to without",
        "  requests a second: 0.950 (0.850 to 1.050)",
        "  requests a second of processor time: 1.900 (1.700 to 2.100)",
    ]
