"""Audit records of calls: committed with what a call changes, or written on their own.

The records of exports, imports and postbacks also name their jobs, targets and sources.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from app.audit import records
from app.audit.folded_refusals import FOLDED, RefusalFolder, RefusedCall
from app.audit.recorder import AuditRecorder
from app.audit.records import UserPseudonyms
from app.clock import now_ms
from app.http.rate_limiting import network
from app.http.request import RequestContext
from app.leanplum.actions import ACTIONS, Action
from app.model import Scope

MAX_TEXT = 200  # characters of a text that a caller chose
MAX_JOBS = 50  # jobs and targets of one call
RECORDED_FIELDS = (
    "startDate",
    "endDate",
    "dataType",
    "abTestId",
    "messageId",
    "type",
    "defaultAction",
)
JOB_ID_FIELDS = frozenset({"jobId", "postbackId"})
URL_FIELDS = ("postbackUrl", "callbackUrl")
TARGET = "t"  # put before a URL that is hashed; users begin with another letter
Hash = Callable[[str], str]


class TransactionRecord:
    """The audit record that a transaction commits together with a change."""

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
    """Provide the record for the transactions of the block.

    If the block fails or makes no record, the middleware records the call.
    """
    record = TransactionRecord(context)
    yield record
    context.recorded = record.made


class AuditTrail:
    """The writer of audit records for calls that were refused or only read."""

    def __init__(
        self, recorder: AuditRecorder, folding: RefusalFolder, pseudonyms: UserPseudonyms
    ) -> None:
        self._recorder, self._folding, self._pseudonyms = recorder, folding, pseudonyms

    async def record(self, context: RequestContext, status: int) -> None:
        """Record a call, unless its record was committed with what it changed.

        The response is sent afterwards: by then the record is on disk, unless the database is
        unavailable.
        """
        if context.recorded:
            return
        context.recorded = True
        caller, app = context.caller, context.app_name
        key_id = caller.key_id if caller is not None else context.shown_key_id
        if key_id is None:  # calls without a known key are not recorded
            return
        now = now_ms()
        users = self._pseudonyms.of_all(app, context.subjects) if app else []
        if status in FOLDED or context.overloaded:
            refused = _refused_call(context, now, key_id, status, users)
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
            # The response time must not reveal that an invalid key was once valid.
            self._recorder.soon(now, text)
        else:
            await self._recorder.record(now, text)


def _refused_call(
    context: RequestContext, now: int, key_id: str, status: int, users: list[str]
) -> RefusedCall:
    return RefusedCall(
        now,
        context.operation,
        key_id,
        context.app_name,
        context.address,
        context.request_id,
        status,
        context.resource,
        users,
        context.refused,
        context.refused_actions,
    )


class JobFacts:
    """The facts about jobs in audit records: their ids, and where data goes or comes from."""

    def __init__(self, pseudonym: Callable[[str, str], str]) -> None:
        """Take `pseudonym`, which returns the keyed hash of a text for an app."""
        self._pseudonym = pseudonym

    def note_call(self, context: RequestContext, action: Action, args: Mapping[str, Any]) -> None:
        """Note what a call requests, when its action is an export, an import or a postback.

        `args` have passed the privacy rules.
        """
        if action.scope is not Scope.EXPORTS_RUN:
            return
        _add_ids(context, ids_in(args))
        context.details = {**context.details, **facts_of(args, self._hash_of(context))}

    def note_entries(
        self, context: RequestContext, entries: Iterable[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """Note the exports, imports and postbacks among the actions of a call."""
        jobs = [(name, args) for name, args in entries if _is_job(name)][:MAX_JOBS]
        if len(jobs) == 1:
            name, args = jobs[0]
            self.note_call(context, ACTIONS[name], args)
        elif jobs:
            _add_ids(context, [job_id for _, args in jobs for job_id in ids_in(args)])
            hash_of = self._hash_of(context)
            facts = [{"action": name, **facts_of(args, hash_of)} for name, args in jobs]
            context.details = {**context.details, "jobs": facts}

    def _hash_of(self, context: RequestContext) -> Hash:
        return partial(self._pseudonym, context.app_name)


def note_answer(context: RequestContext, answer: Mapping[str, Any]) -> None:
    """Add the job that a call started to its audit record."""
    _add_ids(context, ids_in(answer))


def _is_job(name: str) -> bool:
    return name in ACTIONS and ACTIONS[name].scope is Scope.EXPORTS_RUN


def _add_ids(context: RequestContext, ids: Iterable[str]) -> None:
    known = dict.fromkeys([*context.resources, *ids])
    context.resources = list(known)[:MAX_JOBS]


def ids_in(fields: Mapping[str, Any]) -> list[str]:
    """Return the ids of jobs and postbacks in arguments, or in an answer of Leanplum."""
    values = [fields.get(name) for name in sorted(JOB_ID_FIELDS)]
    return [_shortened(value) for value in values if isinstance(value, str | int) and value != ""]


def facts_of(args: Mapping[str, Any], hash_of: Hash) -> dict[str, Any]:
    """Return what the record has of arguments: no keys, and of a URL its host and a keyed hash."""
    facts: dict[str, Any] = {
        name: _shortened(args[name])
        for name in RECORDED_FIELDS
        if isinstance(args.get(name), str | int)
    }
    targets = [_target(str(args[name]), hash_of) for name in URL_FIELDS if args.get(name)]
    if args.get("s3BucketName"):
        url = f"s3://{args['s3BucketName']}/{args.get('s3ObjectPrefix') or ''}"
        targets.append({"target": _shortened(url)})
    if args.get("gcsBucket"):
        url = f"gs://{args['gcsBucket']}/{args.get('file') or ''}"
        targets.append({"target": _shortened(url)})
    if len(targets) == 1:
        facts |= targets[0]
    elif targets:
        facts["targets"] = targets
    return facts


def _target(url: str, hash_of: Hash) -> dict[str, str]:
    """Return the origin and the hash of a URL, whose path and query may contain secrets."""
    return {"target": _shortened(_origin(url)), "targetHash": hash_of(TARGET + url)}


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}"
    except ValueError:
        return "(not a URL)"


def _shortened(value: object) -> str:
    return str(value)[:MAX_TEXT]
