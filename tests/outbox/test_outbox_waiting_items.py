"""What deliverers read of the queue."""

import pytest

from app import ids
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
