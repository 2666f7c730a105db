"""What the audit record of an export, an import or a postback names: the job, and where the data goes or comes from."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from app.api.context import Context
from app.leanplum.actions import ACTIONS, Action
from app.model import Scope

LONGEST = 200  # characters of a text that a caller chose
MOST = 50  # jobs and targets of one call
NAMED = ("startDate", "endDate", "dataType", "audienceName", "abTestId", "messageId", "type", "defaultAction")
IDS = frozenset({"jobId", "postbackId"})
URLS = ("postbackUrl", "callbackUrl")


def tell_asked(about: Context, action: Action, args: Mapping[str, Any]) -> None:
    """Let the record of a call name what it asks for, where the action is an export, an import or a postback."""
    if action.scope is not Scope.EXPORTS_RUN:
        return
    _add(about, ids_in(args))
    about.details = {**about.details, **asked(args)}


def tell_answered(about: Context, told: Mapping[str, Any]) -> None:
    """Let the record of a call name the job that it began."""
    _add(about, ids_in(told))


def tell_entries(about: Context, entries: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Let the record of a call of several actions name those that are exports, imports or postbacks."""
    found = [(name, args) for name, args in entries if _is_job(name)][:MOST]
    if len(found) == 1:
        tell_asked(about, ACTIONS[found[0][0]], found[0][1])
    elif found:
        _add(about, [one for _, args in found for one in ids_in(args)])
        told = [{"action": name, **asked(args)} for name, args in found]
        about.details = {**about.details, "jobs": told}


def _is_job(name: str) -> bool:
    return name in ACTIONS and ACTIONS[name].scope is Scope.EXPORTS_RUN


def _add(about: Context, ids: Iterable[str]) -> None:
    known = dict.fromkeys([*about.resources, *ids])
    about.resources = list(known)[:MOST]


def ids_in(told: Mapping[str, Any]) -> list[str]:
    """Return the ids of jobs and postbacks that stand in arguments, or in an answer."""
    found = [told.get(name) for name in sorted(IDS)]
    return [_short(one) for one in found if isinstance(one, str | int) and one != ""]


def asked(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record says of arguments: never a key, and of a URL only its host and a hash."""
    facts: dict[str, Any] = {name: _short(args[name]) for name in NAMED if isinstance(args.get(name), str | int)}
    targets = [_target(str(args[name])) for name in URLS if args.get(name)]
    if args.get("s3BucketName"):
        targets.append({"target": _short(f"s3://{args['s3BucketName']}/{args.get('s3ObjectPrefix') or ''}")})
    if args.get("gcsBucket"):
        targets.append({"target": _short(f"gs://{args['gcsBucket']}/{args.get('file') or ''}")})
    if len(targets) == 1:
        return facts | targets[0]
    return facts | ({"targets": targets} if targets else {})


def _target(url: str) -> dict[str, str]:
    """Return the place of a URL. Its path and query may hold secrets, so a hash stands for the whole."""
    return {"target": _short(_origin(url)), "targetHash": hashlib.sha256(url.encode()).hexdigest()}


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}"
    except ValueError:
        return "(not a URL)"


def _short(value: object) -> str:
    return str(value)[:LONGEST]
