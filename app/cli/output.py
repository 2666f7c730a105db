"""The forms in which commands print: tables, texts and JSON on standard output.

On a terminal a table is aligned below its header; else its columns are separated by tabs, for
scripts. With `--json`, standard output has one JSON document and nothing else. Whatever is not a
result goes to standard error, in lines that begin with `leanplum-gateway:`.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from app.errors import NotFound

if TYPE_CHECKING:
    from rich.table import Table

NAME = "leanplum-gateway"
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table")]
PAGE_ROWS = 1_000  # rows of a table that are aligned with each other
# A time as the API has it; for people without milliseconds, and in two parts that may be wrapped
INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\.\d{3}Z")
CLOSED_PIPE = 141  # what a shell reports for a command that a closed pipe has ended


def print_text(text: str) -> None:
    """Print lines of a result."""
    with quiet_pipe():
        sys.stdout.write(f"{text}\n")


def print_json(document: Any) -> None:
    """Print a result as one JSON document."""
    print_text(json.dumps(document, indent=2))


def print_rows(
    rows: Iterable[Any],
    header: Sequence[str],
    cells: Callable[[Any], Sequence[str]],
    *,
    as_json: bool,
    empty: str,
) -> None:
    """Print rows as a JSON list or a table.

    `cells` returns the columns of a row. Raises NotFound with the text `empty` if there are no
    rows, so that the command exits with 1.
    """
    remaining = iter(rows)
    first = list(islice(remaining, 1))
    if as_json:
        print_json_list(chain(first, remaining))
    if not first:
        raise NotFound(empty)
    if not as_json:
        print_table(header, map(cells, chain(first, remaining)))


def print_json_list(rows: Iterable[Any]) -> None:
    """Print one JSON list row by row: there may be more rows than fit into memory.

    Nothing is printed before the first row is known, or it is known that there is none.
    """
    separator = "["
    with quiet_pipe():
        for row in rows:
            sys.stdout.write(f"{separator}\n{json.dumps(row)}")
            separator = ","
        sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below a header: aligned on a terminal, else separated by tabs."""
    printable_rows = ([printable(cell) for cell in row] for row in rows)
    with quiet_pipe():
        if sys.stdout.isatty():
            _print_aligned(header, printable_rows)
        else:
            for row in chain([header], printable_rows):
                sys.stdout.write("\t".join(row) + "\n")


def _print_aligned(header: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    while page := list(islice(rows, PAGE_ROWS)):
        console.print(_table(header, page))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for title in header:
        # A cell that is too wide goes on in the next line: an id can be read and copied
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(INSTANT.sub(r"\1 \2Z", cell)) for cell in row))
    return table


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print the fields of one thing: names and values, aligned on a terminal."""
    lines = [(name, printable(value)) for name, value in fields]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print_text(f"{name:<{width}}  {value}" if sys.stdout.isatty() else f"{name}\t{value}")


def printable(text: str) -> str:
    """Return a text with every character that controls a terminal, or a table, escaped.

    Callers choose ids and names, and Leanplum its texts.
    """
    if text.isprintable():
        return text
    characters = [char if char.isprintable() else ascii(char)[1:-1] for char in text]
    return "".join(characters)


def print_notice(text: str) -> None:
    """Print what is not a result, on standard error."""
    sys.stderr.writelines(f"{NAME}: {line}\n" for line in text.splitlines())


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """End the process quietly if nobody reads its standard output any more."""
    try:
        yield
    except BrokenPipeError:
        _end_quietly()


def flush() -> None:
    """Write what is printed but still in memory."""
    with quiet_pipe():
        sys.stdout.flush()


def _end_quietly() -> NoReturn:
    # What is still in memory would fail again when the interpreter ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(CLOSED_PIPE)
