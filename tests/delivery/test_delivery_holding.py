"""The gate of an app that is held while it is in doubt whose fault the refusals are."""

from app.delivery.pacing import CallPacer
from app.leanplum.replies import Doubtful, Reply, SplitNeeded
from app.model import Done, Trouble


def gate() -> CallPacer:
    return CallPacer(shortest=2.0, held=15.0)


def test_the_first_probe_comes_at_once_and_those_after_refusals_of_several_users_at_a_steady_pace() -> (
    None
):
    held = gate()
    held.hold_in_doubt(0.0, users=2)
    assert held.probing
    assert (held.wait(0.0, 0), held.wait(0.0, 1)) == (0, None)
    held.hold_in_doubt(0.5, users=3)
    assert (held.wait(15.0, 0), held.wait(15.5, 0)) == (None, 0)


def test_while_one_users_items_alone_are_refused_anothers_may_be_tried_at_any_time() -> None:
    held = gate()
    for now in (0.0, 15.0, 30.0):
        held.hold_in_doubt(now, users=1)
        assert held.wait(now, 0) == 0


def test_a_call_that_passes_releases_the_app() -> None:
    held = gate()
    held.hold_in_doubt(0.0, users=2)
    held.note_reply(0.1, 0.1, [Done()])
    assert not held.probing


def test_no_other_answer_releases_the_app() -> None:
    held = gate()
    held.hold_in_doubt(0.0, users=2)
    refusals: list[Reply] = [Doubtful("HTTP 403"), SplitNeeded("HTTP 400")]
    troubles: list[Reply] = [[Trouble("HTTP 429", throttled=True)], [Trouble("HTTP 503")]]
    for reply in refusals + troubles:
        held.note_reply(0.1, 0.1, reply)
        assert held.probing


def test_a_probe_that_is_told_to_slow_down_is_followed_by_the_next_after_the_steady_wait() -> None:
    held = gate()
    held.hold_in_doubt(0.0, users=2)
    held.note_reply(1.0, 0.1, [Trouble("HTTP 429", throttled=True)])
    assert (held.wait(15.9, 0), held.wait(16.0, 0)) == (None, 0)


def test_a_refusal_in_doubt_is_neither_a_failure_nor_a_success() -> None:
    open_ = gate()
    for _ in range(20):
        open_.note_reply(0.0, 0.1, Doubtful("HTTP 403"))
    assert not open_.probing
