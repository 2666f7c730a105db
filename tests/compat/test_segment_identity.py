"""Who somebody is to Leanplum, when a Segment library tells of them before and after it knows
them.
"""

import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.support.gateway import Talk
from tests.support.segment import post
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until


@pytest.fixture
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture
def talk(leanplum: Leanplum, settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Talk]:
    with delivering_to(leanplum, settings, tmp_path / "g.db") as found:
        yield found


def send(talk: Talk, *messages: dict[str, Any]) -> None:
    """In a batch; until all is delivered."""
    batch = [{**one, "messageId": str(uuid.uuid4())} for one in messages]
    assert post(talk, "batch", {"batch": batch}).json() == {"success": True}
    for one in batch:
        until(partial(delivered, talk, one["messageId"]))


def delivered(talk: Talk, item: str) -> bool:
    return bool(talk.get(f"/v1/receipts/{item}").json()["status"] == "delivered")


def track(event: str, **ids: str) -> dict[str, Any]:
    return {"type": "track", "event": event, **ids}


def test_what_an_anonymous_user_did_is_the_known_user_s_after_identify(
    talk: Talk, leanplum: Leanplum
) -> None:
    send(
        talk,
        track("before", anonymousId="a-1"),
        {"type": "page", "anonymousId": "a-1", "name": "Home"},
    )
    send(
        talk, {"type": "identify", "userId": "ann", "anonymousId": "a-1", "traits": {"plan": "pro"}}
    )
    send(talk, track("both", userId="ann", anonymousId="a-1"), track("after", anonymousId="a-1"),
         track("only", userId="ann"))  # fmt: skip
    ann = leanplum.user("ann")
    assert {event: told["count"] for event, told in ann["events"].items()} == dict.fromkeys(
        ("before", "both", "after", "only"), 1
    )
    assert (list(ann["states"]), ann["attributes"], ann["devices"]) == (
        ["Home"],
        {"plan": "pro"},
        ["a-1"],
    )


def test_a_login_and_what_follows_it_keep_their_order_in_one_batch(
    talk: Talk, leanplum: Leanplum
) -> None:
    send(talk, track("before", anonymousId="a-1"))
    send(talk, {"type": "identify", "userId": "ann", "anonymousId": "a-1"},
         track("both", userId="ann", anonymousId="a-1"))  # fmt: skip
    assert leanplum.user("ann")["events"].keys() == {"before", "both"}


def test_a_device_changes_hands_and_each_user_keeps_what_was_theirs(
    talk: Talk, leanplum: Leanplum
) -> None:
    for user in ("ann", "bob"):
        send(talk, {"type": "identify", "userId": user, "anonymousId": "a-1"})
        send(talk, track(f"of {user}", anonymousId="a-1"))
    assert leanplum.user("ann")["events"].keys() == {"of ann"}
    assert leanplum.user("bob")["events"].keys() == {"of bob"}


def test_alias_gives_a_user_the_new_id(talk: Talk, leanplum: Leanplum) -> None:
    send(
        talk, track("before", userId="old"), {"type": "alias", "userId": "new", "previousId": "old"}
    )
    assert leanplum.user("new")["events"].keys() == {"before"}
