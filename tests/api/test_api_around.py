"""Around the service: is it alive, is it ready, what does it count, and its documents (contract
§11).
"""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from app.api.events import WRITES
from app.api.passthrough import CALLS
from app.ingest import validate
from app.pages import asset_path
from tests.support.gateway import CANARY, EVENT, Talk
from tests.support.openapi import dereferenced
from tests.support.wait import until

Start = Callable[..., Talk]
REQUESTS = "leanplum_gateway_http_requests"
DURATION = "leanplum_gateway_http_request_duration_seconds"


def test_livez_needs_no_key_and_no_database(gateway: Talk) -> None:
    assert gateway.get("/livez", key=None).json() == {"status": "alive"}


def test_readyz_says_which_parts_work(gateway: Talk) -> None:
    answer = gateway.get("/readyz", key=None)
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    assert answer.json()["parts"]["database"] == {"ok": True}


def test_readyz_fails_while_the_database_cannot_commit_and_says_so(start: Start) -> None:
    talk = start()
    talk.execute("ALTER TABLE sequence RENAME TO gone")
    answer = talk.get("/readyz")
    assert (answer.status_code, answer.json()["ready"], answer.headers["retry-after"]) == (
        503,
        False,
        "5",
    )
    assert answer.json()["parts"]["database"]["ok"] is False
    assert talk.get("/livez").status_code == 200
    talk.execute("ALTER TABLE gone RENAME TO sequence")
    assert talk.get("/readyz").status_code == 200


def samples(talk: Talk) -> dict[str, float]:
    text = talk.get("/metrics", key=None).text
    return {
        name: float(value) for name, value in re.findall(r"^([^#\s].*) (\S+)$", text, re.MULTILINE)
    }


def test_metrics_count_requests_and_items(start: Start) -> None:
    talk = start()
    talk.event()
    talk.event({})
    talk.batch([EVENT | {"action": "track"}] * 3)
    found = samples(talk)
    events = 'method="POST",route="/v1/events"'
    for status, status_class in ((202, "2xx"), (422, "4xx")):
        assert found[f'{REQUESTS}_total{{{events},status="{status}"}}'] == 1
        assert found[f'{DURATION}_count{{{events},status_class="{status_class}"}}'] == 1
        bucket = f'{DURATION}_bucket{{le="+Inf",{events},status_class="{status_class}"}}'
        assert found[bucket] == 1
    assert found['leanplum_gateway_items_accepted_total{action="track",app="default"}'] == 4
    until(lambda: waiting(talk) == 4)
    assert {name for name in found if not name.startswith("leanplum_gateway_")} == {
        *(name for name in found if name.startswith(("process_", "python_info"))),
    }


def waiting(talk: Talk) -> float:
    return talk.metric('queue_items{app="default",state="accepted"}')


def test_buckets_of_a_histogram_only_grow(gateway: Talk) -> None:
    for _ in range(20):
        gateway.event()
    counts = [
        count for name, count in samples(gateway).items()
        if name.startswith(f"{DURATION}_bucket")
        and 'method="POST",route="/v1/events",status_class="2xx"' in name
    ]  # fmt: skip
    assert len(counts) > 5
    assert counts == sorted(counts)


def test_metrics_have_one_line_for_each_operation_and_not_for_each_address(gateway: Talk) -> None:
    for number in range(20):
        gateway.get(f"/nothing/{CANARY}{number}")
        gateway.get(f"/v1/receipts/{CANARY}{number}")
        gateway.post(f"/v1/users/{CANARY}{number}", {"userAttributes": {"a": 1}}, method="PATCH")
    names = samples(gateway)
    assert not [name for name in names if CANARY in name]
    assert len([name for name in names if name.startswith(f"{REQUESTS}_total")]) < 15


# --- the OpenAPI document ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(gateway: Talk) -> dict[str, Any]:
    found: dict[str, Any] = gateway.get("/openapi.json", key=None).json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for inner in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        yield from nodes(inner)


