"""What the OpenAPI document says is what the gateway does: schemathesis makes calls of it, good
ones and bad ones, to a gateway in a process of its own, which delivers to the simulator and asks
it. Whatever operations there are, each is called.
"""

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import CHECKS, CheckContext, load_all_checks

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.openapi import DOCUMENT, parameters_of
from tests.support.processes import Process, serving
from tests.support.simulator import KEYS

# For each operation, of good calls and of bad ones
EXAMPLES = int(os.environ.get("GATEWAY_TESTS_EXAMPLES", "6"))
# From so many on it is the long run, which makes so many calls altogether
LONG, ENOUGH = 100, 10_000
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [
    f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods
]
WIDE = {"GATEWAY_RATE_PER_SECOND": "1000000", "GATEWAY_RATE_BURST": "1000000000"}
WIDE |= {"GATEWAY_FAILED_AUTH_PER_MINUTE": "1000000"}
load_all_checks()
CONFORMANCE = ("status_code", "content_type", "response_headers", "response_schema")
HELD: list[Any] = CHECKS.get_by_names([f"{name}_conformance" for name in CONFORMANCE])
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A gateway with all of Leanplum's keys, and limits that nobody meets."""
    given = {name.upper(): value for name, value in KEYS.items()} | WIDE
    folder = tmp_path_factory.mktemp("documented")
    simulator = BackgroundServer(SimulatorConfig(migrate_state=True))
    with simulator as leanplum, serving(folder, leanplum.url, **given) as found:
        yield found


@pytest.fixture(scope="module")
def session(gateway: Process) -> Iterator[requests.Session]:
    """One connection, with a key that may do everything."""
    with requests.Session() as opened:
        opened.trust_env = False
        opened.headers["Authorization"] = f"Bearer {gateway.key}"
        yield opened


def no_failure(context: CheckContext, response: Any, case: Case[Any]) -> None:
    """Leanplum may refuse what was asked of it; nothing else is a failure that good or bad calls
    can bring about.
    """
    refused = (
        response.status_code == 502 and response.json()["type"] == "/problems/upstream-rejected"
    )
    assert response.status_code < 500 or refused, (response.status_code, response.text)


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@st.composite
def bad(draw: st.DrawFn, good: st.SearchStrategy[Case[Any]]) -> Case[Any]:
    """A good call, with anything in the place of one part: of the body, a field of it, the query,
    the path.
    """
    case = draw(good)
    told = case.operation.definition.raw
    parts = (
        ["query"]
        + ["path"] * bool(case.path_parameters)
        + ["body", "field"] * ("requestBody" in told)
    )
    match draw(st.sampled_from(parts)):
        case "path":
            case.path_parameters = {
                name: quote(draw(TEXT), safe="") for name in case.path_parameters
            }
        case "query":
            names = [one["name"] for one in parameters_of(told) if one["in"] == "query"]
            case.query = draw(
                st.dictionaries(st.sampled_from([*names, "unknown"]), TEXT, min_size=1, max_size=3)
            )
        case "field" if isinstance(case.body, dict):
            case.body = {**case.body, draw(st.sampled_from([*case.body, "unknown"])): draw(JUNK)}
        case _:
            case.body = draw(JUNK)
    return case


@pytest.mark.parametrize("kind", ["good", "bad"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_answer_is_one_of_the_document_s(
    operation: str, kind: str, gateway: Process, session: requests.Session, record_property: Any
) -> None:
    method, path = operation.split()
    calls = SCHEMA[path][method].as_strategy()
    count = 0

    @BOUNDED
    @given(calls if kind == "good" else bad(calls))
    def held(case: Case[Any]) -> None:
        nonlocal count
        count += 1
        # Nearly every name is one of no app, and would hide what else is answered.
        case.headers.pop("X-Leanplum-App", None)
        answer = case.call(base_url=gateway.url, session=session, timeout=30)
        case.validate_response(answer, checks=[no_failure, *HELD])

    try:
        held()
    finally:
        record_property("examples", count)
        made_calls.append(count)


made_calls: list[int] = []


@pytest.mark.skipif(EXAMPLES < LONG, reason="this is the short run")
def test_the_long_run_makes_enough_calls(record_property: Any) -> None:
    record_property("all examples", sum(made_calls))
    assert sum(made_calls) >= ENOUGH
