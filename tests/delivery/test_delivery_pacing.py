"""When calls may begin: the circuit, the pace, and both together."""

import pytest

from app.delivery.pacing import (
    COOLDOWN_SECONDS,
    FAILURES,
    LONGEST_SECONDS,
    MAX_RATE,
    MIN_RATE,
    CallPacer,
    Circuit,
    CircuitState,
    Pace,
)
from app.leanplum.replies import SplitNeeded
from app.model import ConfigRefused, Done, Outcome, Trouble

AWAY: list[Outcome] = [Trouble("HTTP 503")]


def opened() -> Circuit:
    circuit = Circuit(shortest=2.0, held=15.0)
    for _ in range(FAILURES):
        circuit.note_failure(0.0)
    return circuit


def test_a_circuit_opens_after_so_many_failures_in_a_row_and_a_success_between_starts_the_count_anew() -> (
    None
):
    circuit = Circuit(shortest=2.0, held=15.0)
    for _ in range(FAILURES - 1):
        circuit.note_failure(0.0)
    circuit.close()
    circuit.note_failure(0.0)
    assert circuit.state is CircuitState.CLOSED
    assert opened().state is CircuitState.OPEN


def test_an_open_circuit_lets_one_probe_through_after_a_wait_that_doubles_up_to_a_bound() -> None:
    circuit, now, waits = opened(), 0.0, list[float]()
    for _ in range(8):
        began = now
        while circuit.max_in_flight(now) == 0:
            now += 0.5
        waits.append(now - began)
        assert circuit.max_in_flight(now) == 1
        circuit.note_failure(now)
    assert waits == [2, 4, 8, 16, 32, *[LONGEST_SECONDS] * 3]


def test_the_longest_wait_of_a_circuit_can_be_shorter() -> None:
    circuit, now = Circuit(shortest=2.0, held=15.0, longest=3.0), 0.0
    for _ in range(FAILURES + 3):
        circuit.note_failure(now)
        now += 3.0
        assert circuit.max_in_flight(now) in (1, None)


def test_calls_that_were_in_flight_when_the_circuit_opened_do_not_lengthen_its_wait() -> None:
    circuit = opened()
    for _ in range(10):
        circuit.note_failure(1.0)
    assert circuit.max_in_flight(2.0) == 1


def test_a_probe_that_succeeds_closes_the_circuit() -> None:
    circuit = opened()
    circuit.close()
    assert circuit.max_in_flight(0.0) is None


def test_a_circuit_that_was_held_and_closed_opens_again_without_waiting_for_the_old_probe() -> None:
    circuit = Circuit(shortest=2.0, held=15.0)
    circuit.hold(0.0)
    circuit.close()
    for _ in range(FAILURES):
        circuit.note_failure(1.0)
    assert circuit.state is CircuitState.OPEN


def test_a_refused_key_is_probed_steadily_even_where_a_probe_meets_other_trouble() -> None:
    circuit = Circuit(shortest=2.0, held=15.0)
    circuit.hold(0.0)
    assert (circuit.state, circuit.max_in_flight(14.9), circuit.max_in_flight(15.0)) == (
        CircuitState.HELD,
        0,
        1,
    )
    circuit.hold(15.0)
    assert (circuit.max_in_flight(29.9), circuit.max_in_flight(30.0)) == (0, 1)
    circuit.note_failure(30.0)
    assert circuit.max_in_flight(31.0) == 0


def calls(pace: Pace, start: float, seconds: float, each: float = 0.01) -> float:
    """Make as many calls as the pace allows, each answered at once; how many a second."""
    now, count = start, 0
    while now < start + seconds:
        now += max(pace.wait(now), each)
        pace.note_begin(now)
        count += 1
    return count / seconds


def test_a_complaint_halves_the_rate_at_which_calls_were_made_and_many_at_once_are_one() -> None:
    pace = Pace()
    made = calls(pace, 0.0, 2.0)
    for _ in range(5):
        pace.note_throttled(2.0, 0.0)
    assert pace.rate == pytest.approx(made / 2, rel=0.05)
    assert calls(pace, 2.0, 4.0) == pytest.approx(pace.rate, rel=0.1)


def test_the_rate_rises_again_without_complaints_up_to_its_bound() -> None:
    pace = Pace()
    pace.note_throttled(0.0, 0.0)
    assert pace.rate == MIN_RATE
    rates = []
    for second in range(1, 100):
        pace.note_answer(float(second), 0.05)
        rates.append(pace.rate)
    assert rates == sorted(rates)
    assert rates[-1] == MAX_RATE


def test_what_leanplum_asks_to_wait_is_waited() -> None:
    pace = Pace()
    pace.note_throttled(10.0, 7.0)
    assert pace.wait(10.0) == 7.0


def test_calls_that_take_far_longer_than_usual_lower_the_rate() -> None:
    pace = Pace()
    for number in range(100):
        pace.note_begin(number / 10)
        pace.note_answer(number / 10, 0.5)
    pace.note_answer(10.0 + COOLDOWN_SECONDS, 20.0)
    assert pace.rate == pytest.approx(8.0, rel=0.2)


def test_an_even_load_of_slow_calls_is_no_complaint() -> None:
    pace = Pace()
    for number in range(100):
        pace.note_answer(float(number), 8.0)
    assert pace.rate == MAX_RATE


def test_a_call_of_which_only_a_part_failed_and_one_that_was_too_large_show_that_leanplum_is_there() -> (
    None
):
    gate = CallPacer(shortest=2.0, held=15.0)
    for _ in range(FAILURES):
        gate.note_reply(0.0, 0.1, AWAY)
    gate.note_reply(2.0, 0.1, [*AWAY, Done()])
    assert not gate.probing
    for _ in range(FAILURES):
        gate.note_reply(4.0, 0.1, AWAY)
    gate.note_reply(6.0, 0.1, SplitNeeded("HTTP 403"))
    assert not gate.probing


def test_while_probing_there_is_one_call_and_none_before_its_time() -> None:
    gate = CallPacer(shortest=2.0, held=15.0)
    gate.note_reply(0.0, 0.1, [ConfigRefused("Invalid access key")])
    assert gate.wait(0.0, 0) is None
    assert gate.wait(15.0, 0) == 0
    assert gate.wait(15.0, 1) is None


def test_being_throttled_is_no_failure() -> None:
    gate = CallPacer(shortest=2.0, held=15.0)
    for _ in range(FAILURES * 2):
        gate.note_reply(0.0, 0.1, [Trouble("HTTP 429", 3.0, throttled=True)])
    assert not gate.probing
    assert gate.wait(0.0, 0) == 3.0


def test_calls_that_are_ready_together_begin_together() -> None:
    pace = Pace()
    for _ in range(16):
        assert pace.wait(100.0) == 0.0
        pace.note_begin(100.0)
