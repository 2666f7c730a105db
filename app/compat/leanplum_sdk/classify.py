"""Classification of a call's entries: accept for later delivery, relay now, or refuse. Pure.

An action whose only answer is success is accepted for later delivery. An action whose answer an SDK
uses is relayed at once, and so is any entry in development mode: a developer waits for it, and it
may take another key. The deletion of a user is always accepted, so that the gateway deletes what it
holds of the user, too.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import orjson

from app.compat.body_formats import FaultyObject, find_nul_faults
from app.compat.leanplum_sdk.request import VERBATIM_FIELDS, is_true, to_text
from app.errors import Fault, Invalid
from app.ids import sdk_item_id
from app.ingest.event_names import event_name
from app.ingest.validate import ItemSteps, render_notes
from app.leanplum.actions import (
    ACTIONS,
    Action,
    find_similar_action,
    is_allowed_action,
    unknown_action_message,
)
from app.model import ERASES, NO_NOTES, KeyKind, NewItem, Notes, Scope
from app.tracking.checker import parse_entry

RELAYED_ACTIONS = frozenset({"sendMessage"})  # its answer says whether anything was sent
OPEN_SCOPES = frozenset({Scope.EVENTS_WRITE, Scope.USERS_WRITE, Scope.SDK})
OPEN_ACTIONS = frozenset({"getVars", "downloadFile"})
NEVER_IN_BATCH = frozenset({"uploadFile", "downloadFile", "multi"})
# The argument that takes the development key
RESETS, RESET_SCOPE = "resetAnomalies", Scope.USERS_WRITE
SWITCHED_OFF = frozenset({"", "0", "false", "no", "off"})
MAX_REASONS = 3
CALL_ARGUMENTS = ("action", "appId", "clientKey", "apiVersion")
UNSTORED_ARGUMENTS = ("action", "appId", "clientKey")  # of a call that is its own only entry
TOO_DEEP = "The action is nested too deeply."
NO_ACTIONS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RelayedEntry:
    """An entry that is relayed while the SDK waits.

    `alone` entries are relayed in a call of their own, others together with those of the same key.
    `read_only` entries change nothing at Leanplum. `debugging` means development mode.
    `joined_subject` is the user whom the entry logs in, who must have no other call in flight
    either. `writes` is set when the entry is relayed only because a setting says so: it is checked
    and kept in order as an accepted one would be.
    """

    entry: dict[str, Any]
    subject: str | None
    key: KeyKind
    alone: bool
    read_only: bool = False
    debugging: bool = False
    joined_subject: str | None = None
    writes: bool = False

    @property
    def subjects(self) -> set[str]:
        """The users and devices that the entry is about."""
        return {subject for subject in (self.subject, self.joined_subject) if subject is not None}


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """An entry that is refused, and why.

    `unknown`: the gateway does not pass on this action at this place.
    """

    reason: str
    unknown: bool = False


ClassifiedEntry = NewItem | RelayedEntry | RefusedEntry


def classify_entry(
    entry: Any,
    scopes: frozenset[Scope],
    *,
    in_batch: bool,
    notes: Notes = NO_NOTES,
    relayed: Set[str] = NO_ACTIONS,
    extra: Set[str] = NO_ACTIONS,
) -> ClassifiedEntry:
    """Return the item of an entry, or how it is relayed, or why it is refused.

    `notes` go into the item's receipt. `relayed` are the actions that are relayed although they
    could be accepted; `extra` are the unknown actions that are passed on.
    """
    if not isinstance(entry, dict):
        return RefusedEntry("An action must be an object.")
    if isinstance(entry, FaultyObject):
        return refuse_faults(entry.faults)
    action = to_text(entry.get("action"))
    if not action:
        return RefusedEntry("The action is missing.")
    if in_batch and action in NEVER_IN_BATCH:
        return RefusedEntry(f"{action} must be a call of its own.", unknown=action == "multi")
    if (forbidden := refuse_unpermitted(entry, scopes, extra)) is not None:
        return forbidden
    if faults := find_nul_faults(entry, VERBATIM_FIELDS):
        return refuse_faults(faults)
    known = ACTIONS.get(action)
    if known is not None and (incomplete := _refuse_incomplete(known, entry)) is not None:
        return incomplete
    if not _is_serializable(entry):
        return RefusedEntry(TOO_DEEP)
    subject = find_subject(entry)
    debugging = is_true(entry.get("devMode"))
    relayed_to_debug = debugging and action != ERASES
    if known is None or not known.later or relayed_to_debug or action in RELAYED_ACTIONS:
        return _relay(entry, known, subject, debugging=debugging)
    if subject is None:
        return RefusedEntry("The action needs a userId or a deviceId.")
    if action in relayed and action != ERASES:
        return _relay(entry, known, subject, debugging=False, writes=True)
    return _make_item(action, entry, subject, notes, in_batch=in_batch)


def check_entry(
    classified: ClassifiedEntry, entry: Any, notes: Notes, item_steps: ItemSteps
) -> ClassifiedEntry:
    """Check a write against the tracking plan and Leanplum's names; return it, or its refusal."""
    if isinstance(classified, NewItem):
        action = classified.action
    elif isinstance(classified, RelayedEntry) and classified.writes:
        action = to_text(classified.entry["action"])
    else:
        return classified
    try:
        checked_notes = item_steps.check(action, parse_entry(entry), notes)
    except Invalid as refusal:
        return refuse_faults(refusal.faults)
    except ValueError:
        # An object that came as text may be nested more deeply than a schema can follow.
        return RefusedEntry(TOO_DEEP)
    if checked_notes is notes or isinstance(classified, RelayedEntry):
        return classified
    return classified._replace(notes=render_notes(checked_notes))


