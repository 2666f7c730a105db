"""What is done about a call: entries are accepted, asked, refused, each answered in its place."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from app import ids
from app.audit.records import MOST_USERS
from app.clock import now_ms
from app.compat.leanplum_sdk import (
    call_plan,
    classify,
    relayed_entries,
    response,
)
from app.compat.leanplum_sdk.classify import No, Now
from app.compat.leanplum_sdk.request import (
    NO_CORRECTION,
    Call,
    Correction,
    correction_of,
    shared_arguments,
    text,
    with_shared_arguments,
)
from app.compat.leanplum_sdk.resent_entries import DETECTED, undetected_content
from app.compat.leanplum_sdk.response import Reply
from app.compat.leanplum_sdk.steps import Steps
from app.enrichment.service import EnrichmentService
from app.errors import Forbidden, GatewayError
from app.http import (
    JOB_ID_FIELDS,
    Authenticator,
    JobFacts,
    RateLimiter,
    RequestContext,
    note_answer,
    require_scope,
)
from app.ingest.ports import NO_STEPS
from app.ingest.service import Checker, Ingest
from app.ingest.time_slices import in_slices
from app.leanplum.actions import ACTIONS, QUEUED
from app.leanplum.mapping import DETECT, end_user_headers, preferred_locale
from app.model import App, Caller, NewItem, Notes, Scope, Taken
from app.outbox.outbox import Outbox
from app.relay.service import Relay

# After the whole request is here, within which all is answered: phones wait 10
ANSWER_SECONDS = 8.0
ACCEPT_SECONDS = 1.0  # beyond these, for what is accepted last
FORWARD = "forward"
UNKNOWN = "(unknown)"  # an action that the audit does not name


class EntryExecutor:
    """Accept, relay or refuse the entries of calls."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: RateLimiter,
        ingest: Ingest,
        enrichment: EnrichmentService,
        relay: Relay,
        outbox: Outbox,
        job_facts: JobFacts,
        *,
        forwards_detection: bool,
    ) -> None:
        """`forwards_detection`: Leanplum detects the end user's place and language itself."""
        self._authenticator, self._limiter, self._ingest = authenticator, limiter, ingest
        self._enrichment, self._relay, self._outbox = enrichment, relay, outbox
        self._job_facts, self._forwards_detection = job_facts, forwards_detection

    async def reply_to(
        self, context: RequestContext, caller: Caller, app: App, call: Call
    ) -> Reply:
        """Execute a call; return the reply.

        What was accepted before something is relayed for the same user reaches Leanplum before it,
        and what comes after it, after. All that need not be relayed is accepted at once.
        """
        reply = Reply([None] * len(call.entries), beside=self._relay.migration.fields(app.name))
        try:
            await self._execute(context, caller, app, call, reply)
        except GatewayError as error:
            if not _done_in_part(reply):
                await self._limiter.give_back(context, caller, len(call.entries), error)
            raise
        return reply

    async def _execute(
        self, context: RequestContext, caller: Caller, app: App, call: Call, reply: Reply
    ) -> None:
        """Execute each entry, and write the outcome into the reply."""
        reading_seconds = time.perf_counter() - context.received
        until = asyncio.get_running_loop().time() + ANSWER_SECONDS - reading_seconds
        noted = await in_slices(self._guarded(context, caller, app, call))
        language = context.header(b"accept-language")
        if self._forwards_detection:
            reply.end_user = end_user_headers(context.origin.sender, language)
        checker = context.checker = self._ingest.plain_checker(app, NO_STEPS)
        clock = _clock(context, call)
        shared = shared_arguments(call.args) if call.batch else {}
        judged = await in_slices(
            _judged(caller, call, _shared(shared, entry), notes, clock, checker, app)
            for entry, notes in zip(call.entries, noted, strict=True)
        )
        refused = [
            sent for one, sent in zip(judged, call.entries, strict=True) if isinstance(one, No)
        ]
        note_refused(context, refused)
        accepted_subjects = {
            one.subject for one in judged if not isinstance(one, No) and one.subject is not None
        }
        context.subjects = {*context.refused_subjects} | accepted_subjects
        relayed = [
            (text(one.entry.get("action")), one.entry) for one in judged if isinstance(one, Now)
        ]
        self._job_facts.note_entries(context, relayed)
        _refuse(call, reply, judged)
        # A refusal parts no step.
        doing = {place: one for place, one in enumerate(judged) if not isinstance(one, No)}

        def permit(again: Caller, actions: Iterable[str]) -> None:
            chosen = set(actions)
            entries = (call.entries[place] for place in doing)
            _permit(again, (one for one in entries if text(one.get("action")) in chosen), app)

        def confirm(actions: Iterable[str]) -> Caller:
            """Return the caller as the key is now. Raises Unauthorized, Forbidden."""
            again = self._authenticator.confirm(context, caller)
            if again is not caller:
                permit(again, actions)
            return again

        async def accept(items: list[NewItem]) -> Sequence[Taken]:
            return await self._accept(
                context, app, items, checker, until=until + ACCEPT_SECONDS, confirm=confirm
            )

        in_steps = await in_slices(
            _in_steps(one, sent) for one, sent in zip(judged, call.entries, strict=True)
        )
        if any(in_steps):
            if call.batch:
                _let_wait(doing, call, noted, clock, preferred_locale(language))
            await Steps(
                self._relay,
                self._outbox,
                app,
                caller.key_id,
                call,
                doing,
                reply,
                accept,
                until,
                confirm,
            ).run()
        elif doing:
            items = [one for one in doing.values() if isinstance(one, NewItem)]
            _tell_taken(call, reply, doing, await accept(items))
        await self._learn(checker, reply, judged)
        for entry in reply.entries:
            if entry is not None and not JOB_ID_FIELDS.isdisjoint(entry):
                note_answer(context, entry)

    async def _learn(
        self, checker: Checker, reply: Reply, judged: Sequence[classify.Sorted]
    ) -> None:
        """Keep the names that relayed writes brought, when Leanplum accepted them."""
        done = [
            one
            for one, entry in zip(judged, reply.entries, strict=True)
            if isinstance(one, Now) and one.writes and entry and entry.get("success")
        ]
        if done:
            items = [classify.item_of(one) for one in done]
            await self._ingest.learn_relayed(checker, items)

    def _guarded(
        self, context: RequestContext, caller: Caller, app: App, call: Call
    ) -> Iterator[Notes]:
        """Take out of the call what must not be stored or sent on; yield notes of each entry."""
        rules = self._enrichment.enricher(app.name, caller.key_id, now_ms(), context.origin.sender)
        if call.batch:
            # The arguments may be of any of the entries, so all rules cover them.
            rules.enrich_sdk_entry("", call.args)
        entries = [entry if isinstance(entry, dict) else {} for entry in call.entries]
        self._set_locale(context, entries)
        return (rules.enrich_sdk_entry(text(entry.get("action")), entry) for entry in entries)

    def _set_locale(self, context: RequestContext, entries: Sequence[dict[str, Any]]) -> None:
        """Set the request's language in entries that ask for it to be detected.

        Leanplum may detect it itself, but not of entries that are delivered later: they share a
        call with others.
        """
        locale = preferred_locale(context.header(b"accept-language"))
        if locale is None:
            return
        for entry in entries:
            later = text(entry.get("action")) in QUEUED
            detects = entry.get("locale") == DETECT
            if detects and (later or not self._forwards_detection):
                entry["locale"] = locale

    async def _accept(
        self,
        context: RequestContext,
        app: App,
        items: list[NewItem],
        checker: Checker,
        *,
        until: float,
        confirm: Callable[[Iterable[str]], Caller],
    ) -> Sequence[Taken]:
        """Accept items durably; return what became of each.

        A repeat is known by its reqId and uuid; two contents with the same are two items. The
        commit is waited for until `until`, by the loop's clock. Raises StorageUnavailable, and
        CommitUnknown when it may have been made.
        """

        async def commit(items: list[NewItem]) -> Sequence[Taken]:
            caller = confirm({item.action for item in items})
            taken = await self._ingest.accept(
                context,
                app,
                caller,
                items,
                now=now_ms(),
                checker=checker,
                refused=context.refused,
                batch=True,
                seconds=max(0.0, until - asyncio.get_running_loop().time()),
            )
            note_refused(context, ())  # one record of the call is enough
            return taken

        taken = list(await commit(items))
        conflicts = [place for place, (_, kind) in enumerate(taken) if kind == "conflict"]
        if conflicts:
            again = await commit([_apart(items[place]) for place in conflicts])
            for place, outcome in zip(conflicts, again, strict=True):
                taken[place] = outcome
        return taken


