"""What is done about a call: entries are accepted, asked, refused, each answered in its place."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from app import request_ids
from app.api import gates, problems, writes
from app.api.context import Context
from app.clock import now_ms
from app.doors.sdk import answering, call_arguments, sorting, times
from app.doors.sdk.answering import Entry
from app.doors.sdk.reading import Call, text
from app.doors.sdk.sorting import No, Now
from app.errors import Erased, Forbidden, GatewayError, KeyNotConfigured, Malformed, Unauthorized, UpstreamRejected
from app.intake.gate import Gate
from app.intake.refining import PLAIN
from app.leanplum import detection, replies
from app.leanplum.actions import QUEUED
from app.leanplum.client import Answer
from app.leanplum.detection import undetected
from app.model import App, Caller, KeyKind, NewItem, Notes, Taken
from app.wiring import Gateway

RUN_ACTIONS, RUN_USERS = 500, 50  # of one call to Leanplum
FORWARD = "forward"
GONE = 451  # what Leanplum answers for a user who is blocked


@dataclass(slots=True)
class Reply:
    """What was found out so far: an answer for each entry, and what stands beside them."""

    entries: list[Entry | None]
    status: int = 200
    beside: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None
    end_user: Mapping[str, str] = field(default_factory=dict)  # the headers that tell Leanplum of the end user

    def tell(self, at: Sequence[int], found: Sequence[Entry]) -> None:
        """The answers of the entries at these places."""
        for index, entry in zip(at, found, strict=True):
            self.entries[index] = entry


async def reply_to(gateway: Gateway, app: App, context: Context, caller: Caller, call: Call) -> Reply:
    """Entry by entry in their order, those of a kind together: what was accepted before something is asked for the same
    user reaches Leanplum before it, and what comes after it, after."""
    reply = Reply([None] * len(call.entries), beside=gateway.relay.beside(app.name))
    noted = _guarded(gateway, context, caller, call)
    if gateway.settings.gateway_detect == FORWARD:
        reply.end_user = detection.headers(_sender(gateway, context), context.header(b"accept-language"))
    gate = gates.gate_of(gateway, context, PLAIN)
    clock = _clock(context, call)
    shared = call_arguments.for_entries(call.args) if call.batch else {}
    judged = [
        _judged(caller, call, _shared(shared, one), notes, clock, gate, app)
        for one, notes in zip(call.entries, noted, strict=True)
    ]
    context.subjects = {one.subject for one in judged if not isinstance(one, No) and one.subject is not None}
    _refuse(call, reply, judged)
    left = [index for index, one in enumerate(judged) if not isinstance(one, No)]  # a refusal parts no run
    doing = [judged[index] for index in left]
    start = 0
    while start < len(doing):
        run = _run(doing, start)
        await _do(gateway, app, context, caller, call, reply, left[start : start + len(run)], run)
        start += len(run)
    await _learn(gateway, context, reply, judged)
    return reply


async def _learn(gateway: Gateway, context: Context, reply: Reply, judged: Sequence[sorting.Sorted]) -> None:
    """Keep the names that relayed writes brought, where Leanplum took them."""
    answered = zip(judged, reply.entries, strict=True)
    done = [one for one, entry in answered if isinstance(one, Now) and one.writes and entry and entry.get("success")]
    if done:
        await gates.relayed(gateway, context, [sorting.item_of(one) for one in done])


def _clock(context: Context, call: Call) -> times.Correction:
    """Return the error of the sender's clock, as of when the request began to arrive.

    The `time` of a call that is no batch is its one entry's own.
    """
    if not call.batch:
        return times.NO_CORRECTION
    waited = round((time.perf_counter() - context.started) * 1000)
    return times.correction_of(call.args.get("time"), now_ms() - waited)


def _shared(shared: Mapping[str, Any], entry: Any) -> Any:
    return call_arguments.applied(shared, entry) if isinstance(entry, dict) else entry


def _judged(
    caller: Caller,
    call: Call,
    sent: Any,
    notes: Notes,
    clock: times.Correction,
    gate: Gate,
    app: App,
) -> sorting.Sorted:
    """Classify one entry with its corrected time; a repeat is recognised by the time as sent."""
    entry = sent
    if isinstance(sent, dict):
        moment, moved_by, warning = clock.applied(sent)
        if moved_by is not None:
            entry, notes = {**sent, "time": moment}, replace(notes, time_correction=moved_by)
        elif warning is not None:
            notes = replace(notes, warnings=(*notes.warnings, warning))
    classified = sorting.sort(
        entry, caller.scopes, in_batch=call.batch, notes=notes, relayed=app.sdk_relayed, extra=app.sdk_extra
    )
    if entry is not sent and isinstance(classified, NewItem) and classified.id is not None:
        classified = classified._replace(content=sorting.body_of(sent, in_batch=call.batch))
    return sorting.judged(classified, entry, notes, gate)


def _refuse(call: Call, reply: Reply, judged: Sequence[sorting.Sorted]) -> None:
    """Answer the entries that are not done."""
    for index, one in enumerate(judged):
        if isinstance(one, No):
            reply.tell([index], [answering.failed(one.reason, call.entries[index])])
            if not call.batch:
                reply.status = 400


def _guarded(gateway: Gateway, context: Context, caller: Caller, call: Call) -> list[Notes]:
    """Take out of the call what must not be stored or sent on, and tell what was done to each entry."""
    refiner = gateway.enrichment.refiner(context.app_name, caller.key_id, now_ms(), _sender(gateway, context))
    if call.batch:
        refiner.guard(call.action, call.args)
    entries = [one if isinstance(one, dict) else {} for one in call.entries]
    _tell_locale(gateway, context, entries)
    return [refiner.guard(text(one.get("action")), one) for one in entries]


def _sender(gateway: Gateway, context: Context) -> str | None:
    """The end user's address, where it is known."""
    return gateway.enrichment.sender(context.address, context.headers.get(b"x-forwarded-for"))


