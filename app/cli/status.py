"""The command `status`: what waits, who delivers it, and what needs a person's attention."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import configured_apps, engine_to_read, load_settings
from app.cli.output import AsJson, print_fields, print_json, print_table, print_text, printable
from app.errors import StartRefused

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from app.audit.seal_state import SealState
    from app.outbox.delivery_states import DeliveryState
    from app.outbox.minute_counts import MinuteCount
    from app.outbox.queue_state import AppQueue, QueueState
    from app.settings import Settings

CALL_MINUTES = 5
SEAL_MS = 60_000  # a running gateway seals every second
STATES = {
    "held": "Leanplum refuses its key or the app, so its items are held; see `check`",
    "circuit-open": "calls to Leanplum fail; single calls are tried until one succeeds",
    "failing": f"all calls to Leanplum failed in the last {CALL_MINUTES} minutes",
}
HEADER = ("APP", "STATE", "WAITING", "OLDEST", "RETRYING", "HELD", "DEAD LETTERS", "CALLS FAILED")
MaxAge = Annotated[
    str, typer.Option(help="How long an item may wait before that needs attention, as in 90s, 15m")
]


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(status)


def status(max_age: MaxAge = "15m", as_json: AsJson = False) -> None:
    """Show what waits and what needs attention.

    Exits with 1 if something does. It covers all processes on the database.
    """
    max_age_seconds = _seconds(max_age)
    document = _read_status(load_settings(), max_age_seconds)
    if as_json:
        print_json(document)
    else:
        _print_status(document)
    if document["attention"]:
        raise typer.Exit(1)


def _seconds(text: str) -> float:
    from app.settings.units import seconds

    try:
        return float(str(seconds(text)))
    except ValueError as error:
        raise StartRefused(f"--max-age: {error}") from None


def _read_status(settings: "Settings", max_age_seconds: float) -> dict[str, Any]:
    from app.audit.seal_state import read_seal_state
    from app.audit.tree import fetcher
    from app.clock import now_ms
    from app.database.engine import snapshot
    from app.outbox import delivery_states
    from app.outbox.minute_counts import read_counts
    from app.outbox.queue_state import read_queue

    now = now_ms()
    with engine_to_read(settings) as engine, snapshot(engine) as connection:
        queue = read_queue(connection, now)
        circuits = _circuits(delivery_states.of_all(connection))
        counts = read_counts(connection, now - CALL_MINUTES * 60_000, None)
        seal = read_seal_state(fetcher(connection))
        database = _database_document(connection)
    apps = _app_documents(queue, counts, circuits, configured_apps(settings), now)
    document = {"apps": apps, "deliverers": queue.deliverers, "database": database}
    document["audit"] = _audit_document(seal)
    attention = [*_attention(document, max_age_seconds), *_audit_attention(seal, now)]
    return {"attention": attention} | document


def _database_document(connection: "Connection") -> dict[str, Any]:
    from app.database.size import database_bytes

    return {"kind": connection.dialect.name, "bytes": database_bytes(connection)}


def _circuits(
    deliverers: "Mapping[str, Mapping[str, DeliveryState]]",
) -> dict[str, set[str]]:
    """Return the states of the circuits of each app; each deliverer has its own."""
    circuits = defaultdict[str, set[str]](set)
    for states in deliverers.values():
        for app, state in states.items():
            circuits[app].add(state.state)
    return circuits


def _app_documents(
    queue: "QueueState",
    counts: "Iterable[MinuteCount]",
    circuits: Mapping[str, Set[str]],
    configured: Iterable[str],
    now: int,
) -> list[dict[str, Any]]:
    """Return the state of each app: those that are configured, have items, or had calls."""
    from app.outbox.queue_state import AppQueue
    from app.telemetry.minute_counts import CALLS, FAILED_CALLS

    calls = {(count.app, count.kind): 0 for count in counts}
    for count in counts:
        calls[count.app, count.kind] += count.total
    queues = {found.app: found for found in queue.apps}
    documents = []
    for app in sorted({*configured, *queues, *circuits, *(app for app, _ in calls)}):
        found = queues.get(app) or AppQueue(app)
        made, failed = calls.get((app, CALLS), 0), calls.get((app, FAILED_CALLS), 0)
        documents.append(
            {
                "app": app,
                "state": _state(found, circuits.get(app, set()), made, failed),
                "waiting": found.waiting,
                "waitingIsMinimum": queue.more_waiting,
                "oldestSeconds": None if found.oldest is None else (now - found.oldest) // 1000,
                "retrying": found.retrying,
                "held": found.held,
                "deadLetters": found.dead_letters,
                "deadLettersIsMinimum": queue.more_dead,
                "calls": made,
                "failedCalls": failed,
            }
        )
    return documents


def _state(found: "AppQueue", circuits: Set[str], calls: int, failed: int) -> str:
    """Return the state of an app: the worst that any deliverer has."""
    if found.held or "held" in circuits:
        return "held"
    if "open" in circuits:
        return "circuit-open"
    if failed and failed == calls:
        return "failing"
    return "delivering" if found.waiting else "idle"


def _attention(document: dict[str, Any], max_age_seconds: float) -> Iterator[str]:
    """Yield what needs a person's attention in the queue."""
    apps = document["apps"]
    if not document["deliverers"] and any(app["waiting"] for app in apps):
        yield "items wait, and no process delivers: start `serve` or `deliver`"
    for app in apps:
        name, age = app["app"], app["oldestSeconds"]
        if app["state"] in STATES:
            yield f"app {name}: {STATES[app['state']]}"
        if age is not None and age > max_age_seconds:
            yield f"app {name}: the oldest item has been waiting for {_duration(age)}"
        if app["deadLetters"]:
            count = _count(app["deadLetters"], is_minimum=app["deadLettersIsMinimum"])
            yield f"app {name}: {count} dead letters; see `dead-letters list`"


