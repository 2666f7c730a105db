"""Sessions, events, states, and actions of SDKs (fact sheet §3.1 to §3.3, §3.8, §12.9)."""

from app.simulator.actions.attributes import apply_attributes, apply_device_fields, apply_profile
from app.simulator.actions.content import variables
from app.simulator.actions.context import (
    ActionContext,
    EntryFields,
    Skipped,
    UserActionContext,
)
from app.simulator.actions.users import is_newsfeed_outdated
from app.simulator.arguments import truthy
from app.simulator.profiles import Tally
from app.simulator.responses import migration_hash

_OCCURRENCE_FIELDS = ("reqId", "currencyCode", "info", "messageId")


def start(context: UserActionContext) -> EntryFields:
    """Start a session, and return what an SDK needs at its start."""
    sync = is_newsfeed_outdated(context)
    user = context.user
    apply_attributes(context, user)
    apply_profile(context, user)
    apply_device_fields(context)
    user.begin_session(context.now, background=truthy(context.item.get("background")))
    return {**variables(context), "token": f"token-{user.user_id}", "syncNewsfeed": sync}


def stop(context: UserActionContext) -> EntryFields:
    """End the session."""
    context.user.end_session(context.now)
    return {}


def pause(context: UserActionContext) -> EntryFields:
    """Pause the session."""
    if current := context.user.session(context.now):
        current.state, current.touched = "paused", context.now
    return {}


def resume(context: UserActionContext) -> EntryFields:
    """Resume the session, or start one if it expired; count one that began in the background."""
    current = context.user.session(context.now)
    if current is None:
        context.user.begin_session(context.now)
        return {}
    if current.state == "background":
        context.user.count_session()
    current.state, current.touched = "open", context.now
    return {}


def heartbeat(context: UserActionContext) -> EntryFields:
    """Keep the session alive."""
    if current := context.user.session(context.now):
        current.touched = context.now
    return {}


def track(context: UserActionContext) -> EntryFields:
    """Count an event, as its `disposition` says (fact sheet §3.2)."""
    name = _event_name(context)
    value = context.number("value", 0.0) if context.has("value") else None
    params = context.mapping("params")
    disposition = _disposition(context)
    offline = context.user.session(context.now) is None
    if offline and disposition == "requireActive":
        raise Skipped(context.texts.inactive, ignored=True)
    _count(context, context.user.events, name, value, params)
    if disposition == "active":
        context.user.mark_active(context.now)
    return {"isOffline": True} if offline else {}


def advance(context: UserActionContext) -> EntryFields:
    """Enter a state; an empty name leaves the current one (fact sheet §3.3)."""
    name, params = context.text("state"), context.mapping("params")
    context.user.state, context.user.state_paused = name or None, False
    if name:
        _count(context, context.user.states, name, None, params)
    return {}


def pause_state(context: UserActionContext) -> EntryFields:
    """Pause the current state."""
    context.user.state_paused = True
    return {}


def resume_state(context: UserActionContext) -> EntryFields:
    """Resume the current state."""
    context.user.state_paused = False
    return {}


def get_migrate_state(context: ActionContext) -> EntryFields:
    """Return the state that keeps an SDK with Leanplum alone."""
    return {"sdk": "lp", "sha256": migration_hash(context.world.config.app_id)}


def accept(context: ActionContext) -> EntryFields:
    """Accept an action of SDKs of which no source states an effect."""
    return {}


def _event_name(context: UserActionContext) -> str:
    """Return the event; without one, `.m<id>` counts a sent message (fact sheet §3.2, §5)."""
    name, message_id = context.text("event"), context.text("messageId")
    if not name and not message_id:
        raise context.invalid("event")
    return name or f".m{message_id}"


def _disposition(context: UserActionContext) -> str:
    """Read `disposition`, or the deprecated `allowOffline`: true is passive (fact sheet §3.2)."""
    default = "passive" if truthy(context.item.get("allowOffline")) else "active"
    disposition = context.text("disposition") or default
    if disposition not in ("active", "passive", "requireActive"):
        raise context.invalid("disposition")
    return disposition


def _count(
    context: UserActionContext,
    tallies: dict[str, Tally],
    name: str,
    value: float | None,
    params: EntryFields,
) -> None:
    fields = {key: context.item[key] for key in _OCCURRENCE_FIELDS if key in context.item}
    tallies.setdefault(name, Tally()).add(context.time, value, {"params": params, **fields})
