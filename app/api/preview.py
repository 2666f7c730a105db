"""What would be sent to Leanplum, without sending or storing it."""

from typing import Any

import orjson
from fastapi import APIRouter, Request

from app import ids
from app.api import schemas, writes
from app.api.routes import BATCH_REFUSED, KEY, gateway_of
from app.clock import now_ms
from app.errors import Fault, Invalid, Overloaded, Refusal
from app.http import authentication, body, json_body, problems, rate_limiting
from app.http import request as context
from app.http.openapi_parts import body_of, problem_responses
from app.leanplum import mapping
from app.model import App, Item, NewItem

PREVIEW = "/v1/preview"
MOST = 100  # items
router = APIRouter(dependencies=KEY)


@router.post(
    PREVIEW,
    tags=["Writes"],
    summary="What would be sent to Leanplum",
    response_model=schemas.PreviewAnswer,
    responses=problem_responses(*BATCH_REFUSED, "validation", "internal"),
    openapi_extra=body_of("Previewed"),
)
async def preview(request: Request) -> Any:
    """One item, or a batch of at most 100, goes all the way to Leanplum but for the last step:
    enriched, held against the rules and the privacy rules, and written as Leanplum gets it, less
    keys. Nothing is stored or sent. Each item needs the scope of its own action, and counts for the
    limits as if it were accepted.
    """
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation = f"POST {PREVIEW}"
    caller = await authentication.authenticate(gateway, about)
    try:
        app = authentication.choose_app(gateway, about, caller)
        await rate_limiting.refuse_spent(gateway, about, caller, ask=not body.is_small(about))
        most = MOST * writes.MANY_OF_EACH
        raw = json_body.parse(
            await body.read_fields(gateway, about, request.receive, optional=False, most=most)
        )
        told, base = _items(raw)
    except Refusal:
        await rate_limiting.take(
            gateway, about, caller, 1
        )  # what can't be read as items costs as one
        raise
    except Overloaded:
        await rate_limiting.charge_unread(gateway, about)
        raise
    await rate_limiting.take(gateway, about, caller, len(told))
    caller = authentication.look_again(gateway, about, caller)
    refiner = writes.refiner_for(gateway, about, caller)
    judged = [
        writes.careful_item(one, base.format(index), refiner) for index, one in enumerate(told)
    ]
    about.gate = None  # what is only looked at is not counted
    about.subjects = {one.subject for one in judged if isinstance(one, NewItem)}
    results = writes.permitted(app, caller, judged)
    return {
        "results": [_result(index, app, one, about.prefix) for index, one in enumerate(results)]
    }


def _items(raw: Any) -> tuple[list[Any], str]:
    """The items of a body, and where each stands in it."""
    if isinstance(raw, dict) and "items" not in raw:
        return [raw], ""
    items = raw["items"] if isinstance(raw, dict) and raw.keys() == {"items"} else None
    if not isinstance(items, list) or not items:
        raise Invalid((Fault("", 'takes an item or {"items": [...]}', "type"),))
    if len(items) > MOST:
        raise Invalid((Fault("/items", f"takes at most {MOST} items", "count"),))
    return items, "/items/{}"


def _result(index: int, app: App, one: NewItem | writes.Refused, prefix: str) -> dict[str, Any]:
    if not isinstance(one, NewItem):
        return {"index": index, "problem": problems.of_error(one, prefix)}
    notes = orjson.loads(one.notes) if one.notes is not None else {}
    return {"index": index, "leanplum": sent(app, one, now_ms()), **notes}


def sent(app: App, new: NewItem, now: int) -> dict[str, Any]:
    """The item as Leanplum would get it if it were accepted at `now`; reqId and uuid only where its
    id is known.
    """
    item_id = new.id or ids.made(ids.new_prefix(now), 0)
    entry = mapping.entry_for(
        Item(0, item_id, app.name, new.subject, new.action, new.body, now, 0, now), ""
    )
    made: dict[str, Any] = orjson.loads(entry)
    left_out = () if new.id is not None else ("reqId", "uuid")
    return {name: value for name, value in made.items() if name not in left_out}
