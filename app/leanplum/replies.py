"""Replies of Leanplum to calls. Pure: a status and a body in, an outcome for each item out.

Leanplum answers 200 to things it did not do, and may answer 404 to a call of which most was done,
so the body is read whatever the status is (fact sheet: response envelope, messages verbatim). There
is always one outcome for each item sent, however many entries the answer has.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from app.leanplum.http_response import retry_after_seconds
from app.leanplum.outcomes import (
    NO_REASON,
    is_config,
    is_throttle,
    message_of,
    outcome_of,
    valid_host,
    with_redirect,
)
from app.model import ConfigRefused, ItemRefused, Outcome, Trouble

THROTTLES = frozenset({408, 429})
GATEWAY_TIMEOUT = 504  # a proxy on the way got no answer, so the call may have been done
TOO_LARGE = 413  # any proxy on the way answers it in its own words; halves may pass
# Statuses of a refusal that one item alone may cause (fact sheet §4)
ITEM_STATUSES = frozenset({400, 404, TOO_LARGE, 451})
MIGRATE_STATE = re.compile(rb'"migrateState"\s*:\s*\{[^{}]*\}')


@dataclass(frozen=True, slots=True)
class SplitNeeded:
    """The whole call was refused, for its size or for something that may be one item's.

    It is to be sent again in two halves.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Doubtful:
    """The whole call was refused, and its cause may be one item or all that we send.

    Only the fate of other users' items tells (`delivery/bisection.py`).
    """

    reason: str


Reply = list[Outcome] | SplitNeeded | Doubtful
_NO_ENTRY = Trouble("Leanplum's answer has no entry for this item", lost=True)


def read_reply(
    status: int,
    body: bytes,
    request_ids: Sequence[str],
    retry_after: str | None = None,
    location: str | None = None,
) -> Reply:
    """Return the outcome of each item sent, or why the call was refused as a whole.

    `request_ids`: the items' `reqId`s, in the order in which they were sent. `retry_after`: the
    header, in seconds. `location`: the URL that a redirect leads to.
    """
    entries = parse_entries(body)
    reason, after = _reason(status, entries), retry_after_seconds(retry_after)
    if status in THROTTLES:
        return _for_all(request_ids, Trouble(reason, after, throttled=True))
    if status >= 500 or status < 200:
        lost = status == GATEWAY_TIMEOUT
        return _for_all(request_ids, Trouble(reason, after, lost=lost))
    if not entries and 300 <= status < 500 and status != TOO_LARGE:
        host = _host_of(location)
        if host is not None:
            reason = f"{reason}, a redirect to {host}"
        return Doubtful(
            f"{reason}: not a response of Leanplum; check LEANPLUM_API_URL and proxies on the way"
        )
    if entries is not None and _are_about_items(status, entries, request_ids):
        return _match(entries, request_ids, after)
    if 200 <= status < 300:
        return _for_all(request_ids, Trouble("Leanplum's answer can't be read", lost=True))
    return _refusal_of_call(status, entries, request_ids, after)


