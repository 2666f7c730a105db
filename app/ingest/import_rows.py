"""Whom the rows of an import name. Pure."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence

from app.errors import Fault, Invalid
from app.ids import plain

ARGUMENT = re.compile(r"\s*(?:[A-Za-z_]\w*(?:\..*)?)?\s*\Z", re.DOTALL)
KINDS = {"userId": "u", "newUserId": "u", "deviceId": "d"}
UNREADABLE = (
    "must be comma-separated UTF-8 text with the names of the columns in its first line, "
    "so that users who were erased are found"
)
ERASED = "names a user who was erased in row {row} after the first line; nothing was imported"


def refuse_erased(content: bytes, is_erased: Callable[[str], bool]) -> Iterator[None]:
    """Look through the rows, one a step. Raises Invalid for one that names whoever was erased."""
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        names: Sequence[str] = next(reader, ())
        if any(kind in text for text in names if not ARGUMENT.match(text) for kind in KINDS):
            raise Invalid((Fault("", UNREADABLE, "erased"),))
        columns = [
            (place, KINDS[name])
            for place, text in enumerate(names)
            if (name := text.strip()) in KINDS
        ]
        for number, row in enumerate(reader, 1):
            cells = [(kind, plain(row[place])) for place, kind in columns if place < len(row)]
            if any(text and is_erased(f"{kind}{text}") for kind, text in cells):
                raise Invalid((Fault("", ERASED.format(row=number), "erased"),))
            yield
    except (UnicodeDecodeError, csv.Error):
        raise Invalid((Fault("", UNREADABLE, "erased"),)) from None
