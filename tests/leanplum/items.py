"""Items for the tests of this folder."""

from typing import Any

import orjson
from pydantic import SecretStr

from app.model import App, Item, KeyKind

KEY = "prod_canary_0123456789"
LEANPLUM = App(
    "default", "app_X", {KeyKind.PRODUCTION: SecretStr(KEY)}, "https://leanplum.test/api"
)


def item(
    item_id: str = "own-1", action: str = "track", at: int = 1_700_000_000_123, **fields: Any
) -> Item:
    """An item whose body has `fields`, and a user unless they name one."""
    body = orjson.dumps({"userId": "ann"} | fields).decode()
    return Item(1, item_id, "default", "uann", action, body, at, 0, 0)