def refuse_faults(faults: Sequence[Fault]) -> RefusedEntry:
    """Return the refusal of an entry with faults, which names the first three of them."""
    reasons = "; ".join(f"{fault.pointer} {fault.detail}" for fault in faults[:MAX_REASONS])
    return RefusedEntry(f"Refused: {reasons}.")


def refuse_unpermitted(
    entry: Mapping[str, Any], scopes: frozenset[Scope], extra: Set[str]
) -> RefusedEntry | None:
    """Return the refusal of an action that a caller with these scopes may not use; None otherwise.

    Anybody can read the key that an app carries, so that key alone permits only what SDKs do. An
    unknown action is passed on only when a setting names it. When its name resembles a known
    action, it needs the scope of that one, since Leanplum may take it for the known one.
    """
    action = to_text(entry.get("action"))
    if not is_allowed_action(action, extra):
        return RefusedEntry(unknown_action_message(action), unknown=True)
    if RESETS in entry and RESET_SCOPE not in scopes and not _is_off(entry[RESETS]):
        return RefusedEntry(f"{RESETS} needs a caller key with the scope {RESET_SCOPE.value}.")
    known = find_similar_action(action)
    if known is None or known.scope in scopes:
        return None
    if known.scope in OPEN_SCOPES or known.name in OPEN_ACTIONS:
        return None
    return RefusedEntry(f"{action} needs a caller key with the scope {known.scope.value}.")


def _is_off(value: Any) -> bool:
    """Return whether any reader takes a switch for off; "on", for example, may mean either."""
    if isinstance(value, str):
        return value.strip().lower() in SWITCHED_OFF
    return value is None or (isinstance(value, int | float) and value == 0)


def _refuse_incomplete(known: Action, entry: Mapping[str, Any]) -> RefusedEntry | None:
    """Return the refusal of an action for later delivery that lacks required parameters."""
    if not known.later:
        return None
    missing = sorted(known.required - {name for name in entry if entry[name] is not None})
    return RefusedEntry(f"{known.name} needs {' and '.join(missing)}.") if missing else None


