"""Every place where a caller can put text or a number, by way and by Leanplum's action.

A place is found by trying: what the action's shape takes in one of its fields is a place. Each has
a number of its own in it, by which it is known wherever it turns up.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError

from app.enrichment.privacy import FREE
from app.ingest import validate
from app.ingest.validate import ENRICHMENT_FIELDS
from app.leanplum.actions import ACCEPTED_ACTIONS, ACTIONS

FIRST = 4_000_000_000_000_000  # sixteen digits, exact as a float, too
SIGN = "zq"
SECRET = "secret"
Body = dict[str, Any]
Fill = Callable[[int], Any]

# What may hold a value, by the path of it beneath the field.
FILLS: tuple[tuple[str, Fill], ...] = (
    ("", lambda n: f"{SIGN}{n}"),
    ("", lambda n: n),
    ("", float),
    (f".{SECRET}", lambda n: {SECRET: f"{SIGN}{n}"}),
    (f".{SECRET}", lambda n: {SECRET: n}),
    (f".{SECRET}", lambda n: {SECRET: float(n)}),
    (f".{SECRET}", lambda n: {SECRET: [f"{SIGN}{n}"]}),
    (f".{SECRET}", lambda n: {SECRET: [float(n)]}),
    (f".{SECRET}", lambda n: {SECRET: {"deep": f"{SIGN}{n}"}}),
    (".deviceName", lambda n: {"deviceId": "x", "deviceName": f"{SIGN}{n}"}),
    (".publisherId", lambda n: {"publisherId": f"{SIGN}{n}"}),
    ("", lambda n: [f"{SIGN}{n}"]),
    (".deviceName", lambda n: [{"deviceId": "x", "deviceName": f"{SIGN}{n}"}]),
    (f".{SECRET}", lambda n: {SECRET: {"count": n}}),
    (f".{SECRET}", lambda n: {SECRET: {"value": float(n)}}),
)
BASES: dict[str, Body] = {
    "track": {"event": "E"},
    "trackGeofence": {"event": "E"},
    "advance": {"state": "S"},
    "setUserAttributes": {"userAttributes": {"plan": "pro"}},
    "setDeviceAttributes": {"deviceId": "d", "systemVersion": "1"},
    "setTrafficSourceInfo": {"trafficSource": {"publisherName": "p"}},
    "sendMessage": {"messageId": 1},
    "startCampaign": {"campaignId": 1},
    "setVars": {"vars": {"a": 1}},
    "deleteVars": {"vars": ["a"]},
    "registerDevice": {"deviceId": "d", "email": "a@example.com"},
    "addAndroidNotificationChannel": {"id": "c", "name": "n", "importance": 3},
    "exportData": {"startDate": "20260131"},
    "exportReport": {"startDate": "20260131", "dataType": "UserActivity"},
    "addPostback": {"type": "messageEvents", "postbackUrl": "https://example.com/"},
    "downloadFile": {"filename": "f"},
    "getExportResults": {"jobId": "j"},
    "getMultiResults": {"jobId": "j"},
    "deletePostback": {"postbackId": "p"},
    "deleteAndroidNotificationChannel": {"channelId": "c"},
    "markNewsfeedMessageAsRead": {"newsfeedMessageId": "n"},
    "deleteNewsfeedMessage": {"newsfeedMessageId": "n"},
}
BY_USER = frozenset({*ACCEPTED_ACTIONS, "start", "getVars", "exportUser"})
NOT_IN_JSON = frozenset({"uploadFile", "multi"})


class Place(NamedTuple):
    """One place: an action, the path of the value, and the body with the number in it."""

    action: str
    path: str
    filled: Fill


def body(place: Place, number: int) -> Body:
    """Return the arguments of the action, less whom it is about."""
    field = place.path.partition(".")[0]
    return {**BASES.get(place.action, {}), field: place.filled(number)}


def of_action(action: str) -> Iterator[Place]:
    """Yield the places of an action."""
    shape = ACTIONS[action].shape
    adapter = TypeAdapter[Any](shape)
    known = validate.ITEM_ACTIONS.get(action)
    for field in sorted(shape.__annotations__.keys() - FREE - ENRICHMENT_FIELDS.keys()):
        for beneath, filled in FILLS:
            place = Place(action, field + beneath, filled)
            made = body(place, FIRST) | ({"userId": "u"} if action in BY_USER else {})
            try:
                checked = adapter.validate_python(made)
            except ValidationError:
                continue
            if known is None or known.check(checked) is None:
                yield place


PLACES = [place for action in ACTIONS if action not in NOT_IN_JSON for place in of_action(action)]
# What is not a parameter that anybody documents, as SDKs may send it.
ODD = [
    Place(action, path, filled)
    for action in (
        "track",
        "setUserAttributes",
        "start",
        "getVars",
        "registerDevice",
        "log",
        "getMigrateState",
    )
    for path, filled in (
        (SECRET, lambda n: f"{SIGN}{n}"),
        (SECRET, lambda n: f"{float(n):.1f}"),
        (SECRET, lambda n: f"{n / 1e15!r}e15"),
        (SECRET, lambda n: orjson.dumps({"card": f"{SIGN}{n}"}).decode()),
        (SECRET, lambda n: f'{{"card":"{SIGN}{n}","card":"x"}}'),
    )
]


def as_text(fields: Body) -> dict[str, str]:
    """Return arguments as a form has them: what is no text is its JSON."""
    return {
        name: one if isinstance(one, str) else orjson.dumps(one).decode()
        for name, one in fields.items()
    }


# --- Segment's messages -----------------------------------------------------------------------------------------------


def message(number: int, path: str, *, kind: str) -> Body:
    """Return a message of Segment's with a value at a path (`properties.a.b`)."""
    made: Body = {"type": kind, "userId": "u", "anonymousId": "d"}
    made |= (
        {"event": "E"} if kind == "track" else {"name": "S"} if kind in {"page", "screen"} else {}
    )
    made |= {"groupId": "g"} if kind == "group" else {}
    *outer, last = path.split(".")
    inner = made
    for name in outer:
        inner = inner.setdefault(name, {})
    inner[last] = value_of(path, number)
    return made


