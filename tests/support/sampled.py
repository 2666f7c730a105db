"""Running some of the cases of a test, where all of them take minutes.

`@pytest.mark.sampled(4)` leaves one case in four, always those of the same names. `make soak` runs
all (`GATEWAY_TESTS_ALL`).
"""

import os
from collections.abc import Sequence
from zlib import crc32

import pytest

ALL = bool(os.environ.get("GATEWAY_TESTS_ALL"))


def split(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests to run, and those that are left out."""
    run, left = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        (run if ALL or _is_of_the_sample(item) else left).append(item)
    return run, left


def _is_of_the_sample(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("sampled")
    return marker is None or crc32(item.name.encode()) % marker.args[0] == 0
