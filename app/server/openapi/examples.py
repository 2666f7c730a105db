"""Examples in the OpenAPI document: of parameters, from a table; of responses, from their fields.

An example of a parameter that is required is filled in by the documentation pages, so calls made of
these examples succeed in the sandbox, in the order of the document.
"""

from typing import Any

from app.http.openapi_parts import REF

Document = dict[str, Any]
TIME = "2026-01-31T12:00:00Z"
KEY_ID = "key_0123456789abcdef"
PARAMETERS: dict[str, Any] = {
    "Idempotency-Key": "order-1:paid",
    "X-Leanplum-App": "default",
    "abTestId": 2001,
    "action": "track",
    "app": "default",
    "campaignId": "1002",
    "createDisposition": "CreateNever",
    "cursor": "1042",
    "deviceId": "device-1",
    "event": "Purchase",
    "filename": "hello.png",
    "from": 1,
    "fullErasure": True,
    "id": "1002",
    "keyId": KEY_ID,
    "kind": "events",
    "limit": 100,
    "messageId": "1002",
    "order": "oldest",
    "outcome": "refused",
    "prefer": "wait=5",
    "recordId": 1,
    "reqId": "4f6c1a52-9c1b-4f0e-8d3a-0f5d2b7c9e11",
    "requestId": "4bf92f35",
    "resource": KEY_ID,
    "since": TIME,
    "slug": "validation",
    "status": "expired",
    "to": 1,
    "until": "2026-02-01T12:00:00Z",
    "userHash": "u_8c6976e5b541",
    "userId": "user-1",
    "uuid": "8e2a6c34-5b7d-4c9a-9a55-3d1f6f0b2c01",
}
# Erasures and blocks have users of their own, so that trying them does not break other examples.
OF_OPERATIONS: dict[str, dict[str, Any]] = {
    "blockUser": {"userId": "user-to-block"},
    "checkApp": {"name": "default"},
    "deleteNotificationChannel": {"id": "offers"},
    "deletePostback": {"id": "1"},
    "deleteUser": {"userId": "user-to-erase"},
    "forgetName": {"name": "Purchase"},
    "getAbTest": {"id": "2001"},
    "getExport": {"jobId": "export_4871_1"},
    "getImport": {"jobId": "multi_4871_4"},
    "getReceipt": {"id": "order-1:paid"},
    "getVariant": {"id": "3001"},
    "listKeys": {"cursor": f"1769860800000-{KEY_ID}"},
    "setNotificationChannel": {"id": "offers"},
    "unblockUser": {"userId": "user-to-block"},
}
TEXTS = {
    "text/html": "<!doctype html><title>Problems</title>",
    "text/plain": 'leanplum_gateway_items_accepted_total{action="track",app="default"} 42.0\n',
    "application/octet-stream": "(bytes)",
}


def add_parameter_examples(operation: Document) -> None:
    """Add an example to each parameter of an operation that has none.

    An example of an optional parameter belongs to its schema, where pages do not fill it in.
    """
    of_operation = OF_OPERATIONS.get(operation["operationId"], {})
    for parameter in operation.get("parameters", ()):
        name, schema = parameter["name"], parameter["schema"]
        if name not in of_operation and name not in PARAMETERS:
            continue
        example = of_operation.get(name, PARAMETERS.get(name))
        if parameter.get("required"):
            schema.pop("examples", None)
            parameter["example"] = example
        else:
            schema.setdefault("examples", [example])


def add_response_examples(document: Document, operation: Document) -> None:
    """Add an example to each successful response of an operation that has none."""
    schemas = document["components"]["schemas"]
    for status, response in operation["responses"].items():
        if not status.startswith("2"):
            continue
        for media_type, content in response.get("content", {}).items():
            schema = content.get("schema", {})
            if media_type in TEXTS:
                content["example"] = TEXTS[media_type]
            elif "$ref" in schema:
                shape = schemas[schema["$ref"].removeprefix(REF)]
                shape.setdefault("examples", [_example_of(shape, schemas)])
            else:
                content.setdefault("example", {"status": "alive"})


def _example_of(schema: Document, schemas: Document) -> Any:
    """Return the first example of a schema, or one made of those of its required fields."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return _example_of(schemas[schema["$ref"].removeprefix(REF)], schemas)
    if schema.get("type") == "array":
        return [_example_of(schema["items"], schemas)]
    fields = schema.get("properties", {})
    names = schema.get("required", [name for name in fields if name != "warning"])
    return {name: _example_of(fields[name], schemas) for name in names}
