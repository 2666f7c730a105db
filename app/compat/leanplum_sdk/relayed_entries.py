"""Relayed entries: one call to Leanplum while an SDK waits, and an answer for each of them."""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import orjson

from app.clock import now_ms
from app.compat.leanplum_sdk import response
from app.compat.leanplum_sdk.classify import RelayedEntry
from app.compat.leanplum_sdk.request import SdkCall
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
from app.http.problem_types import PROBLEMS
from app.leanplum import replies
from app.leanplum.client import LeanplumResponse
from app.leanplum.mapping import without_detection
from app.model import App, KeyKind
from app.outbox import erasure
from app.outbox.outbox import Outbox
from app.relay.answers import EntryAnswer
from app.relay.service import Relay, RelayedCall

GONE = 451  # Leanplum's status for a user who is blocked
THROTTLED_RETRY_SECONDS, SETTINGS_RETRY_SECONDS = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class RelayedGroup:
    """Entries of a call that share one call to Leanplum.

    `awaited` has for each entry the users whose items come first; `patience` is how many seconds to
    wait for these. `end_user` are the headers that describe the end user.
    """

    app: App
    call: SdkCall
    entries: Sequence[RelayedEntry]
    end_user: Mapping[str, str]
    awaited: Sequence[Set[str]]
    patience: float


@dataclass(frozen=True, slots=True)
class EntryRelay:
    """Relay entries, except those of users who were erased."""

    relay: Relay
    outbox: Outbox

    async def find_erased(self, app: App, subjects: Collection[str]) -> Mapping[str, int]:
        """Return the subjects that were erased, each with the end of its erasure."""
        return await self.outbox.erased(app.name, subjects) if subjects else {}

    async def exchange(self, group: RelayedGroup) -> list[EntryAnswer]:
        """Relay entries; return the answer to each.

        An entry for whose users items wait that come first does not hold up the others of its
        group: it is answered as not sent, and the others are sent without it.
        """
        subjects = set[str]().union(*group.awaited)
        # A single user is checked by the relay itself.
        erased = await self.find_erased(group.app, subjects if len(subjects) > 1 else ())
        answers = {
            place: answer_erased(
                group.call, entry.entry, erasure.refusal(map(erased.get, entry.subjects))
            )
            for place, entry in enumerate(group.entries)
            if not entry.subjects.isdisjoint(erased)
        }
        patience = group.patience
        while unanswered := [place for place in range(len(group.entries)) if place not in answers]:
            subjects = (
                set[str]().union(*(group.awaited[place] for place in unanswered)).difference(erased)
            )
            entries = [group.entries[place] for place in unanswered]
            sent_answers, waiting = await self._send(group, entries, subjects, patience)
            by_place = dict(zip(unanswered, sent_answers, strict=True))
            blocked = {
                place: answer
                for place, answer in by_place.items()
                if not group.awaited[place].isdisjoint(waiting)
            }
            answers |= blocked or by_place
            patience = 0.0  # the rest has waited as long as it may
        return [answers[place] for place in range(len(group.entries))]

    async def _send(
        self,
        group: RelayedGroup,
        entries: Sequence[RelayedEntry],
        subjects: Collection[str],
        patience: float,
    ) -> tuple[list[EntryAnswer], Set[str]]:
        """Send entries; return their answers, and the users whose items kept them from being sent.

        No error is raised: each becomes the answer to every entry.
        """
        sent = [entry.entry for entry in entries]
        call = group.call
        try:
            action, body = _render_call(self.relay, group, entries)
            outgoing = RelayedCall(
                app=group.app,
                action=action,
                body=body,
                subjects=subjects,
                read_only=all(entry.read_only for entry in entries),
                headers=group.end_user,
            )
            in_order = any(entry.writes for entry in entries)
            answer = await self.relay.exchange(outgoing, in_order=in_order, patience=patience)
        except GatewayError as error:
            status, retry_after = status_of(error), getattr(error, "retry_after", None)
            if call.batch and isinstance(error, KeyNotConfigured | Erased):
                # To send the batch again would change nothing.
                status, retry_after = 200, None
            waiting = frozenset[str]()
            if isinstance(error, UpstreamUnavailable):
                waiting = frozenset(error.waiting)
            answers = _fail_all(sent, error.detail, status, retry_after, waits=bool(waiting))
            return answers, waiting
        return _parse_answers(sent, answer, call), frozenset()


