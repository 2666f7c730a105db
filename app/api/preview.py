"""What would be sent to Leanplum, without sending or storing it."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request

from app import ids
from app.api import schemas
from app.api.batch import BATCH_REFUSED, RefusedItem, permitted, validated_item
from app.api.dependencies import KEY
from app.clock import now_ms
from app.errors import Fault, Invalid, Overloaded, Refusal
from app.http import (
    MEMBERS_PER_ITEM,
    Authenticator,
    BodyReader,
    RateLimiter,
    Receive,
    RequestContext,
    Tag,
    body_of,
    context_of,
    is_small,
    parse_json,
    problem_responses,
    problems,
)
from app.ingest.service import Ingest
from app.leanplum import mapping
from app.model import App, Item, NewItem

PREVIEW = "/v1/preview"
MOST = 100  # items
router = APIRouter(dependencies=KEY)


class PreviewHandler:
    """Show items as they would be sent."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: RateLimiter,
        bodies: BodyReader,
        ingest: Ingest,
    ) -> None:
        self._authenticator, self._limiter = authenticator, limiter
        self._bodies, self._ingest = bodies, ingest

    async def post(self, context: RequestContext, receive: Receive) -> dict[str, Any]:
        """Return the entries of the items of a body, or why they would be refused."""
        authenticator, limiter = self._authenticator, self._limiter
        caller = await authenticator.authenticate(context)
        try:
            app = authenticator.choose_app(context, caller)
            await limiter.refuse_spent(context, caller, ask=not is_small(context))
            body = await self._bodies.read_json(
                context, receive, optional=False, most_members=MOST * MEMBERS_PER_ITEM
            )
            raw_items, base = _items(parse_json(body))
        except Refusal:
            # A body that can't be read as items counts as one item.
            await limiter.take(context, caller, 1)
            raise
        except Overloaded:
            await limiter.charge_unread(context)
            raise
        await limiter.take(context, caller, len(raw_items))
        caller = authenticator.confirm(context, caller)
        # The context does not get this checker: what is only previewed is not counted.
        checker = self._ingest.checker(app, caller, now_ms(), context.origin.named)
        validated = [
            validated_item(raw, base.format(index), checker) for index, raw in enumerate(raw_items)
        ]
        context.subjects = {item.subject for item in validated if isinstance(item, NewItem)}
        results = permitted(app, caller, validated)
        prefix = context.prefix
        return {
            "results": [_result(index, app, item, prefix) for index, item in enumerate(results)]
        }


async def _previews(request: Request) -> PreviewHandler:
    handler: PreviewHandler = request.state.previews
    return handler


@router.post(
    PREVIEW,
    tags=[Tag.EVENTS_AND_USERS],
    summary="Preview items without sending them",
    response_model=schemas.PreviewAnswer,
    responses=problem_responses(*BATCH_REFUSED, "validation", "internal"),
    openapi_extra=body_of("Previewed"),
)
async def preview(request: Request, previews: Annotated[PreviewHandler, Depends(_previews)]) -> Any:
    """One item, or a batch of at most 100, goes all the way to Leanplum but for the last step:
    enriched, held against the rules and the privacy rules, and written as Leanplum gets it, less
    keys. Nothing is stored or sent. Each item needs the scope of its own action, and counts for the
    limits as if it were accepted.
    """
    context = context_of(request.scope)
    context.operation = f"POST {PREVIEW}"
    return await previews.post(context, request.receive)


def _items(raw: Any) -> tuple[list[Any], str]:
    """The items of a body, and where each stands in it."""
    if isinstance(raw, dict) and "items" not in raw:
        return [raw], ""
    items = raw["items"] if isinstance(raw, dict) and raw.keys() == {"items"} else None
    if not isinstance(items, list) or not items:
        raise Invalid((Fault("", 'must be an item or {"items": [...]}', "type"),))
    if len(items) > MOST:
        raise Invalid((Fault("/items", f"must have at most {MOST} items", "count"),))
    return items, "/items/{}"


def _result(index: int, app: App, one: NewItem | RefusedItem, prefix: str) -> dict[str, Any]:
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
