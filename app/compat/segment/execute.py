"""Execution of a call: items are made of its messages, and accepted."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import structlog

from app.audit.records import MOST_USERS
from app.clock import now_ms
from app.compat.segment import classify, mapping, request, response
from app.enrichment.service import EnrichmentService
from app.errors import GatewayError
from app.http import RequestContext, require_scope
from app.ingest import (
    CallSteps,
    Ingest,
    validate,
)
from app.model import App, Caller, NewItem
from app.telemetry import Metrics

MESSAGES_PER_SLICE = 50  # classified before other requests are served

log = structlog.get_logger("segment")


class MessageExecutor:
    """Accept the messages of calls."""

    def __init__(self, ingest: Ingest, enrichment: EnrichmentService, metrics: Metrics) -> None:
        self._ingest, self._enrichment, self._metrics = ingest, enrichment, metrics

    async def execute(
        self,
        context: RequestContext,
        app: App,
        caller: Caller,
        call: request.SegmentCall,
        confirm: Callable[[], Caller],
    ) -> Sequence[classify.ClassifiedMessage]:
        """Accept what can be accepted; return the outcome of each message.

        `confirm` returns the caller as the key is now, or raises Unauthorized.
        """
        item_steps = self._ingest.item_steps(app, caller, now_ms(), context.origin.named)
        context.item_steps = item_steps
        outcomes = await self._classify(app, caller, call, item_steps)
        self._note_refused(context, app, caller, call, outcomes)
        items = [outcome for outcome in outcomes if isinstance(outcome, NewItem)]
        refused = sum(isinstance(outcome, GatewayError) for outcome in outcomes)
        if not items:
            context.subjects = context.refused_subjects
            context.refused = refused
        else:
            context.subjects = {item.subject for item in items}
            taken = await self._ingest.accept(
                context,
                app,
                _confirm_scopes(confirm, caller, items),
                items,
                now=now_ms(),
                item_steps=item_steps,
                refused=refused,
                batch=True,
            )
            erased = iter(await self._ingest.refusals(app, items, taken))
            kinds = iter([kind for _, kind in taken])
            outcomes = [
                next(erased)
                if isinstance(outcome, NewItem) and next(kinds) == "erased"
                else outcome
                for outcome in outcomes
            ]
        self._report(context, call, outcomes)
        return outcomes

    async def _classify(
        self, app: App, caller: Caller, call: request.SegmentCall, item_steps: CallSteps
    ) -> list[classify.ClassifiedMessage]:
        """Classify each message; a fault in one does not affect the others."""
        rules = self._enrichment.enricher(app.name, caller.key_id, now_ms())
        apply_privacy = rules.apply_privacy if rules.has_privacy_rules else mapping.keep_everything
        classifier = classify.MessageClassifier(
            caller.scopes, rules.segment, item_steps, apply_privacy
        )
        outcomes = list[classify.ClassifiedMessage]()
        for index, message in enumerate(call.messages):
            base = f"/{request.BATCH}/{index}" if call.batch else ""
            outcomes.append(classifier.classify(message, call.common, base))
            if len(outcomes) % MESSAGES_PER_SLICE == 0:
                await asyncio.sleep(0)
        return outcomes

    def _note_refused(
        self,
        context: RequestContext,
        app: App,
        caller: Caller,
        call: request.SegmentCall,
        outcomes: Sequence[classify.ClassifiedMessage],
    ) -> None:
        """Note the types of refused messages, and some of their users, for the audit record."""
        refused = [
            message
            for message, outcome in zip(call.messages, outcomes, strict=True)
            if isinstance(outcome, GatewayError)
        ]
        if not refused:
            return
        rules = self._enrichment.enricher(app.name, caller.key_id, now_ms()).segment
        subjects = (classify.find_subject(message, call.common, rules) for message in refused)
        context.refused_actions = Counter(map(classify.type_of, refused))
        context.refused_subjects = dict.fromkeys(islice(filter(None, subjects), MOST_USERS))

    def _report(
        self,
        context: RequestContext,
        call: request.SegmentCall,
        outcomes: Sequence[classify.ClassifiedMessage],
    ) -> None:
        """Count the messages, and log refused ones, since libraries do not show the response."""
        counts = Counter(
            (classify.type_of(message), classify.name_outcome(outcome))
            for message, outcome in zip(call.messages, outcomes, strict=True)
        )
        for (kind, outcome_name), count in counts.items():
            self._metrics.count_segment(kind, outcome_name, count)
        refused = [outcome for outcome in outcomes if isinstance(outcome, GatewayError)]
        if refused:
            codes = {code for error in refused for code in response.codes_of(error)}
            log.warning(
                "segment.refused",
                request_id=context.request_id,
                key_id=context.caller.key_id if context.caller else None,
                refused=len(refused),
                messages=len(outcomes),
                codes=sorted(codes),
            )


def _confirm_scopes(
    confirm: Callable[[], Caller], caller: Caller, items: Sequence[NewItem]
) -> Caller:
    """Return the caller as the key is now. Raises Unauthorized; Forbidden when it lacks a scope."""
    current = confirm()
    if current is not caller:
        for action in {item.action for item in items}:
            require_scope(current, validate.ITEM_ACTIONS[action].scope)
    return current