def _audit_attention(seal: "SealState", now: int) -> Iterator[str]:
    """Yield what needs attention in the audit log."""
    since = seal.unsealed_since
    if seal.records < seal.sealed:
        yield "the audit log has fewer records than were sealed; run `audit verify`"
    elif since is not None and now - since > SEAL_MS:
        age = _duration((now - since) // 1000)
        yield f"audit records have not been sealed for {age}; no gateway runs, or see its log"


def _audit_document(seal: "SealState") -> dict[str, Any]:
    from app.clock import instant

    sealed_at = None if seal.sealed_at is None else instant(seal.sealed_at)
    return {
        "records": seal.records,
        "sealed": seal.sealed,
        "sealedAt": sealed_at,
    }


def _print_status(document: dict[str, Any]) -> None:
    """Print the state for people; what needs attention comes first."""
    for line in document["attention"]:
        print_text(f"! {printable(line)}")
    database, audit = document["database"], document["audit"]
    print_fields(
        [
            ("Deliverers", str(document["deliverers"])),
            ("Database", f"{database['kind']}, {database['bytes'] / 1e6:,.0f} MB"),
            ("Audit log", f"{audit['sealed']} of {audit['records']} records sealed"),
        ]
    )
    if document["apps"]:
        print_table(HEADER, map(_row, document["apps"]))


def _row(app: dict[str, Any]) -> tuple[str, ...]:
    age = app["oldestSeconds"]
    return (
        app["app"],
        app["state"],
        _count(app["waiting"], is_minimum=app["waitingIsMinimum"]),
        "-" if age is None else _duration(age),
        _count(app["retrying"], is_minimum=app["waitingIsMinimum"]),
        _count(app["held"], is_minimum=app["waitingIsMinimum"]),
        _count(app["deadLetters"], is_minimum=app["deadLettersIsMinimum"]),
        f"{app['failedCalls']} of {app['calls']}",
    )


def _count(count: int, *, is_minimum: bool) -> str:
    return f"{count}+" if is_minimum else str(count)


def _duration(seconds: int) -> str:
    """Return a duration in its largest whole unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
