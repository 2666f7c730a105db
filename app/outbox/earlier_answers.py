"""The storage of Leanplum's answers to attempts after which an item is sent again.

They are lines in a column of the item, each with its time and the answer as it is stored, so that
writing one reads nothing. Only attempts that are repeated cost anything.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from app.encryption import BodyCipher, answer_context
from app.model import ENCRYPTED_PREFIX

MAX_CHARACTERS = 2_000  # of one item; the oldest answers beyond that are removed
# The last lines of the column. The first of them may be a part of one.
_LAST = f"""CASE WHEN length(items.earlier) > {MAX_CHARACTERS}
  THEN substr(items.earlier, length(items.earlier) - {MAX_CHARACTERS} + 1)
  ELSE coalesce(items.earlier, '') END"""
# The column with the line of a change `v`; NULL removes all lines
APPENDED = f"""CASE WHEN v.earlier IS NULL THEN NULL
  WHEN v.earlier = '' THEN items.earlier ELSE {_LAST} || v.earlier END"""
# The column with the answer to a dead letter that is sent again; the parameter is a line's end
REPLAYED = f"""CASE WHEN leanplum IS NULL THEN earlier
  ELSE {_LAST} || settled_at || ' ' || leanplum || ? END"""
LINE_END = "\n"
LINE = re.compile(r"(\d{13}) (.+)")


class EarlierAnswer(NamedTuple):
    """Leanplum's answer to an attempt; `answer` is None if it cannot be decrypted.

    `at`: when the attempt ended, in milliseconds.
    """

    at: int
    answer: dict[str, Any] | None


def line(at: int, stored: str | None) -> str:
    """Return the line of an answer as it is stored; "" without one."""
    return "" if stored is None else f"{at} {stored}{LINE_END}"


def read(text: str | None, cipher: BodyCipher, app: str, seq: int) -> Sequence[EarlierAnswer]:
    """Return the answers in an item's column, oldest first; an answer that was cut is left out."""
    text = text or ""
    if len(text) > MAX_CHARACTERS:
        _, _, text = text.partition(LINE_END)
    lines = [LINE.fullmatch(each) for each in text.split(LINE_END)]
    context = answer_context(app, seq)
    return [
        EarlierAnswer(int(found[1]), _answer(cipher.decrypt(found[2], context)))
        for found in lines
        if found is not None
    ]


def _answer(text: str) -> dict[str, Any] | None:
    return None if text[:1] == ENCRYPTED_PREFIX else orjson.loads(text)
