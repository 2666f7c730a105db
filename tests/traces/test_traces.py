"""Traces, as an OTLP receiver gets them from a gateway."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from app.errors import StartRefused
from app.simulator.server import BackgroundServer
from app.telemetry.traces import wanted
from tests.support.otlp import Receiver, attributes, receiving
from tests.support.processes import (
    APP_ID,
    PRODUCTION_KEY,
    Process,
    ended,
    serving,
    serving_fresh,
)
from tests.support.simulator import Leanplum
from tests.support.wait import free_port, until

AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "50"}  # milliseconds between exports
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.fixture(scope="module")
def leanplum() -> Iterator[BackgroundServer]:
    with BackgroundServer() as server:
        yield server


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, leanplum: BackgroundServer, receiver: Receiver
) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("traces")
    with serving(
        folder, leanplum.url, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, **AT_ONCE
    ) as running:
        yield running


def of_trace(receiver: Receiver, trace_id: str, *names: str) -> list[str]:
    """Wait for spans of a trace; return the names of all that have come."""

    def found() -> list[str] | None:
        spans = [span.name for span in receiver.spans if span.trace_id.hex() == trace_id]
        return spans if set(names) <= set(spans) else None

    return until(found)


def test_a_trace_leads_from_the_request_to_leanplum(gateway: Process, receiver: Receiver) -> None:
    assert gateway.event("traced", 1, traceparent=PARENT).status_code == 202
    trace_id = PARENT.split("-")[1]
    of_trace(receiver, trace_id, "POST /v1/events", "commit", "deliver", "leanplum multi")
    spans = {span.name: span for span in receiver.spans if span.trace_id.hex() == trace_id}
    request, commit, deliver, call = (
        spans[name] for name in ("POST /v1/events", "commit", "deliver", "leanplum multi")
    )
    assert request.parent_span_id.hex() == PARENT.split("-")[2]
    assert commit.parent_span_id == request.span_id
    assert deliver.parent_span_id == request.span_id
    assert [link.span_id for link in deliver.links] == [request.span_id]
    assert call.parent_span_id == deliver.span_id
    assert attributes(request)["http.route"] == "/v1/events"
    assert attributes(request)["http.response.status_code"] == 202
    assert attributes(deliver)["leanplum_gateway.items.delivered"] == 1
    assert attributes(call) | {"server.address": ""} == {
        "http.request.method": "POST",
        "server.address": "",
        "leanplum.action": "multi",
        "http.response.status_code": 200,
    }
    assert receiver.resource["service.name"] == "leanplum-gateway"


def test_a_delivery_is_linked_to_each_request_that_brought_items(
    tmp_path: Path, leanplum: BackgroundServer, receiver: Receiver
) -> None:
    """The gateway accepts three calls without delivering, and then delivers them as one call."""
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **AT_ONCE}
    with serving(tmp_path, leanplum.url, "--no-delivery", **settings) as gateway:
        traces = [f"{number:032x}" for number in range(1, 4)]
        for number, trace_id in enumerate(traces):
            traceparent = f"00-{trace_id}-{number + 1:016x}-01"
            assert gateway.event(f"linked-{number}", 1, traceparent=traceparent).status_code == 202
        assert gateway.terminate() == 0
        gateway.words = ()
        gateway.start()
        of_trace(receiver, traces[0], "deliver")
    (deliver,) = (
        span
        for span in receiver.named("deliver")
        if traces[0] in [link.trace_id.hex() for link in span.links]
    )
    assert [link.trace_id.hex() for link in deliver.links] == traces


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/batch", "POST /v1/batch"),
        ("GET", "/v1/users/{}", "GET /v1/users/{userId}"),
        ("POST", "/api?action=track&userId={}", "POST /api"),
        ("POST", "/segment/v1/track", "POST /segment/v1/track"),
        ("GET", "/nowhere/{}", "GET"),
        ("GET", "/v1/receipts/{}", "GET /v1/receipts/{id}"),
    ],
)
def test_each_request_has_a_span_that_is_named_after_its_route(
    gateway: Process, receiver: Receiver, method: str, path: str, name: str
) -> None:
    trace_id = f"{abs(hash(path)):032x}"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    gateway.call(method, path.replace("{}", "someone"), headers=headers, json={})
    assert name in of_trace(receiver, trace_id, name)


def test_a_relayed_call_is_a_span_within_its_request(gateway: Process, receiver: Receiver) -> None:
    trace_id = "1" * 32
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    gateway.call("GET", "/v1/users/someone/variables", headers=headers)
    of_trace(receiver, trace_id, "GET /v1/users/{userId}/variables", "leanplum getVars")
    request, call = (
        next(span for span in receiver.named(name) if span.trace_id.hex() == trace_id)
        for name in ("GET /v1/users/{userId}/variables", "leanplum getVars")
    )
    assert call.parent_span_id == request.span_id


def test_no_span_has_a_key_a_user_or_a_value(gateway: Process, receiver: Receiver) -> None:
    trace_id = "2" * 32
    secret = "value-of-an-attribute"
    headers = {
        "traceparent": f"00-{trace_id}-b7ad6b7169203331-01",
        "tracestate": f"vendor={secret}",
    }
    body = {"userAttributes": {"name": secret}}
    assert gateway.call("PATCH", "/v1/users/a-user", headers=headers, json=body).is_success
    gateway.http.get(f"/v1/receipts/{gateway.key}", headers=headers)
    gateway.http.get("/v1/receipts", params={"key": gateway.key, "user": "a-user"}, headers=headers)
    gateway.http.get("/livez", headers=headers | {"Host": f"{gateway.key}.example.com"})
    gateway.http.post(f"/api?action=track&clientKey={gateway.key}&userId=a-user", headers=headers)
    of_trace(receiver, trace_id, "deliver", "POST /api")
    for text in (secret, "a-user", gateway.key, PRODUCTION_KEY):
        assert text.encode() not in receiver.raw


def test_requests_about_the_gateways_own_state_have_no_span(
    gateway: Process, receiver: Receiver
) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        gateway.http.get(path, headers={"traceparent": f"00-{'3' * 32}-b7ad6b7169203331-01"})
    gateway.event("later", 1, traceparent=f"00-{'4' * 32}-b7ad6b7169203331-01")
    of_trace(receiver, "4" * 32, "deliver")
    assert [span for span in receiver.spans if span.trace_id.hex() == "3" * 32] == []


def test_a_request_that_its_caller_did_not_sample_has_no_spans(
    gateway: Process, receiver: Receiver
) -> None:
    gateway.event("unsampled", 1, traceparent=UNSAMPLED)
    gateway.event("sampled", 1, traceparent=f"00-{'5' * 32}-b7ad6b7169203331-01")
    of_trace(receiver, "5" * 32, "deliver")
    unsampled = UNSAMPLED.split("-")[1]
    assert [span for span in receiver.spans if span.trace_id.hex() == unsampled] == []


def test_the_log_names_the_trace_of_a_request_that_came_without_one(
    gateway: Process, receiver: Receiver
) -> None:
    request_id = "request-without-a-trace"
    gateway.event("traceless", 1, **{"X-Request-ID": request_id})
    line = until(lambda: re.search(f".*{request_id}.*", gateway.output.read_text()))
    (trace_id,) = re.findall(r'"trace.id":"(\w{32})"', line[0])
    of_trace(receiver, trace_id, "POST /v1/events", "deliver")


def test_the_sampler_decides_on_requests_that_come_without_a_trace(
    tmp_path: Path, leanplum: BackgroundServer
) -> None:
    settings = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    with receiving() as receiver:
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        with serving(tmp_path, leanplum.url, **settings, **AT_ONCE) as gateway:
            for number in range(40):
                gateway.event("unasked", number)
            gateway.event("asked", 1, traceparent=f"00-{'8' * 32}-b7ad6b7169203331-01")
            of_trace(receiver, "8" * 32, "POST /v1/events", "commit")
        requests = receiver.named("POST /v1/events")
        assert 1 < len(requests) < 41
        assert len({span.trace_id for span in requests}) == len(requests)
        commits = {span.trace_id for span in receiver.named("commit")}
        assert commits == {span.trace_id for span in requests}


@pytest.mark.parametrize("traceparent", [f"00-{'0' * 32}-{'0' * 16}-01", "ff-nonsense"])
def test_an_invalid_traceparent_counts_as_none(
    gateway: Process, receiver: Receiver, traceparent: str
) -> None:
    before = len(receiver.named("GET /v1/receipts"))
    gateway.call("GET", "/v1/receipts", headers={"traceparent": traceparent})
    until(lambda: len(receiver.named("GET /v1/receipts")) == before + 1)
    assert {span.parent_span_id for span in receiver.named("GET /v1/receipts")} == {b""}


def test_workers_export_spans_of_one_trace(
    tmp_path: Path, leanplum: BackgroundServer, receiver: Receiver
) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **AT_ONCE}
    with serving(tmp_path, leanplum.url, "--workers", "2", **settings) as gateway:
        gateway.event("of-a-worker", 1, traceparent=f"00-{'6' * 32}-b7ad6b7169203331-01")
        of_trace(receiver, "6" * 32, "POST /v1/events", "commit", "deliver", "leanplum multi")
        (started,) = re.findall(r'.*"gateway.started".*', gateway.output.read_text())
        assert "traces" in json.loads(started)["gateway.on"]


def test_a_receiver_that_is_away_stops_neither_requests_nor_the_end(
    tmp_path: Path, leanplum: BackgroundServer
) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with serving_fresh(
        tmp_path, leanplum.url, OTEL_EXPORTER_OTLP_ENDPOINT=away, **AT_ONCE
    ) as gateway:
        assert gateway.event("away", 1).status_code == 202
        until(lambda: gateway.status("away-1") == "delivered")
        until(lambda: "traces.not_exported" in gateway.output.read_text())
        assert gateway.terminate() == 0
        text = gateway.output.read_text()
        assert "gateway.stopped" in text
        assert "stop.forced" not in text
        assert away not in text


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "true"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SERVICE_NAME": "gateway"},
    ],
    ids=str,
)
def test_nothing_is_traced_unless_the_variables_ask_for_it(environment: dict[str, str]) -> None:
    assert not wanted(environment)


@pytest.mark.parametrize(
    "environment",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        {
            **ENDPOINT,
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        },
    ],
    ids=str,
)
def test_an_endpoint_or_an_exporter_asks_for_traces(environment: dict[str, str]) -> None:
    assert wanted(environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER must be otlp or none"),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf",
        ),
    ],
    ids=str,
)
def test_what_the_gateway_cannot_export_by_refuses_the_start(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(StartRefused, match=message):
        wanted(environment)


def test_numbers_that_opentelemetry_refuses_refuse_the_start(
    tmp_path: Path, leanplum: BackgroundServer
) -> None:
    settings = {
        "LEANPLUM_APP_ID": APP_ID,
        "LEANPLUM_PRODUCTION_KEY": PRODUCTION_KEY,
        "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/g.db",
        **ENDPOINT,
        "OTEL_BSP_SCHEDULE_DELAY": "0",
    }
    refused = ended(tmp_path, "serve", "--port", str(free_port()), **settings)
    assert refused.returncode == 2
    assert "OpenTelemetry refuses the values of the OTEL_* variables" in refused.stderr


def test_a_failed_call_to_leanplum_is_an_error_of_its_span(
    tmp_path: Path, receiver: Receiver
) -> None:
    with BackgroundServer() as leanplum, closing(Leanplum(leanplum.url)) as simulator:
        simulator.fault(mode="503", times=None)
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **AT_ONCE}
        with serving(tmp_path, leanplum.url, **settings) as gateway:
            gateway.event("fails", 1, traceparent=f"00-{'7' * 32}-b7ad6b7169203331-01")
            of_trace(receiver, "7" * 32, "leanplum multi")
    call = next(
        span for span in receiver.named("leanplum multi") if span.trace_id.hex() == "7" * 32
    )
    assert call.status.code == Status.StatusCode.STATUS_CODE_ERROR
    assert attributes(call)["error.type"] == "503"
