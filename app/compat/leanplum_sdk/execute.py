"""What is done about a call: entries are accepted, asked, refused, each answered in its place."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app import request_ids
from app.api import job_facts, name_claims, writes
from app.audit.records import MOST_USERS
from app.bootstrap import Gateway
from app.clock import now_ms
from app.compat.leanplum_sdk import (
    call_arguments,
    call_plan,
    classify,
    clock_correction,
    relayed_entries,
    response,
)
from app.compat.leanplum_sdk.classify import No, Now
from app.compat.leanplum_sdk.reply import Reply
from app.compat.leanplum_sdk.request import Call, text
from app.compat.leanplum_sdk.resent_entries import DETECTED, undetected_content
from app.compat.leanplum_sdk.steps import Steps
from app.errors import Forbidden, GatewayError
from app.http import authentication, rate_limiting
from app.http.request import Context
from app.http.time_slices import in_slices
from app.ingest.ports import PLAIN
from app.leanplum.actions import ACTIONS, QUEUED
from app.leanplum.mapping import DETECT, end_user_headers, preferred_locale
from app.model import App, Caller, NewItem, Notes, Scope, Taken
from app.tracking.checker import Gate

# After the whole request is here, within which all is answered: phones wait 10
ANSWER_SECONDS = 8.0
ACCEPT_SECONDS = 1.0  # beyond these, for what is accepted last
FORWARD = "forward"
UNKNOWN = "(unknown)"  # an action that the audit does not name


async def reply_to(
    gateway: Gateway, app: App, context: Context, caller: Caller, call: Call
) -> Reply:
    """What was accepted before something is asked for the same user reaches Leanplum before it, and
    what comes after it, after. All that needs no question is accepted at once.
    """
    reply = Reply([None] * len(call.entries), beside=gateway.relay.migration.fields(app.name))
    try:
        await _do(gateway, app, context, caller, call, reply)
    except GatewayError as error:
        if not _done_in_part(reply):
            await rate_limiting.give_back(gateway, context, caller, len(call.entries), error)
        raise
    return reply


def _done_in_part(reply: Reply) -> bool:
    """Return whether an entry was done, or asked of Leanplum without an answer."""
    return reply.status != 200 or any(entry and entry.get("success") for entry in reply.entries)


async def _do(
    gateway: Gateway, app: App, context: Context, caller: Caller, call: Call, reply: Reply
) -> None:
    """Do what is asked of each entry, and tell it in the reply."""
    until = (
        asyncio.get_running_loop().time()
        + ANSWER_SECONDS
        - (time.perf_counter() - context.received)
    )
    noted = await in_slices(_guarded(gateway, context, caller, call))
    if gateway.settings.gateway_detect == FORWARD:
        reply.end_user = end_user_headers(context.origin.sender, context.header(b"accept-language"))
    gate = name_claims.gate_of(gateway, context, PLAIN)
    clock = _clock(context, call)
    shared = call_arguments.for_entries(call.args) if call.batch else {}
    judged = await in_slices(
        _judged(caller, call, _shared(shared, one), notes, clock, gate, app)
        for one, notes in zip(call.entries, noted, strict=True)
    )
    tell_refused(
        context,
        [sent for one, sent in zip(judged, call.entries, strict=True) if isinstance(one, No)],
    )
    context.subjects = {*context.refused_subjects} | {
        one.subject for one in judged if not isinstance(one, No) and one.subject is not None
    }
    asked = [(text(one.entry.get("action")), one.entry) for one in judged if isinstance(one, Now)]
    job_facts.tell_entries(gateway, context, asked)
    _refuse(call, reply, judged)
    # A refusal parts no step
    doing = {place: one for place, one in enumerate(judged) if not isinstance(one, No)}

    def permit(again: Caller, actions: Iterable[str]) -> None:
        chosen = set(actions)
        entries = (call.entries[place] for place in doing)
        _permit(again, (one for one in entries if text(one.get("action")) in chosen), app)

    async def accept(items: list[NewItem]) -> Sequence[Taken]:
        return await _accept(gateway, context, caller, items, until + ACCEPT_SECONDS, permit)

    def still(actions: Iterable[str]) -> None:
        again = authentication.look_again(gateway, context, caller)
        if again is not caller:
            permit(again, actions)

    if any(
        await in_slices(
            _in_steps(one, sent) for one, sent in zip(judged, call.entries, strict=True)
        )
    ):
        if call.batch:
            _let_wait(
                doing, call, noted, clock, preferred_locale(context.header(b"accept-language"))
            )
        await Steps(gateway, app, caller.key_id, call, doing, reply, accept, until, still).run()
    elif doing:
        _tell_taken(
            call,
            reply,
            doing,
            await accept([one for one in doing.values() if isinstance(one, NewItem)]),
        )
    await _learn(gateway, context, reply, judged)
    for entry in reply.entries:
        if entry is not None and not job_facts.IDS.isdisjoint(entry):
            job_facts.tell_answered(context, entry)


def tell_refused(context: Context, entries: Iterable[Any]) -> None:
    """Have the audit's record of the call say how many entries were refused, their actions, and
    some of whom they were about.
    """
    actions, subjects = Counter[str](), dict[str, None]()
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        action = text(fields.get("action"))
        actions[action if action in ACTIONS else UNKNOWN] += 1
        subject = classify.subject_of(fields)
        if subject is not None and len(subjects) < MOST_USERS:
            subjects[subject] = None
    context.refused = actions.total()
    context.refused_actions, context.refused_subjects = actions, subjects


def _in_steps(one: classify.Sorted, sent: Any) -> bool:
    """Whether an entry is asked, or may be a repeat that the database doesn't recognise."""
    if not isinstance(one, NewItem):
        return isinstance(one, Now)
    req_id, uuid = text(sent.get("reqId")), text(sent.get("uuid"))
    return bool(req_id or uuid) and not request_ids.marks_one(req_id, uuid)


