"""Items as Leanplum wants them: many as one `multi`, or one as a call of its own. Pure: items in, a
request out.

Source: Leanplum's docs, "multi (JSON)": appId, clientKey, apiVersion, time (of the request), data
(a list of actions).
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from app.ids import MADE
from app.leanplum.actions import key_for, sent_alone
from app.leanplum.detection import undetected
from app.model import App, Item, KeyKind

API_VERSION = "1.0.6"
# Items of many users share a call, so no header tells whose it is
NO_HEADERS: Mapping[str, str] = {}
NAMESPACE = uuid.UUID("7d0f9a1e-6d4c-5e0b-9a67-0c6f3b7f2a11")
# What only some bodies have, which are looked at
OWN = ('"time":', '"reqId":', '"clientKey":', '"(detect)"')


class Call(NamedTuple):
    """One call to Leanplum: what the URL names, and the body."""

    action: str
    body: bytes


def kind(items: Sequence[Item]) -> KeyKind:
    """The kind of key that a call with these items takes."""
    return key_for(items[0].action, items[0].body)


def call(app: App, items: Sequence[Item], now: float) -> Call:
    """The call that does `items` at `now` (epoch seconds). The client key is here and nowhere else.
    Raises KeyError where the app has no key of the kind that is needed.
    """
    key = app.keys[kind(items)].get_secret_value()
    head = credentials(app, key)
    if sent_alone(items[0].action, items[0].body):
        return Call(
            items[0].action, orjson.dumps(head)[:-1] + b"," + entry(items[0], key)[1:].encode()
        )
    text = orjson.dumps(head | {"time": now, "data": []})
    return Call("multi", text[:-2] + ",".join(entry(item, key) for item in items).encode() + b"]}")


def credentials(app: App, key: str) -> dict[str, str]:
    """What every call names."""
    return {"appId": app.app_id, "clientKey": key, "apiVersion": API_VERSION}


def single(app: App, action: str, args: Mapping[str, Any], key: str, now: float) -> bytes:
    """The body of one action that is no item, at `now` (epoch seconds) unless its arguments say
    when.
    """
    return orjson.dumps(
        {**credentials(app, key), "action": action, "time": now, **undetected(args, NO_HEADERS)}
    )


def entry(item: Item, key: str) -> str:
    """One action of a call. The body was checked and written by the gateway itself, so its text is
    spliced in.
    """
    body = item.body
    for own in OWN:
        if own in body:
            return _with_own(item, orjson.loads(body), key)
    sent = request_id(item)
    rest = f",{body[1:]}" if len(body) > 2 else "}"
    return f'{{"action":"{item.action}","reqId":"{sent}","uuid":"{sent}","time":{item.accepted_at / 1000}{rest}'


def _with_own(item: Item, fields: dict[str, Any], key: str) -> str:
    """The same, where the body itself says when it happened, or has what SDKs send (fact sheet
    §7).
    """
    # Leanplum knows a repeat by reqId and uuid, so where an SDK gives only a reqId, which may stand
    # for many items, the uuid must be the item's own.
    made = {
        "action": item.action,
        "reqId": request_id(item),
        "uuid": _made_of(item),
        "time": item.accepted_at / 1000,
    } | fields
    if fields.get("time", "") in (None, ""):
        # "now" was when it was accepted, whenever it is sent
        made["time"] = item.accepted_at / 1000
    if "clientKey" in fields:
        made["clientKey"] = key
    return orjson.dumps(undetected(made, NO_HEADERS)).decode()


def request_id(item: Item) -> str:
    """What Leanplum may tell a repeat by (its SDKs send `reqId` and `uuid`), and its answer the
    item: an SDK's own, or made of the item's id alone, so the same at every attempt.
    """
    if '"reqId":' in item.body and (own := orjson.loads(item.body).get("reqId")):
        return str(own)
    return item.id if MADE.match(item.id) else _made_of(item)


def _made_of(item: Item) -> str:
    return item.id if MADE.match(item.id) else str(uuid.uuid5(NAMESPACE, f"{item.app}/{item.id}"))
