"""Checks and changes of the rows of an import: CSV in UTF-8 with commas and a header line.

Each row is an action, and its cells are the arguments. Each of the three functions parses the rows,
because they differ in what they accept: actions are found in any encoding, erased users and private
values only in valid CSV. Pure.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Protocol

from app.clock import instant
from app.errors import Fault, Forbidden, Invalid
from app.ids import plain
from app.leanplum.actions import (
    find_similar_action,
    fold_action_name,
    is_allowed_action,
    printable_name,
    unknown_action_message,
)
from app.model import Scope

ACTION = "action"
FOLDED_ACTION = fold_action_name(ACTION)
FOLDED_RESET = fold_action_name("resetAnomalies")
# The scopes of actions that any import may contain; others need their own scope.
IMPORT_SCOPES = frozenset({Scope.EVENTS_WRITE, Scope.USERS_WRITE, Scope.SDK})
ARGUMENT = re.compile(r"\s*(?:[A-Za-z_]\w*(?:\..*)?)?\s*\Z", re.DOTALL)
PLAIN_NAME = re.compile(r"\s*(?:[A-Za-z_][\w ]*(?:\.[^;|\t\r\n]*)?)?\s*\Z")
CHECKED_NAME = re.compile(r"\b(?:action|resetanomalies)\b", re.IGNORECASE)
SUBJECT_KINDS = {"userId": "u", "newUserId": "u", "deviceId": "d"}
ROWS_PER_STEP = 500
MAX_HEADER_SCAN = 64 * 1024  # bytes in which an action is searched if no header can be read

NO_MULTI = "A batch (multi) can't be a row of an import."
NO_ACTIONS = "must be comma-separated UTF-8 text, since its first line names an action"
NO_SUBJECTS = (
    "must be comma-separated UTF-8 text with the names of the columns in its first line, "
    "so that users who were erased are found"
)
NO_CELLS = "must be comma-separated UTF-8 text, so that privacy rules can be applied"
NO_HEADER = "must name the arguments in its first line, separated by commas"
ERASED = (
    "names a user who was erased in row {row} after the first line, and is refused until {until}; "
    "nothing was imported"
)


class CellGuard(Protocol):
    """Applies privacy rules to the cells of a row."""

    def cover_cell(self, path: str, text: str) -> str:
        """Return what is left of a cell in the column of this path; "" if it is dropped."""
        ...


# --- actions ----------------------------------------------------------------------------------


def check_action(action: str, scopes: Set[Scope], extra: Set[str]) -> None:
    """Check an action of an import: events and updates, and what else the key's scopes allow.

    `extra`: unknown actions that a setting allows. Raises Forbidden.
    """
    if not is_allowed_action(action, extra):
        raise Forbidden(unknown_action_message(action))
    known = find_similar_action(action)
    if known is None:
        return
    if known.name == "multi":
        raise Forbidden(NO_MULTI)
    if known.scope not in IMPORT_SCOPES | scopes:
        raise Forbidden(_needs(f"{printable_name(action)} in an import", known.scope))


def check_actions(content: bytes, scopes: Set[Scope], extra: Set[str]) -> Iterator[None]:
    """Check the actions that rows name; yield once every 500 rows.

    Rows are not read if the header names no action. Raises Forbidden; Invalid if the header names
    an action and the rows cannot be read.
    """
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", "surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    names = _folded_header(reader, content)
    if FOLDED_RESET in names and Scope.USERS_WRITE not in scopes:
        raise Forbidden(_needs("resetAnomalies in an import", Scope.USERS_WRITE))
    columns = [column for column, name in enumerate(names) if name == FOLDED_ACTION]
    if not columns:
        return
    checked = {""}
    try:
        for number, row in enumerate(reader):
            actions = {row[column] for column in columns if column < len(row)}
            for action in actions - checked:
                if action.strip():
                    check_action(action, scopes, extra)
                checked.add(action)
            if number % ROWS_PER_STEP == 0:
                yield
    except csv.Error:
        raise Invalid((Fault("", NO_ACTIONS, "type"),)) from None


def _folded_header(reader: Iterator[list[str]], content: bytes) -> list[str]:
    """Return the folded names of the columns; [] if there is no header that names an action.

    Raises Invalid if a name may be an action's, but it is unclear where it begins.
    """
    unreadable = Invalid((Fault("", NO_ACTIONS, "type"),))
    try:
        header = next(reader, [])
    except csv.Error:
        if len(content) > MAX_HEADER_SCAN or _may_name_action(content.decode("latin-1")):
            raise unreadable from None
        return []
    if all(map(PLAIN_NAME.match, header)):
        return list(map(fold_action_name, header))
    if _may_name_action(content.partition(b"\n")[0].decode("latin-1") + "\n".join(header)):
        raise unreadable
    return []


def _may_name_action(text: str) -> bool:
    """Return whether a text that is no header contains an action's name, in any encoding."""
    return CHECKED_NAME.search(text.replace("\0", "")) is not None


