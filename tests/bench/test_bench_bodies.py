"""What the bench posts."""

import itertools
import json

from bench.bodies import BATCH, BATCH_WITH_IDS, EVENT, fill, make_bodies


def test_the_same_seed_makes_the_same_bodies() -> None:
    assert make_bodies(EVENT, 5, users=10) == make_bodies(EVENT, 5, users=10)


def test_a_batch_holds_as_many_track_items_as_its_kind_says() -> None:
    items = json.loads(make_bodies(BATCH, 1, users=10)[0])["items"]
    assert len(items) == BATCH.size
    assert {item["action"] for item in items} == {"track"}


def test_filling_a_body_gives_every_item_an_id_of_its_own_and_goes_on_from_there() -> None:
    template, numbers = make_bodies(BATCH_WITH_IDS, 1, users=10)[0].encode(), itertools.count(1)
    filled = [json.loads(fill(template, "run", numbers))["items"] for _ in range(2)]
    ids = [item["id"] for items in filled for item in items]
    assert ids == [f"run-{n}" for n in range(1, 201)]
