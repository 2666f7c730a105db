"""What becomes of each entry of a call. Pure.

Accepted for later is what needs no answer beyond success; what an SDK uses the answer of is asked
now. An entry in development mode is asked now too: whoever debugs waits for it, and it may take
another key. What erases a user is always accepted, so that nothing of the user is left here either.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import orjson

from app.compat import json_values
from app.compat.leanplum_sdk.request import AS_SENT, text, truthy
from app.errors import Fault, Invalid
from app.ids import sdk_item_id
from app.ingest.ports import ItemSteps, render_notes
from app.leanplum.actions import (
    ACTIONS,
    Action,
    find_similar_action,
    is_allowed_action,
    unknown_action_message,
)
from app.model import ERASES, NO_NOTES, KeyKind, NewItem, Notes, Scope
from app.tracking.checker import parse_entry

ASKED_THOUGH_LATER = frozenset({"sendMessage"})  # its answer says whether anything was sent
OPEN_SCOPES = frozenset({Scope.EVENTS_WRITE, Scope.USERS_WRITE, Scope.SDK})
OPEN_ACTIONS = frozenset({"getVars", "downloadFile"})
OF_THEIR_OWN = frozenset({"uploadFile", "downloadFile", "multi"})
RESETS, RESET_SCOPE = "resetAnomalies", Scope.USERS_WRITE  # it takes the development key
OFF = frozenset({"", "0", "false", "no", "off"})
MOST_TOLD = 3
OF_THE_CALL = ("action", "appId", "clientKey", "apiVersion")
LEFT_OUT_OF_ONE = ("action", "appId", "clientKey")  # where a call is its own one entry
NO_ACTIONS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Now:
    """Asked while the SDK waits: alone, or in a batch with others of the same key."""

    entry: dict[str, Any]
    subject: str | None
    key: KeyKind
    alone: bool
    looks: bool = False  # it is known to change nothing
    debugging: bool = False  # in development mode
    # The user whom it logs in, whose other calls must not go beside it either
    joins: str | None = None
    # Accepted for later unless a setting has it relayed: judged, and kept in order, as such
    writes: bool = False

    @property
    def subjects(self) -> set[str]:
        """Whom the call is about."""
        return {one for one in (self.subject, self.joins) if one is not None}


@dataclass(frozen=True, slots=True)
class No:
    """Not done, and why. `unknown`: the action is none that this gateway passes on at this
    place.
    """

    reason: str
    unknown: bool = False


Sorted = NewItem | Now | No


def sort(
    entry: Any,
    scopes: frozenset[Scope],
    *,
    in_batch: bool,
    notes: Notes = NO_NOTES,
    relayed: Set[str] = NO_ACTIONS,
    extra: Set[str] = NO_ACTIONS,
) -> Sorted:
    """What becomes of one entry; `notes`: what its receipt will tell; `relayed`: the actions that
    are asked now although they could be accepted for later; `extra`: those that are passed on
    although they are not known.
    """
    if not isinstance(entry, dict):
        return No("An action must be an object.")
    if isinstance(entry, json_values.Faulty):
        return refusal_of(entry.faults)
    action = text(entry.get("action"))
    if not action:
        return No("The action is missing.")
    if in_batch and action in OF_THEIR_OWN:
        return No(f"{action} must be a call of its own.", unknown=action == "multi")
    if (forbidden := forbids(entry, scopes, extra)) is not None:
        return forbidden
    if faults := json_values.with_nul(entry, AS_SENT):
        return refusal_of(faults)
    known = ACTIONS.get(action)
    if known is not None and (lacking := _lacking(known, entry)) is not None:
        return lacking
    if not _sendable(entry):
        return No("The action is nested too deeply.")
    subject = subject_of(entry)
    debugging = truthy(entry.get("devMode"))
    debugs = debugging and action != ERASES  # the gateway forgets whom Leanplum is to delete
    if known is None or not known.later or debugs or action in ASKED_THOUGH_LATER:
        return _now(entry, known, subject, debugging=debugging)
    if subject is None:
        return No("The action needs a userId or a deviceId.")
    if action in relayed and action != ERASES:
        return _now(entry, known, subject, debugging=False, writes=True)
    return _item(action, entry, subject, notes, in_batch=in_batch)


def judged(sorted_: Sorted, entry: Any, notes: Notes, checker: ItemSteps) -> Sorted:
    """The same, held against the tracking plan and the names that Leanplum keeps."""
    if not isinstance(sorted_, NewItem) and not (isinstance(sorted_, Now) and sorted_.writes):
        return sorted_
    action = sorted_.action if isinstance(sorted_, NewItem) else text(sorted_.entry["action"])
    try:
        found = checker.check(action, parse_entry(entry), notes)
    except Invalid as refusal:
        return refusal_of(refusal.faults)
    except ValueError:
        # an object that came as text may be nested more deeply than a schema can follow
        return No("The action is nested too deeply.")
    if found is notes or isinstance(sorted_, Now):
        return sorted_
    return sorted_._replace(notes=render_notes(found))


def refusal_of(faults: Sequence[Fault]) -> No:
    """Return the refusal of an entry, with pointers into it."""
    told = "; ".join(f"{fault.pointer} {fault.detail}" for fault in faults[:MOST_TOLD])
    return No(f"Refused: {told}.")


def forbids(entry: Mapping[str, Any], scopes: frozenset[Scope], extra: Set[str]) -> No | None:
    """Return why an entry's action is not done for this caller, None where it is.

    Anybody can read the key that an app carries, so with it alone only what SDKs do is done. An
    unknown action is passed on only where a setting names it. Where its name resembles a known one,
    it needs that one's scope: nobody knows what Leanplum takes it for.
    """
    action = text(entry.get("action"))
    if not is_allowed_action(action, extra):
        return No(unknown_action_message(action), unknown=True)
    if RESETS in entry and RESET_SCOPE not in scopes and not _is_off(entry[RESETS]):
        return No(f"{RESETS} needs a caller key with the scope {RESET_SCOPE.value}.")
    known = find_similar_action(action)
    if (
        known is None
        or known.scope in scopes
        or known.scope in OPEN_SCOPES
        or known.name in OPEN_ACTIONS
    ):
        return None
    return No(f"{action} needs a caller key with the scope {known.scope.value}.")


def _is_off(value: Any) -> bool:
    """Tell whether a switch is off, whoever reads it: "on", for one, may mean either."""
    if isinstance(value, str):
        return value.strip().lower() in OFF
    return value is None or (isinstance(value, int | float) and value == 0)


def _lacking(known: Action, entry: Mapping[str, Any]) -> No | None:
    """Return which parameters are missing from an action that is accepted for later."""
    if known.later and (
        missing := sorted(known.required - {name for name in entry if entry[name] is not None})
    ):
        return No(f"{known.name} needs {' and '.join(missing)}.")
    return None


def subject_of(entry: Mapping[str, Any]) -> str | None:
    """Whom Leanplum will lock. An empty id is as none (iOS)."""
    if user := text(entry.get("userId")):
        return f"u{user}"
    device = text(entry.get("deviceId"))
    return f"d{device}" if device else None


def _now(
    entry: dict[str, Any],
    known: Action | None,
    subject: str | None,
    *,
    debugging: bool,
    writes: bool = False,
) -> Now | No:
    """Development traffic takes the development key, so that it never counts as production's. An
    action that is not known never gets that key.
    """
    new = text(entry.get("newUserId"))
    joins = f"u{new}" if new else None
    if known is None:
        if debugging:
            return No("This action is unknown, so it is not allowed in development mode.")
        return Now(entry, subject, KeyKind.PRODUCTION, alone=False, joins=joins)
    key = _key(known, entry, debugging=debugging)
    # A `multi` with the development key takes all that this key may do.
    alone = known.alone and not (debugging and key is KeyKind.DEVELOPMENT)
    return Now(entry, subject, key, alone, known.read_only, debugging, joins, writes)


def _key(known: Action, entry: Mapping[str, Any], *, debugging: bool) -> KeyKind:
    """Return the kind of key that an entry takes when it is asked now."""
    resets = known.name == "setUserAttributes" and truthy(entry.get("resetAnomalies"))
    if known.key is KeyKind.PRODUCTION and (debugging or resets):
        return KeyKind.DEVELOPMENT
    return known.key


def for_later(now: Now, notes: Notes) -> NewItem:
    """Return the item of an entry of a batch whose answer nobody uses."""
    assert now.subject is not None
    return _item(text(now.entry.get("action")), now.entry, now.subject, notes, in_batch=True)


def _item(
    action: str, entry: Mapping[str, Any], subject: str, notes: Notes, *, in_batch: bool
) -> NewItem:
    """The entry as it will be sent: whole, in its own order, but for keys, which are put in
    then.
    """
    return NewItem(
        subject,
        action,
        body_of(entry, in_batch=in_batch),
        _own_id(action, entry),
        render_notes(notes),
    )


def body_of(entry: Mapping[str, Any], *, in_batch: bool) -> str:
    """Return the text of an entry as it is stored."""
    left_out = ("action",) if in_batch else LEFT_OUT_OF_ONE
    fields = {name: value for name, value in entry.items() if name not in left_out}
    if "clientKey" in fields:
        fields["clientKey"] = None
    return orjson.dumps(fields).decode()


def _sendable(entry: Mapping[str, Any]) -> bool:
    """orjson writes less deeply nested values than it reads."""
    if not any(isinstance(value, dict | list) for value in entry.values()):
        return True
    try:
        orjson.dumps(entry)
    except TypeError:
        return False
    return True


def _own_id(action: str, entry: Mapping[str, Any]) -> str | None:
    """The id by which an entry is found, and by which a repeat of it is known, where it has a
    reqId.
    """
    req_id = text(entry.get("reqId"))
    return sdk_item_id(action, req_id, text(entry.get("uuid"))) if req_id else None


def item_of(entry: Now) -> NewItem:
    """Return a relayed write as the item that it would have been."""
    action = text(entry.entry["action"])
    return NewItem(entry.subject or "", action, body_of(entry.entry, in_batch=True))
