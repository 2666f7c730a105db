"""Items sealed with a key that is not here: whatever needs no content works on them as on
others.
"""

from collections.abc import Callable

import pytest
from sqlalchemy import text

from app.encryption import BodyCipher
from app.model import ERASES, NewItem, Settled, Status
from app.outbox.dead_letters import DeadLetterFilter
from app.outbox.retention import RetentionLimits

from .harness import Opened, track, with_outbox

A, B = bytes(range(32)), bytes(range(32, 64))
HERE, ELSEWHERE = BodyCipher({"b": B}, "b"), BodyCipher({"a": A}, "a")
REASON = "Bad info: canary-value"
REFUSED = Settled(Status.REJECTED, {"success": False, "error": REASON})


class Closed(BodyCipher):
    """A cipher that nobody may ask."""

    def open(self, stored: str, where: str) -> str:
        raise AssertionError("nothing here needs a content")


async def refuse(at: Opened) -> None:
    """Make dead letters of all that waits."""
    waiting = await at.waiting()
    assert await at.begin("t", waiting)
    verdicts = [(item.seq, REFUSED) for item in waiting]
    assert await at.outbox.settle("t", "default", verdicts)


async def three_dead_letters(at: Opened) -> str:
    """Dead letters of three users, of which the second is sealed with a key that `at` does not
    have; return the id that was made for that.
    """
    await at.accept(track("ann", item_id="first"))
    await refuse(at)
    async with Opened(at.database, 1_000, ELSEWHERE) as other:
        ((made, _),) = await other.accept(track("bob"))
        await refuse(other)
    await at.accept(track("cid", item_id="third"))
    await refuse(at)
    return made


def test_they_are_listed_and_have_receipts_that_say_so(database: str) -> None:
    async def body(at: Opened) -> None:
        made = await three_dead_letters(at)
        found = await at.outbox.dead_letters.find("default", DeadLetterFilter())
        assert [one.id for one in found] == ["first", made, "third"]
        assert [one.leanplum_unreadable for one in found] == [False, True, False]
        assert [one.leanplum for one in found] == [REFUSED.leanplum, None, REFUSED.leanplum]
        assert await at.outbox.receipt("default", made) == found[1]
        assert await at.outbox.settled_receipt("default", made, 0) == found[1]

    with_outbox(database, body, cipher=HERE)


def test_what_was_changed_in_the_database_is_listed_as_unreadable_too(database: str) -> None:
    async def body(at: Opened) -> None:
        await three_dead_letters(at)
        with at.engine.begin() as connection:
            connection.execute(text("UPDATE items SET leanplum = '~' WHERE seq = 1"))
            connection.execute(text("UPDATE items SET leanplum = '~b.bm9uc2Vuc2U=' WHERE seq = 3"))
        found = await at.outbox.dead_letters.find("default", DeadLetterFilter())
        assert [one.leanplum_unreadable for one in found] == [True] * 3

    with_outbox(database, body, cipher=HERE)


@pytest.mark.parametrize("act", ["replay", "discard"])
def test_they_are_replayed_and_discarded_without_a_look_at_any_content(
    database: str, act: str
) -> None:
    async def prepare(at: Opened) -> None:
        await three_dead_letters(at)

    async def body(at: Opened) -> None:
        do = at.outbox.dead_letters.replay if act == "replay" else at.outbox.dead_letters.discard
        record = recorder(at)
        assert await do("default", DeadLetterFilter(), record, dry_run=True) == (3, 0)
        assert await do("default", DeadLetterFilter(item_ids=("third",)), record) == (1, 1)
        assert await do("default", DeadLetterFilter(), record) == (2, 2)
        assert at.outbox.queued == (3 if act == "replay" else 0)

    with_outbox(database, prepare, cipher=HERE)
    with_outbox(database, body, cipher=Closed({"b": B}, "b"))


def test_what_is_replayed_so_is_sent_by_who_has_the_key(database: str) -> None:
    async def body(at: Opened) -> None:
        made = await three_dead_letters(at)
        assert await at.outbox.dead_letters.replay(
            "default", DeadLetterFilter(item_ids=(made,)), recorder(at)
        ) == (1, 1)
        (waiting,) = await at.waiting()
        assert waiting.undecryptable

    async def elsewhere(at: Opened) -> None:
        (waiting,) = await at.waiting()
        assert waiting.body == track("bob").body

    with_outbox(database, body, cipher=HERE)
    with_outbox(database, elsewhere, cipher=ELSEWHERE)


def test_retention_and_erasure_ask_for_no_content(database: str) -> None:
    async def prepare(at: Opened) -> None:
        await three_dead_letters(at)

    async def body(at: Opened) -> None:
        await at.accept(NewItem("ubob", ERASES, '{"userId":"bob"}'))
        assert at.one("SELECT count(*) FROM items WHERE subject = 'ubob'") == 1
        assert await at.outbox.sweep(RetentionLimits(0, 0)) == 2

    with_outbox(database, prepare, cipher=HERE)
    with_outbox(database, body, cipher=Closed({"b": B}, "b"))


def test_a_repeat_of_an_id_that_was_made_for_one_is_told_as_for_an_item_without_its_content(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        made = await three_dead_letters(at)
        taken = await at.accept(track("bob", item_id=made), track("dan", item_id="new"))
        assert taken == [(made, "duplicate"), ("new", "accepted")]
        assert await at.accept(track("dan", item_id=made)) == [(made, "conflict")]

    with_outbox(database, body, cipher=HERE)


def recorder(at: Opened) -> Callable[[int], tuple[int, str]]:
    return lambda count: (at.now, "{}")
