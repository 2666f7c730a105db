"""Accept batches of items of any action; an invalid item does not affect the others."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from app.api import schemas
from app.api.dependencies import KEY
from app.api.events import JSON_HEADER, refusal_of, response_of
from app.clock import now_ms
from app.errors import (
    CommitUnknown,
    Erased,
    Fault,
    GatewayError,
    Invalid,
    Malformed,
    Overloaded,
    RateLimited,
    Refusal,
    TooLarge,
)
from app.http import (
    BOM,
    JSON,
    MEMBERS_PER_ITEM,
    NDJSON,
    SMALL_BODY_BYTES,
    Answer,
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
    parse_json,
    parse_strictly,
    permitted,
    problem_responses,
    problems,
    refuse_crowded,
    require_media_type,
    validated_item,
)
from app.ingest import (
    MAX_FAULTS,
    CallSteps,
    Ingest,
    ItemSteps,
    pointer,
    turn,
    unknown_field,
    validate,
)
from app.model import App, Caller, NewItem, Taken
from app.receipts import receipt_path

BATCH = "/v1/batch"
BATCH_MAY_BE_TAKEN = (
    "The outcome of the database commit is unknown: the items may have been accepted. Send them "
    "again, each with its id from ids as `id`, in the same order; none is accepted twice."
)
# Validating a batch with more commas takes so long that it would delay other requests.
FEW_COMMAS = 20_000
FEW_ITEMS = 100  # items of a small batch, which is validated within milliseconds


class BatchHandler:
    """The handler of POST /v1/batch."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: RateLimiter,
        bodies: BodyReader,
        ingest: Ingest,
        *,
        max_items: int,
    ) -> None:
        self._authenticator, self._limiter = authenticator, limiter
        self._bodies, self._ingest, self._max_items = bodies, ingest, max_items

    async def post(self, context: RequestContext, receive: Receive) -> Answer:
        """Accept the valid items of a batch."""
        authenticator, limiter = self._authenticator, self._limiter
        caller = await authenticator.authenticate(context)
        try:
            app = authenticator.choose_app(context, caller)
            await limiter.refuse_spent(context, caller, ask=not is_small(context))
            validated, item_steps = await self._validated(context, receive, caller, app)
        except RateLimited:
            raise
        except Refusal:
            # A body that cannot be parsed as items counts as one item.
            await limiter.take(context, caller, 1)
            raise
        except Overloaded:
            await limiter.charge_unread(context)
            raise
        count = len(validated)
        await limiter.take(context, caller, count)
        caller = authenticator.confirm(context, caller)
        validated = permitted(app, caller, validated)
        items = [item for item in validated if type(item) is NewItem]
        if not items:
            context.refused = count
            return _answer(validated, (), (), context.prefix)
        try:
            taken = await self._ingest.accept(
                context,
                app,
                caller,
                items,
                now=now_ms(),
                item_steps=item_steps,
                refused=count - len(items),
                batch=True,
            )
        except CommitUnknown as error:
            ids_of_items = iter(error.ids)
            ids = [next(ids_of_items) if type(item) is NewItem else None for item in validated]
            raise CommitUnknown(BATCH_MAY_BE_TAKEN, ids=ids) from error
        except GatewayError as error:
            await limiter.give_back(context, caller, count, error)
            raise
        erased = await self._ingest.refusals(app, items, taken)
        return _answer(validated, taken, erased, context.prefix)

    async def _validated(
        self, context: RequestContext, receive: Receive, caller: Caller, app: App
    ) -> tuple[Sequence[NewItem | RefusedItem], CallSteps]:
        """Return the items of the body, each valid or refused, and their item_steps.

        Raises Refusal for the body as a whole.
        """
        media_type = require_media_type(context.header(b"content-type"), JSON, NDJSON)
        is_json = media_type == JSON
        body = await self._bodies.read(context, receive)
        most = self._max_items
        await self._refuse_beyond_limit(context, caller, body, is_json=is_json)
        item_steps = self._ingest.item_steps(app, caller, now_ms(), context.origin.named)
        context.item_steps = item_steps
        refuse_crowded(body, MEMBERS_PER_ITEM * most, lines=not is_json)
        validated: Sequence[NewItem | RefusedItem] | None = None
        if is_json and body.count(b'"action"') <= most and body.count(b",") <= FEW_COMMAS:
            validated = validate.fast_batch(body, item_steps)
        if validated is None:
            item_steps.restart()
            if is_json:
                validated = await _validated_json(body, most, item_steps)
            else:
                validated = await _validated_lines(body, most, item_steps)
        if len(validated) > most:
            raise _too_many(len(validated), most)
        if not validated:
            raise Invalid(
                (Fault("/items" if is_json else "", "must contain at least one item", "count"),)
            )
        return validated, item_steps

    async def _refuse_beyond_limit(
        self, context: RequestContext, caller: Caller, body: bytes, *, is_json: bool
    ) -> None:
        """Raise RateLimited for a batch that would not pass.

        Validating the items takes ten times as long as counting them. Nothing is parsed if they
        would certainly pass, as nearly always: each item is an object, so there are no more items
        than braces.
        """
        most = body.count(b"{") if is_json else body.count(b"\n") + 1
        fits = await self._limiter.room(
            context, caller, ask=most > FEW_ITEMS or len(body) > SMALL_BODY_BYTES
        )
        if fits(most):
            return
        count = await _count_items(body) if is_json else len(_lines(body))
        if 0 < count <= self._max_items:
            await self._limiter.refuse_spent(context, caller, count)


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.strip()]


