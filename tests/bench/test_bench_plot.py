"""The image of a run."""

import re

from bench.plot import LONGEST, UNIT, bars, svg
from bench.report import Row, at_least, at_most, none_lost

ROWS = [
    Row("(a) echo", to_a=1.0),
    Row("(c) single events", targets=(at_least(0.3, "a", 0.45), none_lost(0))),
    Row("(d) batches", targets=(at_least(4, "a", 3.0), at_least(100, "b", 120.0))),
    Row("(f) latency", targets=(at_most(10, "ms", 1.0, "p99"),)),
    Row("(x) not measured", targets=(at_most(10, "ms", 0.0, "p99"),)),
]


def test_each_target_has_a_bar_whose_length_is_how_good_the_figure_is() -> None:
    assert [(bar.name, bar.share, bar.met) for bar in bars(ROWS)] == [
        ("(c) single events", 1.5, True),
        ("(d) batches", 0.75, False),
        ("(d) batches", 1.2, True),
        ("(f) latency", 10.0, True),
        ("(x) not measured", 1000.0, True),
    ]


def test_the_image_has_all_names_and_figures() -> None:
    image = svg(ROWS, "two cores")
    for text in ("(c) single events", "0.45 (wanted ≥ 0.3 a)", "1 (wanted p99 ≤ 10 ms)"):
        assert f">{text}</text>" in image
    assert "<script" not in image


def test_the_image_follows_the_colours_of_the_page() -> None:
    assert "prefers-color-scheme: dark" in svg(ROWS, "two cores")


def test_a_bar_is_cut_where_the_place_of_the_figures_begins() -> None:
    bars_drawn = re.findall(r'<rect [^>]*width="([\d.]+)"[^>]*class="(\w+)"', svg(ROWS, ""))
    assert bars_drawn == [
        (str(UNIT * 1.5), "met"),
        (f"{UNIT * 0.75:.1f}", "missed"),
        (f"{UNIT * 1.2:.1f}", "met"),
        (str(UNIT * LONGEST), "met"),
        (str(UNIT * LONGEST), "met"),
    ]
