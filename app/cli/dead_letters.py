"""The commands about dead letters: `dead-letters list|replay|discard`.

They work on the database itself, beside running gateways.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.common import engine_to_write, load_settings, milliseconds, read_only, with_options
from app.cli.items import ForAction, ForDevice, ForEvent, ForUser, leanplum_words, subject_of
from app.cli.output import AsJson, print_json, print_rows, print_text
from app.cli.progress import progress
from app.clock import now_ms
from app.errors import NotFound, StartRefused
from app.model import DEAD, Status

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from app.outbox.dead_letters import DeadLetterFilter
    from app.settings import Settings

dead_letters_cli = typer.Typer(
    help="List, replay or discard items that could not be delivered.",
    no_args_is_help=True,
)

PAGE = 1_000
SHOWN_IDS = 10
HEADER = ("APP", "ID", "STATUS", "ACTION", "SETTLED", "REASON")
DONE = {"replay": "queued again", "discard": "discarded"}
Act = Literal["replay", "discard"]


@dataclass(frozen=True)
class Selection:
    """The options that select dead letters; what is not given selects all."""

    user: ForUser = None
    device: ForDevice = None
    action: ForAction = None
    event: ForEvent = None
    status: Annotated[
        str | None, typer.Option(help="Only this status: rejected, expired or unknown")
    ] = None
    since: Annotated[
        str | None, typer.Option(help="Only those settled at this time (RFC 3339) or later")
    ] = None
    until: Annotated[str | None, typer.Option(help="Only those settled before this time")] = None
    app: Annotated[str | None, typer.Option(help="Only this app; default: every app")] = None

    def filter(self, item_ids: Sequence[str] | None = None) -> "DeadLetterFilter":
        """Return the filter, for some items only. Raises StartRefused for invalid options."""
        from app.outbox.dead_letters import DeadLetterFilter

        if self.status is not None and self.status not in DEAD:
            raise StartRefused(f"--status: must be one of {', '.join(sorted(DEAD))}")
        return DeadLetterFilter(
            subject=subject_of(self.user, self.device),
            event=self.event,
            action=self.action,
            status=Status(self.status) if self.status else None,
            since=milliseconds("--since", self.since),
            until=milliseconds("--until", self.until),
            item_ids=tuple(item_ids) if item_ids else None,
        )


ItemIds = Annotated[
    list[str] | None, typer.Argument(help="The ids of dead letters; without ids, give --all")
]
All = Annotated[bool, typer.Option("--all", help="Every dead letter that the options select")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them")]


@dead_letters_cli.command("list")
@with_options
def list_dead_letters(selection: Selection, as_json: AsJson = False) -> None:
    """List dead letters, oldest first. Payloads are never shown."""
    receipts = find(load_settings(), selection.app, selection.filter())
    print_rows(receipts, HEADER, _row, as_json=as_json, empty="No dead letters.")


def _row(receipt: dict[str, Any]) -> tuple[str, ...]:
    columns = [receipt[name] for name in ("app", "id", "status", "action", "settledAt")]
    return (*columns, leanplum_words(receipt))


@dead_letters_cli.command("replay")
@with_options
def replay_dead_letters(
    selection: Selection,
    item_ids: ItemIds = None,
    all_: All = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Put dead letters back into the queue, ahead of what their users have waiting."""
    _act("replay", selection, _chosen_ids(item_ids, every=all_), dry_run=dry_run, as_json=as_json)