def test_the_document_is_openapi_3_1_with_every_call_that_is_built(
    document: dict[str, Any],
) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"]
    assert {name for name, _ in operations(document)} == {
        "POST /v1/events", "POST /v1/batch", *(f"{one.method} {one.path}" for one in (*WRITES, *CALLS)),
        "GET /v1/apps", "POST /v1/apps/{name}/check", "POST /v1/preview",
        "GET /v1/tracking-plan", "GET /v1/tracking-plan/violations", "GET /v1/taxonomy",
        "DELETE /v1/taxonomy/{kind}/{name}",
        "POST /v1/keys", "GET /v1/keys", "GET /v1/keys/{keyId}", "PATCH /v1/keys/{keyId}", "DELETE /v1/keys/{keyId}",
        "POST /v1/keys/{keyId}/rotate",
        "GET /v1/receipts", "GET /v1/receipts/{id}", "GET /livez", "GET /readyz", "GET /metrics", "GET /", "GET /problems",
        "GET /problems/{slug}",
        "GET /v1/audit", "GET /v1/audit/checkpoint", "GET /v1/audit/consistency", "GET /v1/audit/{recordId}/proof",
        "GET /v1/erasures/{recordId}",
        "GET /v1/dead-letters", "POST /v1/dead-letters/replay", "POST /v1/dead-letters/discard",
    }  # fmt: skip


def test_no_reference_dangles_and_no_schema_is_unused(document: dict[str, Any]) -> None:
    refs = {node["$ref"] for node in nodes(document) if isinstance(node.get("$ref"), str)}
    assert refs
    for ref in refs:
        assert dereferenced(document, {"$ref": ref})
    mapped = {
        ref
        for node in nodes(document)
        for ref in node.get("discriminator", {}).get("mapping", {}).values()
    }
    for ref in mapped:
        assert dereferenced(document, {"$ref": ref})
    used = {ref.rpartition("/")[2] for ref in refs}
    assert set(document["components"]["schemas"]) <= used


def test_operations_have_a_summary_a_description_a_tag_and_an_id_of_their_own(
    document: dict[str, Any],
) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= {tag["name"] for tag in document["tags"]}, name