async def _learn(
    gateway: Gateway, context: Context, reply: Reply, judged: Sequence[classify.Sorted]
) -> None:
    """Keep the names that relayed writes brought, where Leanplum took them."""
    answered = zip(judged, reply.entries, strict=True)
    done = [
        one
        for one, entry in answered
        if isinstance(one, Now) and one.writes and entry and entry.get("success")
    ]
    if done:
        await name_claims.relayed(gateway, context, [classify.item_of(one) for one in done])


def _let_wait(
    doing: dict[int, NewItem | Now],
    call: Call,
    noted: Sequence[Notes],
    clock: clock_correction.Correction,
    locale: str | None,
) -> None:
    """Make items of the sessions that a later one of the same device follows in the batch: nobody
    uses what Leanplum answers to them.
    """
    starts = [
        (place, one)
        for place, one in doing.items()
        if isinstance(one, Now) and _begins_session(one)
    ]
    superseded = call_plan.superseded((place, one.entry) for place, one in starts)
    for place, one in starts:
        if place in superseded:
            doing[place] = _later(one, call.entries[place], noted[place], clock, locale)


def _begins_session(one: Now) -> bool:
    return (
        text(one.entry.get("action")) == "start" and one.subject is not None and not one.debugging
    )


def _later(
    one: Now,
    sent: Mapping[str, Any],
    notes: Notes,
    clock: clock_correction.Correction,
    locale: str | None,
) -> NewItem:
    if locale is not None and one.entry.get("locale") == DETECT:
        one = replace(one, entry={**one.entry, "locale": locale})
    return _recognised_by(
        classify.for_later(one, _corrected(sent, notes, clock)[1]), one.entry, sent, in_batch=True
    )


def _recognised_by(
    item: NewItem, entry: Mapping[str, Any], sent: Mapping[str, Any], *, in_batch: bool
) -> NewItem:
    """Return an item of an entry that is compared by what the sender said itself: neither by a
    corrected time, nor by what was detected.
    """
    if item.id is None or (entry is sent and DETECTED.isdisjoint(sent)):
        return item
    return item._replace(content=classify.body_of(undetected_content(sent), in_batch=in_batch))


def _tell_taken(
    call: Call, reply: Reply, doing: Mapping[int, NewItem | Now], taken: Sequence[Taken]
) -> None:
    """Answer what was accepted."""
    for place, (_, kind) in zip(doing, taken, strict=True):
        sent = call.entries[place]
        if kind != "erased":
            reply.entries[place] = response.done(sent)
            continue
        told = relayed_entries.erasure(call, sent)
        reply.entries[place] = told.entry
        if not call.batch:
            reply.status = told.status


def _clock(context: Context, call: Call) -> clock_correction.Correction:
    """Return the error of the sender's clock, as of when the request began to arrive.

    The `time` of a call that is no batch is its one entry's own.
    """
    if not call.batch:
        return clock_correction.NO_CORRECTION
    waited = round((time.perf_counter() - context.started) * 1000)
    return clock_correction.correction_of(call.args.get("time"), now_ms() - waited)


def _shared(shared: Mapping[str, Any], entry: Any) -> Any:
    return call_arguments.applied(shared, entry) if type(entry) is dict else entry


