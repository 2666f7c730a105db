"""The text of the committed OpenAPI document: short values take one line."""

import json
from collections.abc import Iterable
from typing import Any

WIDTH = 100
INDENT = " "


def render(document: dict[str, Any]) -> str:
    """Return the document as JSON text."""
    return _text(document, "", WIDTH) + "\n"


def _text(node: Any, margin: str, room: int) -> str:
    """Return the JSON of a part: on one line if it has room, else one member per line."""
    line = json.dumps(node, ensure_ascii=False)
    if len(line) <= room or not node or not isinstance(node, dict | list):
        return line
    inner = margin + INDENT
    if isinstance(node, list):
        members = [_text(member, inner, WIDTH - len(inner)) for member in node]
        return _block("[]", members, margin)
    return _block("{}", [_member(name, node[name], inner) for name in node], margin)


def _member(name: str, value: Any, margin: str) -> str:
    label = f"{json.dumps(name, ensure_ascii=False)}: "
    return label + _text(value, margin, WIDTH - len(margin) - len(label))


def _block(brackets: str, members: Iterable[str], margin: str) -> str:
    lines = f",\n{margin}{INDENT}".join(members)
    return f"{brackets[0]}\n{margin}{INDENT}{lines}\n{margin}{brackets[1]}"
