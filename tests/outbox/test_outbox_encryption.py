"""Bodies at rest: sealed where a key is set, opened wherever they are needed, whatever keys were
set before.
"""

import base64
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.database.engine import connect, reading
from app.encryption import TAMPERED, BodyCipher, open_body_cipher
from app.errors import StartRefused
from app.model import ENCRYPTED_PREFIX, NewItem, ReadRequest, Settled, Status
from app.outbox.dead_letters import DeadLetterFilter

from .harness import Opened, track, with_outbox

A, B = bytes(range(32)), bytes(range(32, 64))
VALUE = "canary-value"


def cipher(database: str, sealing: str | None = None, **keys: bytes) -> BodyCipher:
    """The cipher of a process that starts on the database with these keys."""
    engine = connect(database)
    try:
        return open_body_cipher(engine, keys, sealing)
    finally:
        engine.dispose()


def bought(item_id: str | None = None, user: str = "ann") -> NewItem:
    return NewItem(
        f"u{user}", "track", f'{{"event":"E","info":"{VALUE}","userId":"{user}"}}', item_id
    )


async def reject(at: Opened) -> None:
    """Make dead letters of all that waits, with a reason that repeats what was sent."""
    sent = await at.waiting()
    await at.begin("t", sent)
    said = {"success": False, "error": f"Bad info: {VALUE}"}
    verdicts = [(item.seq, Settled(Status.REJECTED, said)) for item in sent]
    assert await at.outbox.settle("t", "default", verdicts)


def stored(at: Opened) -> str:
    """All that rests of items."""
    with at.engine.connect() as connection:
        return repr(connection.execute(text("SELECT * FROM items")).all())