def find_subject(entry: Mapping[str, Any]) -> str | None:
    """Return the user or device that Leanplum will lock for an entry; None when it names none.

    An empty id counts as none: iOS sends such.
    """
    if user := to_text(entry.get("userId")):
        return f"u{user}"
    device = to_text(entry.get("deviceId"))
    return f"d{device}" if device else None


def _relay(
    entry: dict[str, Any],
    known: Action | None,
    subject: str | None,
    *,
    debugging: bool,
    writes: bool = False,
) -> RelayedEntry | RefusedEntry:
    """Return how an entry is relayed.

    Development traffic takes the development key, so that it never counts as production traffic. An
    unknown action never gets that key.
    """
    new_user = to_text(entry.get("newUserId"))
    joined_subject = f"u{new_user}" if new_user else None
    if known is None and debugging:
        return RefusedEntry("This action is unknown, so it is not allowed in development mode.")
    if known is None:
        return RelayedEntry(
            entry, subject, KeyKind.PRODUCTION, alone=False, joined_subject=joined_subject
        )
    key = _choose_key(known, entry, debugging=debugging)
    # A `multi` with the development key takes every action that this key permits.
    in_development_batch = debugging and key is KeyKind.DEVELOPMENT
    return RelayedEntry(
        entry,
        subject,
        key,
        alone=known.alone and not in_development_batch,
        read_only=known.read_only,
        debugging=debugging,
        joined_subject=joined_subject,
        writes=writes,
    )


def _choose_key(known: Action, entry: Mapping[str, Any], *, debugging: bool) -> KeyKind:
    """Return the kind of key that a relayed entry takes."""
    resets = known.name == "setUserAttributes" and is_true(entry.get(RESETS))
    if known.key is KeyKind.PRODUCTION and (debugging or resets):
        return KeyKind.DEVELOPMENT
    return known.key


def defer_entry(relayed: RelayedEntry, notes: Notes) -> NewItem:
    """Return the item of a relayed entry of a batch whose answer no SDK uses."""
    assert relayed.subject is not None
    action = to_text(relayed.entry.get("action"))
    return _make_item(action, relayed.entry, relayed.subject, notes, in_batch=True)


def _make_item(
    action: str, entry: Mapping[str, Any], subject: str, notes: Notes, *, in_batch: bool
) -> NewItem:
    return NewItem(
        subject,
        action,
        body=render_body(entry, in_batch=in_batch),
        id=_make_item_id(action, entry),
        notes=render_notes(notes),
        event=event_name(action, entry),
    )


def render_body(entry: Mapping[str, Any], *, in_batch: bool) -> str:
    """Return the text of an entry as it is stored and sent: whole and in its own order.

    Keys are left out; delivery adds Leanplum's.
    """
    left_out = ("action",) if in_batch else UNSTORED_ARGUMENTS
    fields = {name: value for name, value in entry.items() if name not in left_out}
    if "clientKey" in fields:
        fields["clientKey"] = None
    return orjson.dumps(fields).decode()


def _is_serializable(entry: Mapping[str, Any]) -> bool:
    """Return whether orjson can write an entry: it reads more deeply nested values than that."""
    if not any(isinstance(value, dict | list) for value in entry.values()):
        return True
    try:
        orjson.dumps(entry)
    except TypeError:
        return False
    return True


def _make_item_id(action: str, entry: Mapping[str, Any]) -> str | None:
    """Return the id by which an entry with a reqId and its repeats are found; None without one."""
    req_id = to_text(entry.get("reqId"))
    return sdk_item_id(action, req_id, to_text(entry.get("uuid"))) if req_id else None


def make_relayed_item(relayed: RelayedEntry) -> NewItem:
    """Return the item that a relayed write would have been if it had been accepted."""
    action = to_text(relayed.entry["action"])
    return NewItem(relayed.subject or "", action, render_body(relayed.entry, in_batch=True))