async def _count_items(body: bytes) -> int:
    """Return the number of items in a JSON batch; 0 if the body is not a batch.

    One body at a time is parsed for this, and other requests are served in between.
    """
    async with turn():
        try:
            parsed = parse_strictly(body)
        except (orjson.JSONDecodeError, Refusal):
            parsed = None
        await asyncio.sleep(0)
    items = parsed.get("items") if isinstance(parsed, dict) else None
    return len(items) if isinstance(items, list) else 0


def _too_many(count: int, most: int) -> TooLarge:
    return TooLarge(f"The batch has {count} items; the limit is {most}.")


async def _validated_lines(
    body: bytes, most: int, item_steps: ItemSteps
) -> list[NewItem | RefusedItem]:
    """Validate the lines of NDJSON, and serve other requests between two lines."""
    lines = _lines(body)
    if len(lines) > most:
        raise _too_many(len(lines), most)
    validated = list[NewItem | RefusedItem]()
    for line in lines:
        validated.append(_validated_line(line.removeprefix(BOM), item_steps))
        await asyncio.sleep(0)
    return validated


async def _validated_json(
    body: bytes, most: int, item_steps: ItemSteps
) -> list[NewItem | RefusedItem]:
    """Validate the items of a JSON batch, and serve other requests between two items.

    The items are counted first: validating a million takes seconds.
    """
    raw = parse_json(body)
    items = raw.get("items") if isinstance(raw, dict) else None
    if not isinstance(items, list):
        place = "/items" if isinstance(raw, dict) else ""
        raise Invalid((Fault(place, 'must be {"items": [...]}', "type"),))
    unknown = raw.keys() - {"items"}
    if unknown:
        raise Invalid(
            tuple(
                Fault(pointer((name,)), unknown_field(name, {"items"}), "unknown-field")
                for name in islice(unknown, MAX_FAULTS)
            )
        )
    if len(items) > most:
        raise _too_many(len(items), most)
    validated = list[NewItem | RefusedItem]()
    for index, item in enumerate(items):
        validated.append(validated_item(item, f"/items/{index}", item_steps))
        await asyncio.sleep(0)
    return validated


def _validated_line(line: bytes, item_steps: ItemSteps) -> NewItem | RefusedItem:
    try:
        return validated_item(parse_json(line), "", item_steps)
    except Malformed as refusal:
        return refusal


def _answer(
    validated: Sequence[NewItem | RefusedItem],
    taken: Sequence[Taken],
    erased: Sequence[Erased],
    prefix: str,
) -> Answer:
    remaining, refusals = iter(taken), iter(erased)
    results = [
        _result(index, item, next(remaining), refusals, prefix)
        if isinstance(item, NewItem)
        else _rejection(index, item, prefix)
        for index, item in enumerate(validated)
    ]
    kinds = Counter([kind for _, kind in taken])
    rejected = len(validated) - kinds["accepted"] - kinds["duplicate"]
    document = {
        "accepted": kinds["accepted"],
        "duplicates": kinds["duplicate"],
        "rejected": rejected,
        "results": results,
    }
    status = 422 if rejected == len(validated) else 202
    return Answer(status, [JSON_HEADER], orjson.dumps(document))


def _result(
    index: int, item: NewItem, taken: Taken, erased: Iterator[Erased], prefix: str
) -> dict[str, Any]:
    item_id, kind = taken
    if kind == "accepted" and item.notes is None:
        # The shortest path, for nearly every item.
        href = receipt_path(item_id, prefix)
        return {"index": index, "id": item_id, "status": kind, "href": href}
    result: dict[str, Any] = {"index": index}
    if item_id:
        result["id"] = item_id
    refusal = refusal_of(kind, erased)
    if refusal is not None:
        return result | {"status": "rejected", "problem": problems.of_error(refusal, prefix)}
    result["status"] = kind
    if kind == "accepted" and item.notes is not None:
        result |= orjson.loads(item.notes)
    result["href"] = receipt_path(item_id, prefix)
    return result


def _rejection(index: int, refusal: RefusedItem, prefix: str) -> dict[str, Any]:
    return {"index": index, "status": "rejected", "problem": problems.of_error(refusal, prefix)}


# --- routes --------------------------------------------------------------------------------------

BATCHED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": schemas.BatchAnswer,
        "description": "The result of each item; at least one was accepted",
    },
    422: {
        "model": schemas.BatchAnswer,
        "description": "Every item, or the batch as a whole, is invalid; nothing was accepted",
        "content": problem_responses("validation")[422]["content"],
    },
}
router = APIRouter(dependencies=KEY)


async def _batches(request: Request) -> BatchHandler:
    handler: BatchHandler = request.state.batches
    return handler


@router.post(
    BATCH,
    operation_id="sendBatch",
    status_code=202,
    tags=[Tag.EVENTS_AND_USERS],
    summary="Send a batch of items",
    responses=BATCHED | problem_responses("queue-full", "storage-unavailable"),
    openapi_extra=body_of("Batch", lines_of="BatchItem"),
)
async def post_batch(
    request: Request, batches: Annotated[BatchHandler, Depends(_batches)]
) -> Response:
    """Accept items of any actions as JSON, or as NDJSON with one item per line.

    An invalid item does not affect the others. Each item requires the scope of its action.
    """
    context = context_of(request.scope)
    context.operation = f"POST {BATCH}"
    return response_of(await batches.post(context, request.receive))
