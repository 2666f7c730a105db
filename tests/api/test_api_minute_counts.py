"""Counts by minute of a running gateway."""

from collections.abc import Callable
from pathlib import Path

from app.settings import Settings
from tests.support.gateway import EVENT, running


def test_accepted_items_are_counted_and_what_was_not_stored_yet_is_stored_by_a_stop(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    given = settings(leanplum_development_key="dev_tests_secret")
    with running(given, tmp_path / "g.db") as talk:
        first = EVENT | {"id": "e1"}
        talk.event(first)
        talk.event(first)  # a duplicate
        talk.event({"userId": "u1"})  # invalid
        talk.batch([{"action": "track", **EVENT, "id": f"b{number}"} for number in range(3)])
        talk.call("DELETE", "/v1/users/u2?fullErasure=true")
    with running(given, tmp_path / "g.db") as talk:
        counts = talk.rows("SELECT app, kind, sum(total) FROM minute_counts GROUP BY app, kind")
        assert counts == [("default", "accepted", 5)]
