"""Facts for the audit records of exports, imports and postbacks: jobs, targets and sources."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from app.http.request import RequestContext
from app.leanplum.actions import ACTIONS, Action
from app.model import Scope

LONGEST = 200  # characters of a text that a caller chose
MOST = 50  # jobs and targets of one call
NAMED = ("startDate", "endDate", "dataType", "abTestId", "messageId", "type", "defaultAction")
JOB_ID_FIELDS = frozenset({"jobId", "postbackId"})
URLS = ("postbackUrl", "callbackUrl")
TARGET = "t"  # before a URL that is hashed; a user begins with another letter
Hash = Callable[[str], str]


class JobFacts:
    """Let the audit record of a call name its jobs, and where data goes or comes from."""

    def __init__(self, pseudonym: Callable[[str, str], str]) -> None:
        """`pseudonym` returns the keyed hash of a text, for an app."""
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
        jobs = [(name, args) for name, args in entries if _is_job(name)][:MOST]
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
    """Let the audit record of a call name the job that it began."""
    _add_ids(context, ids_in(answer))


def _is_job(name: str) -> bool:
    return name in ACTIONS and ACTIONS[name].scope is Scope.EXPORTS_RUN


def _add_ids(context: RequestContext, ids: Iterable[str]) -> None:
    known = dict.fromkeys([*context.resources, *ids])
    context.resources = list(known)[:MOST]


def ids_in(told: Mapping[str, Any]) -> list[str]:
    """Return the ids of jobs and postbacks that stand in arguments, or in an answer."""
    found = [told.get(name) for name in sorted(JOB_ID_FIELDS)]
    return [_short(one) for one in found if isinstance(one, str | int) and one != ""]


def facts_of(args: Mapping[str, Any], hash_of: Hash) -> dict[str, Any]:
    """Return what the record says of arguments: never a key, and of a URL only its host and a keyed
    hash.
    """
    facts: dict[str, Any] = {
        name: _short(args[name]) for name in NAMED if isinstance(args.get(name), str | int)
    }
    targets = [_target(str(args[name]), hash_of) for name in URLS if args.get(name)]
    if args.get("s3BucketName"):
        targets.append(
            {"target": _short(f"s3://{args['s3BucketName']}/{args.get('s3ObjectPrefix') or ''}")}
        )
    if args.get("gcsBucket"):
        targets.append({"target": _short(f"gs://{args['gcsBucket']}/{args.get('file') or ''}")})
    if len(targets) == 1:
        return facts | targets[0]
    return facts | ({"targets": targets} if targets else {})


def _target(url: str, hash_of: Hash) -> dict[str, str]:
    """Return the place of a URL. Its path and query may hold secrets, so a hash stands for the
    whole.
    """
    return {"target": _short(_origin(url)), "targetHash": hash_of(TARGET + url)}


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}"
    except ValueError:
        return "(not a URL)"


def _short(value: object) -> str:
    return str(value)[:LONGEST]
