"""What deliverers read of the queue."""

import pytest

from app import ids
from app.database.engine import transaction
from app.model import ReadRequest
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
        assert sorted(found.callers) == sorted(ids.share(app, "key_1") for app in APPS)
        assert found.last == 9
        assert found.tail is None

    with_outbox(database, body)


@pytest.mark.parametrize("part", [1, 2, 5, 100])
def test_in_a_long_queue_the_earliest_item_of_a_lane_is_found_in_each_part(
    database: str, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """The range is long, since numbers in between are free."""
    monkeypatch.setattr(waiting_items, "EARLIER_PART", part)

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
        found = await at.outbox.look(ReadRequest(tail=behind, unread_after=0))
        assert found.tail is not None
        lanes = {item.subject[1:]: item.lane for item in found.tail.items}
        assert found.earlier == {lanes[user]: seqs[user] for user in users[:3]}

    with_outbox(database, body)
