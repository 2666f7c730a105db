"""The conditions that need a person's attention, from the state of the gateway. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from app.console.gateway_state import GatewayState
from app.telemetry.minute_counts import MINUTE_MS

Tone = Literal["bad", "warn"]
OLD_MS = 15 * 60_000  # an item that has waited for longer deserves a look
HELD = "Leanplum, or a proxy before it, refuses the key or the app. The log (app.held) says why."
FULL_SHARE = 0.8  # of the queue


class Attention(NamedTuple):
    """One thing to look at: how urgent, what it is, what to do, and the page that helps."""

    tone: Tone
    title: str
    text: str
    page: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """The state of this process that is not in the database."""

    apps_refused: bool = False
    audit_tampered: bool = False
    audit_waiting: bool = False
    limits: str | None = None  # why limits are not shared
    queued: int = 0
    max_queued: int = 0
    # Shares of Leanplum's limits on names that are used: by app and kind
    names: Mapping[tuple[str, str], float] = field(default_factory=dict)
    names_warn_from: float = 1.0


def attention_of_gateway(state: GatewayState, process: ProcessState) -> Iterator[Attention]:
    """Yield what concerns all apps, most urgent first."""
    if state.failed is not None:
        yield Attention("bad", "The database is unavailable", state.failed)
    if process.audit_tampered:
        yield Attention(
            "bad",
            "The audit log was changed",
            "Sealing has stopped: the log differs from what was recorded. "
            "`audit verify` lists every difference.",
            "/audit",
        )
    if process.queued >= FULL_SHARE * process.max_queued:
        text = f"{process.queued:,} of {process.max_queued:,} items wait; beyond that, calls are "
        yield Attention("bad", "The queue is nearly full", f"{text}refused with 503.")
    if state.queue.apps and not state.queue.deliverers and state.failed is None:
        yield Attention("bad", "No process delivers", "Items wait, and nothing sends them.")
    if process.apps_refused:
        yield Attention(
            "warn",
            "The apps file is invalid",
            "The file was changed, and the change is ignored. The log (apps.refused) says why.",
        )
    if process.audit_waiting:
        yield Attention(
            "warn",
            "Audit records are not sealed",
            "Sealing waits for the database, and resumes by itself.",
            "/audit",
        )
    if process.limits is not None:
        yield Attention("warn", "Rate limits are not shared", process.limits)


def attention_of_app(app: str, state: GatewayState, *, configured: bool) -> Iterator[Attention]:
    """Yield what concerns one app, most urgent first."""
    queue, delivery = state.queue_of(app), state.delivery_of(app)
    if queue.waiting and not configured:
        text = f"{queue.waiting:,} items wait for an app that is not configured any more."
        yield Attention("bad", f"{app}: items are held", text)
    elif queue.held or delivery.state == "held":
        why = f"Leanplum says: {delivery.reason}" if delivery.reason else HELD
        yield Attention("bad", f"{app}: items are held", why)
    if delivery.state == "open" or state.is_failing(app):
        text = "Calls to Leanplum fail; single calls are tried until one succeeds."
        yield Attention("bad", f"{app}: the circuit is open", text)
    if queue.dead_letters:
        count = at_least(queue.dead_letters, more=state.queue.more_dead)
        text = f"Refused, or given up: {count}. Replay or discard them."
        yield Attention("warn", f"{app}: dead letters", text, f"/dead-letters/selection?app={app}")
    if queue.oldest is not None and state.read_at - queue.oldest >= OLD_MS:
        minutes = (state.read_at - queue.oldest) // MINUTE_MS
        text = f"The oldest has waited for {minutes:,} minutes."
        yield Attention("warn", f"{app}: items have waited for long", text)


def at_least(count: int, *, more: bool) -> str:
    """Return a count as it is shown; `more` if it may be higher."""
    return f"{count:,}+" if more else f"{count:,}"


def attention_of_names(process: ProcessState, apps: Sequence[str]) -> Iterator[Attention]:
    """Yield the apps that come near Leanplum's limits on names."""
    for (app, kind), share in sorted(process.names.items()):
        if app in apps and share >= process.names_warn_from:
            text = f"{share:.0%} of the {kind} that Leanplum keeps are in use."
            yield Attention("warn", f"{app}: many {kind}", text, f"/tracking-plan?app={app}")
