"""The effect of each fault mode: on an entry, or on the response of a call (fact sheet §10.7).

Three modes refuse a whole call in ways that the fact sheet doesn't describe. `403-html` is the page
of a firewall or a proxy. `403-other` is a refusal in the envelope whose text no source has.
`200-refused` is a success to HTTP whose only entry refuses all actions: a multi has an entry for
each action (§3.7), so this one is about the call. With the filter `contains`, a fault applies only
where the request contains a text, as a firewall's rule does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from app.simulator.config import Texts
from app.simulator.responses import (
    HTML_TYPE,
    Entry,
    SimulatedResponse,
    envelope,
    html_page,
    refusal,
)

WRONG_REQ_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class ResponseDraft:
    """The response without the fault; `message` is the fault's, "" for the mode's default."""

    entries: list[Entry]
    status: int
    message: str
    texts: Texts


@dataclass(frozen=True)
class CallMode:
    """A fault of a whole call; with `applied`, its actions are executed by default."""

    description: str
    respond: Callable[[ResponseDraft], SimulatedResponse]
    applied: bool
    has_message: bool = False
    """The response has a text, which the fault's `message` replaces."""


@dataclass(frozen=True)
class EntryMode:
    """A fault of single entries.

    With `first_only` it affects one entry of a call, unless the fault has a filter.
    """

    description: str
    alter: Callable[[Entry, str, Texts], Entry]
    applied: bool
    has_message: bool = False
    status: int | None = None
    first_only: bool = False


def _refuse(status: int, text: Callable[[Texts], str], description: str) -> CallMode:
    def respond(draft: ResponseDraft) -> SimulatedResponse:
        return refusal(draft.message or text(draft.texts), status)

    return CallMode(description, respond, applied=False, has_message=True)


def _show_page(title: str, status: int, description: str, *, applied: bool = False) -> CallMode:
    def respond(draft: ResponseDraft) -> SimulatedResponse:
        return html_page(draft.message or title, status)

    return CallMode(description, respond, applied, has_message=True)


def _change_entries(change: Callable[[list[Entry]], list[Entry]], description: str) -> CallMode:
    def respond(draft: ResponseDraft) -> SimulatedResponse:
        return envelope(change(draft.entries), draft.status)

    return CallMode(description, respond, applied=True)


def _truncate(draft: ResponseDraft) -> SimulatedResponse:
    response = envelope(draft.entries, draft.status)
    return replace(response, body=response.body[: len(response.body) // 2])


def _answer_nothing(draft: ResponseDraft) -> SimulatedResponse:
    return SimulatedResponse(draft.status, b"")


def _disconnect(draft: ResponseDraft) -> SimulatedResponse:
    return SimulatedResponse(502, b"", HTML_TYPE, hang_up=True)


CALL_MODES = {
    "429": _refuse(429, lambda texts: texts.device_lock, "The user has another call in flight."),
    "408": _refuse(
        408, lambda texts: texts.dev_mode_rate_sdk, "Too many requests, in the words for SDKs."
    ),
    "403-key": _refuse(403, lambda texts: texts.wrong_key, "The client key is refused."),
    "404-app": _refuse(404, lambda texts: texts.unknown_app, "The app id is unknown."),
    "403-other": _refuse(
        403, lambda texts: texts.not_allowed, "A refusal of the call in words that nobody knows."
    ),
    "403-html": _show_page("403 Forbidden", 403, "A firewall's page instead of an answer."),
    "200-refused": _refuse(
        200, lambda texts: texts.dev_mode_rate, "Success by its status, and one refusal of all."
    ),
    "403-size": _refuse(403, lambda texts: texts.too_large, "The batch is too large."),
    "400": _refuse(400, lambda texts: texts.bad_request, "The request is invalid."),
    "451": _refuse(451, lambda texts: texts.blocked, "The user is blocked."),
    "500-html": _show_page("500 Server Error", 500, "An error page of the server."),
    "503": _show_page("503 Service Unavailable", 503, "An error page of the load balancer."),
    "html-200": _show_page("Welcome", 200, "Some page with status 200; nothing is done."),
    "applied-500": _show_page(
        "500 Server Error", 500, "An error page, although the actions were done.", applied=True
    ),
    "slow": _change_entries(list, "The usual answer after `delay` seconds."),
    "truncated": CallMode(
        "The actions are done; the JSON of the answer is cut in half.", _truncate, applied=True
    ),
    "empty": CallMode(
        "The actions are done; the answer has no body.", _answer_nothing, applied=True
    ),
    "short": _change_entries(
        lambda entries: entries[:-1], "The actions are done; the answer lacks the last entry."
    ),
    "long": _change_entries(
        lambda entries: [*entries, {"success": True}],
        "The actions are done; the answer has one entry too many.",
    ),
    "shuffle": _change_entries(
        lambda entries: entries[::-1], "The actions are done; the entries are in reverse order."
    ),
    "disconnect": CallMode(
        "The actions are done; the connection closes without an answer.", _disconnect, applied=True
    ),
}


def _replace_entry(entry: Entry, replacement: Entry) -> Entry:
    return {**replacement, "reqId": entry["reqId"]} if "reqId" in entry else replacement


def _add_warning(entry: Entry, message: str, texts: Texts) -> Entry:
    return {**entry, "warning": {"message": message or texts.anomaly}}


def _add_error_to_success(entry: Entry, message: str, texts: Texts) -> Entry:
    error = {"message": message or texts.bad_request}
    return _replace_entry(entry, {"success": True, "error": error})


def _fail(entry: Entry, message: str, texts: Texts) -> Entry:
    error = {"message": message or texts.bad_request}
    return _replace_entry(entry, {"success": False, "error": error})


def _fail_without_user(entry: Entry, message: str, texts: Texts) -> Entry:
    return _fail(entry, message or texts.no_user, texts)


def _redirect_sdk(entry: Entry, message: str, texts: Texts) -> Entry:
    """Return an entry that makes SDKs move to another host (fact sheet §7)."""
    hosts = {
        "apiHost": "api2.leanplum.com",
        "apiPath": "new-api",
        "devServerHost": "dev2.leanplum.com",
    }
    return {**_fail(entry, message or texts.redirected, texts), **hosts}


def _change_req_id(entry: Entry, message: str, texts: Texts) -> Entry:
    return {**entry, "reqId": WRONG_REQ_ID}


def _remove_req_id(entry: Entry, message: str, texts: Texts) -> Entry:
    return {name: value for name, value in entry.items() if name != "reqId"}


ENTRY_MODES = {
    "warning": EntryMode(
        "The action is done, with a warning.", _add_warning, applied=True, has_message=True
    ),
    "error-with-success": EntryMode(
        "The action is not done: success, but with an error.",
        _add_error_to_success,
        applied=False,
        has_message=True,
    ),
    "success-false": EntryMode("The action is refused.", _fail, applied=False, has_message=True),
    "mixed-404": EntryMode(
        "One action is refused, and the status of the call is 404.",
        _fail_without_user,
        applied=False,
        has_message=True,
        status=404,
        first_only=True,
    ),
    "redirect-item": EntryMode(
        "The action is refused, and SDKs are sent to another host.",
        _redirect_sdk,
        applied=False,
        has_message=True,
    ),
    "wrong-reqid": EntryMode(
        "The action is done; its entry has the `reqId` of no action.", _change_req_id, applied=True
    ),
    "no-reqid": EntryMode(
        "The action is done; its entry has no `reqId`.", _remove_req_id, applied=True
    ),
}

MODES: dict[str, CallMode | EntryMode] = {**CALL_MODES, **ENTRY_MODES}
