"""Leanplum's answers to attempts after which an item was sent again."""

import pytest

from app.encryption import NO_ENCRYPTION, BodyCipher
from app.model import NewItem, Postponed, Receipt, Settled, Status, Verdict
from app.outbox.dead_letters import DeadLetterFilter
from app.outbox.earlier_answers import MAX_CHARACTERS, EarlierAnswer, line, read
from app.outbox.liveness_lock import KnownProcess

from .harness import Opened, gone, settle, track, with_outbox

SAID = {"success": False, "error": "no"}
LOGIN = NewItem("uold", "setUserAttributes", '{"newUserId":"ann","userId":"old"}', "a")
ENCRYPTED = BodyCipher({"a": bytes(32)}, "a")


def again(error: str) -> Postponed:
    return Postponed(Status.RETRYING, 0.0, {"success": False, "error": error})


async def attempt(at: Opened, verdict: Verdict) -> None:
    """Make an attempt on the one item that waits, 500 ms later."""
    at.now += 500
    (item,) = await at.waiting()
    assert await at.begin(f"t-{at.now}", [item])
    assert await at.outbox.settle(f"t-{at.now}", "default", [(item.seq, verdict)])


async def settle_last(at: Opened, status: Status) -> None:
    """Settle the one item that waits and is no deletion."""
    sent = [item for item in await at.waiting() if item.action != "deleteUser"]
    assert await at.begin("last", sent)
    assert await at.outbox.settle("last", "default", [(sent[0].seq, Settled(status, SAID))])


async def receipt_of(at: Opened, item_id: str = "a") -> Receipt:
    receipt = await at.outbox.receipt("default", item_id)
    assert receipt is not None
    return receipt


async def earlier(at: Opened) -> list[tuple[int, str | None]]:
    """Return the times and errors of the item's earlier answers."""
    origin = await at.outbox.origin(await receipt_of(at))
    assert origin is not None
    return [(one.at, None if one.answer is None else one.answer["error"]) for one in origin.earlier]


@pytest.mark.parametrize("cipher", [NO_ENCRYPTION, ENCRYPTED], ids=["plain", "encrypted"])
def test_each_answer_is_kept_with_its_time_in_order(database: str, cipher: BodyCipher) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        assert await earlier(at) == []
        began = at.now
        for error in ("first", "line\nbreak", "third"):
            await attempt(at, again(error))
        await attempt(at, Settled(Status.DELIVERED))
        assert (await receipt_of(at)).leanplum is None
        kept = [(began + 500, "first"), (began + 1000, "line\nbreak"), (began + 1500, "third")]
        assert await earlier(at) == kept

    with_outbox(database, body, cipher=cipher)


def test_the_answer_to_a_dead_letter_is_kept_when_it_is_sent_again(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        await attempt(at, again("first"))
        await attempt(at, Settled(Status.REJECTED, {"success": False, "error": "second"}))
        settled_at = at.now
        assert await earlier(at) == [(settled_at - 500, "first")]
        which = DeadLetterFilter()
        assert await at.outbox.dead_letters.replay("default", which, lambda n: (0, "{}")) == (1, 1)
        assert await earlier(at) == [(settled_at - 500, "first"), (settled_at, "second")]
        await attempt(at, Settled(Status.DELIVERED))
        assert len(await earlier(at)) == 2

    with_outbox(database, body)


def test_of_many_answers_the_latest_are_kept(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        for number in range(60):
            await attempt(at, again(f"number {number}"))
        errors = [error for _, error in await earlier(at)]
        assert 20 < len(errors) < 60
        assert errors == [f"number {number}" for number in range(60 - len(errors), 60)]
        assert len(str(at.one("SELECT earlier FROM items"))) < MAX_CHARACTERS + 200

    with_outbox(database, body)


def test_an_answer_that_cannot_be_decrypted_is_said_to_be_so(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        async with Opened(at.database, 1_000, ENCRYPTED) as other:
            await attempt(other, again("first"))
        origin = await at.outbox.origin(await receipt_of(at))
        assert origin is not None
        (found,) = origin.earlier
        assert found == EarlierAnswer(found.at, None)

    with_outbox(database, body)


def test_an_attempt_that_a_crash_left_open_is_one_of_them(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        await at.begin("t", await at.waiting())
        await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], ())
        ((_, error),) = await earlier(at)
        assert error == "The gateway was stopped before Leanplum's answer came"

    with_outbox(database, body)


def test_a_deletion_that_was_delivered_keeps_none(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(gone(item_id="a"))
        await attempt(at, again("first"))
        assert len(await earlier(at)) == 1
        at.now += 500
        await settle(at, await at.waiting())
        assert await earlier(at) == []

    with_outbox(database, body)


@pytest.mark.parametrize("status", [Status.REJECTED, Status.UNKNOWN])
@pytest.mark.parametrize("dead_before", [True, False])
def test_a_login_of_an_erased_user_that_is_a_dead_letter_keeps_none(
    database: str, dead_before: bool, status: Status
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(LOGIN)
        await attempt(at, again("User ann is bad"))
        if dead_before:
            await settle_last(at, status)
        await at.accept(gone("ann"))
        if not dead_before:
            await settle_last(at, status)
        assert await earlier(at) == []
        assert (await receipt_of(at)).status is status

    with_outbox(database, body)


def test_a_login_of_an_erased_user_that_may_have_been_sent_keeps_none(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(LOGIN)
        await attempt(at, again("User ann is bad"))
        await at.begin("flying", await at.waiting(), "one")
        await at.accept(gone("ann"))
        await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], ["setUserAttributes"])
        assert (await receipt_of(at)).status is Status.UNKNOWN
        assert await earlier(at) == []

    with_outbox(database, body)


def test_answers_to_replays_are_bounded_as_well(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track("ann", item_id="a"))
        for number in range(12):
            said = {"success": False, "error": f"number {number} {'x' * 500}"}
            await attempt(at, Settled(Status.REJECTED, said))
            await at.outbox.dead_letters.replay("default", DeadLetterFilter(), lambda n: (0, "{}"))
        errors = [str(error)[:9].strip() for _, error in await earlier(at)]
        assert errors[-1] == "number 11"
        assert len(str(at.one("SELECT earlier FROM items"))) < MAX_CHARACTERS + 700

    with_outbox(database, body)


def test_a_part_of_an_answer_that_looks_like_one_is_left_out() -> None:
    part = '1712345678901 is too old"}\n'
    whole = "".join(line(1_712_345_678_902, '{"error":"no"}') for _ in range(80))
    assert len(part + whole) > MAX_CHARACTERS
    found = read(part + whole, NO_ENCRYPTION, "default", 1)
    assert {answer.answer["error"] for answer in found if answer.answer} == {"no"}
    assert len(found) == 80
