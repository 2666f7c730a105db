"""HTTP responses in Leanplum's envelope (fact sheet §1, §4), and the state of the migration."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

Entry = dict[str, Any]

JSON_TYPE = "application/json;charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"


@dataclass(frozen=True)
class SimulatedResponse:
    """An HTTP response; with `hang_up` the connection is closed and nothing is sent."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False


def envelope(entries: list[Entry], status: int = 200) -> SimulatedResponse:
    """Return the entries in Leanplum's envelope."""
    body = json.dumps({"response": entries}, separators=(",", ":")).encode()
    return SimulatedResponse(status, body)


def refusal(message: str, status: int) -> SimulatedResponse:
    """Refuse the whole call: one failed entry, however many actions it has."""
    return envelope([{"success": False, "error": {"message": message}}], status)


def redirect(location: str) -> SimulatedResponse:
    """Return a redirect without a body."""
    return SimulatedResponse(302, b"", HTML_TYPE, {"Location": location})


def html_page(title: str, status: int) -> SimulatedResponse:
    """Return an HTML page as a load balancer or a proxy sends it."""
    body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return SimulatedResponse(status, body.encode(), HTML_TYPE)


def migration_hash(app_id: str) -> str:
    """Return the hash of an app's migration to CleverTap; SDKs ask again when it changes (§3.8)."""
    return hashlib.sha256(f"lp {app_id}".encode()).hexdigest()


def add_migration_state(response: SimulatedResponse, app_id: str) -> SimulatedResponse:
    """Add a top-level `migrateState`, as newer servers do (§4, §7); only to an envelope."""
    try:
        content = json.loads(response.body)
    except ValueError:
        return response
    content["migrateState"] = {"sha256": migration_hash(app_id)}
    return replace(response, body=json.dumps(content, separators=(",", ":")).encode())