def answer_erased(call: SdkCall, sent: Any, refusal: Erased) -> EntryAnswer:
    """Return the answer to an entry whose user was erased."""
    entry = response.render_failure(refusal.detail, sent)
    return EntryAnswer(entry, 200 if call.batch else GONE)


def _fail_all(
    sent: Iterable[response.Entry],
    reason: str,
    status: int,
    retry_after: float | None,
    *,
    waits: bool = False,
) -> list[EntryAnswer]:
    return [
        EntryAnswer(response.render_failure(reason, entry), status, retry_after, waits=waits)
        for entry in sent
    ]


def _render_call(
    relay: Relay, group: RelayedGroup, entries: Sequence[RelayedEntry]
) -> tuple[str, bytes]:
    """Return the action and the body for Leanplum. Raises KeyNotConfigured, Malformed.

    Entries go as they came, with Leanplum's keys in the place of the caller's, and without
    detection, which would find the gateway instead of the end user.
    """
    app, call, end_user, first = group.app, group.call, group.end_user, entries[0]
    if first.debugging and first.key is KeyKind.DEVELOPMENT and first.key not in app.keys:
        missing = app.setting(KeyKind.DEVELOPMENT)
        raise KeyNotConfigured(
            f"Development mode needs Leanplum's development key: {missing} is not set."
        )
    keys = {"appId": app.app_id, "clientKey": relay.key(app, first.key)}
    if not call.batch:
        return call.action, orjson.dumps({**without_detection(call.args, end_user), **keys})
    data = [_replace_keys(without_detection(entry.entry, end_user), keys) for entry in entries]
    if first.alone:  # it takes a key that a batch does not
        return str(first.entry["action"]), orjson.dumps({**data[0], **keys})
    # The entries' times are corrected, so the clock that goes with them is the gateway's.
    shared = {**without_detection(call.args, end_user), **keys}
    args = {**shared, "action": "multi", "time": now_ms() / 1000, "data": data}
    if first.debugging:
        args["devMode"] = True
    try:
        return "multi", orjson.dumps(args)
    except TypeError:
        raise Malformed("The arguments are nested too deeply.") from None


def _replace_keys(entry: response.Entry, keys: dict[str, str]) -> response.Entry:
    return {**entry, **{name: value for name, value in keys.items() if name in entry}}


def _parse_answers(
    sent: Sequence[response.Entry], answer: LeanplumResponse, call: SdkCall
) -> list[EntryAnswer]:
    """Return the answer to each entry from Leanplum's answer to their call."""
    answered = replies.parse_entries(answer.body)
    throttled = answer.status in replies.THROTTLES
    if throttled or answer.status >= 500 or not answered:
        reason = f"Leanplum answered {answer.status}."
        return _fail_all(sent, reason, 429 if throttled else 503, THROTTLED_RETRY_SECONDS)
    matched = response.match_entries(answered, sent)
    if len(answered) == 1 and answered[0].get("success") is False:
        # Leanplum refused the whole call.
        matched = [response.echo_req_id(entry, answered[0]) for entry in sent]
    entries, settings_refused = list[response.Entry](), False
    for answered_entry, sent_entry in zip(matched, sent, strict=True):
        if answered_entry is None:
            entries.append(response.render_failure(response.NO_ANSWER, sent_entry))
            continue
        cleaned, refused = response.clean_entry(answered_entry, sent_entry)
        entries.append(cleaned)
        settings_refused |= refused
    status, retry_after = 200, None
    if settings_refused:
        status, retry_after = 503, SETTINGS_RETRY_SECONDS
    elif answer.status >= 400 and not call.batch:
        status = answer.status
    dropped = {"response", *response.DROPPED_FIELDS}
    fields = orjson.loads(answer.body)
    extra_fields = {name: value for name, value in fields.items() if name not in dropped}
    return [EntryAnswer(entry, status, retry_after, extra_fields) for entry in entries]


def status_of(error: GatewayError) -> int:
    """Return the HTTP status of an error.

    A bad key is 403, and trouble at Leanplum is 5xx; the entry says what Leanplum refused.
    """
    if isinstance(error, Unauthorized | Forbidden):
        return 403
    if isinstance(error, Erased):
        return GONE
    if isinstance(error, UpstreamRejected):
        return 502
    return PROBLEMS[problems.SLUGS[type(error)]].status
