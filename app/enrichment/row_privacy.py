"""Privacy rules over the rows of an import: each row is an action, and its cells are its arguments.
Pure.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence

from app.enrichment.privacy import Guard
from app.errors import Fault, Invalid
from app.ingest.import_rows import ARGUMENT

GuardOf = Callable[[str], Guard | None]
NO_CSV = "is not CSV in UTF-8 with commas that privacy rules can be applied to"
NO_NAMES = "must name the arguments in its first line, separated by commas"
ACTION = "action"


def guarded(content: bytes, default_action: str, guard_of: GuardOf) -> Iterator[bytes]:
    """Yield the lines of a CSV text without what the rules of each row's action take out.

    A cell that is dropped is empty; one without a name above it is left out. Raises Invalid.
    """
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        names: Sequence[str] = next(reader, ())
        if not all(map(ARGUMENT.match, names)):
            raise Invalid((Fault("", NO_NAMES, "privacy"),))
        yield _line(names)
        paths = [name.strip() for name in names]
        for row in reader:
            action = _action(paths, row)
            guard = guard_of(default_action if action is None else action)
            cells = row[: len(paths)]
            if guard is not None:
                cells = [guard.cell(path, cell) for path, cell in zip(paths, cells, strict=False)]
            yield _line(cells)
    except (UnicodeDecodeError, csv.Error):
        raise Invalid((Fault("", NO_CSV, "privacy"),)) from None


def _action(paths: Sequence[str], row: Sequence[str]) -> str | None:
    """Return what a row says that it is; None where it does not, "" where it says several
    things.
    """
    said = {cell for path, cell in zip(paths, row, strict=False) if path == ACTION and cell}
    return None if not said else said.pop() if len(said) == 1 else ""


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogatepass")
