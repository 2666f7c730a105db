"""Execution of a call: each entry is accepted, relayed or refused, and answered in its place."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from app import ids
from app.audit.records import MOST_USERS
from app.clock import now_ms
from app.compat.leanplum_sdk import call_plan, classify, response
from app.compat.leanplum_sdk.relayed_entries import EntryRelay, answer_erased
from app.compat.leanplum_sdk.request import (
    NO_CORRECTION,
    ClockCorrection,
    SdkCall,
    add_shared_arguments,
    measure_clock_error,
    select_shared_arguments,
    to_text,
)
from app.compat.leanplum_sdk.steps import AcceptedOrRelayed, CallExecution, StepExecutor
from app.enrichment.service import EnrichmentService
from app.errors import Erased, Forbidden, GatewayError
from app.http import (
    JOB_ID_FIELDS,
    Authenticator,
    JobFacts,
    RateLimiter,
    RequestContext,
    note_answer,
    require_scope,
)
from app.ingest import (
    CallSteps,
    Ingest,
    in_slices,
)
from app.leanplum.actions import ACTIONS, BACKGROUND_ACTIONS
from app.leanplum.mapping import DETECT, end_user_headers, preferred_locale
from app.model import App, Caller, NewItem, Notes, Scope, Taken

# After the whole request has arrived; phones wait 10 seconds for the response.
ANSWER_SECONDS = 8.0
ACCEPT_SECONDS = 1.0  # beyond these, for items that are accepted last
FORWARD = "forward"
UNKNOWN = "(unknown)"  # stands in the audit for an action that is not known


class EntryExecutor:
    """Accept, relay or refuse the entries of calls."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: RateLimiter,
        ingest: Ingest,
        enrichment: EnrichmentService,
        entry_relay: EntryRelay,
        job_facts: JobFacts,
        *,
        forwards_detection: bool,
    ) -> None:
        """`forwards_detection`: Leanplum detects the end user's place and language itself."""
        self._authenticator, self._limiter, self._ingest = authenticator, limiter, ingest
        self._enrichment, self._entry_relay = enrichment, entry_relay
        self._job_facts, self._forwards_detection = job_facts, forwards_detection

    async def reply_to(
        self, context: RequestContext, caller: Caller, app: App, call: SdkCall
    ) -> response.Reply:
        """Execute a call; return the reply.

        Entries of one user reach Leanplum in the order of the call, whether they are accepted or
        relayed. Entries that need not be relayed are accepted at once.
        """
        migration_fields = self._entry_relay.relay.migration.fields(app.name)
        reply = response.Reply([None] * len(call.entries), extra_fields=migration_fields)
        try:
            await self._execute(context, caller, app, call, reply)
        except GatewayError as error:
            if not _has_effects(reply):
                await self._limiter.give_back(context, caller, len(call.entries), error)
            raise
        return reply

    async def _execute(
        self,
        context: RequestContext,
        caller: Caller,
        app: App,
        call: SdkCall,
        reply: response.Reply,
    ) -> None:
        """Execute each entry, and write its answer into the reply."""
        arrival_seconds = time.perf_counter() - context.received
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS - arrival_seconds
        notes = await in_slices(self._enrich(context, caller, app, call))
        language = context.header(b"accept-language")
        if self._forwards_detection:
            reply.end_user = end_user_headers(context.origin.sender, language)
        item_steps = context.item_steps = self._ingest.checks(app)
        classifier = _EntryClassifier(caller, app, call, item_steps, _measure_clock(context, call))
        classified = await in_slices(classifier.classify_all(notes))
        self._note_entries(context, call, classified)
        _answer_refused(call, reply, classified)
        # Refused entries belong to no step.
        entries = {
            place: entry
            for place, entry in enumerate(classified)
            if not isinstance(entry, classify.RefusedEntry)
        }
        acceptor = _CallAcceptor(
            self._authenticator,
            self._ingest,
            context,
            caller,
            app,
            item_steps,
            [call.entries[place] for place in entries],
            deadline + ACCEPT_SECONDS,
        )
        pairs = zip(classified, call.entries, strict=True)
        needs_steps = await in_slices(_needs_steps(entry, sent) for entry, sent in pairs)
        if any(needs_steps):
            if call.batch:
                classifier.defer_superseded(entries, notes, preferred_locale(language))
            execution = CallExecution(app, caller.key_id, call, entries, reply, deadline)
            await StepExecutor(self._entry_relay, acceptor, execution).run()
        elif entries:
            items = [entry for entry in entries.values() if isinstance(entry, NewItem)]
            _answer_taken(call, reply, entries, *await acceptor.accept(items))
        await self._learn_names(item_steps, reply, classified)
        for answer in reply.entries:
            if answer is not None and not JOB_ID_FIELDS.isdisjoint(answer):
                note_answer(context, answer)

    def _note_entries(
        self, context: RequestContext, call: SdkCall, classified: Sequence[classify.ClassifiedEntry]
    ) -> None:
        """Note for the audit what the call is about."""
        refused, relayed, subjects = list[Any](), list[classify.RelayedEntry](), set[str]()
        for entry, sent in zip(classified, call.entries, strict=True):
            if isinstance(entry, classify.RefusedEntry):
                refused.append(sent)
                continue
            if entry.subject is not None:
                subjects.add(entry.subject)
            if isinstance(entry, classify.RelayedEntry):
                relayed.append(entry)
        note_refused(context, refused)
        context.subjects = {*context.refused_subjects} | subjects
        jobs = [(to_text(entry.entry.get("action")), entry.entry) for entry in relayed]
        self._job_facts.note_entries(context, jobs)

    async def _learn_names(
        self,
        item_steps: CallSteps,
        reply: response.Reply,
        classified: Sequence[classify.ClassifiedEntry],
    ) -> None:
        """Learn the names in relayed writes that Leanplum accepted."""
        items = [
            classify.make_relayed_item(entry)
            for entry, answer in zip(classified, reply.entries, strict=True)
            if isinstance(entry, classify.RelayedEntry)
            and entry.writes
            and answer
            and answer.get("success")
        ]
        if items:
            await self._ingest.learn_relayed(item_steps, items)

    def _enrich(
        self, context: RequestContext, caller: Caller, app: App, call: SdkCall
    ) -> Iterator[Notes]:
        """Apply the privacy rules to a call in place; yield the notes of each entry."""
        rules = self._enrichment.enricher(app.name, caller.key_id, now_ms(), context.origin.sender)
        if call.batch:
            # Arguments apply to entries of any action, so the rules of all actions cover them.
            rules.enrich_sdk_entry("", call.args)
        entries = [entry if isinstance(entry, dict) else {} for entry in call.entries]
        self._set_locale(context, entries)
        return (rules.enrich_sdk_entry(to_text(entry.get("action")), entry) for entry in entries)

    def _set_locale(self, context: RequestContext, entries: Sequence[dict[str, Any]]) -> None:
        """Set the request's language in entries that ask for it to be detected.

        Leanplum may detect it itself, but not of entries that are delivered later: they share a
        call with others.
        """
        locale = preferred_locale(context.header(b"accept-language"))
        if locale is None:
            return
        for entry in entries:
            later = to_text(entry.get("action")) in BACKGROUND_ACTIONS
            detects = entry.get("locale") == DETECT
            if detects and (later or not self._forwards_detection):
                entry["locale"] = locale