@dead_letters_cli.command("discard")
@with_options
def discard_dead_letters(
    selection: Selection,
    item_ids: ItemIds = None,
    all_: All = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Discard dead letters for good. Their receipts are kept as long as other receipts."""
    _act("discard", selection, _chosen_ids(item_ids, every=all_), dry_run=dry_run, as_json=as_json)


def _chosen_ids(item_ids: list[str] | None, *, every: bool) -> list[str] | None:
    """Return the ids that were given; None for all that the options select."""
    if not item_ids and not every:
        raise StartRefused("give the ids of dead letters, or --all for all that the options select")
    return item_ids


def _act(
    act: Act, selection: Selection, item_ids: list[str] | None, *, dry_run: bool, as_json: bool
) -> None:
    """Replay or discard, and print what was done. Raises NotFound if nothing matched."""
    which = selection.filter(item_ids)
    settings = load_settings()
    changed: list[str] = []
    if dry_run:
        count = count_matching(settings, selection.app, which)
        done = f"would be {DONE[act]}."
    else:
        changed = apply(settings, act, selection.app, which)
        count, done = len(changed), f"{DONE[act]}: {_listed(changed)}"
    if as_json:
        print_json({"matched": count, "dryRun": dry_run, "ids": changed})
    if not count:
        raise NotFound("No dead letters match.")
    if not as_json:
        print_text(f"{count} {'item' if count == 1 else 'items'} {done}")


def _listed(item_ids: Sequence[str]) -> str:
    more = len(item_ids) - SHOWN_IDS
    shown = ", ".join(item_ids[:SHOWN_IDS])
    return f"{shown}, and {more} more" if more > 0 else shown


def find(
    settings: "Settings", app: str | None, which: "DeadLetterFilter"
) -> Iterator[dict[str, Any]]:
    """Yield the receipts of dead letters with their app, oldest first; without `app`, of each."""
    from app.encryption import BodyCipher
    from app.outbox import dead_letters
    from app.receipts import receipt_document

    # Without its key, what Leanplum said cannot be shown, but everything else can
    cipher = BodyCipher(settings.data_keys, None)
    with read_only(settings) as connection:
        for name in dead_letters.apps(connection) if app is None else [app]:
            after = 0
            while page := dead_letters.find(connection, name, which, after, PAGE, cipher):
                for receipt in page:
                    document = receipt_document(receipt, prefix=settings.gateway_root_path)
                    yield {"app": name, **document}
                after = page[-1].seq


def count_matching(settings: "Settings", app: str | None, which: "DeadLetterFilter") -> int:
    """Count the dead letters of an app, or of all apps."""
    from app.outbox import dead_letters

    with progress("Counting dead letters"), read_only(settings) as connection:
        names = dead_letters.apps(connection) if app is None else [app]
        return sum(dead_letters.count(connection, name, which) for name in names)


def apply(settings: "Settings", act: Act, app: str | None, which: "DeadLetterFilter") -> list[str]:
    """Replay or discard the dead letters of an app, or of all apps; return their ids.

    Each step is committed together with an audit record of the operator's action.
    """
    from app.audit import records, signing_keys
    from app.database.writer import Writer
    from app.encryption import BodyCipher
    from app.outbox.dead_letters import DeadLetterService

    changed: list[str] = []

    def record(name: str, count: int) -> tuple[int, str]:
        now = now_ms()
        return now, records.administrative_act(
            time=now, act=f"dead-letter.{act}", subject=f"{count} items", app=name
        )

    async def run(engine: "Engine", on_changed: Callable[[Sequence[str]], None]) -> None:
        writer = Writer(engine)
        writer.start()
        try:
            service = DeadLetterService(
                engine,
                writer,
                macs=signing_keys.load_keys_to_write(engine, settings.audit_root_key).macs,
                cipher=BodyCipher(settings.data_keys, None),
                on_replayed=on_changed,
                on_discarded=on_changed,
            )
            change = service.replay if act == "replay" else service.discard
            for name in await service.apps() if app is None else [app]:
                await change(name, which, partial(record, name))
        finally:
            await writer.stop()

    with engine_to_write(settings) as engine, progress(f"{act.title()} dead letters") as advance:

        def on_changed(item_ids: Sequence[str]) -> None:
            changed.extend(item_ids)
            advance(len(item_ids))

        asyncio.run(run(engine, on_changed))
    return changed
