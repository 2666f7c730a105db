"""What was committed is told as such, even where the database says nothing more afterwards."""

from collections.abc import Callable
from typing import Any, cast

from app.errors import StorageUnavailable
from tests.api.talk import EVENT, Talk


class Unreadable:
    """An outbox that accepts, and can't be read any more."""

    def __init__(self, outbox: Any) -> None:
        self.accept = outbox.accept

    async def settled_receipt(self, *_: object) -> None:
        raise StorageUnavailable("The database did not answer in time.")


def test_an_item_on_disk_is_answered_202_even_where_its_receipt_cannot_be_waited_for(
    start: Callable[..., Talk],
) -> None:
    talk = start()
    gateway = talk.app.services
    talk.app.serve(gateway._replace(outbox=cast(Any, Unreadable(gateway.outbox))))
    answer = talk.event(EVENT | {"id": "one"}, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["id"]) == (202, "one")
    assert "preference-applied" not in answer.headers
    assert talk.items() == 1


class Unrefreshed:
    """A directory of keys that can't be read again now."""

    def __init__(self, directory: Any) -> None:
        self._directory = directory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._directory, name)

    def refresh(self) -> None:
        raise StorageUnavailable("The database did not answer in time.")


def test_a_key_that_was_made_is_shown_even_where_the_keys_cannot_be_read_again(
    start: Callable[..., Talk],
) -> None:
    talk = start()
    gateway = talk.app.services
    talk.app.serve(gateway._replace(directory=cast(Any, Unrefreshed(gateway.directory))))
    answer = talk.post("/v1/keys", {"name": "late", "scopes": ["sdk"]})
    assert answer.status_code == 201
    assert answer.json()["key"].startswith("lpgw_")
