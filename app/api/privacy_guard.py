"""Privacy rules over what no item is made of: the arguments of a call, its files, the rows of an
import.
"""

from collections.abc import Sequence
from typing import Any

from app.bootstrap import Gateway
from app.clock import now_ms
from app.enrichment.call_enricher import Enriching
from app.errors import Fault, Forbidden, Invalid
from app.http.request import Context
from app.http.time_slices import in_slices
from app.ingest import import_rows
from app.leanplum.client import FilePart
from app.model import Caller

IN_A_BUCKET = "can't be used: privacy rules are in force, and the gateway does not see that file; send the rows"
FILE = "A privacy rule is over this file: it is not sent on."
UNKNOWN_MEDIA = "application/octet-stream"


def refiner_of(gateway: Gateway, context: Context, caller: Caller) -> Enriching:
    """Return what knows the rules for a caller."""
    return gateway.enrichment.refiner(context.app_name, caller.key_id, now_ms())


def arguments(
    gateway: Gateway, context: Context, caller: Caller, action: str, fields: dict[str, Any]
) -> None:
    """Take out of the arguments of a call, in place, what must not be sent on."""
    refiner_of(gateway, context, caller).privacy(action, fields)


def files(
    gateway: Gateway, context: Context, caller: Caller, action: str, found: Sequence[FilePart]
) -> list[FilePart]:
    """Return the files of a call, whose names and media types are under the rules. Raises Forbidden
    for a file that a rule is over as a whole. What is in files is not looked at."""
    refiner = refiner_of(gateway, context, caller)
    if not refiner.ruled:
        return list(found)
    made = list[FilePart]()
    for name, (filename, file, media) in found:
        if refiner.is_ruled(action, name):
            raise Forbidden(FILE)
        told = {"filename": filename, "contentType": media}
        refiner.privacy(action, told)
        media = media if told.get("contentType") == media else UNKNOWN_MEDIA
        made.append((name, (told.get("filename", name), file, media)))
    return made


async def rows(
    gateway: Gateway, context: Context, caller: Caller, content: bytes, default_action: str
) -> bytes:
    """Return the rows of an import without what must not be sent on. Raises Invalid, also where one
    names whoever was erased.
    """
    if (is_erased := await gateway.outbox.tells_erased(context.app_name)) is not None:
        await in_slices(import_rows.refuse_erased(content, is_erased))
    refiner = refiner_of(gateway, context, caller)
    if not refiner.ruled:
        return content
    return b"".join(await in_slices(refiner.rows(content, default_action)))


def refuse_bucket(gateway: Gateway, context: Context, caller: Caller) -> None:
    """Raise Invalid for an import from a bucket where there is a rule: nobody could apply it."""
    if refiner_of(gateway, context, caller).ruled:
        raise Invalid((Fault("/gcsBucket", IN_A_BUCKET, "privacy"),))
