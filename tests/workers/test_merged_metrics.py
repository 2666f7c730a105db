"""Metrics of several processes as one."""

from app.telemetry import Metrics
from app.telemetry.merged_metrics import add_totals, merge, render


def sample(text: bytes, name: str) -> str:
    (line,) = [line for line in text.decode().splitlines() if line.startswith(f"{name} ")]
    return line.removeprefix(f"{name} ")


def test_counters_and_histograms_are_added_and_gauges_are_not() -> None:
    one, other = Metrics(), Metrics()
    for metrics, count in ((one, 3), (other, 4)):
        metrics.count_accepted("default", ["track"] * count)
        metrics.count_settled("default", {"delivered": count})
        metrics.count_call("default", 200, 0.25 * count, "ok")
        metrics.apps_file_refused.set(count)
        metrics.requests.add("GET /x", 200, 0.02)
    one.app_held.labels("default").set(1)
    merged = merge([render(one.registry), render(other.registry)])
    prefix = "leanplum_gateway_"
    for name, expected in {
        'items_accepted_total{action="track",app="default"}': "7.0",
        'items_settled_total{app="default",status="delivered"}': "7.0",
        "apps_file_refused": "4.0",
        'app_held{app="default"}': "1.0",
        'call_duration_seconds_count{app="default"}': "2.0",
        'call_duration_seconds_sum{app="default"}': "1.75",
        'http_request_duration_seconds_bucket{le="0.025",method="GET",route="/x",status_class="2xx"}': "2.0",
        'http_requests_total{method="GET",route="/x",status="200"}': "2.0",
    }.items():
        assert sample(merged, prefix + name) == expected


def test_the_metrics_of_one_process_stay_as_they_are() -> None:
    from prometheus_client import generate_latest

    metrics = Metrics()
    metrics.count_call("default", 200, 0.1, "ok")
    metrics.requests.add("GET /x", 200, 0.02)
    merged, alone = merge([render(metrics.registry)]), generate_latest(metrics.registry)
    # The processor's seconds go on meanwhile
    assert [line for line in merged.splitlines() if not line.startswith(b"process_")] == [
        line for line in alone.splitlines() if not line.startswith(b"process_")
    ]


def test_what_an_ended_process_has_counted_stays_and_its_gauges_end_with_it() -> None:
    ended, running = Metrics("accepting-1"), Metrics("accepting-1")
    for metrics, count in ((ended, 3), (running, 4)):
        metrics.count_accepted("default", ["track"] * count)
        metrics.requests.add("GET /x", 200, 0.02)
    ended.app_held.labels("default").set(1)
    totals = add_totals(add_totals([], render(ended.registry)), render(ended.registry))
    merged = merge([totals, render(running.registry)])
    prefix = "leanplum_gateway_"
    accepted = 'items_accepted_total{action="track",app="default"}'
    assert sample(merged, prefix + accepted) == "10.0"
    requests = 'http_requests_total{method="GET",route="/x",status="200"}'
    assert sample(merged, prefix + requests) == "3.0"
    assert b"app_held{" not in merged
    assert merged.count(b"\nprocess_cpu_seconds_total{") == 1


def test_limits_are_shared_only_while_every_process_says_so() -> None:
    one, other = Metrics(), Metrics()
    for metrics, value in ((one, 0), (other, 1)):
        up, _ = metrics.define_shared_limit_metrics()
        up.set(value)
    merged = merge([render(one.registry), render(other.registry)])
    assert sample(merged, "leanplum_gateway_shared_limits_up") == "0.0"


def test_each_process_has_its_own_series_of_what_tells_of_itself() -> None:
    workers = [Metrics("accepting-1"), Metrics("delivering")]
    merged = merge([render(metrics.registry) for metrics in workers])
    for worker in ("accepting-1", "delivering"):
        memory = float(sample(merged, f'process_resident_memory_bytes{{worker="{worker}"}}'))
        assert memory > 0
