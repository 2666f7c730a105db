"""The OpenAPI document is small, and says what client generators and linters need."""

import re
from collections import Counter
from typing import Any

import orjson
import pytest

from app.http.problem_types import PROBLEMS
from app.server.openapi.text import render
from tests.support.openapi import DOCUMENT, OPERATIONS, Operation, dereferenced
from tests.support.processes import ROOT

MAX_BYTES = 300 * 1024
COMMITTED = ROOT / "openapi" / "openapi.json"
OF_THE_SERVER = {"method-not-allowed", "request-timeout", "url-too-long", "head-too-large"}


def problems_of(response: dict[str, Any]) -> set[str]:
    content = dereferenced(DOCUMENT, response).get("content", {})
    return set(content.get("application/problem+json", {}).get("examples", ()))


def problems_in(operation: Operation) -> set[str]:
    return set().union(*map(problems_of, operation.raw["responses"].values()))


def test_the_committed_document_is_small() -> None:
    assert COMMITTED.stat().st_size <= MAX_BYTES


def test_each_operation_and_each_component_is_on_a_line_of_its_own() -> None:
    document = {
        "info": {"title": "T"},
        "paths": {"/a": {"get": {"tags": ["A"]}, "put": {"tags": ["B"]}}},
        "components": {"schemas": {"S": {"type": "string"}}},
    }
    assert render(document).splitlines() == [
        "{",
        '"info": {"title":"T"},',
        '"paths": {',
        '"/a": {',
        '"get": {"tags":["A"]},',
        '"put": {"tags":["B"]}',
        "}",
        "},",
        '"components": {',
        '"schemas": {',
        '"S": {"type":"string"}',
        "}",
        "}",
        "}",
    ]


def test_the_folder_of_the_document_has_nothing_else() -> None:
    assert [path.name for path in COMMITTED.parent.iterdir()] == [COMMITTED.name]


def test_operation_ids_are_unique_lower_camel_case() -> None:
    ids = Counter(operation.raw["operationId"] for operation in OPERATIONS)
    assert max(ids.values()) == 1
    for operation_id in ids:
        assert re.fullmatch(r"[a-z]+(?:[A-Z][a-z]+)*", operation_id), operation_id


@pytest.mark.parametrize(
    ("operation_id", "name"),
    [
        ("trackEvent", "POST /v1/events"),
        ("updateUser", "PATCH /v1/users/{userId}"),
        ("sendMessage", "POST /v1/messages/{messageId}/send"),
        ("importCsv", "POST /v1/imports"),
        ("sendBatch", "POST /v1/batch"),
    ],
)
def test_operation_ids_are_names_of_what_callers_do(operation_id: str, name: str) -> None:
    ids = {operation.name: operation.raw["operationId"] for operation in OPERATIONS}
    assert ids[name] == operation_id


def test_the_document_names_servers_and_a_contact() -> None:
    assert [server["url"] for server in DOCUMENT["servers"]] == ["/", "http://127.0.0.1:8000"]
    assert DOCUMENT["info"]["contact"]["name"]


def test_public_operations_need_no_key_and_all_others_do() -> None:
    for operation in OPERATIONS:
        is_public = not operation.path.startswith("/v1/")
        schemes = [] if is_public else ["Bearer", "X-API-Key"]
        assert operation.raw["security"] == [{scheme: []} for scheme in schemes], operation.name


def test_problem_responses_are_components_and_each_is_there_once() -> None:
    for operation in OPERATIONS:
        for status, response in operation.raw["responses"].items():
            media_types = set(response.get("content", {}))
            assert media_types != {"application/problem+json"}, (operation.name, status)
    shared = [orjson.dumps(response) for response in DOCUMENT["components"]["responses"].values()]
    assert len(shared) == len(set(shared))


def test_a_problem_has_one_schema_and_no_two_schemas_share_a_title() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert [name for name in schemas if "Problem" in name] == ["Problem"]
    titles = [schema["title"] for schema in schemas.values() if "title" in schema]
    assert len(titles) == len(set(titles))


def test_every_problem_of_the_api_is_a_response_of_an_operation() -> None:
    declared = set().union(*map(problems_in, OPERATIONS))
    assert declared == PROBLEMS.keys() - OF_THE_SERVER


@pytest.mark.parametrize("slug", ["key-not-configured", "not-found", "stopping"])
def test_writes_declare_the_problems_of_configuration_and_of_shutdown(slug: str) -> None:
    for operation in OPERATIONS:
        if "409" in operation.raw["responses"]:
            assert slug in problems_in(operation), operation.name
