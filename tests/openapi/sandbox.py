"""A sandbox in which the examples of the OpenAPI document are tried."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.openapi import Operation, operations_of
from tests.support.processes import Process, serving
from tests.support.wait import until

EXAMPLE_KEY_ID = "key_0123456789abcdef"
NO_LEANPLUM: dict[str, str | None] = {
    **dict.fromkeys(("LEANPLUM_APP_ID", "LEANPLUM_PRODUCTION_KEY", "LEANPLUM_API_URL")),
    "GATEWAY_SANDBOX_PORT": "0",
}


@contextmanager
def sandbox_with_a_sealed_record(folder: Path) -> Iterator[Process]:
    """Run a sandbox whose audit log has a checkpoint, as proofs need it."""
    with serving(folder, "", "--sandbox", **NO_LEANPLUM) as gateway:
        gateway.event("user-0", 1)
        until(lambda: gateway.call("GET", "/v1/audit/checkpoint").status_code == 200)
        yield gateway


def operations_in_order(document: dict[str, Any]) -> list[Operation]:
    """Return the operations of a document; a key is revoked last, since it is rotated before."""
    return sorted(
        operations_of(document),
        key=lambda operation: operation.raw["operationId"] == "revokeKey",
    )
