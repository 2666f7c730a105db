"""Logins whose new id is erased: what waits is sent before the deletion, what is dead is never sent
again.
"""

import base64

import pytest

from app import ids
from app.encryption import NO_ENCRYPTION, BodyCipher
from app.model import NewItem, Settled, Status
from app.outbox.dead_letters import DeadLetterFilter
from app.outbox.liveness_lock import KnownProcess
from app.outbox.retention import RetentionLimits

from .harness import Opened, gone, settle, with_outbox

KEY = base64.b64decode("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
GIVEN_UP = {"success": False, "error": "Not sent again: a user whom it names was erased."}
LONG = RetentionLimits(receipts=10**9, dead_letters=10**9)


def login(old: str, new: str, item_id: str) -> NewItem:
    return NewItem(
        f"u{old}", "setUserAttributes", f'{{"newUserId":"{new}","userId":"{old}"}}', item_id
    )


def colliding(user: str) -> str:
    """Another user in the same lane. Each of many letters toggles the same bits of the lane
    whatever the others are, so some of them together make the difference.
    """
    base = ["a"] * 64

    def lane(*changed: int) -> int:
        letters = ["c" if place in changed else one for place, one in enumerate(base)]
        return ids.lane("default", f"u{''.join(letters)}")

    # By the highest bit: what is toggled, by which letters
    basis = dict[int, tuple[int, set[int]]]()
    for place in range(len(base)):
        bits, places = _reduced(basis, lane() ^ lane(place), {place})
        if bits:
            basis[bits.bit_length()] = bits, places
    left, places = _reduced(basis, lane() ^ ids.lane("default", f"u{user}"), set())
    assert left == 0
    return "".join("c" if place in places else one for place, one in enumerate(base))


def _reduced(
    basis: dict[int, tuple[int, set[int]]], bits: int, places: set[int]
) -> tuple[int, set[int]]:
    while (found := basis.get(bits.bit_length())) is not None:
        bits, places = bits ^ found[0], places ^ found[1]
    return bits, places


async def body_of(at: Opened, item_id: str) -> object:
    return at.one(f"SELECT body FROM items WHERE id = '{item_id}'")


@pytest.mark.parametrize(
    "cipher", [NO_ENCRYPTION, BodyCipher({"a": KEY}, "a", KEY)], ids=["in clear", "sealed"]
)
def test_a_dead_letter_that_names_the_user_gives_its_content_up_and_others_don_t(
    database: str, cipher: BodyCipher
) -> None:
    async def body(at: Opened) -> None:
        other_app = login("a", "ann", "other app")
        await at.accept(
            login("a", "ann", "names"), login("a", "bob", "other"), login("ann", "bob", "own")
        )
        await at.accept(other_app, app="other")
        await settle(at, await at.waiting(), Status.REJECTED)
        removed = (await at.outbox.erase(at.call(gone(item_id="e1"))))[1]["uann"].removed
        assert (removed.dead_letters, removed.waiting) == (2, 0)
        assert [
            one.id for one in await at.outbox.dead_letters.find("default", DeadLetterFilter())
        ] == ["other"]
        assert [
            one.id for one in await at.outbox.dead_letters.find("other", DeadLetterFilter())
        ] == ["other app"]
        receipt = await at.outbox.receipt("default", "names")
        assert receipt is not None
        assert (receipt.status, receipt.leanplum) == (Status.REJECTED, GIVEN_UP)
        assert await at.outbox.receipt("default", "own") is None

    with_outbox(database, body, cipher=cipher)


def test_one_that_can_t_be_decrypted_here_counts_as_one_that_names_the_user(database: str) -> None:
    async def sealed(at: Opened) -> None:
        await at.accept(login("a", "ann", "names"))
        await settle(at, await at.waiting(), Status.REJECTED)

    async def without_key(at: Opened) -> None:
        await at.accept(gone(item_id="e1"))
        assert await body_of(at, "names") is None

    with_outbox(database, sealed, cipher=BodyCipher({"a": KEY}, "a"))
    with_outbox(database, without_key)


@pytest.mark.parametrize("status", [Status.REJECTED, Status.EXPIRED, Status.UNKNOWN])
def test_one_that_waits_keeps_its_content_until_it_is_a_dead_letter(
    database: str, status: Status
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(login("a", "ann", "names"), login("a", "bob", "other"))
        await at.accept(gone(item_id="e1"))
        assert await body_of(at, "names") is not None
        sent = [item for item in await at.waiting() if item.action != "deleteUser"]
        await at.begin("t", sent)
        verdicts = [
            (item.seq, Settled(status, {"success": False, "error": "ann is bad"})) for item in sent
        ]
        assert await at.outbox.settle("t", "default", verdicts)
        assert (await body_of(at, "names"), await body_of(at, "other") is None) == (None, False)
        assert "ann" not in str(at.one("SELECT leanplum FROM items WHERE id = 'names'"))
        assert at.outbox.queued == 1
        replayed = await at.outbox.dead_letters.replay(
            "default", DeadLetterFilter(), lambda count: (at.now, "{}")
        )
        assert replayed == (1, 1)

    with_outbox(database, body)


def test_after_a_crash_one_that_may_have_been_sent_is_not_sent_again_where_that_is_not_wanted(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(login("a", "ann", "names"))
        await at.begin("flying", await at.waiting(), "one")
        await at.accept(gone(item_id="e1"))
        await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], ["setUserAttributes"])
        receipt = await at.outbox.receipt("default", "names")
        assert receipt is not None
        assert (receipt.status, await body_of(at, "names")) == (Status.UNKNOWN, None)
        deletion = [item for item in await at.waiting() if item.action == "deleteUser"]
        assert await at.outbox.begin("early", "two", deletion) == {deletion[0].lane: 0}, (
            "its call may be at work"
        )

    with_outbox(database, body)


def test_after_a_crash_the_deletion_waits_for_the_login_that_is_tried_again(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(login("a", "ann", "names"))
        (sent,) = await at.waiting()
        await at.begin("flying", [sent], "one")
        await at.accept(gone(item_id="e1"))
        await at.outbox.renew("two", 60_000, [KnownProcess("one", None)], [])
        with at.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM user_locks")  # as later
        deletion = [item for item in await at.waiting() if item.action == "deleteUser"]
        assert await at.outbox.begin("early", "two", deletion) == {deletion[0].lane: sent.seq}
        assert await at.outbox.begin("again", "two", [sent]) == {}

    with_outbox(database, body)


def test_a_user_in_the_same_lane_changes_nothing(database: str) -> None:
    async def body(at: Opened) -> None:
        old = colliding("ann")
        await at.accept(login(old, "ann", "names"), login("a", old, "other"))
        await settle(at, await at.waiting(), Status.REJECTED)
        assert at.one("SELECT count(DISTINCT lane) FROM items WHERE id IN ('names')") == 1
        await at.accept(gone(item_id="e1"))
        assert at.one("SELECT count(DISTINCT lane) FROM items WHERE id IN ('names', 'e1')") == 1
        assert (await body_of(at, "names"), await body_of(at, "other") is None) == (None, False)

    with_outbox(database, body)


def test_once_the_deletion_is_done_no_row_of_logins_tells_of_the_user(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(login("a", "ann", "delivered"), login("ann", "bob", "own"))
        await settle(at, await at.waiting())
        await at.accept(login("a", "ann", "rejected"))
        await settle(at, await at.waiting(), Status.REJECTED)
        await at.accept(gone(item_id="e1"))
        (deletion,) = await at.waiting()
        assert at.one(f"SELECT count(*) FROM logins WHERE lane = {deletion.lane}") == 2
        await settle(at, [deletion])
        assert at.one(f"SELECT count(*) FROM logins WHERE lane = {deletion.lane}") == 0
        assert at.one("SELECT lane FROM items WHERE id = 'e1'") == 0
        await at.outbox.sweep(LONG)
        assert at.one("SELECT count(*) FROM logins") == 0

    with_outbox(database, body)


@pytest.mark.parametrize(
    "item",
    [
        login("a", "ann", "1"),
        NewItem("uann", "setUserAttributes", '{"deviceId":"d","newUserId":"ann"}', "2"),
        NewItem("dd", "setUserAttributes", '{"deviceId":"d","newUserId":"ann"}', "3"),
        NewItem("ubob", "setUserAttributes", '{"deviceId":"gone","newUserId":"bob"}', "4"),
        NewItem("ua", "track", '{"event":"E","newUserId":"ann","userId":"a"}', "5"),
    ],
)
def test_whoever_an_item_would_make_anew_is_looked_for(database: str, item: NewItem) -> None:
    async def body(at: Opened) -> None:
        device = NewItem("dgone", "deleteUser", '{"deviceId":"gone"}')
        await at.accept(gone(), device)
        assert await at.accept(item) == [(item.id, "erased")]
        nested = NewItem("ua", "track", '{"params":{"newUserId":"ann"},"userId":"a"}', "6")
        bob = NewItem("ubob", "track", '{"deviceId":"gone","userId":"bob"}', "7")
        assert [kind for _, kind in await at.accept(nested, bob)] == ["accepted", "accepted"]

    with_outbox(database, body, erased_ms=60_000)