def _done_in_part(reply: Reply) -> bool:
    """Return whether an entry was done, or asked of Leanplum without an answer."""
    return reply.status != 200 or any(entry and entry.get("success") for entry in reply.entries)


def note_refused(context: RequestContext, entries: Iterable[Any]) -> None:
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
    return bool(req_id or uuid) and not ids.names_one_action(req_id, uuid)


def _let_wait(
    doing: dict[int, NewItem | Now],
    call: Call,
    noted: Sequence[Notes],
    clock: Correction,
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
    clock: Correction,
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


def _clock(context: RequestContext, call: Call) -> Correction:
    """Return the error of the sender's clock, as of when the request began to arrive.

    The `time` of a call that is no batch is its one entry's own.
    """
    if not call.batch:
        return NO_CORRECTION
    waited = round((time.perf_counter() - context.started) * 1000)
    return correction_of(call.args.get("time"), now_ms() - waited)


def _shared(shared: Mapping[str, Any], entry: Any) -> Any:
    return with_shared_arguments(shared, entry) if type(entry) is dict else entry


def _judged(
    caller: Caller,
    call: Call,
    sent: Any,
    notes: Notes,
    clock: Correction,
    checker: Checker,
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
    return classify.judged(classified, entry, notes, checker)


def _corrected(sent: Any, notes: Notes, clock: Correction) -> tuple[Any, Notes]:
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


def _permit(caller: Caller, entries: Iterable[Mapping[str, Any]], app: App) -> None:
    """Raises Forbidden where a key that was changed meanwhile may not do these entries here."""
    require_scope(caller, Scope.SDK)
    for entry in entries:
        if (refused := classify.forbids(entry, caller.scopes, app.sdk_extra)) is not None:
            raise Forbidden(refused.reason)


def _apart(item: NewItem) -> NewItem:
    """Return an item under the id of its content, where the id of its action is another
    content's.
    """
    assert item.id is not None
    content = item.body if item.content is None else item.content
    return item._replace(id=ids.sdk_item_id_for_content(item.id, item.action, content))