@dataclass(frozen=True, slots=True)
class _CallAcceptor:
    """Accept the items of one call.

    `sent` are its entries as they were sent, without those refused. Commits are waited for until
    `deadline`, by the clock of the event loop.
    """

    authenticator: Authenticator
    ingest: Ingest
    context: RequestContext
    caller: Caller
    app: App
    item_steps: CallSteps
    sent: Sequence[Mapping[str, Any]]
    deadline: float

    def confirm(self, actions: Iterable[str]) -> Caller:
        """Return the caller as the key is now.

        Raises Unauthorized, and Forbidden when the key no longer permits the entries of these
        actions.
        """
        current = self.authenticator.confirm(self.context, self.caller)
        if current is self.caller:
            return current
        require_scope(current, Scope.SDK)
        chosen = set(actions)
        for entry in self.sent:
            if to_text(entry.get("action")) in chosen:
                refused = classify.refuse_unpermitted(entry, current.scopes, self.app.sdk_extra)
                if refused is not None:
                    raise Forbidden(refused.reason)
        return current

    async def accept(self, items: list[NewItem]) -> tuple[Sequence[Taken], Sequence[Erased]]:
        """Accept items durably; return the outcome of each, and the errors for erased users.

        A repeat is recognised by its reqId and uuid; two contents with the same are two items.
        Raises StorageUnavailable, and CommitUnknown when the commit may have been made.
        """
        taken = list(await self._commit(items))
        conflicts = [place for place, (_, outcome) in enumerate(taken) if outcome == "conflict"]
        if conflicts:
            renamed = [_identify_by_content(items[place]) for place in conflicts]
            for place, outcome in zip(conflicts, await self._commit(renamed), strict=True):
                taken[place] = outcome
        return taken, await self.ingest.refusals(self.app, items, taken)

    async def _commit(self, items: list[NewItem]) -> Sequence[Taken]:
        caller = self.confirm({item.action for item in items})
        taken = await self.ingest.accept(
            self.context,
            self.app,
            caller,
            items,
            now=now_ms(),
            item_steps=self.item_steps,
            refused=self.context.refused,
            batch=True,
            seconds=max(0.0, self.deadline - asyncio.get_running_loop().time()),
        )
        # One audit record of the call reports the refused entries; later commits omit them.
        note_refused(self.context, ())
        return taken


