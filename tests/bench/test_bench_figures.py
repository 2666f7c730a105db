"""How slices become figures."""

from dataclasses import replace

from bench.figures import Slice, median_ratio, percentile, ratio, ratio_to_around

SLICE = Slice(requests=10, failed=0, items=1_000, seconds=2.0, p50=1.0, p99=2.0)


def test_the_rate_counts_items_a_second() -> None:
    assert SLICE.rate == 500
    assert replace(SLICE, seconds=0.0).rate == 0


def test_a_percentile_is_a_measured_value_that_the_share_does_not_exceed() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.50) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7
    assert percentile([], 0.99) == 0


def test_ratios_are_taken_within_each_round_before_the_median() -> None:
    mine = [replace(SLICE, items=items) for items in (100, 300, 900)]
    yardstick = [replace(SLICE, items=items) for items in (100, 100, 1_000)]
    assert median_ratio(mine, yardstick) == 1


def test_a_single_measurement_is_held_against_the_mean_of_what_surrounds_it() -> None:
    assert ratio_to_around(600, [SLICE, replace(SLICE, items=1_400)]) == 1


def test_nothing_to_compare_with_makes_no_ratio() -> None:
    assert ratio(5, 0) == 0
