"""The pages and operations of the console, with the scopes that each needs besides `console:read`.

Add a row for each page and operation: the tests of scopes, of forged requests and of methods follow
the table, and fail for a route that is missing here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from app.model import Scope


class Operation(NamedTuple):
    """A page (GET) or an operation (POST). `path` is below `/console`; `form` has its fields.

    `done` are the statuses with which a request that is allowed may be answered.
    """

    method: str
    path: str
    scopes: frozenset[Scope] = frozenset()
    form: Mapping[str, Any] = MappingProxyType({})
    done: frozenset[int] = frozenset({200, 303})


def needs(*scopes: Scope) -> frozenset[Scope]:
    return frozenset(scopes)


OF_APP = MappingProxyType({"app": "default"})
NEW_KEY = MappingProxyType({"name": "new", "scopes": "events:write", "apps": "default"})
MISSING = frozenset({404})  # the path has a placeholder, which names nothing
OPERATIONS = (
    Operation("GET", ""),
    Operation("POST", "/sign-out"),
    Operation("GET", "/find", needs(Scope.RECEIPTS_READ)),
    Operation("GET", "/find/receipt", needs(Scope.RECEIPTS_READ), done=MISSING),
    Operation("GET", "/live", needs(Scope.RECEIPTS_READ)),
    Operation("GET", "/dead-letters", needs(Scope.DEAD_LETTERS_MANAGE)),
    Operation("GET", "/dead-letters/selection", needs(Scope.DEAD_LETTERS_MANAGE)),
    Operation("POST", "/dead-letters/replay", needs(Scope.DEAD_LETTERS_MANAGE), OF_APP),
    Operation("POST", "/dead-letters/discard", needs(Scope.DEAD_LETTERS_MANAGE), OF_APP),
    Operation("GET", "/dead-letters/runs/{run_id}", needs(Scope.DEAD_LETTERS_MANAGE), done=MISSING),
    Operation("GET", "/keys", needs(Scope.KEYS_MANAGE)),
    Operation("GET", "/keys/new", needs(Scope.KEYS_MANAGE)),
    Operation("POST", "/keys/create", needs(Scope.KEYS_MANAGE), NEW_KEY),
    Operation("GET", "/keys/{key_id}", needs(Scope.KEYS_MANAGE), done=MISSING),
    Operation("POST", "/keys/{key_id}/rotate", needs(Scope.KEYS_MANAGE), done=MISSING),
    Operation("POST", "/keys/{key_id}/revoke", needs(Scope.KEYS_MANAGE), done=MISSING),
    Operation("GET", "/tracking-plan", needs(Scope.CONTENT_READ)),
    Operation("GET", "/audit", needs(Scope.AUDIT_READ)),
    Operation("GET", "/audit/{record_id}", needs(Scope.AUDIT_READ), done=MISSING),
    Operation("GET", "/preview"),
    Operation(
        "POST",
        "/preview",
        form=MappingProxyType({"app": "default", "items": "{}"}),
        done=frozenset({200}),
    ),
    Operation("GET", "/{path:path}", done=MISSING),
)
PUBLIC = {("GET", "/sign-in"), ("POST", "/sign-in")}
# They go on without end, so that they are tested apart (test_console_live.py).
STREAMS = (
    Operation("GET", "/stream"),
    Operation("GET", "/live/stream", needs(Scope.RECEIPTS_READ)),
)
