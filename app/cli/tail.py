"""The command `tail`: items as they are accepted and as they settle, in every process."""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import engine_to_read, load_settings, with_options
from app.cli.items import ItemOptions, user_or_device
from app.cli.output import flush, print_notice, print_text, printable

if TYPE_CHECKING:
    from app.outbox.feed import FeedEntry

POLL_SECONDS = 0.5
HEADER = ("TIME", "STATUS", "APP", "ACTION", "EVENT", "USER", "ID")
# Columns of a terminal: what comes later can't be known, so that a longer value shifts the others
WIDTHS = (24, 9, 10, 17, 20, 20, 0)
LEFT_OUT = "more items were accepted or settled than are shown; options choose fewer"
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print one JSON document in each line, instead of a table")
]
History = Annotated[
    int, typer.Option(min=0, max=500, help="How many items of the past to begin with, of each kind")
]


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(tail)


@with_options
def tail(options: ItemOptions, history: History = 10, as_json: JsonLines = False) -> None:
    """Follow items as they are accepted and settle.

    Ends with Ctrl-C.
    """
    from app.database.engine import reading
    from app.outbox.feed import Feed

    wanted = options.filter()
    feed = Feed(replace(wanted, statuses=None))  # an item settles after it is accepted
    with suppress(KeyboardInterrupt), engine_to_read(load_settings()) as engine:
        if not as_json:
            print_text(_line(HEADER))
        while True:
            with reading(engine) as connection:
                step = feed.step(connection, history)
            if step.truncated:
                print_notice(LEFT_OUT)
            for entry in step.entries:
                document = entry_document(entry)
                if wanted.statuses and document["status"] not in wanted.statuses:
                    continue
                print_text(json.dumps(document) if as_json else _line(_cells(document)))
            flush()
            sleep(POLL_SECONDS)


def entry_document(entry: "FeedEntry") -> dict[str, Any]:
    """Return an entry of the feed as JSON."""
    from app.clock import instant
    from app.receipts.document import user_or_device as subject_field

    document: dict[str, Any] = {
        "time": instant(entry.at),
        "settled": entry.settled,
        "app": entry.app,
        "id": entry.id,
        "action": entry.action,
    }
    if entry.event is not None:
        document["event"] = entry.event
    status = entry.status if entry.settled else "accepted"
    return document | subject_field(entry.subject) | {"status": status}


def _cells(document: dict[str, Any]) -> tuple[str, ...]:
    names = ("time", "status", "app", "action")
    event, user = document.get("event", "-"), user_or_device(document)
    return (*(document[name] for name in names), event, user, document["id"])


def _line(cells: tuple[str, ...]) -> str:
    shown = [printable(cell) for cell in cells]
    if not sys.stdout.isatty():
        return "\t".join(shown)
    padded = [f"{cell:<{width}}" for cell, width in zip(shown, WIDTHS, strict=True)]
    return "  ".join(padded).rstrip()
