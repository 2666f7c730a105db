"""The audit record of each call: with the transaction of what the call changes, or on its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app.audit import records
from app.audit.folded_refusals import FOLDED, RefusalFolder, RefusedCall
from app.audit.recorder import AuditRecorder
from app.audit.records import UserPseudonyms
from app.clock import now_ms
from app.http.rate_limiting import network
from app.http.request import RequestContext


class TransactionRecord:
    """The audit record that a transaction commits along with a change."""

    def __init__(self, context: RequestContext) -> None:
        self._context = context
        self.made = False

    def make(
        self,
        details: Mapping[str, Any],
        *,
        status: int = 200,
        resource: str | None = None,
        now: int | None = None,
    ) -> tuple[int, str]:
        """Return the time (`now`, epoch milliseconds) and the text of the record."""
        context = self._context
        assert context.caller is not None
        self.made = True
        now = now_ms() if now is None else now
        text = records.api_call(
            time=now,
            operation=context.operation,
            key_id=context.caller.key_id,
            app=context.app_name,
            address=context.address,
            request_id=context.request_id,
            status=status,
            details=dict(details),
            resource=resource,
        )
        return now, text


@contextmanager
def transaction_record(context: RequestContext) -> Iterator[TransactionRecord]:
    """Give the record for the transactions of the block.

    When the block fails, the middleware records the failure; also when no record was made.
    """
    record = TransactionRecord(context)
    yield record
    context.recorded = record.made


class AuditTrail:
    """Record the calls that were refused or only read."""

    def __init__(
        self, recorder: AuditRecorder, folding: RefusalFolder, pseudonyms: UserPseudonyms
    ) -> None:
        self._recorder, self._folding, self._pseudonyms = recorder, folding, pseudonyms

    async def record(self, context: RequestContext, status: int) -> None:
        """Record a call, unless that was done with what it changed.

        The response is sent after this. Its record is on disk by then, unless the database takes
        nothing just now.
        """
        if context.recorded:
            return
        # Of a call without a known key there is nothing to record.
        context.recorded = True
        caller, app = context.caller, context.app_name
        key_id = caller.key_id if caller is not None else context.shown_key_id
        if key_id is None:
            return
        now = now_ms()
        users = self._pseudonyms.of_all(app, context.subjects) if app else []
        if status in FOLDED or context.overloaded:
            refused = RefusedCall(
                now,
                context.operation,
                key_id,
                app,
                context.address,
                context.request_id,
                status,
                context.resource,
                users,
                context.refused,
                context.refused_actions,
            )
            if self._folding.fold(refused, network(context.address)):
                return
        counts = records.counts(0, 0, context.refused) if context.refused else {}
        text = records.api_call(
            time=now,
            operation=context.operation,
            key_id=key_id,
            app=app,
            address=context.address,
            request_id=context.request_id,
            status=status,
            resource=context.resource,
            resources=context.resources,
            details={
                **counts,
                **records.refused_actions(context.refused_actions),
                **records.about_users(users),
                **context.details,
            },
        )
        if caller is None:
            # Who shows a revoked key must not learn by the time it takes that it was one.
            self._recorder.soon(now, text)
        else:
            await self._recorder.record(now, text)
