"""Reading Leanplum's answers. Pure: a status and a body in, an outcome for each item out.

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

from app.leanplum.retry_after import seconds
from app.model import DONE, ConfigRefused, Done, Ignored, ItemRefused, Outcome, Trouble

CONFIG_PREFIXES = (
    "Invalid access key",
    "App not found",
    "Development mode requested but not permitted",
    # Leanplum's redirect: never followed, the host is the operator's to choose
    "App endpoint configuration mismatch",
)
THROTTLE_TEXTS = ("concurrent requests", "rate limit exceeded", "too many requests")
NOT_DONE_TEXTS = ("skipped", "not found")
DONE_TEXTS = ("rewriting timestamp", "anomaly detected")
NO_REASON = "Leanplum gave no reason"
# By these Leanplum moves SDKs to another host
REDIRECTS = frozenset({"apiHost", "apiPath", "devServerHost"})
HOSTS = REDIRECTS | {"uploadUrl"}  # what names a host; no caller gets it
HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?")
RESULT_FIELDS = frozenset({"messagesSent", "isOffline", "result"})


@dataclass(frozen=True, slots=True)
class TooMuch:
    """The whole call was refused for something that may be one item's, or its size: send it in two
    halves.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Doubtful:
    """The whole call was refused, and nothing tells whether for what one item holds or for all that
    we send: only what becomes of other users' items does (`delivery/splitting.py`).
    """

    reason: str


Reply = list[Outcome] | TooMuch | Doubtful


def read(
    status: int,
    body: bytes,
    sent: Sequence[str],
    retry_after: str | None = None,
    location: str | None = None,
) -> Reply:
    """What Leanplum said of each item sent; `sent` has their `reqId`s, in order. `retry_after` is
    in seconds; `location` is where a redirect leads.
    """
    found = entries(body)
    after = seconds(retry_after)
    if status in THROTTLES:
        return _all(sent, Trouble(_reason(status, found), after, throttled=True))
    if status >= 500 or status < 200:
        lost = status == GATEWAY_TIMEOUT
        return _all(sent, Trouble(_reason(status, found), after, lost=lost))
    if not found and 300 <= status < 500 and status != TOO_LARGE:
        host = _host_of(location)
        moved = (
            f"{_reason(status, found)}, a redirect to {host}" if host else _reason(status, found)
        )
        return Doubtful(
            f"{moved}: not Leanplum's words; check LEANPLUM_API_URL and what stands between"
        )
    if found is not None and _speaks_of_items(status, found, sent):
        return _match(found, sent, after)
    if 200 <= status < 300:
        return _all(sent, Trouble("Leanplum's answer can't be read", lost=True))
    return _whole_call(status, found, sent, after)


THROTTLES = frozenset({408, 429})
GATEWAY_TIMEOUT = 504  # a proxy on the way heard nothing: perhaps it was done
TOO_LARGE = 413  # any proxy on the way says it in its own words: halves may pass
# A refusal that an item alone may cause (fact sheet §4)
ITEMS_OWN = frozenset({400, 404, TOO_LARGE, 451})


