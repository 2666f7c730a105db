"""Metrics of several processes as one."""

from app.telemetry import Metrics
from app.telemetry.merged_metrics import merge, render


def sample(text: bytes, name: str) -> str:
    (line,) = [line for line in text.decode().splitlines() if line.startswith(f"{name} ")]
    return line.removeprefix(f"{name} ")


def test_counters_and_histograms_are_added_and_gauges_are_not() -> None:
    one, other = Metrics(), Metrics()
    for metrics, count in ((one, 3), (other, 4)):
        metrics.count_accepted("default", count)
        metrics.count_settled("default", {"delivered": count})
        metrics.count_call("default", 200, 0.25 * count)
        metrics.queued.set(count)
        metrics.requests.add("GET /x", 200, 0.02)
    one.held.labels("default").set(1)
    merged = merge([render(one.registry), render(other.registry)])
    prefix = "leanplum_gateway_"
    for name, expected in {
        "items_accepted_total": "7.0",
        'items_settled_total{status="delivered"}': "7.0",
        "queued_items": "4.0",
        'held{app="default"}': "1.0",
        "leanplum_call_seconds_count": "2.0",
        "leanplum_call_seconds_sum": "1.75",
        'request_seconds_bucket{le="0.025",operation="GET /x"}': "2.0",
        'requests_total{operation="GET /x",status="200"}': "2.0",
    }.items():
        assert sample(merged, prefix + name) == expected


def test_the_metrics_of_one_process_stay_as_they_are() -> None:
    from prometheus_client import generate_latest

    metrics = Metrics()
    metrics.count_call("default", 200, 0.1)
    metrics.requests.add("GET /x", 200, 0.02)
    assert merge([render(metrics.registry)]) == generate_latest(metrics.registry)
