"""After an erasure no value in the database is made of the user's id without a key: a list of ids
tells nothing.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from app import ids
from app.encryption import NO_ENCRYPTION
from tests.api.erasing import cells, gateway
from tests.api.leanplum import Leanplum, simulated, until

NAMELESS = "Leanplum's text named the user, who was erased."
USER, DEVICE, OTHER = "canary-user-9d1e", "canary-device-5c2f", "somebody-else"


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


def made_of(name: str) -> dict[str, Any]:
    """What could be made of an id by whoever has no key."""
    found: dict[str, Any] = {"itself": name}
    for text in (
        name,
        f"u{name}",
        f"default{name}",
        f"defaultu{name}",
        f"default\0u{name}",
        f"u{name}default",
    ):
        found |= {
            f"crc32 {text!r}": zlib.crc32(text.encode()),
            f"adler32 {text!r}": zlib.adler32(text.encode()),
        }
        for kind in ("md5", "sha1", "sha256"):
            found[f"{kind} {text!r}"] = hashlib.new(kind, text.encode()).hexdigest()
        for size in (8, 10, 16, 20, 32, 64):
            found[f"blake2b {size} {text!r}"] = hashlib.blake2b(
                text.encode(), digest_size=size
            ).hexdigest()
    for action in ("track", "deleteUser", "setUserAttributes"):
        for body in ("", orjson.dumps({"userId": name}).decode()):
            found[f"digest {action} {body}"] = NO_ENCRYPTION.digest(action, f"u{name}", body).hex()
    lane = ids.lane("default", f"u{name}")
    of_device = ids.lane("default", f"d{name}")
    places = {"lane": lane, "place in line": f"delivery {lane}"}
    return (
        found
        | places
        | {"device's lane": of_device, "device's place in line": f"delivery {of_device}"}
    )


def found_in(database: str, name: str) -> list[tuple[str, str, str]]:
    """Where in the database something stands that was made of an id."""
    made, found = made_of(name), []
    for table, column, value in cells(database):
        text = bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)
        for how, one in made.items():
            here = (
                value == one if isinstance(value, int) else len(str(one)) > 4 and str(one) in text
            )
            if here:
                found.append((table, column, how))
    return found


@pytest.mark.parametrize(
    "data_key", [None, "a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="], ids=["clear", "sealed"]
)
def test_nothing_in_the_database_is_made_of_the_id_of_whoever_was_erased(
    settings: Callable[..., Any], database: str, leanplum: Leanplum, data_key: str | None
) -> None:
    leanplum.forget()
    leanplum.mend()
    with gateway(settings, database, leanplum, gateway_data_key=data_key) as at:
        for number in range(3):
            at.call("POST", "/v1/events", {"userId": USER, "event": "E", "id": f"event-{number}"})
        at.call("POST", "/v1/batch", {"items": [
            {"action": "setUserAttributes", "userId": OTHER, "newUserId": USER, "deviceId": DEVICE},
            {"action": "setUserAttributes", "userId": USER, "newUserId": f"{OTHER}-2"},
        ]})  # fmt: skip
        at.call("POST", f"/v1/users/{USER}/sessions", {})  # leaves a lock for a moment
        leanplum.fault(mode="success-false", message=f"User {USER} is bad.", userId=USER, times=1)
        at.call("POST", "/v1/events", {"userId": USER, "event": "E", "id": "dead"})
        until(lambda: not at.rows("SELECT 1 FROM items WHERE settled_at IS NULL"))
        leanplum.mend()
        assert ("items", "lane", "lane") in found_in(database, USER)
        assert at.erase(USER, wait=10)["status"] in {"delivered", "skipped"}
        refused = at.call("POST", "/v1/events", {"userId": USER, "event": "E"})
        assert refused.status_code == 403
        until(lambda: not at.rows("SELECT 1 FROM user_locks"))
        assert found_in(database, USER) == []


@pytest.mark.parametrize(
    "message",
    [f"User {USER} not found; request skipped.", f"Deleted '{USER.upper()}', and u{USER}."],
)
def test_what_leanplum_says_of_the_deletion_is_kept_without_the_id(
    settings: Callable[..., Any], database: str, leanplum: Leanplum, message: str
) -> None:
    leanplum.forget()
    leanplum.mend()
    with gateway(settings, database, leanplum) as at:
        at.call("POST", "/v1/events", {"userId": USER, "event": "E"}, headers={"Prefer": "wait=10"})
        leanplum.fault(mode="warning", message=message, action="deleteUser")
        receipt = at.erase(USER, wait=10)
        assert (receipt["status"], receipt["leanplum"]["warning"]) == ("skipped", NAMELESS)
        assert found_in(database, USER) == []


def test_other_users_lanes_stay_as_they_are(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    leanplum.forget()
    leanplum.mend()
    with gateway(settings, database, leanplum) as at:
        at.call("POST", "/v1/events", {"userId": OTHER, "event": "E"})
        at.erase(USER, wait=10)
        until(lambda: not at.rows("SELECT 1 FROM items WHERE settled_at IS NULL"))
        assert ("items", "lane", "lane") in found_in(database, OTHER)
