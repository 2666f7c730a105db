"""Items as Leanplum's `multi` wants them. Pure: items in, the bytes of a request body out.

Source: Leanplum's docs, "multi (JSON)": appId, clientKey, apiVersion, time (of the request), data (a list of actions).
"""

import uuid
from collections.abc import Sequence

import orjson

from app.ids import MADE
from app.model import App, Item

API_VERSION = "1.0.6"
NAMESPACE = uuid.UUID("7d0f9a1e-6d4c-5e0b-9a67-0c6f3b7f2a11")


def multi(app: App, items: Sequence[Item], now: float) -> bytes:
    """The body of one `multi` call at `now` (epoch seconds). The client key is here and nowhere else."""
    head = orjson.dumps(
        {
            "appId": app.app_id,
            "clientKey": app.production_key.get_secret_value(),
            "apiVersion": API_VERSION,
            "time": now,
            "data": [],
        }
    )
    return head[:-2] + ",".join(map(entry, items)).encode() + b"]}"


def entry(item: Item) -> str:
    """One action of a `multi`. The body was checked and written by the gateway itself, so its text is spliced in."""
    sent = request_id(item)
    time = "" if '"time":' in item.body and "time" in orjson.loads(item.body) else f'"time":{item.accepted_at / 1000},'
    return f'{{"action":"{item.action}","reqId":"{sent}","uuid":"{sent}",{time}{item.body[1:]}'


def request_id(item: Item) -> str:
    """What Leanplum may tell a repeat by (its SDKs send `reqId` and `uuid`): made of the item's id alone, so the same
    at every attempt."""
    return item.id if MADE.match(item.id) else str(uuid.uuid5(NAMESPACE, f"{item.app}/{item.id}"))
