"""The OpenAPI document of the gateway, for tests that go through all operations."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from app.server.application import create_app
from app.settings import Settings

DOCUMENT: dict[str, Any] = create_app(Settings(_env_file=None)).openapi()
PATHS: dict[str, dict[str, Any]] = DOCUMENT["paths"]


class Operation(NamedTuple):
    """An operation of the document."""

    method: str
    path: str
    raw: dict[str, Any]

    @property
    def name(self) -> str:
        """The method and the path, as logs name it."""
        return f"{self.method} {self.path}"


def operations_of(document: dict[str, Any]) -> Iterator[Operation]:
    """Yield every operation of a document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield Operation(method.upper(), path, operation)


def dereferenced(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return what a part of a document refers to, or the part itself."""
    while "$ref" in node:
        place: Any = document
        for name in node["$ref"].removeprefix("#/").split("/"):
            place = place[name]
        node = place
    return node


OPERATIONS = [*operations_of(DOCUMENT)]


def parameters_of(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of an operation of the gateway's document."""
    return [dereferenced(DOCUMENT, parameter) for parameter in operation.get("parameters", ())]