def _needs(subject: str, scope: Scope) -> str:
    return f"{subject} needs a caller key with the scope {scope.value}."


# --- erased users -----------------------------------------------------------------------------


def check_erased(content: bytes, find_end: Callable[[str], int | None]) -> Iterator[None]:
    """Check that no row names an erased user or device; yield once a row. Raises Invalid.

    `find_end` returns until when (milliseconds) an erased one is refused, and None for another.
    """
    try:
        reader = _strict_reader(content)
        header: Sequence[str] = next(reader, ())
        for text in header:
            if not ARGUMENT.match(text) and any(kind in text for kind in SUBJECT_KINDS):
                raise Invalid((Fault("", NO_SUBJECTS, "erased"),))
        names = [text.strip() for text in header]
        kinds = {
            column: SUBJECT_KINDS[name]
            for column, name in enumerate(names)
            if name in SUBJECT_KINDS
        }
        for number, row in enumerate(reader, 1):
            for column, kind in kinds.items():
                subject = plain(row[column]) if column < len(row) else ""
                end = find_end(f"{kind}{subject}") if subject else None
                if end is not None:
                    detail = ERASED.format(row=number, until=instant(end))
                    raise Invalid((Fault("", detail, "erased"),))
            yield
    except (UnicodeDecodeError, csv.Error):
        raise Invalid((Fault("", NO_SUBJECTS, "erased"),)) from None


# --- privacy rules ----------------------------------------------------------------------------


def cover_rows(
    content: bytes, default_action: str, guard_of: Callable[[str], CellGuard | None]
) -> Iterator[bytes]:
    """Yield the lines of an import with the privacy rules of each row's action applied.

    A cell that is dropped is empty; one without a name above it is left out. Raises Invalid.
    """
    try:
        reader = _strict_reader(content)
        header: Sequence[str] = next(reader, ())
        if not all(map(ARGUMENT.match, header)):
            raise Invalid((Fault("", NO_HEADER, "privacy"),))
        yield _line(header)
        paths = [name.strip() for name in header]
        for row in reader:
            action = _action_of(paths, row)
            guard = guard_of(default_action if action is None else action)
            cells = row[: len(paths)]
            if guard is not None:
                cells = [
                    guard.cover_cell(path, cell) for path, cell in zip(paths, cells, strict=False)
                ]
            yield _line(cells)
    except (UnicodeDecodeError, csv.Error):
        raise Invalid((Fault("", NO_CELLS, "privacy"),)) from None


def _action_of(paths: Sequence[str], row: Sequence[str]) -> str | None:
    """Return the action that a row names; None if it names none, "" if it names several."""
    pairs = zip(paths, row, strict=False)
    actions = {cell for path, cell in pairs if path == ACTION and cell}
    if not actions:
        return None
    return actions.pop() if len(actions) == 1 else ""


def _strict_reader(content: bytes) -> Iterator[list[str]]:
    """Return the rows of valid CSV. Raises UnicodeDecodeError, and csv.Error while reading."""
    return csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogatepass")
