"""The text of the committed OpenAPI document: a line for each operation and each component."""

import json
from typing import Any

# Depths of what is on a line of its own, by the first level of the document
DEPTHS = {"paths": 3, "components": 3}
OTHER_DEPTH = 1


def render(document: dict[str, Any]) -> str:
    """Return the document as JSON text."""
    return _members(document, DEPTHS) + "\n"


def _members(node: dict[str, Any], depths: dict[str, int]) -> str:
    """Return the JSON of an object with each member on lines of its own."""
    lines = [
        f"{json.dumps(name)}: {_text(value, depths.get(name, OTHER_DEPTH) - 1)}"
        for name, value in node.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}"


def _text(node: Any, depth: int) -> str:
    """Return the JSON of a part; the members of objects at a depth above 0 take lines."""
    if depth > 0 and isinstance(node, dict) and node:
        return _members(node, dict.fromkeys(node, depth))
    return json.dumps(node, ensure_ascii=False, separators=(",", ":"))