@pytest.mark.parametrize("sealing", [None, "a"])
def test_a_body_is_read_as_it_was_accepted_and_rests_in_clear_only_without_a_key(
    database: str, sealing: str | None
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(bought(), bought("own"), bought())
        assert [item.body for item in await at.waiting()] == [bought().body] * 3
        await reject(at)
        (dead, *_) = await at.outbox.dead_letters.find("default", DeadLetterFilter())
        assert dead.leanplum == {"success": False, "error": f"Bad info: {VALUE}"}
        assert (VALUE in stored(at)) == (sealing is None)
        assert await at.outbox.receipt("default", "own") is not None

    with_outbox(database, body, cipher=cipher(database, sealing, a=A))


STEPS: dict[str, list[tuple[str | None, dict[str, bytes]]]] = {
    "turned on": [(None, {}), ("a", {"a": A})],
    "turned off": [("a", {"a": A}), (None, {"a": A})],
    "rotated": [("a", {"a": A}), ("b", {"b": B, "a": A})],
    "rotated back": [("a", {"a": A}), ("b", {"b": B, "a": A}), ("a", {"b": B, "a": A})],
}


@pytest.mark.parametrize("change", STEPS)
def test_with_what_was_queued_and_dead_before_a_change_of_keys_all_goes_on_after_it(
    database: str, change: str
) -> None:
    async def before(at: Opened) -> None:
        await at.accept(bought("dead"))
        await reject(at)
        ((made, _),) = await at.accept(bought())
        await at.accept(bought("waits"))
        left.append(made)

    async def after(at: Opened) -> None:
        assert await at.outbox.dead_letters.replay(
            "default", DeadLetterFilter(), lambda count: (at.now, "{}")
        ) == (1, 1)
        assert [item.body for item in await at.waiting()] == [bought().body] * 3
        for known in ("dead", "waits", *left):
            assert await at.accept(bought(known)) == [(known, "duplicate")]
            assert await at.accept(bought(known, "bob")) == [(known, "conflict")]

    left = list[str]()
    steps = STEPS[change]
    with_outbox(database, before, cipher=cipher(database, steps[0][0], **steps[0][1]))
    for sealing, keys in steps[1:]:
        with_outbox(database, after, cipher=cipher(database, sealing, **keys))

        async def kill_again(at: Opened) -> None:
            for item in await at.waiting():
                if item.id == "dead":
                    await at.begin("again", [item])
                    said = {"success": False, "error": VALUE}
                    await at.outbox.settle(
                        "again", "default", [(item.seq, Settled(Status.REJECTED, said))]
                    )

        with_outbox(database, kill_again, cipher=cipher(database, sealing, **keys))


def test_a_start_without_the_key_that_sealed_something_is_refused_and_writes_nothing(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(bought())

    with_outbox(database, body, cipher=cipher(database, "a", a=A))
    with pytest.raises(StartRefused, match='GATEWAY_DATA_KEY: the key "a" is missing'):
        cipher(database)
    with pytest.raises(StartRefused, match='GATEWAY_DATA_KEY: the key "a" is missing'):
        cipher(database, "b", b=B)
    with pytest.raises(StartRefused, match='GATEWAY_DATA_KEY: "a" is not the key'):
        cipher(database, "a", a=B)
    assert known_keys(database) == ["a"]
    cipher(database, "b", b=B, a=A)


def test_what_only_leanplum_said_under_a_key_keeps_that_key_needed_too(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(bought("dead"))
        await reject(at)
        await at.outbox.dead_letters.discard(
            "default", DeadLetterFilter(), lambda count: (at.now, "{}")
        )

    with_outbox(database, body, cipher=cipher(database, "a", a=A))
    cipher(database, "b", b=B, a=A)
    with pytest.raises(StartRefused, match='"a" is missing'):
        cipher(database, "b", b=B)


def test_a_key_under_which_nothing_is_left_may_go_and_its_id_stand_for_another(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(bought())
        sent = await at.waiting()
        await at.begin("t", sent)
        await at.outbox.settle(
            "t", "default", [(item.seq, Settled(Status.DELIVERED)) for item in sent]
        )

    with_outbox(database, body, cipher=cipher(database, "a", a=A))
    cipher(database, "b", b=B, a=A)
    cipher(database, "b", b=B)
    assert known_keys(database) == ["b"]
    cipher(database, "a", a=B, b=B)


def test_what_another_process_sealed_by_a_key_that_is_not_here_is_left_as_it_is(
    database: str,
) -> None:
    old, new = cipher(database, "a", a=A), BodyCipher({"b": B, "a": A}, "b")

    async def body(at: Opened) -> None:
        async with Opened(database, 1_000, new) as other:
            await other.accept(bought())
        await at.accept(bought())
        sealed, own = await at.waiting()
        assert (sealed.undecryptable, sealed.body[:3], own.body) == (True, "~b.", bought().body)

    with_outbox(database, body, cipher=old)


def test_a_body_that_was_changed_or_moved_in_the_database_is_told_from_one_without_its_key(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(
            bought(user="ann"), bought(user="bob"), bought(user="cid"), bought(user="dan")
        )
        with at.engine.begin() as connection:
            bodies = [
                row[0] for row in connection.execute(text("SELECT body FROM items ORDER BY seq"))
            ]
            moved = [bodies[1], bodies[0], bodies[2][:-6] + "AAAA==", ENCRYPTED_PREFIX]
            for seq, changed in enumerate(moved, 1):
                connection.execute(
                    text("UPDATE items SET body = :body WHERE seq = :seq"),
                    {"body": changed, "seq": seq},
                )
        assert [item.body for item in await at.waiting()] == [TAMPERED] * 4

    with_outbox(database, body, cipher=cipher(database, "a", a=A))


def test_a_receipt_whose_words_can_t_be_opened_is_not_answered_as_if_there_were_none(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(bought("dead"))
        await reject(at)

    async def elsewhere(at: Opened) -> None:
        receipt = await at.outbox.receipt("default", "dead")
        assert receipt is not None
        assert (receipt.leanplum, receipt.leanplum_unreadable) == (None, True)

    with_outbox(database, body, cipher=cipher(database, "a", a=A))
    with_outbox(database, elsewhere, cipher=BodyCipher({"b": B}, "b"))


def test_pages_of_sealed_bodies_are_cut_by_what_is_stored_so_none_is_taken_for_the_last(
    path: Path,
) -> None:
    async def body(at: Opened) -> None:
        # Seven of them are less than a page in clear, and more than one sealed
        long = "x" * 1_100_000
        await at.accept(*(track(f"user{number}", long) for number in range(7)))
        counts, after, whole = list[int](), 0, False
        while not whole:
            page = (await at.outbox.look(ReadRequest(tail=after, limit=1_000))).tail
            assert page is not None
            counts, after, whole = [*counts, len(page.items)], page.items[-1].seq, page.whole
        assert (sum(counts), len(counts)) == (7, 2)

    database = f"sqlite:///{path}"
    with_outbox(database, body, cipher=cipher(database, "a", a=A))


def test_what_hashes_are_keyed_by_is_sealed_too_and_differs_from_gateway_to_gateway(
    database: str,
) -> None:
    one = cipher(database, "a", a=A)
    engine = connect(database)
    with reading(engine) as connection:
        kept: Any = connection.execute(
            text("SELECT value FROM own_secrets WHERE name = 'contents'")
        ).scalar_one()
    engine.dispose()
    assert bytes(kept).startswith(b"~a.")
    assert one.digest("track", "uann", "{}") == cipher(database, "b", b=B, a=A).digest(
        "track", "uann", "{}"
    )
    assert one.digest("track", "uann", "{}") != BodyCipher({}, None, base64.b64encode(A)).digest(
        "track", "uann", "{}"
    )


def known_keys(database: str) -> list[str]:
    engine = connect(database)
    with reading(engine) as connection:
        found = list(connection.execute(text("SELECT id FROM data_keys ORDER BY id")).scalars())
    engine.dispose()
    return found
