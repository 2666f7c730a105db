"""What was committed is told as such, even where the database says nothing more afterwards."""

from collections.abc import Callable
from typing import NoReturn

import pytest

from app.callers.directory import Directory
from app.errors import StorageUnavailable
from app.outbox.outbox import Outbox
from tests.support.gateway import EVENT, Talk


async def unreadable(*_: object) -> NoReturn:
    """Fail as reading does from a database that answers no more."""
    raise StorageUnavailable("The database did not respond in time.")


def test_an_item_on_disk_is_answered_202_even_where_its_receipt_cannot_be_waited_for(
    start: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = start()
    monkeypatch.setattr(Outbox, "settled_receipt", unreadable)
    answer = talk.event(EVENT | {"id": "one"}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["id"]) == (202, "one")
    assert "preference-applied" not in answer.headers
    assert talk.items() == 1


def unrefreshed(_: Directory) -> NoReturn:
    """Fail as the directory of keys does where the database can't be read now."""
    raise StorageUnavailable("The database did not respond in time.")


def test_a_key_that_was_made_is_shown_even_where_the_keys_cannot_be_read_again(
    start: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = start()
    monkeypatch.setattr(Directory, "refresh", unrefreshed)
    answer = talk.post("/v1/keys", {"name": "late", "scopes": ["sdk"]})
    assert answer.status_code == 201
    assert answer.json()["key"].startswith("lpgw_")
