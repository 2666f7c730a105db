"""Dead letters in groups: by app, action, status and what Leanplum said.

Only the newest dead letters are looked at, so that this is cheap however many there are.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import orjson
from sqlalchemy import Connection

from app.database.driver import DIALECTS, read_rows
from app.encryption import BodyCipher, answer_context
from app.model import ENCRYPTED_PREFIX, Receipt

SCANNED = 5_000  # dead letters that are looked at, the newest of all apps
MOST_GROUPS = 100
MOST_CHARACTERS = 300
NO_WORDS = "(nothing was said)"
UNREADABLE = "(encrypted with a key that is not configured here)"
# Numbers that differ from item to item, such as times and ids; statuses and small counts stay
_NUMBERS = re.compile(r"\d{4,}(?:[.,:-]\d+)*")
LEAST_SUBJECT = 3  # characters; a shorter id may be part of any word
COLUMNS = "seq, app, action, status, subject, settled_at, leanplum"
NEWEST = """
SELECT i.seq, a.app, i.action, i.status, i.subject, i.settled_at, i.leanplum
FROM (
    SELECT seq FROM items WHERE settled_at IS NOT NULL AND body IS NOT NULL
    ORDER BY seq DESC LIMIT ?
) AS d JOIN items i ON i.seq = d.seq JOIN acceptances a ON a.first_seq = i.acceptance
WHERE a.app IN {apps} ORDER BY i.seq DESC
"""
COUNT = """
SELECT count(*) FROM (
    SELECT seq FROM items WHERE settled_at IS NOT NULL AND body IS NOT NULL LIMIT ?
) AS d
"""


@dataclass(slots=True)
class DeadLetterGroup:
    """Dead letters of one reason: how many were seen, and the times of the oldest and newest.

    Times are in milliseconds, of when the items became dead letters.
    """

    app: str
    action: str
    status: str
    reason: str
    items: int
    oldest_at: int
    newest_at: int


class DeadLetterGroups(NamedTuple):
    """Groups, the largest first; `truncated` if more dead letters are there than were seen."""

    groups: list[DeadLetterGroup]
    seen: int
    truncated: bool


def reason_of(said: str | None, subject: str) -> str:
    """Return the reason in Leanplum's answer (JSON), the same for all items that it is about.

    What differs from item to item, such as the user's id, is left out. White space is one space.
    """
    if not said:
        return NO_WORDS
    if said[:1] == ENCRYPTED_PREFIX:
        return UNREADABLE
    answer = orjson.loads(said)
    words = str(answer.get("error") or answer.get("warning") or NO_WORDS)
    if len(subject) > LEAST_SUBJECT:
        words = words.replace(subject[1:], "…")
    one_line = " ".join(_NUMBERS.sub("…", words).split())
    return one_line[:MOST_CHARACTERS].strip() or NO_WORDS


def reason_of_receipt(receipt: Receipt) -> str:
    """Return the reason of a dead letter, as `reason_of` does."""
    if receipt.leanplum_unreadable:
        return UNREADABLE
    said = None if receipt.leanplum is None else orjson.dumps(receipt.leanplum).decode()
    return reason_of(said, receipt.subject)


def find_groups(
    connection: Connection, apps: Collection[str], cipher: BodyCipher
) -> DeadLetterGroups:
    """Return the groups of the newest dead letters of these apps."""
    dialect = DIALECTS[connection.dialect.name]
    statement = NEWEST.format(apps=dialect.values("text"))
    names = orjson.dumps(sorted(apps)).decode()
    rows = read_rows(connection, COLUMNS, statement, (SCANNED, names))
    groups: dict[tuple[str, str, str, str], DeadLetterGroup] = {}
    for seq, app, action, status, subject, settled_at, leanplum in rows:
        said = leanplum and cipher.decrypt(leanplum, answer_context(app, seq))
        key = (app, action, status, reason_of(said, subject))
        group = groups.setdefault(key, DeadLetterGroup(*key, 0, settled_at, settled_at))
        group.items += 1
        group.oldest_at = min(group.oldest_at, settled_at)
        group.newest_at = max(group.newest_at, settled_at)
    total = connection.exec_driver_sql(dialect.sql(COUNT), (SCANNED + 1,)).scalar_one()
    largest = sorted(groups.values(), key=lambda group: -group.items)
    return DeadLetterGroups(largest[:MOST_GROUPS], len(rows), int(total) > SCANNED)
