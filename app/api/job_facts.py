"""Facts for the audit records of exports, imports and postbacks: the job, and where data goes or
comes from.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from app.bootstrap import Gateway
from app.http.request import Context
from app.leanplum.actions import ACTIONS, Action
from app.model import Scope

LONGEST = 200  # characters of a text that a caller chose
MOST = 50  # jobs and targets of one call
NAMED = ("startDate", "endDate", "dataType", "abTestId", "messageId", "type", "defaultAction")
IDS = frozenset({"jobId", "postbackId"})
URLS = ("postbackUrl", "callbackUrl")
TARGET = "t"  # before a URL that is hashed; a user begins with another letter
Hash = Callable[[str], str]


def tell_asked(gateway: Gateway, about: Context, action: Action, args: Mapping[str, Any]) -> None:
    """Let the record of a call name what it asks for, where the action is an export, an import or a
    postback. `args` have passed the privacy rules.
    """
    if action.scope is not Scope.EXPORTS_RUN:
        return
    _add(about, ids_in(args))
    about.details = {**about.details, **asked(args, _hash_of(gateway, about))}


def tell_answered(about: Context, told: Mapping[str, Any]) -> None:
    """Let the record of a call name the job that it began."""
    _add(about, ids_in(told))


def tell_entries(
    gateway: Gateway, about: Context, entries: Iterable[tuple[str, Mapping[str, Any]]]
) -> None:
    """Let the record of a call of several actions name those that are exports, imports or
    postbacks.
    """
    found = [(name, args) for name, args in entries if _is_job(name)][:MOST]
    if len(found) == 1:
        tell_asked(gateway, about, ACTIONS[found[0][0]], found[0][1])
    elif found:
        _add(about, [one for _, args in found for one in ids_in(args)])
        told = [{"action": name, **asked(args, _hash_of(gateway, about))} for name, args in found]
        about.details = {**about.details, "jobs": told}


def _hash_of(gateway: Gateway, about: Context) -> Hash:
    return partial(gateway.pseudonyms.of, about.app_name)


def _is_job(name: str) -> bool:
    return name in ACTIONS and ACTIONS[name].scope is Scope.EXPORTS_RUN


def _add(about: Context, ids: Iterable[str]) -> None:
    known = dict.fromkeys([*about.resources, *ids])
    about.resources = list(known)[:MOST]


def ids_in(told: Mapping[str, Any]) -> list[str]:
    """Return the ids of jobs and postbacks that stand in arguments, or in an answer."""
    found = [told.get(name) for name in sorted(IDS)]
    return [_short(one) for one in found if isinstance(one, str | int) and one != ""]


def asked(args: Mapping[str, Any], hash_of: Hash) -> dict[str, Any]:
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
