"""Ask Leanplum about entries while an SDK waits: one call, and what it says of each of them."""

from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

import orjson

from app.clock import now_ms
from app.compat.leanplum_sdk import response
from app.compat.leanplum_sdk.classify import Now
from app.compat.leanplum_sdk.request import Call
from app.compat.leanplum_sdk.response import Entry
from app.errors import (
    Erased,
    Forbidden,
    GatewayError,
    KeyNotConfigured,
    Malformed,
    Unauthorized,
    UpstreamRejected,
    UpstreamUnavailable,
)
from app.http import problems
from app.leanplum import replies
from app.leanplum.client import LeanplumResponse
from app.leanplum.mapping import without_detection
from app.model import App, KeyKind
from app.outbox.outbox import Outbox
from app.relay.answers import EntryAnswer
from app.relay.service import Relay, RelayedCall

GONE = 451  # what Leanplum answers for a user who is blocked


async def ask(
    relay: Relay,
    outbox: Outbox,
    app: App,
    call: Call,
    run: Sequence[Now],
    *,
    end_user: Mapping[str, str],
    waited_for: Sequence[Set[str]],
    patience: float,
) -> list[EntryAnswer]:
    """Ask about entries that share a call, but not about users who were erased, nor about those for
    whom something waits that must come first: one of them must not take the others of a batch
    along.

    `waited_for`: for each entry the users whose items come first; `patience`: how many seconds to
    wait for them.
    """
    subjects = set[str]().union(*waited_for)
    erased = set(await outbox.erased(app.name, subjects)) if len(subjects) > 1 else set[str]()
    told = {
        place: erasure(call, one.entry)
        for place, one in enumerate(run)
        if not one.subjects.isdisjoint(erased)
    }
    while left := [place for place in range(len(run)) if place not in told]:
        users = set[str]().union(*(waited_for[place] for place in left)) - erased
        found, waiting = await _exchange(
            relay, app, call, [run[place] for place in left], end_user, users, patience
        )
        answered = dict(zip(left, found, strict=True))
        stuck = {
            place: answered[place] for place in left if not waited_for[place].isdisjoint(waiting)
        }
        told |= stuck or answered
        patience = 0.0  # all have waited as long as may be
    return [told[place] for place in range(len(run))]


def erasure(call: Call, sent: Any) -> EntryAnswer:
    """Return what is said of an entry whose user was erased."""
    return EntryAnswer(response.failed(Erased().detail, sent), 200 if call.batch else GONE)


async def _exchange(
    relay: Relay,
    app: App,
    call: Call,
    run: Sequence[Now],
    end_user: Mapping[str, str],
    subjects: Collection[str],
    patience: float,
) -> tuple[list[EntryAnswer], Set[str]]:
    """Return what is told of each entry; and whose items wait, where nothing was asked because of
    them.
    """
    sent = [one.entry for one in run]
    try:
        action, body = _outgoing(relay, app, call, run, end_user)
        looks, in_order = all(one.looks for one in run), any(one.writes for one in run)
        outgoing = RelayedCall(
            app=app,
            action=action,
            body=body,
            subjects=subjects,
            read_only=looks,
            headers=end_user,
        )
        found = await relay.exchange(outgoing, in_order=in_order, patience=patience)
    except GatewayError as error:
        status, after = status_of(error), getattr(error, "retry_after", None)
        if call.batch and isinstance(error, KeyNotConfigured | Erased):
            status, after = 200, None  # the batch again would change nothing
        waiting = error.waiting if isinstance(error, UpstreamUnavailable) else frozenset[str]()
        told = [
            EntryAnswer(response.failed(error.detail, one), status, after, waits=bool(waiting))
            for one in sent
        ]
        return told, waiting
    return _read(sent, found, call), frozenset()


def _outgoing(
    relay: Relay, app: App, call: Call, run: Sequence[Now], end_user: Mapping[str, str]
) -> tuple[str, bytes]:
    """Return the action and body for Leanplum: as they came, with the real keys wherever one stood,
    less what Leanplum would detect of the gateway. Raises KeyNotConfigured, Malformed.
    """
    if run[0].debugging and run[0].key is KeyKind.DEVELOPMENT and run[0].key not in app.keys:
        missing = app.setting(KeyKind.DEVELOPMENT)
        raise KeyNotConfigured(
            f"Development mode needs Leanplum's development key: {missing} is not set."
        )
    keys = {"appId": app.app_id, "clientKey": relay.key(app, run[0].key)}
    if not call.batch:
        return call.action, orjson.dumps({**without_detection(call.args, end_user), **keys})
    data = [_with_key(without_detection(one.entry, end_user), keys) for one in run]
    if run[0].alone:  # it takes a key that a batch does not
        return str(run[0].entry["action"]), orjson.dumps({**data[0], **keys})
    # The entries' times are corrected, so the clock that goes with them is the gateway's.
    shared = {**without_detection(call.args, end_user), **keys}
    args = {**shared, "action": "multi", "time": now_ms() / 1000, "data": data}
    if run[0].debugging:
        args["devMode"] = True
    try:
        return "multi", orjson.dumps(args)
    except TypeError:
        raise Malformed("The arguments are nested too deeply.") from None


def _with_key(entry: Entry, keys: dict[str, str]) -> Entry:
    return {**entry, **{name: value for name, value in keys.items() if name in entry}}


def _read(sent: Sequence[Entry], found: LeanplumResponse, call: Call) -> list[EntryAnswer]:
    """Return what Leanplum's answer says of each entry."""
    entries = replies.parse_entries(found.body)
    if found.status in replies.THROTTLES or found.status >= 500 or not entries:
        status = 429 if found.status in replies.THROTTLES else 503
        reason = f"Leanplum answered {found.status}."
        return [EntryAnswer(response.failed(reason, one), status, 5.0) for one in sent]
    places = response.matched(entries, sent)
    if len(entries) == 1 and entries[0].get("success") is False:
        places = [response.echoed(one, entries[0]) for one in sent]  # a refusal of the whole call
    cleaned = [
        response.cleaned(one, of) if one is not None else None
        for one, of in zip(places, sent, strict=True)
    ]
    status, after = 200, None
    if any(one is not None and one[1] for one in cleaned):
        status, after = 503, 60.0
    elif found.status >= 400 and not call.batch:
        status = found.status
    whole = orjson.loads(found.body)
    beside = {
        name: value
        for name, value in whole.items()
        if name not in {"response", *response.NOT_PASSED_ON}
    }
    return [
        EntryAnswer(one[0] if one else response.failed(response.UNTOLD, of), status, after, beside)
        for one, of in zip(cleaned, sent, strict=True)
    ]


def status_of(error: GatewayError) -> int:
    """403 for a bad key; trouble upstream is 5xx, and Leanplum's own refusal is told by its
    entry.
    """
    if isinstance(error, Unauthorized | Forbidden):
        return 403
    if isinstance(error, Erased):
        return GONE
    if isinstance(error, UpstreamRejected):
        return 502
    return problems.PROBLEMS[problems.SLUGS[type(error)]].status
