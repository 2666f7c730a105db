"""HTTP answers in Leanplum's envelope and with its headers (fact sheet §1, §4)."""

import json
from dataclasses import dataclass, field
from typing import Any

Entry = dict[str, Any]

JSON_TYPE = "application/json;charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """What goes back; with `hang_up` nothing does, and the connection is closed."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False


def enveloped(entries: list[Entry], status: int = 200) -> Answer:
    return Answer(status, json.dumps({"response": entries}, separators=(",", ":")).encode())


def refused(message: str, status: int) -> Answer:
    """An answer to the call as a whole: one failed entry, whatever was asked."""
    return enveloped([{"success": False, "error": {"message": message}}], status)


def redirect(location: str) -> Answer:
    return Answer(302, b"", HTML_TYPE, {"Location": location})


def page(title: str, status: int) -> Answer:
    """An HTML page as a load balancer or a proxy sends it."""
    body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return Answer(status, body.encode(), HTML_TYPE)
