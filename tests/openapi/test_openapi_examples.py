"""Examples of the OpenAPI document are complete and valid, and work in the sandbox."""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from tests.openapi.sandbox import EXAMPLE_KEY_ID, operations_in_order, sandbox_with_a_sealed_record
from tests.support.openapi import (
    DOCUMENT,
    OPERATIONS,
    Operation,
    dereferenced,
    parameters_of,
)
from tests.support.processes import Process
from tests.support.wait import until

SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def fields() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each field of each schema, with what it refers to."""
    for schema_name, schema in SCHEMAS.items():
        for name, field in schema.get("properties", {}).items():
            yield f"{schema_name}.{name}", dereferenced(DOCUMENT, field) | field


def examples_of(part: dict[str, Any]) -> list[Any]:
    """Return the examples of a parameter, a schema or a media type."""
    examples = [part["example"]] if "example" in part else []
    examples += part.get("examples", []) if isinstance(part.get("examples"), list) else []
    return examples + ([part["const"]] if "const" in part else [])


def faults(schema: dict[str, Any], value: Any) -> list[str]:
    validator = jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})
    return [fault.message for fault in validator.iter_errors(value)]


def test_every_field_has_a_description_and_an_example() -> None:
    lacking = [
        name for name, field in fields() if not field.get("description") or not examples_of(field)
    ]
    assert lacking == []


def test_every_parameter_has_a_description_and_an_example() -> None:
    lacking = [
        f"{operation.name} {parameter['name']}"
        for operation in OPERATIONS
        for parameter in parameters_of(operation.raw)
        if not parameter.get("description")
        or not examples_of(parameter) + examples_of(parameter["schema"])
    ]
    assert lacking == []


def test_every_successful_response_has_a_description_and_an_example() -> None:
    lacking = []
    for operation in OPERATIONS:
        for status, shared in operation.raw["responses"].items():
            response = dereferenced(DOCUMENT, shared)
            assert response["description"], (operation.name, status)
            for content in response.get("content", {}).values():
                schema = dereferenced(DOCUMENT, content["schema"])
                if status.startswith("2") and not examples_of(content) + examples_of(schema):
                    lacking.append(f"{operation.name} {status}")
    assert lacking == []


def test_every_example_of_a_schema_is_valid() -> None:
    checked = 0
    for name, schema in [*SCHEMAS.items(), *fields()]:
        for example in examples_of(schema):
            assert faults(schema, example) == [], (name, example)
            checked += 1
    assert checked > 500


def test_every_example_of_a_parameter_is_valid() -> None:
    for operation in OPERATIONS:
        for parameter in parameters_of(operation.raw):
            schema = parameter["schema"]
            for example in examples_of(parameter) + examples_of(schema):
                assert faults(schema, example) == [], (operation.name, parameter["name"])


def test_every_example_of_a_problem_is_valid() -> None:
    for response in DOCUMENT["components"]["responses"].values():
        for content in response.get("content", {}).values():
            for example in content.get("examples", {}).values():
                assert faults(content["schema"], example["value"]) == []


def test_erasures_and_blocks_are_about_other_users_than_the_quick_start() -> None:
    users = {
        operation.raw["operationId"]: parameter["example"]
        for operation in OPERATIONS
        for parameter in parameters_of(operation.raw)
        if (parameter["name"], parameter["in"]) == ("userId", "path")
    }
    own = {users.pop(operation_id) for operation_id in ("deleteUser", "blockUser", "unblockUser")}
    assert own.isdisjoint({*users.values(), "user-1"})


# --- in the sandbox ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with sandbox_with_a_sealed_record(tmp_path_factory.mktemp("sandbox")) as gateway:
        yield gateway


def example_request(document: dict[str, Any], operation: Operation) -> dict[str, Any]:
    """Return the request that a documentation page fills in: what is required, and the body."""
    path, query = operation.path, {}
    for shared in operation.raw.get("parameters", ()):
        parameter = dereferenced(document, shared)
        if not parameter.get("required") and parameter["name"] != "reqId":
            continue
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", str(parameter["example"]))
        else:
            query[parameter["name"]] = examples_of(parameter | parameter["schema"])[0]
    return {"url": path, "params": query, **example_body(document, operation)}


def example_body(document: dict[str, Any], operation: Operation) -> dict[str, Any]:
    body = operation.raw.get("requestBody")
    if body is None:
        return {}
    media_type, content = next(iter(body["content"].items()))
    example = dereferenced(document, content["schema"])["examples"][0]
    if media_type == "application/json":
        return {"json": example}
    assert media_type == "multipart/form-data"
    file = example.pop("file").encode()
    return {"data": example, "files": {"file": (example["filename"], file)}}


def test_every_example_succeeds_in_the_sandbox_in_the_order_of_the_document(
    sandbox: Process,
) -> None:
    document = sandbox.http.get("/openapi.json").json()
    refused = {}
    key_id = statement = ""
    for operation in operations_in_order(document):
        request = example_request(document, operation)
        if operation.raw["operationId"] == "getErasureStatement":
            # The number of an audit record depends on what came before, and the receipt has it.
            request["url"] = statement
            until(lambda path=statement: sandbox.call("GET", path).status_code == 200)  # type: ignore[misc]
        # The id of a key is random, and the page shows it after the key was created.
        request["url"] = request["url"].replace(EXAMPLE_KEY_ID, key_id)
        answer = sandbox.call(operation.method, request.pop("url"), **request)
        if answer.status_code >= 400:
            refused[operation.name] = (answer.status_code, answer.text)
        if operation.raw["operationId"] == "createKey":
            key_id = answer.json()["id"]
        if operation.raw["operationId"] == "deleteUser":
            statement = answer.json()["statementHref"]
    assert not refused, refused
