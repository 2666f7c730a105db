"""What deliverers read of the queue."""

import pytest

from app import ids
from app.database.engine import transaction
from app.model import Backlog, ReadRequest
from app.outbox import waiting_items

from .harness import Opened, settle, track, with_outbox

APPS = ("a", "b", "c", "d")


@pytest.mark.parametrize("part", [1, 3, 4, 100])
def test_a_deliverer_learns_of_all_callers_of_a_long_queue_part_by_part(
    database: str, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(waiting_items, "CALLERS_PART", part)

    async def body(at: Opened) -> None:
        await at.accept(track(), app="delivered")
        await settle(at, await at.waiting())
        for app in APPS:
            await at.accept(track(), track("bob"), app=app)
        found = await at.outbox.look(ReadRequest(fresh=True))
        assert found.callers == {
            ids.share(app, "key_1"): Backlog(app, 1 + 2 * place) for place, app in enumerate(APPS)
        }
        assert found.last == 9
        assert found.tail is None

    with_outbox(database, body)


@pytest.mark.parametrize(
    ("part", "found_in_part", "after_part"), [(1, 1, 2), (2, 1, 3), (5, 3, 2006), (100, 3, None)]
)
def test_in_a_long_queue_a_lane_without_an_earlier_item_in_the_first_part_may_have_one_after_it(
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    part: int,
    found_in_part: int,
    after_part: int | None,
) -> None:
    """The range is long, since numbers in between are free."""
    monkeypatch.setattr(waiting_items, "LANES_PART", part)

    async def body(at: Opened) -> None:
        users = ["first", "middle", "last", "nobody"]
        seqs = dict[str, int]()
        for user in users[:3]:
            await at.accept(track(user), track("others"))
            seqs[user] = int(str(at.one("SELECT last FROM sequence"))) - 1
            with transaction(at.engine) as cursor:
                cursor.execute("UPDATE sequence SET last = last + 1000")
        behind = int(str(at.one("SELECT last FROM sequence")))
        await at.accept(*(track(user) for user in users))
        found = await at.outbox.look(ReadRequest(tail=behind, unread_after={"default": 0}))
        assert found.tail is not None
        lanes = {item.subject[1:]: item.lane for item in found.tail.items}
        expected = {lanes[user]: seqs[user] for user in users[:found_in_part]}
        if after_part is not None:
            expected = dict.fromkeys(lanes.values(), after_part) | expected
        assert found.earlier == expected

    with_outbox(database, body)


@pytest.mark.parametrize("part", [1, 2, 3, 100])
def test_lanes_are_read_part_by_part_of_what_waits(
    database: str, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(waiting_items, "LANES_PART", part)

    async def body(at: Opened) -> None:
        for _ in range(3):
            await at.accept(track("others"), track("ann"))
        (ann,) = {item.lane for item in await at.waiting() if item.subject == "uann"}
        found, begin = list[int](), 1
        while True:
            result = await at.outbox.look(
                ReadRequest(lanes=frozenset({ann}), lanes_from=begin, lanes_upto=500)
            )
            assert result.lanes is not None
            found += [item.seq for item in result.lanes.items]
            if result.lanes.whole:
                break
            assert result.lanes.read_upto - begin < part
            begin = result.lanes.read_upto + 1
        assert found == [2, 4, 6]

    with_outbox(database, body)