def _tell_locale(gateway: Gateway, context: Context, entries: Sequence[dict[str, Any]]) -> None:
    """Put the request's language where an entry asks that it be detected, unless Leanplum is to do that: of entries
    that are delivered later it can't, since they share a call with others."""
    locale = detection.locale_of(context.header(b"accept-language"))
    forwarding = gateway.settings.gateway_detect == FORWARD
    for entry in entries:
        later = text(entry.get("action")) in QUEUED
        if locale is not None and entry.get("locale") == detection.DETECT and (later or not forwarding):
            entry["locale"] = locale


def _run(judged: Sequence[sorting.Sorted], start: int) -> Sequence[sorting.Sorted]:
    """The entries from `start` that are done together."""
    first = judged[start]
    end, users = start, set[str | None]()
    while end < len(judged) and type(one := judged[end]) is type(first):
        if isinstance(one, Now) and isinstance(first, Now):
            users.add(one.subject)
            apart = one.alone or first.alone or (one.key, one.debugging) != (first.key, first.debugging)
            if end > start and (apart or end - start >= RUN_ACTIONS or len(users) > RUN_USERS):
                break
        end += 1
    return judged[start:end]


async def _do(
    gateway: Gateway,
    app: App,
    context: Context,
    caller: Caller,
    call: Call,
    reply: Reply,
    at: Sequence[int],
    run: Sequence[sorting.Sorted],
) -> None:
    sent = [call.entries[index] for index in at]
    if isinstance(run[0], Now):
        asked = [(index, one) for index, one in zip(at, run, strict=True) if isinstance(one, Now)]
        await _ask_for_those_left(gateway, app, call, reply, asked)
    else:
        taken = await _accept(gateway, context, caller, [one for one in run if isinstance(one, NewItem)])
        for index, one, (_, kind) in zip(at, sent, taken, strict=True):
            if kind == "erased":
                _tell_erased(call, reply, index, one)
            else:
                reply.tell([index], [answering.done(one)])


def _tell_erased(call: Call, reply: Reply, index: int, sent: Any) -> None:
    reply.tell([index], [answering.failed(Erased().detail, sent)])
    if not call.batch:
        reply.status = GONE


async def _ask_for_those_left(
    gateway: Gateway, app: App, call: Call, reply: Reply, asked: Sequence[tuple[int, Now]]
) -> None:
    """Ask, but not for users who were erased: one of them must not take the others of a batch along."""
    subjects = {subject for _, one in asked for subject in one.subjects}
    erased = await gateway.outbox.erased(app.name, subjects) if len(subjects) > 1 else ()
    for index, one in asked:
        if not one.subjects.isdisjoint(erased):
            _tell_erased(call, reply, index, one.entry)
    left = [(index, one) for index, one in asked if one.subjects.isdisjoint(erased)]
    if left:
        await _ask(gateway, app, call, reply, [index for index, _ in left], [one for _, one in left])


async def _accept(gateway: Gateway, context: Context, caller: Caller, items: list[NewItem]) -> Sequence[Taken]:
    """On disk when this returns. A repeat is known by its id; two contents with the same are two items."""
    taken: Sequence[Taken] = await writes.accept(gateway, context, caller, now_ms(), items, batch=True)
    gateway.metrics.accepted.inc(sum(kind == "accepted" for _, kind in taken))
    again = [
        item._replace(id=request_ids.apart(item.id))
        for item, (_, kind) in zip(items, taken, strict=True)
        if kind == "conflict" and item.id is not None
    ]
    if again:
        await writes.accept(gateway, context, caller, now_ms(), again, batch=True)
        gateway.metrics.accepted.inc(len(again))
    return taken


