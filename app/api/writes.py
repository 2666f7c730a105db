"""The writes: single items and batches, accepted durably. The two hot ones are answered in front of
the router.

Each goes the same way: authenticate, limit, read, hold against the rules, accept (one durable
commit), answer 202.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Any

import orjson

from app import ids
from app.api import name_claims
from app.api.receipts import explained, fresh_receipt, receipt_document, receipt_path
from app.bootstrap import Gateway
from app.clock import now_ms
from app.errors import (
    CommitUnknown,
    Erased,
    Fault,
    Forbidden,
    GatewayError,
    IdConflict,
    Invalid,
    KeyNotConfigured,
    Malformed,
    NotFound,
    Overloaded,
    RateLimited,
    Refusal,
    StorageUnavailable,
    TooLarge,
)
from app.http import authentication, json_body, problems, rate_limiting
from app.http import body as receiving
from app.http.idempotency import NAME as IDEMPOTENCY_KEY
from app.http.idempotency import key_of
from app.http.problems import Answer
from app.http.request import Context
from app.http.time_slices import turn
from app.ingest import validate
from app.ingest.ports import Refiner
from app.leanplum.actions import IN_DEVELOPMENT, key_for
from app.model import ERASES, Acceptance, App, Caller, KeyKind, Kind, NewItem, Removed, Taken
from app.tracking.checker import Gate

Receive = Callable[[], Awaitable[Any]]
EVENTS, BATCH = "/v1/events", "/v1/batch"
Refused = Refusal | KeyNotConfigured  # why one item of a batch is not taken
JSON_HEADER = (b"content-type", b"application/json")
MAX_WAIT = 30
WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?=[,;]|$)", re.IGNORECASE | re.ASCII)
MAY_BE_TAKEN = (
    "The database's answer to the commit was lost: the item may have been taken. "
    "Send it again with Idempotency-Key: {id}; then it is not taken twice."
)
BATCH_MAY_BE_TAKEN = (
    "The database's answer to the commit was lost: the items may have been taken. Send them again, "
    "each with its id in ids, in the same order, as its `id`; then none is taken twice."
)
CONTRADICTION = "contradiction"
CONFLICT = "This id was used within the window for an item with another content."
MANY_OF_EACH = 50  # members that an item of a batch may have, all items taken together
FEW = 20_000  # commas; with more of them judging takes long enough for others to notice
FEW_ITEMS = 100  # of a small batch; they are judged within milliseconds
WHOM = frozenset({"userId", "deviceId"})
NOTHING: Mapping[str, Any] = MappingProxyType({})


async def post_single(
    gateway: Gateway,
    context: Context,
    receive: Receive,
    action: str,
    given: Mapping[str, Any] = NOTHING,
) -> Answer:
    """Accept one item; `given` are fields that the path has."""
    known = validate.ACTIONS[action]
    caller, app = await authentication.enter(gateway, context, known.scope, known.key)
    body = await receiving.read_fields(gateway, context, receive, optional=bool(given))
    if b"idempotency-key" in context.headers:
        given = {**given, "id": key_of(context.header(b"idempotency-key"))}
    refiner = refiner_for(gateway, context, caller)
    new = not given and validate.fast_single(action, body, refiner)
    new = new or _careful_single(action, body, given, refiner.anew())
    context.subjects = (new.subject,)
    authentication.require_key(app, key_for(action, new.body))
    now = now_ms()
    removed: Removed | None = None
    try:
        if action == ERASES:
            caller = authentication.still(gateway, context, known.scope)
            ((item_id, kind),), of_each = await gateway.outbox.erase(
                _acceptance(gateway, context, caller, now, [new])
            )
            context.recorded, removed = True, of_each.get(new.subject)
        else:
            ((item_id, kind),) = await accept(gateway, context, caller, now, [new])
    except CommitUnknown as error:
        (own_id,) = error.ids
        raise CommitUnknown(MAY_BE_TAKEN.format(id=own_id), ids=error.ids) from error
    if kind != "accepted":
        return await _receipt_answer(gateway, context, app.name, item_id, kind, removed)
    gateway.metrics.accepted.inc()
    if b"prefer" in context.headers:
        # Once the item is on disk, a failure to read is no reason to say anything but that.
        with suppress(StorageUnavailable):
            return await _receipt_answer(gateway, context, app.name, item_id, kind, removed)
    fresh = fresh_receipt(
        item_id, action, new.subject, now, removed, new.notes, prefix=context.prefix
    )
    return Answer(
        202, [JSON_HEADER, (b"location", receipt_path(item_id, context.prefix).encode())], fresh
    )


def refiner_for(gateway: Gateway, context: Context, caller: Caller) -> Gate:
    """What the items of this call go through beside the rules: enrichment, the tracking plan, the
    names of the app.
    """
    named = context.origin.named
    enriching = gateway.enrichment.refiner(context.app_name, caller.key_id, now_ms(), named)
    return name_claims.gate_of(gateway, context, enriching)


def _careful_single(
    action: str, body: bytes, given: Mapping[str, Any], refiner: Refiner
) -> NewItem:
    raw = json_body.parse(body)
    if not isinstance(raw, dict):
        return validate.single(action, raw)
    try:
        return validate.single(action, raw, refiner=refiner, faults=contradictions(raw, given))
    except Invalid as error:
        raise Invalid(tuple(_given(fault, given) for fault in error.faults)) from None


def _given(fault: Fault, given: Mapping[str, Any]) -> Fault:
    """Return a fault of what the path, the query or a header has as one of that."""
    name = fault.pointer.removeprefix("/")
    if name not in given or fault.code == CONTRADICTION:
        return fault
    if name == "id":
        return replace(fault, pointer=IDEMPOTENCY_KEY, part="header")
    return replace(fault, pointer=name, part="parameter")


def contradictions(raw: dict[str, Any], given: Mapping[str, Any]) -> list[Fault]:
    """Add what is given otherwise to a body; what it says differently itself."""
    return [
        Fault(
            f"/{name}",
            f"differs from {IDEMPOTENCY_KEY if name == 'id' else 'the path'}",
            CONTRADICTION,
        )
        for name, value in given.items()
        if not _same(name, raw.setdefault(name, value), value)
    ]


def _same(name: str, told: Any, value: Any) -> bool:
    """Whether the body says what the path or the header does; a whole number is an id as well."""
    if name in WHOM and type(told) in (str, int):
        return bool(ids.text_of(told) == value)
    return bool((str(told) if type(told) is int else told) == value)


async def accept(
    gateway: Gateway,
    context: Context,
    caller: Caller,
    now: int,
    items: list[NewItem],
    refused: int = 0,
    *,
    batch: bool = False,
    seconds: float | None = None,
    permit: Callable[[Caller, Sequence[NewItem]], None] | None = None,
) -> Sequence[Taken]:
    """Commit the items of a call, where its key may still send them.

    `seconds`: how long to wait for the commit, where it is less than usual. `permit`: raises
    Forbidden where a key that was changed meanwhile may not send these items; without it the key
    needs the scope of each action. Raises Unauthorized, Forbidden beside what accepting raises.
    """
    again = authentication.look_again(gateway, context, caller)
    if again is not caller:
        (permit or _permit)(again, items)
    acceptance = _acceptance(gateway, context, caller, now, items, refused, batch=batch)
    taken = await name_claims.accepted(
        gateway, context, items, partial(gateway.outbox.accept, acceptance, seconds)
    )
    context.recorded = True
    return taken


def _permit(caller: Caller, items: Sequence[NewItem]) -> None:
    for action in {item.action for item in items}:
        authentication.permit(caller, validate.ACTIONS[action].scope)


def _acceptance(
    gateway: Gateway,
    context: Context,
    caller: Caller,
    now: int,
    items: list[NewItem],
    refused: int = 0,
    *,
    batch: bool = False,
) -> Acceptance:
    subjects = {item.subject for item in items}
    subjects.update(context.refused_subjects)
    users = gateway.pseudonyms.of_all(context.app_name, subjects)
    return Acceptance(
        context.app_name,
        caller.key_id,
        context.request_id,
        context.operation,
        context.address,
        now,
        ids.new_prefix(now),
        items,
        refused,
        batch,
        users,
        context.refused_actions,
    )


async def _receipt_answer(
    gateway: Gateway, context: Context, app: str, item_id: str, kind: Kind, removed: Removed | None
) -> Answer:
    """The answer where it isn't just the fresh receipt: a refusal, a duplicate, or a wait for the
    item to settle.
    """
    if (refusal := _refusal(kind)) is not None:
        raise refusal
    wait = preferred_wait(context.header(b"prefer"))
    duplicate = kind == "duplicate"
    receipt = await gateway.outbox.settled_receipt(app, item_id, wait or 0)
    if receipt is None:
        raise NotFound("The item was accepted, and its receipt is past the window already.")
    waits = None
    if wait is not None:
        waits = await explained(gateway.outbox, gateway.metrics, app, receipt)
    document = receipt_document(receipt, removed, waits, prefix=context.prefix)
    if duplicate:
        document["duplicate"] = True
    headers = [JSON_HEADER, (b"location", document["href"].encode())]
    if wait is not None:
        headers.append((b"preference-applied", b"wait=%d" % wait))
    return Answer(200 if receipt.settled or duplicate else 202, headers, orjson.dumps(document))


def preferred_wait(prefer: str) -> int | None:
    """The seconds of `wait=N` in a Prefer header (RFC 7240), at most 30; None where there is
    none.
    """
    match = WAIT.search(prefer)
    return min(int(match.group(1)), MAX_WAIT) if match else None


# --- batches -----------------------------------------------------------------------------------------------------


async def post_batch(gateway: Gateway, context: Context, receive: Receive) -> Answer:
    """Accept many items of any action; each by itself, whatever its neighbours are."""
    caller = await authentication.authenticate(gateway, context)
    try:
        app = authentication.choose_app(gateway, context, caller)
        await rate_limiting.refuse_spent(
            gateway, context, caller, ask=not receiving.is_small(context)
        )
        judged = await _judged_batch(gateway, context, receive, caller)
    except RateLimited:
        raise
    except Refusal:
        await rate_limiting.take(
            gateway, context, caller, 1
        )  # what can't be read as items costs as one
        raise
    except Overloaded:
        await rate_limiting.charge_unread(gateway, context)
        raise
    await rate_limiting.take(gateway, context, caller, len(judged))
    caller = authentication.look_again(gateway, context, caller)
    judged = permitted(app, caller, judged)
    items = [one for one in judged if type(one) is NewItem]
    if not items:
        context.refused = len(judged)
        return _batch_answer(gateway, context, judged, ())
    refused = len(judged) - len(items)
    try:
        taken = await accept(gateway, context, caller, now_ms(), items, refused, batch=True)
    except CommitUnknown as error:
        ids_ = iter(error.ids)
        of_all = [next(ids_) if isinstance(one, NewItem) else None for one in judged]
        raise CommitUnknown(BATCH_MAY_BE_TAKEN, ids=of_all) from error
    except GatewayError as error:
        await rate_limiting.give_back(gateway, context, caller, len(judged), error)
        raise
    return _batch_answer(gateway, context, judged, taken)


async def _judged_batch(
    gateway: Gateway, context: Context, receive: Receive, caller: Caller
) -> Sequence[NewItem | Refused]:
    """The items of the body, each as it is or why it is refused. Raises Refusal where the body as a
    whole is.
    """
    kind = json_body.media_type(context.header(b"content-type"), json_body.JSON, json_body.NDJSON)
    body = await receiving.read_body(gateway, context, receive)
    most = gateway.settings.gateway_max_batch_items
    await _refuse_beyond_limit(gateway, context, caller, kind, body)
    refiner = refiner_for(gateway, context, caller)
    json_body.refuse_crowded(body, MANY_OF_EACH * most, lines=kind == json_body.NDJSON)
    few = body.count(b'"action"') <= most and body.count(b",") <= FEW
    good = validate.fast_batch(body, refiner) if few and kind == json_body.JSON else None
    judged: Sequence[NewItem | Refused]
    judged = good if good is not None else await _careful_batch(body, kind, most, refiner.anew())
    if len(judged) > most:
        raise _too_many(len(judged), most)
    if not judged:
        raise Invalid((Fault("/items" if kind == json_body.JSON else "", "has no item", "count"),))
    return judged


async def _refuse_beyond_limit(
    gateway: Gateway, context: Context, caller: Caller, kind: str, body: bytes
) -> None:
    """Raise RateLimited for a batch that would not pass: to judge its items takes ten times as long
    as to count them.

    Where it is certain that they would pass, which is nearly always, nothing is parsed. An item is
    an object, so there are not more items than braces.
    """
    lines = kind == json_body.NDJSON
    most = body.count(b"\n") + 1 if lines else body.count(b"{")
    fits = await rate_limiting.room(
        gateway, context, caller, ask=most > FEW_ITEMS or len(body) > receiving.SMALL
    )
    if fits(most):
        return
    count = _lines(body) if lines else await _items(body)
    if 0 < count <= gateway.settings.gateway_max_batch_items:
        await rate_limiting.refuse_spent(gateway, context, caller, count)


def _lines(body: bytes) -> int:
    return sum(1 for line in body.split(b"\n") if line.strip())


async def _items(body: bytes) -> int:
    """Return how many items a batch of JSON has; 0 where it is none. One body at a time is read for
    this, and others have their turn in between.
    """
    async with turn():
        count = _items_in(body)
        await asyncio.sleep(0)
    return count


def _items_in(body: bytes) -> int:
    try:
        found = json_body.strict(body)
    except (orjson.JSONDecodeError, Refusal):
        return 0
    items = found.get("items") if isinstance(found, dict) else None
    return len(items) if isinstance(items, list) else 0


def _too_many(count: int, most: int) -> TooLarge:
    return TooLarge(f"The batch has {count} items; at most {most} are taken at once.")


async def _careful_batch(
    body: bytes, kind: str, most: int, refiner: Refiner
) -> list[NewItem | Refused]:
    """Counted before any is judged: judging a million costs seconds. Others have their turn between
    two items.
    """
    judged = list[NewItem | Refused]()
    if kind == json_body.NDJSON:
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) > most:
            raise _too_many(len(lines), most)
        for line in lines:
            judged.append(_careful_line(line.removeprefix(json_body.BOM), refiner))
            await asyncio.sleep(0)
        return judged
    raw = json_body.parse(body)
    if not isinstance(raw, dict) or not isinstance(raw.get("items"), list):
        raise Invalid(
            (Fault("/items" if isinstance(raw, dict) else "", 'takes {"items": [...]}', "type"),)
        )
    if unknown := raw.keys() - {"items"}:
        told = islice(unknown, validate.MAX_FAULTS)
        raise Invalid(
            tuple(
                Fault(validate.pointer((name,)), "is not a field here", "unknown-field")
                for name in told
            )
        )
    if len(raw["items"]) > most:
        raise _too_many(len(raw["items"]), most)
    for index, one in enumerate(raw["items"]):
        judged.append(careful_item(one, f"/items/{index}", refiner))
        await asyncio.sleep(0)
    return judged


def _careful_line(line: bytes, refiner: Refiner) -> NewItem | Refused:
    try:
        return careful_item(json_body.parse(line), "", refiner)
    except Malformed as refusal:
        return refusal


def careful_item(raw: Any, base: str, refiner: Refiner) -> NewItem | Refused:
    """The item that parsed JSON makes, or why it makes none; pointers start with `base`."""
    if (crowded := json_body.crowded(raw, base)) is not None:
        return crowded
    try:
        return validate.of_any_action(raw, base, refiner)
    except Invalid as refusal:
        return refusal


def permitted(
    app: App, caller: Caller, judged: Sequence[NewItem | Refused]
) -> Sequence[NewItem | Refused]:
    """The same, with a refusal for each item whose action the caller's key may not send, or
    Leanplum's may not.
    """
    actions = {one.action for one in judged if type(one) is NewItem}
    if all(_may(app, caller, action) for action in actions) and not _lacks_development(app, judged):
        return judged
    return [
        _permitted_item(app, caller, one) if isinstance(one, NewItem) else one for one in judged
    ]


RESETS = "setUserAttributes"  # with resetAnomalies it needs the development key


def _may(app: App, caller: Caller, action: str) -> bool:
    """Whether every item of the action may be sent."""
    known, keys = validate.ACTIONS[action], app.keys
    return (
        known.scope in caller.scopes
        and known.key in keys
        and (action != RESETS or KeyKind.DEVELOPMENT in keys)
    )


def _lacks_development(app: App, judged: Sequence[NewItem | Refused]) -> bool:
    """Whether some item may be development traffic, and the app has no key for that."""
    if KeyKind.DEVELOPMENT in app.keys:
        return False
    return any(IN_DEVELOPMENT in one.body for one in judged if type(one) is NewItem)


def _permitted_item(app: App, caller: Caller, item: NewItem) -> NewItem | Refused:
    try:
        authentication.permit(caller, validate.ACTIONS[item.action].scope)
        authentication.require_key(app, key_for(item.action, item.body))
    except (Forbidden, KeyNotConfigured) as refusal:
        return refusal
    return item


def _batch_answer(
    gateway: Gateway, context: Context, judged: Sequence[NewItem | Refused], taken: Sequence[Taken]
) -> Answer:
    kept, prefix = iter(taken), context.prefix
    results = [
        _result(index, one, next(kept), prefix)
        if isinstance(one, NewItem)
        else _refused(index, one, prefix)
        for index, one in enumerate(judged)
    ]
    kinds = Counter([kind for _, kind in taken])
    gateway.metrics.accepted.inc(kinds["accepted"])
    document = {
        "accepted": kinds["accepted"],
        "duplicates": kinds["duplicate"],
        "rejected": len(judged) - kinds["accepted"] - kinds["duplicate"],
        "results": results,
    }
    status = 422 if document["rejected"] == len(judged) else 202
    return Answer(status, [JSON_HEADER], orjson.dumps(document))


def _refusal(kind: Kind) -> Refusal | None:
    """Why an item was not taken that broke no rule."""
    return IdConflict(CONFLICT) if kind == "conflict" else Erased() if kind == "erased" else None


def _result(index: int, item: NewItem, taken: Taken, prefix: str) -> dict[str, Any]:
    item_id, kind = taken
    if kind == "accepted" and item.notes is None:  # at the least cost: most items
        return {"index": index, "id": item_id, "status": kind}
    named = {"index": index, "id": item_id} if item_id else {"index": index}
    if (refusal := _refusal(kind)) is not None:
        return {**named, "status": "rejected", "problem": problems.of_error(refusal, prefix)}
    found = {**named, "status": kind}
    return (
        found | orjson.loads(item.notes) if kind == "accepted" and item.notes is not None else found
    )


def _refused(index: int, refusal: Refused, prefix: str) -> dict[str, Any]:
    return {"index": index, "status": "rejected", "problem": problems.of_error(refusal, prefix)}
