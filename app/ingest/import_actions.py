"""Judge the actions that the rows of an import name, by the scopes of its caller. Pure."""

import csv
import io
import re
from collections.abc import Iterator, Set

from app.errors import Fault, Forbidden, Invalid
from app.leanplum.actions import (
    find_similar_action,
    fold_action_name,
    is_allowed_action,
    printable_name,
    unknown_action_message,
)
from app.model import Scope

ACTION, RESETS = fold_action_name("action"), fold_action_name("resetAnomalies")
BROUGHT = frozenset({Scope.EVENTS_WRITE, Scope.USERS_WRITE, Scope.SDK})  # what imports are for
PLAIN = re.compile(r"\s*(?:[A-Za-z_][\w ]*(?:\.[^;|\t\r\n]*)?)?\s*\Z")
JUDGED = re.compile(r"\b(?:action|resetanomalies)\b", re.IGNORECASE)
UNREADABLE = "must be comma-separated UTF-8 text, since its first line names an action"
ROWS_AT_ONCE = 500
MOST_NAMES = 64 * 1024  # bytes in which an action is looked for where no names can be read
MULTI = "A batch can't be a row of an import."


def permit(action: str, scopes: Set[Scope], extra: Set[str]) -> None:
    """Let an import bring an action: events and changes of users, and what else the key may do.
    Raises Forbidden."""
    if not is_allowed_action(action, extra):
        raise Forbidden(unknown_action_message(action))
    known = find_similar_action(action)
    if known is None or (known.scope in BROUGHT | scopes and known.name != "multi"):
        return
    if known.name == "multi":
        raise Forbidden(MULTI)
    raise Forbidden(_needs(f"{printable_name(action)} in an import", known.scope))


def permit_rows(content: bytes, scopes: Set[Scope], extra: Set[str]) -> Iterator[None]:
    """Let an import bring the actions that its rows name; yield once for some of them.

    A text whose first line names no action is not read any further. Raises Forbidden; Invalid where
    actions are named and can't be read.
    """
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", "surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    names = _names(reader, content)
    if RESETS in names and Scope.USERS_WRITE not in scopes:
        raise Forbidden(_needs("resetAnomalies in an import", Scope.USERS_WRITE))
    columns = [at for at, name in enumerate(names) if name == ACTION]
    seen = {""}
    try:
        for number, row in enumerate(reader if columns else ()):
            for action in {row[at] for at in columns if at < len(row)} - seen:
                if action.strip():
                    permit(action, scopes, extra)
                seen.add(action)
            if number % ROWS_AT_ONCE == 0:
                yield
    except csv.Error:
        raise _unreadable() from None


def _names(reader: Iterator[list[str]], content: bytes) -> list[str]:
    """Return the folded names of the columns. Raises Invalid where one of them may be an action's
    and nobody knows where it begins."""
    try:
        first = next(reader, [])
    except csv.Error:
        if len(content) > MOST_NAMES or _names_action(content.decode("latin-1")):
            raise _unreadable() from None
        return []
    if all(map(PLAIN.match, first)):
        return list(map(fold_action_name, first))
    if _names_action(content.partition(b"\n")[0].decode("latin-1") + "\n".join(first)):
        raise _unreadable()
    return []


def _names_action(text: str) -> bool:
    """Tell whether a text that is no list of names has an action's, in whatever encoding."""
    return JUDGED.search(text.replace("\0", "")) is not None


def _unreadable() -> Invalid:
    return Invalid((Fault("", UNREADABLE, "type"),))


def _needs(what: str, scope: Scope) -> str:
    return f"{what} needs a caller key with the scope {scope.value}."