class _CorrectedEntry(NamedTuple):
    """An entry with its time corrected, and its notes, which mention the correction."""

    entry: Any
    notes: Notes


@dataclass(frozen=True, slots=True)
class _EntryClassifier:
    """Classify the entries of one call with their corrected times."""

    caller: Caller
    app: App
    call: SdkCall
    item_steps: CallSteps
    clock: ClockCorrection

    def classify_all(self, notes: Sequence[Notes]) -> Iterator[classify.ClassifiedEntry]:
        """Yield the classification of each entry."""
        shared = select_shared_arguments(self.call.args) if self.call.batch else {}
        for entry, entry_notes in zip(self.call.entries, notes, strict=True):
            yield self._classify(add_shared_arguments(shared, entry), entry_notes)

    def _classify(self, sent: Any, notes: Notes) -> classify.ClassifiedEntry:
        entry, notes = self._correct_time(sent, notes)
        classified = classify.classify_entry(
            entry,
            self.caller.scopes,
            in_batch=self.call.batch,
            notes=notes,
            relayed=self.app.sdk_relayed,
            extra=self.app.sdk_extra,
        )
        if isinstance(classified, NewItem):
            classified = _compare_as_sent(classified, entry, sent, in_batch=self.call.batch)
        return classify.check_entry(classified, entry, notes, self.item_steps)

    def _correct_time(self, sent: Any, notes: Notes) -> _CorrectedEntry:
        if type(sent) is not dict:  # it is refused
            return _CorrectedEntry(sent, notes)
        corrected_time, moved_by, warning = self.clock.correct_time(sent)
        if moved_by is not None:
            moved_notes = replace(notes, time_correction=moved_by)
            return _CorrectedEntry({**sent, "time": corrected_time}, moved_notes)
        if warning is not None:
            notes = replace(notes, warnings=(*notes.warnings, warning))
        return _CorrectedEntry(sent, notes)

    def defer_superseded(
        self,
        entries: dict[int, AcceptedOrRelayed],
        notes: Sequence[Notes],
        locale: str | None,
    ) -> None:
        """Make items of starts of sessions that a later one of the same device follows.

        No SDK uses Leanplum's answers to them.
        """
        starts = {
            place: entry
            for place, entry in entries.items()
            if isinstance(entry, classify.RelayedEntry) and _is_deferrable_start(entry)
        }
        superseded = call_plan.find_superseded(
            (place, start.entry) for place, start in starts.items()
        )
        for place in superseded:
            entries[place] = self._defer(starts[place], place, notes[place], locale)

    def _defer(
        self, start: classify.RelayedEntry, place: int, notes: Notes, locale: str | None
    ) -> NewItem:
        sent = self.call.entries[place]
        if locale is not None and start.entry.get("locale") == DETECT:
            start = replace(start, entry={**start.entry, "locale": locale})
        item = classify.defer_entry(start, self._correct_time(sent, notes).notes)
        return _compare_as_sent(item, start.entry, sent, in_batch=True)


