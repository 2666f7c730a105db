"""The users and devices that replays and discards of dead letters were about.

A run is shown for a while with what chose its dead letters, as somebody entered it. An erasure
removes the names of its subjects from there too.
"""

from collections.abc import Collection

import orjson

from app import ids
from app.database.driver import Cursor

ERASED = "(erased)"
KINDS = {"user": "u", "device": "d"}
SELECT = "SELECT id, choice FROM dead_letter_runs WHERE app = ?"
UPDATE = "UPDATE dead_letter_runs SET choice = ? WHERE id = ?"


def forget_subjects(cursor: Cursor, app: str, subjects: Collection[str]) -> None:
    """Remove subjects from what the runs of an app were about."""
    cursor.execute(SELECT, (app,))
    for run_id, text in cursor.fetchall():
        choice = orjson.loads(text)
        named = [name for name, kind in KINDS.items() if _subject(choice, name, kind) in subjects]
        if named:
            kept = choice | dict.fromkeys(named, ERASED)
            cursor.execute(UPDATE, (orjson.dumps(kept).decode(), run_id))


def _subject(choice: dict[str, str], name: str, kind: str) -> str | None:
    return f"{kind}{ids.plain(choice[name])}" if name in choice else None