def parse_entries(body: bytes) -> list[dict[str, Any]] | None:
    """Return the entries of an answer, one for each action; None where it is not Leanplum's."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    entries = answer.get("response") if isinstance(answer, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    return entries


def _are_about_items(
    status: int, entries: Sequence[dict[str, Any]], request_ids: Sequence[str]
) -> bool:
    """Return whether the entries are about the items sent, not about the call.

    A refused call has one entry, a refusal. Under a status that no item causes, any number of
    entries that are all refusals refuse the call.
    """
    if 200 <= status < 300:
        return bool(entries)
    if status not in ITEM_STATUSES and all(map(_is_refusal, entries)):
        return False
    return len(entries) == len(request_ids) and (len(request_ids) > 1 or "reqId" in entries[0])


def _match(entries: Sequence[dict[str, Any]], request_ids: Sequence[str], after: float) -> Reply:
    """Return each item's outcome: by `reqId` where all entries have one, else by position.

    Each action has an entry of its own (fact sheet §3.7), so a lone refusal of many that names none
    of them is about the call. Where the entries have no `reqId`s and their number is not that of
    the items, nothing is known.
    """
    if [entry.get("reqId") for entry in entries] == request_ids:  # nearly always
        return [outcome_of(entry) for entry in entries]
    sent_ids = [request_id.lower() for request_id in request_ids]
    names_an_item = str(entries[0].get("reqId")).lower() in sent_ids
    if len(entries) == 1 < len(sent_ids) and not names_an_item and _is_refusal(entries[0]):
        return _refusal_in_success(entries[0], request_ids, after)
    if all("reqId" in entry for entry in entries):
        entry_ids = [str(entry["reqId"]).lower() for entry in entries]
        if entry_ids == sent_ids:  # also where two items of SDKs have one reqId
            return [outcome_of(entry) for entry in entries]
        by_id = dict(zip(entry_ids, entries, strict=True))
        return [
            outcome_of(by_id[sent_id]) if sent_id in by_id else _NO_ENTRY for sent_id in sent_ids
        ]
    if len(entries) == len(sent_ids):
        return [outcome_of(entry) for entry in entries]
    reason = f"Leanplum answered {len(entries)} entries to {len(sent_ids)} items"
    return _for_all(request_ids, Trouble(reason, lost=True))


def _is_refusal(entry: dict[str, Any]) -> bool:
    """Return whether an entry says that nothing was done.

    Only then may all items be sent again, whatever the status.
    """
    return entry.get("success") is False or message_of(entry, "error") is not None


def _refusal_in_success(entry: dict[str, Any], request_ids: Sequence[str], after: float) -> Reply:
    """Return what a 2xx with one refusal means for all items sent."""
    outcome = outcome_of(entry)
    if isinstance(outcome, ConfigRefused):
        return _for_all(request_ids, outcome)
    if isinstance(outcome, Trouble):
        return _for_all(request_ids, Trouble(outcome.reason, after, throttled=True))
    return Doubtful(message_of(entry, "error") or message_of(entry, "warning") or NO_REASON)


def _refusal_of_call(
    status: int, entries: list[dict[str, Any]] | None, request_ids: Sequence[str], after: float
) -> Reply:
    """Return what a 4xx about the whole call means.

    Leanplum's words or a 401 tell that our configuration is at fault. Another refusal that an item
    may cause is narrowed down by halves until one item is left; one that no item is known to cause
    is in doubt.
    """
    reason = _reason(status, entries)
    error = message_of(entries[0], "error") if entries else None
    if is_config(error) or status == 401 or (entries and "apiHost" in entries[0]):
        return _for_all(request_ids, ConfigRefused(reason))
    if error is not None and is_throttle(error):
        return _for_all(request_ids, Trouble(reason, after, throttled=True))
    if status not in ITEM_STATUSES:
        return Doubtful(reason)
    if len(request_ids) > 1:
        return SplitNeeded(reason)
    return _for_all(request_ids, ItemRefused(reason))


def _reason(status: int, entries: list[dict[str, Any]] | None) -> str:
    if not entries:
        return f"HTTP {status}"
    error = message_of(entries[0], "error")
    reason = f"HTTP {status}: {error}" if error else f"HTTP {status}"
    return with_redirect(reason, entries[0])


def redirect_host(body: bytes, location: str | None = None) -> str | None:
    """Return the host that an answer redirects to, in Leanplum's words or by HTTP's Location."""
    if b'"apiHost"' in body:
        for entry in parse_entries(body) or ():
            if (host := valid_host(entry.get("apiHost"))) is not None:
                return host
    return _host_of(location)


def _host_of(location: str | None) -> str | None:
    try:
        return valid_host(urlsplit(location or "").netloc.rpartition("@")[2])
    except ValueError:
        return None


def _for_all(request_ids: Sequence[str], outcome: Outcome) -> list[Outcome]:
    return [outcome] * len(request_ids)


class MigrateStates:
    """The latest `migrateState` of each app, for answers that the gateway makes itself.

    Leanplum's answers have it beside their entries, and SDKs compare its hash (fact sheet §7).
    """

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Any]] = {}
        self._texts: dict[str, bytes] = {}

    def note(self, app: str, body: bytes) -> None:
        """Remember the state in an answer, which is parsed only where the state's text is new."""
        match = MIGRATE_STATE.search(body)
        if match is None or self._texts.get(app) == match.group():
            return
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            return
        state = answer.get("migrateState") if isinstance(answer, dict) else None
        if isinstance(state, dict):
            self._states[app], self._texts[app] = state, match.group()

    def fields(self, app: str) -> dict[str, Any]:
        """Return the fields to add to an answer about this app; none until a state is known."""
        return {"migrateState": self._states[app]} if app in self._states else {}