async def _ask(gateway: Gateway, app: App, call: Call, reply: Reply, at: Sequence[int], run: Sequence[Now]) -> None:
    sent = [one.entry for one in run]
    if reply.status in {429, 503, 504}:  # Leanplum has just failed; asking on would take longer than the SDK waits
        reply.tell(at, [answering.failed("Not asked, since Leanplum failed before.", one) for one in sent])
        return
    subjects = {subject for one in run for subject in one.subjects}
    try:
        action, body = _outgoing(gateway, app, call, run, reply.end_user)
        looks, in_order = all(one.looks for one in run), any(one.writes for one in run)
        found = await gateway.relay.exchange(
            app, action, body, subjects, looks=looks, headers=reply.end_user, in_order=in_order
        )
    except GatewayError as error:
        if not (call.batch and isinstance(error, KeyNotConfigured | Erased)):  # the batch again would change nothing
            reply.status, reply.retry_after = status_of(error), getattr(error, "retry_after", None)
        reply.tell(at, [answering.failed(error.detail, one) for one in sent])
        return
    _take(reply, at, sent, found, call)


def _outgoing(
    gateway: Gateway, app: App, call: Call, run: Sequence[Now], end_user: Mapping[str, str]
) -> tuple[str, bytes]:
    """Return the action and body for Leanplum: as they came, with the real keys wherever one stood, less what Leanplum
    would detect of the gateway. Raises KeyNotConfigured, Malformed."""
    if run[0].debugging and run[0].key is KeyKind.DEVELOPMENT and run[0].key not in app.keys:
        missing = app.setting(KeyKind.DEVELOPMENT)
        raise KeyNotConfigured(f"Development mode needs Leanplum's development key: {missing} is not set.")
    keys = {"appId": app.app_id, "clientKey": gateway.relay.key(app, run[0].key)}
    if not call.batch:
        return call.action, orjson.dumps({**undetected(call.args, end_user), **keys})
    data = [_with_key(undetected(one.entry, end_user), keys) for one in run]
    if run[0].alone:  # it takes a key that a batch does not
        return str(run[0].entry["action"]), orjson.dumps({**data[0], **keys})
    # The entries' times are corrected, so the clock that goes with them is the gateway's.
    shared = {**undetected(call.args, end_user), **keys}
    args = {**shared, "action": "multi", "time": now_ms() / 1000, "data": data}
    if run[0].debugging:
        args["devMode"] = True
    try:
        return "multi", orjson.dumps(args)
    except TypeError:
        raise Malformed("The arguments are nested too deeply.") from None


def _with_key(entry: Entry, keys: dict[str, str]) -> Entry:
    return {**entry, **{name: value for name, value in keys.items() if name in entry}}


def _take(reply: Reply, at: Sequence[int], sent: Sequence[Entry], found: Answer, call: Call) -> None:
    """Leanplum's answer, into its places."""
    entries = replies.entries(found.body)
    if found.status in replies.THROTTLES or found.status >= 500 or not entries:
        reply.status = 429 if found.status in replies.THROTTLES else 503
        reply.retry_after = 5.0
        reply.tell(at, [answering.failed(f"Leanplum answered {found.status}.", one) for one in sent])
        return
    places = answering.matched(entries, sent)
    if len(entries) == 1 and entries[0].get("success") is False:
        places = [answering.echoed(one, entries[0]) for one in sent]  # a refusal of the whole call
    told = [answering.cleaned(one, of) if one is not None else None for one, of in zip(places, sent, strict=True)]
    reply.tell(
        at,
        [one[0] if one else answering.failed(answering.UNTOLD, of) for one, of in zip(told, sent, strict=True)],
    )
    if any(one is not None and one[1] for one in told):
        reply.status, reply.retry_after = 503, 60.0
    elif found.status >= 400 and not call.batch:
        reply.status = found.status
    whole = orjson.loads(found.body)
    reply.beside |= {name: value for name, value in whole.items() if name not in {"response", *answering.NOT_PASSED_ON}}


def status_of(error: GatewayError) -> int:
    """403 for a bad key; trouble upstream is 5xx, and Leanplum's own refusal is told by its entry."""
    if isinstance(error, Unauthorized | Forbidden):
        return 403
    if isinstance(error, Erased):
        return GONE
    if isinstance(error, UpstreamRejected):
        return 502
    return problems.PROBLEMS[problems.SLUGS[type(error)]].status
