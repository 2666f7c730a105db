"""Finding the item at fault: what is sent, in which order, how often, and who is blamed."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.delivery.bisection import MAX_SUSPECTS, Bisection, Doubts, halves, max_calls, sent_again
from app.leanplum.replies import Doubtful, Reply, SplitNeeded
from app.model import ConfigRefused, Done, Item, ItemRefused, Outcome, Trouble

World = Callable[[Sequence[Item]], Reply]


def batch(*counts: int) -> list[Item]:
    """A batch of so many items of each user in turn, mixed as they would have been accepted."""
    lanes = [(number, lane) for lane, count in enumerate(counts) for number in range(count)]
    return [
        Item(seq, f"i{seq}", "default", f"u{lane}", "track", "{}", 0, 0, 0, lane)
        for seq, (_, lane) in enumerate(sorted(lanes))
    ]


def firewall(bad: Collection[int]) -> World:
    """A firewall that blocks every call with one of these items in it."""

    def answer(part: Sequence[Item]) -> Reply:
        blocked = any(item.seq in bad for item in part)
        return Doubtful("HTTP 403") if blocked else [Done()] * len(part)

    return answer


def strict(bad: Collection[int]) -> World:
    """Leanplum, which refuses what these items say."""

    def answer(part: Sequence[Item]) -> Reply:
        if not any(item.seq in bad for item in part):
            return [Done()] * len(part)
        return SplitNeeded("HTTP 400") if len(part) > 1 else [ItemRefused("HTTP 400")]

    return answer


@dataclass
class Run:
    """One batch, sent: what came of its items, and the parts that were sent."""

    search: Bisection
    parts: list[list[int]] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def of(self, kind: type) -> set[int]:
        return {seq for seq, outcome in self.outcomes.items() if isinstance(outcome, kind)}


def send(items: Sequence[Item], world: World, doubts: Doubts | None = None) -> Run:
    """Send a batch to its end, and check what must hold whatever the world answers."""
    run = Run(Bisection(items, doubts or Doubts()))
    done = set[int]()
    while (part := run.search.part) is not None:
        assert part, "an empty call"
        by_user = {item.lane: [one.seq for one in part if one.lane == item.lane] for item in part}
        for lane, seqs in by_user.items():
            open_ = [item.seq for item in items if item.lane == lane and item.seq not in done]
            assert seqs == open_[: len(seqs)], (
                "an item was sent before an earlier one of its user, or twice"
            )
        run.parts.append([item.seq for item in part])
        reply = world(part)
        if isinstance(reply, list):
            done |= {
                item.seq
                for item, one in zip(part, reply, strict=True)
                if not isinstance(one, Trouble)
            }
        run.search.advance(reply)
        done |= {item.seq for item, one in run.search.outcomes() if isinstance(one, ItemRefused)}
    found = run.search.outcomes()
    run.outcomes = {item.seq: outcome for item, outcome in found}
    assert len(run.outcomes) == len(found), "two outcomes of one item"
    return run


COUNTS = st.lists(st.integers(1, 9), min_size=2, max_size=50)


@given(COUNTS, st.data())
def test_one_item_that_a_firewall_blocks_is_found_and_all_else_is_delivered(
    counts: list[int], data: st.DataObject
) -> None:
    items = batch(*counts)
    bad = data.draw(st.sampled_from(items)).seq
    run = send(items, firewall({bad}))
    assert run.of(ItemRefused) == {bad}
    assert run.of(Done) == {item.seq for item in items} - {bad}
    assert not run.search.held
    assert len(run.parts) <= 1 + max_calls(items) // 2


def test_one_of_fifty_users_takes_two_calls_for_each_halving() -> None:
    items = batch(*[1] * 50)
    assert max(len(send(items, firewall({bad})).parts) for bad in range(50)) <= 1 + 2 * 6 + 2


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30))
def test_where_everything_is_blocked_nothing_is_blamed_and_the_app_is_held_after_few_calls(
    counts: list[int],
) -> None:
    items = batch(*counts)
    run = send(items, firewall(range(len(items))))
    assert run.of(ConfigRefused) == {item.seq for item in items}
    assert run.search.held
    assert len(run.parts) <= (1 if len(counts) == 1 else 5)


@given(COUNTS, st.data())
def test_of_several_blocked_items_none_is_blamed_wrongly_and_in_the_end_each_is_found(
    counts: list[int], data: st.DataObject
) -> None:
    """What is not settled is sent again, to fewer users at once each time (the window's rule),
    beside calls that pass.
    """
    items = batch(*counts)
    bad = data.draw(st.sets(st.sampled_from([item.seq for item in items]), max_size=8))
    doubts, left, refused = Doubts(), items, set[int]()
    for attempt in range(200):
        for users in _calls_of({item.lane for item in left}, max(1, 50 >> attempt)):
            sent = [item for item in left if item.lane in users]
            run = send(sent[:1] if doubts.held else sent, firewall(bad), doubts)
            assert run.of(ItemRefused) <= bad
            refused |= run.of(ItemRefused)
            left = [item for item in left if item.seq not in run.of(ItemRefused) | run.of(Done)]
            doubts.note_passed({-1})
    assert not left, "an item is sent again for ever"
    assert refused == bad


def _calls_of(lanes: Collection[int], most: int) -> list[set[int]]:
    """The users of each call, where a call may have so many."""
    ordered = sorted(lanes)
    return [set(ordered[first : first + most]) for first in range(0, len(ordered), most)]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(0, 60), st.integers(0, 60))
def test_a_block_that_comes_and_goes_blames_nothing(
    counts: list[int], begins: int, ends: int
) -> None:
    items, made = batch(*counts), list[int]()

    def answer(part: Sequence[Item]) -> Reply:
        made.append(1)
        return Doubtful("HTTP 403") if begins <= len(made) - 1 < ends else [Done()] * len(part)

    doubts, left = Doubts(), items
    for _ in range(100):
        run = send(left, answer, doubts)
        assert not run.of(ItemRefused)
        left = [item for item in left if item.seq not in run.of(Done)]
        if not left:
            break
    assert not left


@given(COUNTS, st.integers(0, 40), st.data())
def test_a_block_that_begins_while_an_item_is_looked_for_blames_at_most_one_other(
    counts: list[int], begins: int, data: st.DataObject
) -> None:
    """One answer may be taken for the item's that was the first of the block; never more."""
    items, made = batch(*counts), list[int]()
    bad = data.draw(st.sampled_from(items)).seq
    blocked = firewall({bad})

    def answer(part: Sequence[Item]) -> Reply:
        made.append(1)
        return Doubtful("HTTP 403") if len(made) > begins else blocked(part)

    run = send(items, answer)
    assert len(run.of(ItemRefused) - {bad}) <= 1
    assert run.search.held or run.of(ItemRefused)


@given(COUNTS, st.data())
def test_what_leanplum_refuses_for_its_content_is_isolated_without_any_doubt(
    counts: list[int], data: st.DataObject
) -> None:
    items = batch(*counts)
    bad = data.draw(st.sets(st.sampled_from([item.seq for item in items])))
    run = send(items, strict(bad))
    assert run.of(ItemRefused) == bad
    assert run.of(Done) == {item.seq for item in items} - bad


REPLIES = st.sampled_from(
    ["done", "trouble", "throttled", "doubtful", "too much", "key", "refused"]
)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_whatever_is_answered_it_ends_in_order_with_at_most_one_outcome_each(
    counts: list[int], data: st.DataObject
) -> None:
    items = batch(*counts)

    def answer(part: Sequence[Item]) -> Reply:
        kind = data.draw(REPLIES)
        one: dict[str, Outcome] = {
            "done": Done(),
            "trouble": Trouble("HTTP 503"),
            "throttled": Trouble("HTTP 429", throttled=True),
            "key": ConfigRefused("Invalid access key"),
            "refused": ItemRefused("Bad"),
        }
        if kind == "doubtful":
            return Doubtful("HTTP 403")
        if kind == "too much":
            return SplitNeeded("HTTP 400") if len(part) > 1 else [ItemRefused("HTTP 400")]
        return [one[kind]] * len(part)

    run = send(items, answer)
    assert len(run.parts) <= 4 * len(items) + max_calls(items)


def test_once_the_key_is_refused_nothing_more_is_sent() -> None:
    def answer(part: Sequence[Item]) -> Reply:
        return (
            Doubtful("HTTP 403")
            if len(part) == 8
            else [ConfigRefused("Invalid access key")] * len(part)
        )

    assert len(send(batch(*[1] * 8), answer).parts) == 2


def test_of_two_users_who_are_both_blocked_neither_is_blamed_after_three_calls() -> None:
    run = send(batch(1, 1), firewall({0, 1}))
    assert (run.parts, run.search.held) == ([[0, 1], [0], [1]], True)


def test_an_answer_that_was_doubtful_once_is_not_held_against_the_item() -> None:
    """The batch and the first user's own call are blocked, then nothing is: the first is asked
    again.
    """
    answers: list[Reply] = [Doubtful("HTTP 403"), Doubtful("HTTP 403"), [Done()], [Done()]]
    run = send(batch(1, 1), lambda part: answers.pop(0))
    assert run.parts == [[0, 1], [0], [1], [0]]
    assert run.of(Done) == {0, 1}


def test_a_user_alone_is_held_and_blamed_only_after_anothers_call_has_passed() -> None:
    doubts, world = Doubts(), firewall({0})
    for _ in range(2):
        run = send(batch(1), world, doubts)
        assert (run.search.held, doubts.users, run.of(ItemRefused)) == (True, 1, set())
    doubts.note_passed({7})
    run = send(batch(1), world, doubts)
    assert (run.search.held, run.of(ItemRefused)) == (False, {0})


def test_his_own_passing_items_do_not_make_an_item_of_a_user_alone_its_own_fault() -> None:
    doubts, world = Doubts(), firewall({0})
    send(batch(1), world, doubts)
    doubts.note_passed({0})
    assert send(batch(1), world, doubts).search.held


def test_while_the_app_is_held_nothing_is_split() -> None:
    doubts = Doubts()
    send(batch(1, 1), firewall({0, 1}), doubts)
    assert len(send(batch(1, 1, 1), firewall({0, 1, 2}), doubts).parts) == 1


def test_an_app_that_is_held_meanwhile_ends_the_search_and_holds_what_it_had_not_settled() -> None:
    doubts = Doubts()
    search = Bisection(batch(1, 1), doubts)
    search.advance(Doubtful("HTTP 403"))
    send(batch(0, 0, 1, 1), firewall({0, 1}), doubts)
    search.advance(Doubtful("HTTP 403"))
    assert search.part is None
    assert [type(outcome) for _, outcome in search.outcomes()] == [ConfigRefused] * 2


def test_one_item_is_blamed_for_each_piece_of_evidence_and_the_users_next_waits_for_more() -> None:
    """A whole user is blocked: the items are found one after the other, not all by what may be a
    new block.
    """
    run = send(batch(1, 3), firewall({1, 2, 3}))
    assert run.of(Done) == {0}
    assert run.of(ItemRefused) == {1}
    assert not run.search.held


def test_items_of_a_user_that_pass_between_are_evidence_as_well() -> None:
    run = send(batch(1, 4), firewall({1, 4}))
    assert run.of(ItemRefused) == {1, 4}
    assert run.of(Done) == {0, 2, 3}


def test_a_size_that_is_refused_by_a_403_is_found_although_both_halves_are_too_large() -> None:
    run = send(
        batch(*[1] * 40),
        lambda part: Doubtful("HTTP 403") if len(part) > 12 else [Done()] * len(part),
    )
    assert run.of(Done) == set(range(40))
    assert not run.search.held


def test_the_words_in_which_calls_are_refused_are_no_refusal_of_a_lone_item_until_a_call_passes() -> (
    None
):
    doubts = Doubts()
    doubts.note_doubtful({1, 2}, "Quota spent")
    assert doubts.reinterpret([ItemRefused("Quota spent")]) == Doubtful("Quota spent")
    assert doubts.reinterpret([ItemRefused("Bad")]) == [ItemRefused("Bad")]
    assert doubts.reinterpret([Done(), ItemRefused("Quota spent")]) == [
        Done(),
        ItemRefused("Quota spent"),
    ]
    doubts.note_passed({3})
    assert doubts.reinterpret([ItemRefused("Quota spent")]) == [ItemRefused("Quota spent")]


def test_suspects_are_forgotten_beyond_a_number() -> None:
    doubts = Doubts()
    for lane in range(MAX_SUSPECTS + 10):
        doubts.note_doubtful({lane}, "no")
    doubts.note_passed({-1})
    assert not doubts.cleared(0)
    assert doubts.cleared(MAX_SUSPECTS + 9)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12).filter(lambda counts: sum(counts) > 1))
def test_halves_are_of_users_as_long_as_there_are_several_and_nothing_gets_lost(
    counts: list[int],
) -> None:
    items = batch(*counts)
    first, second = halves(items)
    assert first
    assert second
    assert sorted([*first, *second]) == items
    assert [*first] == sorted(first)
    assert [*second] == sorted(second)
    if len(counts) > 1:
        assert {item.lane for item in first}.isdisjoint(item.lane for item in second)


@pytest.mark.parametrize(
    ("parts", "settled", "again"),
    [
        ([[0, 1]], {0, 1}, [False]),
        ([[0, 1], [0], [1]], {0, 1}, [True, False, False]),
        ([[0, 1], [0], [1], [0]], {0, 1}, [True, True, False, False]),
        ([[0, 1], [0]], {0}, [True, False]),
        ([[0]], set(), [True]),
    ],
)
def test_a_call_is_split_where_its_items_are_sent_again(
    parts: list[list[int]], settled: set[int], again: list[bool]
) -> None:
    items = batch(2)
    assert sent_again([[items[seq] for seq in part] for part in parts], settled) == again