def as_leanplums(kind: str, path: str) -> str:
    """Return the path of what a message's value becomes, where that is a param or an attribute."""
    name, _, rest = path.partition(".")
    prefix = "group_" if kind == "group" else ""
    homes = {"properties": "params.", "traits": f"userAttributes.{prefix}"}
    return homes.get(name, f"{kind}:{name}.") + rest


def value_of(path: str, number: int) -> Any:
    """Return a value that fits there."""
    if path.endswith(("latitude", "longitude", "revenue", "total")):
        return float(number)
    if path.endswith("list"):
        return [f"{SIGN}{number}", {"a": [f"{SIGN}{number}"]}]
    if path.endswith("digits"):
        return f"{number}"
    return f"{SIGN}{number}"


PAGE = [f"context.page.{name}" for name in ("url", "path", "referrer", "title", "search")]
OF_A_STATE = [
    "name",
    "category",
    *(f"properties.{name}" for name in ("secret", "name", "category", "list")),
    *PAGE,
]
IN_CONTEXT = [
    "location.region",
    "location.city",
    "location.latitude",
    "locale",
    "timezone",
    "traits.secret",
]
OF_A_DEVICE = ["app.version", "os.name", "os.version", "device.model", "device.name"]
MESSAGES: list[tuple[str, str]] = [
    *(
        ("track", path)
        for path in ("event", "properties.secret", "properties.list", "properties.a.secret")
    ),
    *(("track", f"properties.{name}") for name in ("revenue", "total", "digits", "currency")),
    *(("page", path) for path in OF_A_STATE),
    *(("screen", path) for path in OF_A_STATE if path not in PAGE),
    *(
        ("identify", f"traits.{name}")
        for name in ("secret", "list", "email", "phone", "address.city", "digits")
    ),
    *(("identify", f"context.{path}") for path in (*IN_CONTEXT, *OF_A_DEVICE)),
    ("group", "groupId"),
    ("group", "traits.secret"),
]
