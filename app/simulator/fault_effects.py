"""What each fault mode does: some spoil an entry, the others the call's answer (fact sheet §10.7).

Three modes refuse a whole call in ways that the fact sheet has no words for. `403-html` is the page
of a firewall or a proxy. `403-other` is a refusal in the envelope whose text no source has.
`200-refused` is a success to HTTP whose one entry refuses all actions: a multi has an entry for
each action (§3.7), so it speaks of the call. With the filter `contains`, a fault strikes only where
a text stands in what was sent, as a firewall's rule does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from app.simulator.config import Texts
from app.simulator.responses import HTML_TYPE, Answer, Entry, enveloped, page, refused

WRONG_REQ_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Draft:
    """The answer as it would have been, and what the fault says about it; "" is the mode's own
    message.
    """

    entries: list[Entry]
    status: int
    message: str
    texts: Texts


@dataclass(frozen=True)
class CallMode:
    """A fault of a whole call; `applied`: whether its actions are done, unless the fault says
    otherwise.
    """

    answer: Callable[[Draft], Answer]
    applied: bool


@dataclass(frozen=True)
class EntryMode:
    """A fault of single entries; with `first_only`, of one entry a call unless it names a user or
    action.
    """

    spoil: Callable[[Entry, str, Texts], Entry]
    applied: bool
    status: int | None = None
    first_only: bool = False


def _refusing(status: int, text: Callable[[Texts], str]) -> CallMode:
    return CallMode(
        lambda draft: refused(draft.message or text(draft.texts), status), applied=False
    )


def _reshaped(reshape: Callable[[list[Entry]], list[Entry]]) -> CallMode:
    return CallMode(lambda draft: enveloped(reshape(draft.entries), draft.status), applied=True)


def _truncated(draft: Draft) -> Answer:
    whole = enveloped(draft.entries, draft.status)
    return replace(whole, body=whole.body[: len(whole.body) // 2])


CALL_MODES = {
    "429": _refusing(429, lambda texts: texts.device_lock),
    "408": _refusing(408, lambda texts: texts.dev_mode_rate_sdk),
    "403-key": _refusing(403, lambda texts: texts.wrong_key),
    "404-app": _refusing(404, lambda texts: texts.unknown_app),
    "403-other": _refusing(403, lambda texts: texts.not_allowed),
    "403-html": CallMode(lambda draft: page(draft.message or "403 Forbidden", 403), applied=False),
    "200-refused": _refusing(200, lambda texts: texts.dev_mode_rate),
    "403-size": _refusing(403, lambda texts: texts.too_large),
    "400": _refusing(400, lambda texts: texts.bad_request),
    "451": _refusing(451, lambda texts: texts.blocked),
    "500-html": CallMode(
        lambda draft: page(draft.message or "500 Server Error", 500), applied=False
    ),
    "503": CallMode(
        lambda draft: page(draft.message or "503 Service Unavailable", 503), applied=False
    ),
    "html-200": CallMode(lambda draft: page(draft.message or "Welcome", 200), applied=False),
    "applied-500": CallMode(
        lambda draft: page(draft.message or "500 Server Error", 500), applied=True
    ),
    "slow": _reshaped(list),
    "truncated": CallMode(_truncated, applied=True),
    "empty": CallMode(lambda draft: Answer(draft.status, b""), applied=True),
    "short": _reshaped(lambda entries: entries[:-1]),
    "long": _reshaped(lambda entries: [*entries, {"success": True}]),
    "shuffle": _reshaped(lambda entries: entries[::-1]),
    "disconnect": CallMode(lambda draft: Answer(502, b"", HTML_TYPE, hang_up=True), applied=True),
}


def _with_req_id(entry: Entry, spoiled: Entry) -> Entry:
    return {**spoiled, "reqId": entry["reqId"]} if "reqId" in entry else spoiled


def _warned(entry: Entry, message: str, texts: Texts) -> Entry:
    return {**entry, "warning": {"message": message or texts.anomaly}}


def _error_with_success(entry: Entry, message: str, texts: Texts) -> Entry:
    return _with_req_id(
        entry, {"success": True, "error": {"message": message or texts.bad_request}}
    )


def _failed(entry: Entry, message: str, texts: Texts) -> Entry:
    return _with_req_id(
        entry, {"success": False, "error": {"message": message or texts.bad_request}}
    )


def _nobody(entry: Entry, message: str, texts: Texts) -> Entry:
    return _failed(entry, message or texts.no_user, texts)


def _redirected(entry: Entry, message: str, texts: Texts) -> Entry:
    """The item that makes SDKs move to another host (fact sheet §7)."""
    hosts = {
        "apiHost": "api2.leanplum.com",
        "apiPath": "new-api",
        "devServerHost": "dev2.leanplum.com",
    }
    return {**_failed(entry, message or texts.redirected, texts), **hosts}


def _wrong_req_id(entry: Entry, message: str, texts: Texts) -> Entry:
    return {**entry, "reqId": WRONG_REQ_ID}


def _no_req_id(entry: Entry, message: str, texts: Texts) -> Entry:
    return {name: value for name, value in entry.items() if name != "reqId"}


ENTRY_MODES = {
    "warning": EntryMode(_warned, applied=True),
    "error-with-success": EntryMode(_error_with_success, applied=False),
    "success-false": EntryMode(_failed, applied=False),
    "mixed-404": EntryMode(_nobody, applied=False, status=404, first_only=True),
    "redirect-item": EntryMode(_redirected, applied=False),
    "wrong-reqid": EntryMode(_wrong_req_id, applied=True),
    "no-reqid": EntryMode(_no_req_id, applied=True),
}

MODES: dict[str, CallMode | EntryMode] = {**CALL_MODES, **ENTRY_MODES}
