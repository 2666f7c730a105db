"""Preview items as Leanplum would receive them, without sending or storing them."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request

from app.api import schemas
from app.api.dependencies import KEY
from app.clock import now_ms
from app.errors import Overloaded, Refusal
from app.http import (
    MEMBERS_PER_ITEM,
    MOST_PREVIEWED,
    Authenticator,
    BodyReader,
    RateLimiter,
    Receive,
    RefusedItem,
    RequestContext,
    Tag,
    body_of,
    context_of,
    is_small,
    items_to_preview,
    leanplum_entry,
    parse_json,
    permitted,
    problems,
    validated_items,
)
from app.ingest.service import Ingest
from app.model import App, NewItem

PREVIEW = "/v1/preview"
router = APIRouter(dependencies=KEY)


class PreviewHandler:
    """The handler of POST /v1/preview."""

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
        """Return, for each item of a body, the entry for Leanplum or the refusal."""
        authenticator, limiter = self._authenticator, self._limiter
        caller = await authenticator.authenticate(context)
        try:
            app = authenticator.choose_app(context, caller)
            await limiter.refuse_spent(context, caller, ask=not is_small(context))
            body = await self._bodies.read_json(
                context, receive, optional=False, most_members=MOST_PREVIEWED * MEMBERS_PER_ITEM
            )
            raw_items, base = items_to_preview(parse_json(body))
        except Refusal:
            # A body that cannot be parsed as items counts as one item.
            await limiter.take(context, caller, 1)
            raise
        except Overloaded:
            await limiter.charge_unread(context)
            raise
        await limiter.take(context, caller, len(raw_items))
        caller = authenticator.confirm(context, caller)
        # The context does not get these steps: findings in previews are not counted.
        item_steps = self._ingest.item_steps(app, caller, now_ms(), context.origin.named)
        validated = validated_items(raw_items, base, item_steps)
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
    operation_id="previewItems",
    tags=[Tag.EVENTS_AND_USERS],
    summary="Preview items without sending them",
    response_model=schemas.PreviewAnswer,
    openapi_extra=body_of("Previewed"),
)
async def preview(request: Request, previews: Annotated[PreviewHandler, Depends(_previews)]) -> Any:
    """Validate and enrich one item or up to 100, and return the calls that Leanplum would receive.

    Nothing is stored or sent. Each item requires the scope of its action, and counts against the
    rate limits as if it were accepted.
    """
    context = context_of(request.scope)
    context.operation = f"POST {PREVIEW}"
    return await previews.post(context, request.receive)


def _result(index: int, app: App, item: NewItem | RefusedItem, prefix: str) -> dict[str, Any]:
    if not isinstance(item, NewItem):
        return {"index": index, "problem": problems.of_error(item, prefix)}
    notes = orjson.loads(item.notes) if item.notes is not None else {}
    return {"index": index, "leanplum": leanplum_entry(app, item, now_ms()), **notes}
