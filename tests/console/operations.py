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


OPERATIONS = (
    Operation("GET", ""),
    Operation("POST", "/sign-out"),
    Operation("GET", "/live", needs(Scope.RECEIPTS_READ)),
    Operation("GET", "/{path:path}", done=frozenset({404})),
)
PUBLIC = {("GET", "/sign-in"), ("POST", "/sign-in")}
# They go on without end, so that they are tested apart (test_console_live.py).
STREAMS = (Operation("GET", "/live/stream", needs(Scope.RECEIPTS_READ)),)