def _judged(
    caller: Caller,
    call: Call,
    sent: Any,
    notes: Notes,
    clock: clock_correction.Correction,
    gate: Gate,
    app: App,
) -> classify.Sorted:
    """Classify one entry with its corrected time."""
    entry, notes = _corrected(sent, notes, clock)
    classified = classify.sort(
        entry,
        caller.scopes,
        in_batch=call.batch,
        notes=notes,
        relayed=app.sdk_relayed,
        extra=app.sdk_extra,
    )
    if isinstance(classified, NewItem):
        classified = _recognised_by(classified, entry, sent, in_batch=call.batch)
    return classify.judged(classified, entry, notes, gate)


def _corrected(sent: Any, notes: Notes, clock: clock_correction.Correction) -> tuple[Any, Notes]:
    """Return an entry with its time corrected, and the notes that tell of it."""
    if type(sent) is not dict:  # or it is refused as it was read
        return sent, notes
    moment, moved_by, warning = clock.applied(sent)
    if moved_by is not None:
        return {**sent, "time": moment}, replace(notes, time_correction=moved_by)
    if warning is not None:
        notes = replace(notes, warnings=(*notes.warnings, warning))
    return sent, notes


def _refuse(call: Call, reply: Reply, judged: Sequence[classify.Sorted]) -> None:
    """Answer the entries that are not done."""
    for index, one in enumerate(judged):
        if isinstance(one, No):
            reply.tell([index], [response.failed(one.reason, call.entries[index])])
            if not call.batch:
                reply.status = 400
    if call.batch and all(isinstance(one, No) and one.unknown for one in judged):
        reply.status = 403


def _guarded(gateway: Gateway, context: Context, caller: Caller, call: Call) -> Iterator[Notes]:
    """Take out of the call what must not be stored or sent on, and tell what was done to each
    entry.
    """
    refiner = gateway.enrichment.refiner(
        context.app_name, caller.key_id, now_ms(), context.origin.sender
    )
    if call.batch:
        refiner.guard("", call.args)  # they may be of any of the entries: all rules are over them
    entries = [one if isinstance(one, dict) else {} for one in call.entries]
    _tell_locale(gateway, context, entries)
    return (refiner.guard(text(one.get("action")), one) for one in entries)


def _tell_locale(gateway: Gateway, context: Context, entries: Sequence[dict[str, Any]]) -> None:
    """Put the request's language where an entry asks that it be detected, unless Leanplum is to do
    that: of entries that are delivered later it can't, since they share a call with others.
    """
    locale = preferred_locale(context.header(b"accept-language"))
    forwarding = gateway.settings.gateway_detect == FORWARD
    for entry in entries:
        later = text(entry.get("action")) in QUEUED
        if locale is not None and entry.get("locale") == DETECT and (later or not forwarding):
            entry["locale"] = locale


def _permit(caller: Caller, entries: Iterable[Mapping[str, Any]], app: App) -> None:
    """Raises Forbidden where a key that was changed meanwhile may not do these entries here."""
    authentication.permit(caller, Scope.SDK)
    for entry in entries:
        if (refused := classify.forbids(entry, caller.scopes, app.sdk_extra)) is not None:
            raise Forbidden(refused.reason)


async def _accept(
    gateway: Gateway,
    context: Context,
    caller: Caller,
    items: list[NewItem],
    until: float,
    permit: Callable[[Caller, Iterable[str]], None],
) -> Sequence[Taken]:
    """On disk when this returns. A repeat is known by its reqId and uuid; two contents with the
    same are two items. The commit is waited for until `until`, by the loop's clock. Raises
    StorageUnavailable, and CommitUnknown where it may have been made.
    """

    def still(again: Caller, items: Sequence[NewItem]) -> None:
        permit(again, {item.action for item in items})

    async def commit(items: list[NewItem]) -> Sequence[Taken]:
        seconds = max(0.0, until - asyncio.get_running_loop().time())
        refused = context.refused
        taken = await writes.accept(
            gateway,
            context,
            caller,
            now_ms(),
            items,
            refused,
            batch=True,
            seconds=seconds,
            permit=still,
        )
        tell_refused(context, ())  # one record of the call is enough
        return taken

    taken = await commit(items)
    gateway.metrics.accepted.inc(sum(kind == "accepted" for _, kind in taken))
    conflicts = [place for place, (_, kind) in enumerate(taken) if kind == "conflict"]
    if not conflicts:
        return taken
    again = await commit([_apart(items[place]) for place in conflicts])
    gateway.metrics.accepted.inc(sum(kind == "accepted" for _, kind in again))
    found = list(taken)
    for place, one in zip(conflicts, again, strict=True):
        found[place] = one
    return found


def _apart(item: NewItem) -> NewItem:
    """Return an item under the id of its content, where the id of its action is another
    content's.
    """
    assert item.id is not None
    content = item.body if item.content is None else item.content
    return item._replace(id=request_ids.apart(item.id, item.action, content))
