"""The commands about receipts: `receipts find|show`. They only read."""

import json
from collections import defaultdict
from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import configured_apps, load_settings, read_only, with_options
from app.cli.items import ItemOptions, leanplum_words, user_or_device
from app.cli.output import AsJson, print_fields, print_json, print_rows
from app.cli.progress import progress
from app.errors import NotFound, StartRefused

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from app.encryption import BodyCipher
    from app.model import Receipt
    from app.outbox.item_filter import ItemFilter
    from app.receipts import WaitExplanation
    from app.settings import Settings

receipts_cli = typer.Typer(help="Find items and show what became of them.", no_args_is_help=True)

HEADER = ("ACCEPTED", "STATUS", "APP", "ACTION", "EVENT", "USER", "ID", "LEANPLUM")
PAGE = 500
EXPLAINED = 1_000  # receipts whose reason for waiting is looked up
ItemId = Annotated[str, typer.Argument(help="The id of the item: yours, or the gateway's")]


@receipts_cli.command("find")
@with_options
def find_receipts(
    options: ItemOptions,
    since: Annotated[
        str | None, typer.Option(help="Only items accepted at this time (RFC 3339) or later")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only items accepted before this time")] = None,
    request: Annotated[
        str | None, typer.Option(help="Only items of the request with this X-Request-ID")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first")] = 100,
    as_json: AsJson = False,
) -> None:
    """Find receipts, newest first, whatever became of the items."""
    which = options.filter(request, since, until)
    with progress("Searching"):
        documents = _search(load_settings(), which, limit)
    empty = "No receipts match. They are kept for GATEWAY_DEDUP_SECONDS."
    print_rows(documents, HEADER, _row, as_json=as_json, empty=empty)


@receipts_cli.command("show")
def show_receipt(
    item_id: ItemId,
    app: Annotated[str | None, typer.Option(help="The app, if several have this id")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the receipt of an item: its state, attempts, and what Leanplum said."""
    documents = list(_find_by_id(load_settings(), item_id, app))
    if not documents:
        raise NotFound(
            f"No item has the id {item_id}, or its receipt is past GATEWAY_DEDUP_SECONDS."
        )
    if len(documents) > 1:
        names = ", ".join(document["app"] for document in documents)
        raise StartRefused(f"--app: is required, since several apps have this id: {names}")
    if as_json:
        print_json(documents[0])
    else:
        print_fields(receipt_fields(documents[0]))


def _find_by_id(settings: "Settings", item_id: str, app: str | None) -> Iterator[dict[str, Any]]:
    """Yield the receipts of an id: each app has ids of its own."""
    from app.encryption import BodyCipher
    from app.outbox import receipts
    from app.outbox.app_names import apps_of_id
    from app.receipts import explain_all

    cipher = BodyCipher(settings.data_keys, None)
    with read_only(settings) as connection:
        names = apps_of_id(connection, item_id) if app is None else [app]
        for name in names:
            receipt = receipts.find(connection, name, item_id, cipher)
            if receipt is None:
                continue
            explained = explain_all([receipt], receipts.find_waits(connection, name, [receipt]))
            yield _document(settings, name, receipt, explained.get(receipt.seq))


def _search(settings: "Settings", which: "ItemFilter", limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` receipts of the chosen apps, newest first."""
    from app.encryption import BodyCipher
    from app.outbox.app_names import app_names
    from app.outbox.receipts import find_waits
    from app.receipts import explain_all

    cipher = BodyCipher(settings.data_keys, None)
    with read_only(settings) as connection:
        names = which.apps or {*app_names(connection), *configured_apps(settings)}
        of_each = [_search_app(connection, name, which, limit, cipher) for name in sorted(names)]
        newest = list(islice(merge(*of_each, key=lambda found: -found[0].seq), limit))
        of_app: dict[str, list[Receipt]] = defaultdict(list)
        for receipt, name in newest[:EXPLAINED]:
            of_app[name].append(receipt)
        explained = {
            name: explain_all(found, find_waits(connection, name, found))
            for name, found in of_app.items()
        }
        return [
            _document(settings, name, receipt, explained.get(name, {}).get(receipt.seq))
            for receipt, name in newest
        ]


def _search_app(
    connection: "Connection", app: str, which: "ItemFilter", limit: int, cipher: "BodyCipher"
) -> "Iterator[tuple[Receipt, str]]":
    """Yield the receipts of one app with its name, newest first, as far as they are needed."""
    from app.outbox.search import ReceiptSearch, search

    before: int | None = None
    while True:
        wanted = ReceiptSearch(app, which, before=before, limit=min(limit, PAGE))
        found, before = search(connection, wanted, cipher)
        yield from ((receipt, app) for receipt in found)
        if before is None:
            return


def _document(
    settings: "Settings",
    app: str,
    receipt: "Receipt",
    explanation: "WaitExplanation | None" = None,
) -> dict[str, Any]:
    """Return a receipt as the API shows it, with its app."""
    from app.receipts import receipt_document

    prefix = settings.gateway_root_path
    return {"app": app} | receipt_document(receipt, explanation=explanation, prefix=prefix)


def _row(document: dict[str, Any]) -> tuple[str, ...]:
    accepted, status, app, action = (
        document[name] for name in ("acceptedAt", "status", "app", "action")
    )
    if "waitingFor" in document:
        status = f"{status} ({document['waitingFor']['reason']})"
    event, user = document.get("event", "-"), user_or_device(document)
    return accepted, status, app, action, event, user, document["id"], leanplum_words(document)


def receipt_fields(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields of a receipt for people; lists and objects are JSON."""
    for name, value in document.items():
        if name == "leanplum":
            yield name, leanplum_words(document) if set(value) - {"success"} else "success"
        elif isinstance(value, str | int):
            yield name, str(value)
        else:
            yield name, json.dumps(value)
