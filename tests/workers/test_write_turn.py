"""The turn to write of several workers on one SQLite database."""

import threading
import time
from collections.abc import Iterator

import pytest

from app.database.write_turn import WriteTurn
from app.limits.shared_memory import SharedMemory


@pytest.fixture
def turns() -> Iterator[tuple[WriteTurn, WriteTurn]]:
    memory = SharedMemory.create()
    one, other = WriteTurn(memory.descriptor), WriteTurn(memory.descriptor, wait_seconds=0.05)
    yield one, other
    one.close()
    other.close()
    memory.close()


def test_a_second_process_has_its_turn_after_the_first(
    turns: tuple[WriteTurn, WriteTurn],
) -> None:
    order = list[str]()
    one, other = turns

    def take_first() -> None:
        with one:
            order.append("first")

    with other:
        thread = threading.Thread(target=take_first)
        thread.start()
        time.sleep(0.02)  # it would have taken its turn by then, if it could
        order.append("before the first")
    thread.join()
    assert order == ["before the first", "first"]


def test_a_process_that_keeps_its_turn_holds_another_up_for_a_bounded_time(
    turns: tuple[WriteTurn, WriteTurn],
) -> None:
    one, other = turns
    began = time.monotonic()
    with one, other:
        waited = time.monotonic() - began
    assert 0.05 <= waited < 5