def _has_effects(reply: response.Reply) -> bool:
    """Return whether an entry was executed, or was sent to Leanplum without an answer."""
    return reply.status != 200 or any(entry and entry.get("success") for entry in reply.entries)


def note_refused(context: RequestContext, entries: Iterable[Any]) -> None:
    """Note refused entries for the audit record: their number, actions, and some of their users."""
    actions, subjects = Counter[str](), dict[str, None]()
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        action = to_text(fields.get("action"))
        actions[action if action in ACTIONS else UNKNOWN] += 1
        subject = classify.find_subject(fields)
        if subject is not None and len(subjects) < MOST_USERS:
            subjects[subject] = None
    context.refused = actions.total()
    context.refused_actions, context.refused_subjects = actions, subjects


def _needs_steps(entry: classify.ClassifiedEntry, sent: Any) -> bool:
    """Return whether an entry is relayed, or may be a repeat that the database cannot recognise."""
    if not isinstance(entry, NewItem):
        return isinstance(entry, classify.RelayedEntry)
    req_id, uuid = to_text(sent.get("reqId")), to_text(sent.get("uuid"))
    return bool(req_id or uuid) and not ids.names_one_action(req_id, uuid)


def _is_deferrable_start(entry: classify.RelayedEntry) -> bool:
    if entry.subject is None or entry.debugging:
        return False
    return to_text(entry.entry.get("action")) == "start"


def _compare_as_sent(
    item: NewItem, entry: Mapping[str, Any], sent: Mapping[str, Any], *, in_batch: bool
) -> NewItem:
    """Return an item whose repeats are recognised by what the sender said.

    Neither the corrected time nor detected fields count.
    """
    if item.id is None or (entry is sent and call_plan.DETECTED.isdisjoint(sent)):
        return item
    content = classify.render_body(call_plan.drop_detected(sent), in_batch=in_batch)
    return item._replace(content=content)


def _answer_taken(
    call: SdkCall,
    reply: response.Reply,
    places: Iterable[int],
    taken: Sequence[Taken],
    erased: Sequence[Erased],
) -> None:
    """Answer the accepted entries at these places."""
    refusals = iter(erased)
    for place, (_, outcome) in zip(places, taken, strict=True):
        sent = call.entries[place]
        if outcome != "erased":
            reply.entries[place] = response.render_success(sent)
            continue
        answer = answer_erased(call, sent, next(refusals))
        reply.entries[place] = answer.entry
        if not call.batch:
            reply.status = answer.status


def _measure_clock(context: RequestContext, call: SdkCall) -> ClockCorrection:
    """Return the correction of the sender's clock, as of when the request began to arrive.

    The `time` of a call that is not a batch belongs to its only entry.
    """
    if not call.batch:
        return NO_CORRECTION
    waited = round((time.perf_counter() - context.started) * 1000)
    return measure_clock_error(call.args.get("time"), now_ms() - waited)


def _answer_refused(
    call: SdkCall, reply: response.Reply, classified: Sequence[classify.ClassifiedEntry]
) -> None:
    """Answer the refused entries."""
    for place, entry in enumerate(classified):
        if isinstance(entry, classify.RefusedEntry):
            reply.entries[place] = response.render_failure(entry.reason, call.entries[place])
            if not call.batch:
                reply.status = 400
    if call.batch and all(
        isinstance(entry, classify.RefusedEntry) and entry.unknown for entry in classified
    ):
        reply.status = 403


def _identify_by_content(item: NewItem) -> NewItem:
    """Return an item with an id of its content, when another content has the id of its action."""
    assert item.id is not None
    content = item.body if item.content is None else item.content
    return item._replace(id=ids.sdk_item_id_for_content(item.id, item.action, content))
