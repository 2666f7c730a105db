"""The commands about receipts: `receipts find|show`. They only read."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import load_settings, read_only
from app.cli.items import leanplum_words
from app.cli.output import AsJson, print_fields, print_json
from app.errors import NotFound, StartRefused

if TYPE_CHECKING:
    from app.model import Receipt
    from app.receipts import WaitExplanation
    from app.settings import Settings

receipts_cli = typer.Typer(help="Find items and show what became of them.", no_args_is_help=True)

HEADER = ("ACCEPTED", "STATUS", "APP", "ACTION", "EVENT", "USER", "ID", "LEANPLUM")
PAGE = 500
ItemId = Annotated[str, typer.Argument(help="The id of the item: yours, or the gateway's")]


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
    from app.receipts import waiting_for

    cipher = BodyCipher(settings.data_keys, None)
    with read_only(settings) as connection:
        names = apps_of_id(connection, item_id) if app is None else [app]
        for name in names:
            receipt = receipts.find(connection, name, item_id, cipher)
            if receipt is None:
                continue
            waits = receipts.find_waits(connection, name, receipt)
            yield _document(settings, name, receipt, waiting_for(receipt, waits))


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


def receipt_fields(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields of a receipt for people; lists and objects are JSON."""
    for name, value in document.items():
        if name == "leanplum":
            yield name, leanplum_words(document) if set(value) - {"success"} else "success"
        elif isinstance(value, str | int):
            yield name, str(value)
        else:
            yield name, json.dumps(value)
