"""A sample of the cases of a test, where all of them take minutes.

With `@pytest.mark.sampled(4)` about one case in four runs, always the same ones. `make soak` runs
all (`GATEWAY_TESTS_ALL`).

A case is chosen by the sum of the places that its parameters have among their values. So each value
of a parameter is in the sample, if another parameter has at least n values.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

ALL = bool(os.environ.get("GATEWAY_TESTS_ALL"))
Places = dict[Any, dict[str, int]]  # by test and parameter: the values and their places


def split(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests to run, and those that are left out."""
    run, left = list[pytest.Item](), list[pytest.Item]()
    places: Places = defaultdict(dict)
    for item in items:
        (run if ALL or _is_of_the_sample(item, places) else left).append(item)
    return run, left


def _is_of_the_sample(item: Any, places: Places) -> bool:
    marker = item.get_closest_marker("sampled")
    if marker is None:
        return True
    total = 0
    for at, value in enumerate(item.callspec._idlist):
        known = places[item.function, at]
        total += known.setdefault(value, len(known))
    return bool(total % marker.args[0] == 0)