def entries(body: bytes) -> list[dict[str, Any]] | None:
    """What an answer says of each action; None where it is not in Leanplum's words."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    found = answer.get("response") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        return None
    return found


def _speaks_of_items(status: int, entries: Sequence[dict[str, Any]], sent: Sequence[str]) -> bool:
    """Whether the entries are about the items sent, not about the call: a refused call has one
    entry, a refusal. Under a status that no item causes, refusals alone are one of the call,
    however many.
    """
    if 200 <= status < 300:
        return bool(entries)
    if status not in ITEMS_OWN and all(map(_refuses, entries)):
        return False
    return len(entries) == len(sent) and (len(sent) > 1 or "reqId" in entries[0])


def _match(entries: Sequence[dict[str, Any]], sent: Sequence[str], after: float) -> Reply:
    """By `reqId` where the answer has them, else by position if the counts agree; else nothing is
    known. Each action has an entry of its own (fact sheet §3.7), so a lone refusal of many that
    names none of them is about the call.
    """
    if len(entries) == 1 < len(sent) and _refuses(entries[0]) and not _is_of(entries[0], sent):
        return _refused_call(entries[0], sent, after)
    if all("reqId" in entry for entry in entries):
        if [str(entry["reqId"]).lower() for entry in entries] == [one.lower() for one in sent]:
            return [judge(entry) for entry in entries]  # also where two items of SDKs have the same
        told = {str(entry["reqId"]).lower(): entry for entry in entries}
        return [judge(told[one.lower()]) if one.lower() in told else _UNTOLD for one in sent]
    if len(entries) == len(sent):
        return [judge(entry) for entry in entries]
    return _all(
        sent, Trouble(f"Leanplum answered {len(entries)} entries to {len(sent)} items", lost=True)
    )


def _refuses(entry: dict[str, Any]) -> bool:
    """Whether an entry says that nothing was done: only then may all be sent again, whatever the
    status.
    """
    return entry.get("success") is False or text(entry, "error") is not None


def _is_of(entry: dict[str, Any], sent: Sequence[str]) -> bool:
    """Whether an entry is about one of the items sent."""
    return str(entry.get("reqId")).lower() in {one.lower() for one in sent}


def _refused_call(entry: dict[str, Any], sent: Sequence[str], after: float) -> Reply:
    """What a 2xx with one refusal means for all that was sent."""
    outcome = judge(entry)
    if isinstance(outcome, ConfigRefused):
        return _all(sent, outcome)
    if isinstance(outcome, Trouble):
        return _all(sent, Trouble(outcome.reason, after, throttled=True))
    return Doubtful(text(entry, "error") or text(entry, "warning") or NO_REASON)


_UNTOLD = Trouble("Leanplum's answer has no entry for this item", lost=True)


def judge(entry: dict[str, Any]) -> Outcome:
    """The outcome that one entry of an answer tells."""
    error, warning = text(entry, "error"), text(entry, "warning")
    if is_config(error) or "apiHost" in entry:
        return ConfigRefused(_moved(error or "App endpoint configuration mismatch.", entry))
    if error is not None and is_throttle(error):
        return Trouble(error, throttled=True)
    if entry.get("success") is not True:
        return ItemRefused(error or warning or NO_REASON)
    if error is not None:
        return Ignored(error, is_error=True)  # "even success:true items with error are skipped"
    if entry.get("ignored") is True:
        return Ignored(warning or "ignored", by_field=True)
    return DONE if warning is None else _warned(warning, entry)


def _warned(warning: str, entry: dict[str, Any]) -> Outcome:
    """A warning means not done, unless its text or a result beside it says otherwise."""
    if is_missing(warning):
        return Ignored(warning)
    if any(part in warning.lower() for part in DONE_TEXTS) or entry.keys() & RESULT_FIELDS:
        return Done(warning)
    return Ignored(warning)


def _whole_call(
    status: int, entries: list[dict[str, Any]] | None, sent: Sequence[str], after: float
) -> Reply:
    """A 4xx about the call. Our configuration's fault is told by Leanplum's words, or by 401.
    Another refusal that an item may cause is looked for by halves until one item is left; one that
    none is known to cause is in doubt.
    """
    reason = _reason(status, entries)
    said = text(entries[0], "error") if entries else None
    if is_config(said) or status == 401 or (entries and "apiHost" in entries[0]):
        return _all(sent, ConfigRefused(reason))
    if said is not None and is_throttle(said):
        return _all(sent, Trouble(reason, after, throttled=True))
    if status not in ITEMS_OWN:
        return Doubtful(reason)
    return TooMuch(reason) if len(sent) > 1 else _all(sent, ItemRefused(reason))


def is_throttle(message: str) -> bool:
    """Whether a text asks for fewer calls."""
    return any(part in message.lower() for part in THROTTLE_TEXTS)


def is_missing(message: str | None) -> bool:
    """Whether a text says that nothing was done since something was not there."""
    return message is not None and any(part in message.lower() for part in NOT_DONE_TEXTS)


def is_config(message: str | None) -> bool:
    """Whether a text says that our key or app is refused."""
    return message is not None and message.startswith(CONFIG_PREFIXES)


def text(entry: dict[str, Any], field: str) -> str | None:
    """The message of an entry's `error` or `warning`, which is an object with a message, or a bare
    text.
    """
    found = entry.get(field)
    if found is None or found is False:
        return None
    message = found.get("message") if isinstance(found, dict) else found
    return str(message)[:500] if message else "(no message)"


def _reason(status: int, entries: list[dict[str, Any]] | None) -> str:
    said = text(entries[0], "error") if entries else None
    told = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    return _moved(told, entries[0]) if entries else told


def redirect(body: bytes, location: str | None = None) -> str | None:
    """Return the host that an answer sends us to: in Leanplum's own words, or as HTTP's Location
    does.
    """
    if b'"apiHost"' in body:
        hosts = (_host(entry.get("apiHost")) for entry in entries(body) or ())
        if (host := next((one for one in hosts if one), None)) is not None:
            return host
    return _host_of(location)


def _moved(reason: str, entry: dict[str, Any]) -> str:
    """The reason, with the host to which a redirect leads."""
    host = _host(entry.get("apiHost"))
    return (
        f"{reason.rstrip('.')}: Leanplum redirects this app to {host}; check LEANPLUM_API_URL"
        if host
        else reason
    )


def _host(found: Any) -> str | None:
    return found if isinstance(found, str) and HOST.fullmatch(found) else None


def _host_of(location: str | None) -> str | None:
    try:
        return _host(urlsplit(location or "").netloc.rpartition("@")[2])
    except ValueError:
        return None


def _all(sent: Sequence[str], outcome: Outcome) -> list[Outcome]:
    return [outcome] * len(sent)