def test_every_parameter_of_a_path_is_declared_and_described(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        parameters = [dereferenced(document, one) for one in operation.get("parameters", ())]
        in_path = {one["name"] for one in parameters if one["in"] == "path"}
        assert set(re.findall(r"{(\w+)}", name)) == in_path, name
        assert all(one["description"] for one in parameters), name


ERRORS = {
    "POST /v1/events": {400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 501, 503},
    "PATCH /v1/users/{userId}": {400, 401, 403, 409, 413, 415, 422, 429, 500, 503},
    "POST /v1/users/{userId}/states": {400, 401, 403, 409, 413, 415, 422, 429, 500, 503},
    "PATCH /v1/devices/{deviceId}": {400, 401, 403, 409, 413, 415, 422, 429, 500, 503},
    "DELETE /v1/users/{userId}": {400, 401, 403, 409, 413, 415, 422, 429, 500, 501, 503},
    "POST /v1/users/{userId}/sessions": {
        400,
        401,
        403,
        404,
        413,
        415,
        422,
        429,
        500,
        501,
        502,
        503,
        504,
    },
    "GET /v1/messages": {401, 403, 404, 422, 429, 500, 501, 502, 503, 504},
    "POST /v1/batch": {400, 401, 413, 415, 422, 429, 500, 503},
    "POST /v1/preview": {400, 401, 403, 413, 415, 422, 429, 500},
    "GET /v1/tracking-plan": {400, 401, 403, 429, 500, 503},
    "GET /v1/tracking-plan/violations": {400, 401, 403, 429, 500, 503},
    "GET /v1/taxonomy": {400, 401, 403, 429, 500, 503},
    "DELETE /v1/taxonomy/{kind}/{name}": {400, 401, 403, 404, 422, 429, 500, 503},
    "GET /v1/receipts/{id}": {401, 403, 404, 429, 500, 503},
    "GET /v1/dead-letters": {401, 403, 422, 429, 500, 503},
    "POST /v1/dead-letters/replay": {400, 401, 403, 413, 415, 422, 429, 500, 503},
    "POST /v1/dead-letters/discard": {400, 401, 403, 413, 415, 422, 429, 500, 503},
    "GET /readyz": {503},
    "GET /problems/{slug}": {404},
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_operation_tells_all_its_errors_as_problems_with_examples(
    document: dict[str, Any], name: str
) -> None:
    responses = dict(operations(document))[name]["responses"]
    assert {str(status) for status in ERRORS[name]} <= responses.keys()
    for status, shared in responses.items():
        response = dereferenced(document, shared)
        assert response["description"]
        problem = response.get("content", {}).get("application/problem+json")
        if problem is not None:
            assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert problem["examples"]
            for slug, example in problem["examples"].items():
                assert (example["value"]["type"], example["value"]["status"]) == (
                    f"/problems/{slug}",
                    int(status),
                )
        if status in {"429", "503"}:
            assert "Retry-After" in response["headers"], (name, status)


LINES = ("application/x-ndjson", "text/csv")


def test_every_body_has_an_example_that_the_rules_take(document: dict[str, Any]) -> None:
    bodies = {
        name: operation["requestBody"]
        for name, operation in operations(document)
        if "requestBody" in operation
    }
    assert len(bodies) > 25
    for name, body in bodies.items():
        if rows := body["content"].get("text/csv"):
            assert rows["schema"]["examples"], name
        (schema,) = (one["schema"] for kind, one in body["content"].items() if kind not in LINES)
        schema = dereferenced(document, schema)
        assert schema["examples"], name
    schemas = document["components"]["schemas"]
    for example in schemas["Event"]["examples"]:
        assert validate.single("track", dict(example))
    for action, shape in (("setUserAttributes", "UserUpdate"), ("advance", "StateChange")):
        for example in schemas[shape]["examples"]:
            assert validate.single(action, {"userId": "u", **example})
    for example in schemas["Batch"]["examples"]:
        assert all(validate.of_any_action(item) for item in example["items"])


def test_examples_in_the_document_are_accepted_by_the_gateway(
    gateway: Talk, document: dict[str, Any]
) -> None:
    schemas = document["components"]["schemas"]
    for example in schemas["Event"]["examples"]:
        assert gateway.event(example).status_code == 202
    for example in schemas["Batch"]["examples"]:
        answer = gateway.batch(example["items"])
        assert (answer.status_code, answer.json()["rejected"]) == (202, 0)


def test_writes_and_receipts_ask_for_a_key_and_pages_do_not(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {(one["type"], one.get("scheme"), one.get("name")) for one in schemes.values()} == {
        ("http", "bearer", None), ("apiKey", None, "X-API-Key"),
    }  # fmt: skip
    for name, operation in operations(document):
        assert bool(operation.get("security")) == ("/v1/" in name), name


def test_the_document_has_no_secret_and_no_place_of_this_machine(gateway: Talk) -> None:
    text = gateway.get("/openapi.json").text
    assert not re.search(r"lpgw_[0-9A-Za-z]{30,}", text)
    for word in (gateway.key, "prod_tests_secret", "app_tests", str(gateway.path), "127.0.0.1"):
        assert word not in text


# --- pages ------------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Every address that a page makes a browser ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value
            for name, value in attrs
            if name in {"src", "href", "action", "spec-url", "data"} and value
        ]


@pytest.mark.parametrize("url", ["/docs", "/problems", "/problems/validation"])
def test_a_page_asks_no_other_host_for_anything_and_what_it_asks_for_is_there(
    gateway: Talk, url: str
) -> None:
    page = gateway.get(url, key=None)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = Links(page.text).found
    assert all(re.match("#|/(?!/)", link) for link in links), links
    assert not re.findall(r"""(?:https?:)?//(?!localhost)[\w-]+\.\w""", page.text)
    for link in {link for link in links if not link.startswith("#")}:
        # The console leads to its sign-in.
        assert gateway.get(link, key=None).status_code in {200, 303}, link


def test_assets_are_served_with_their_types(gateway: Talk) -> None:
    types = {"scalar.js": "javascript", "pages.css": "text/css", "favicon.svg": "image/svg+xml"}
    for name, kind in types.items():
        answer = gateway.get(asset_path(name), key=None)
        assert (answer.status_code, kind in answer.headers["content-type"]) == (200, True)


def test_the_openapi_document_names_the_headers_that_answers_have(gateway: Talk) -> None:
    document = gateway.get("/openapi.json").json()
    responses = {
        status: dereferenced(document, response)
        for status, response in document["paths"]["/v1/events"]["post"]["responses"].items()
    }
    answer = gateway.event(headers={"Prefer": "wait=1"})
    told = {name.lower() for name in responses[str(answer.status_code)]["headers"]}
    assert told == {
        "x-request-id",
        "ratelimit",
        "ratelimit-policy",
        "location",
        "preference-applied",
    }
    assert told <= answer.headers.keys()
    assert {"Retry-After", "RateLimit"} <= responses["429"]["headers"].keys()
    assert [*responses["401"]["headers"]] == ["X-Request-ID"]
    assert {"RateLimit", "RateLimit-Policy"} <= responses["403"]["headers"].keys(), (
        "what is refused counts as one item"
    )
