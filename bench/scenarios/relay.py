"""Rows (h): latency that the gateway adds to a relayed call, at 200 calls per second.

Compared with the same calls to the simulator itself and, if nginx is installed, through nginx as a
plain proxy.
"""

import shutil
import sys

from bench.bodies import Traffic
from bench.children import Child, free_port
from bench.figures import Slice
from bench.report import Row, at_most, summarise
from bench.scenarios.setting import Setting
from bench.stage import Stage, clean_environment

RATE = 200.0
QUERY = "/api?appId=app_bench&action=multi&time=1700000000&clientKey="


def measure(setting: Setting) -> list[Row]:
    """Measure direct, gateway and nginx in rounds; differences are taken within a round."""
    stage = setting.stage
    simulator = _simulator(stage)
    gateway = stage.gateway(simulator, delivery=True)
    routes = {"direct": (simulator, "prod_bench"), "gateway": (gateway, stage.key)}
    if shutil.which("nginx"):
        routes["nginx"] = (_nginx(stage, simulator), "prod_bench")
    slices_by_name: dict[str, list[Slice]] = {name: [] for name in routes}
    for _ in range(setting.plan.rounds + 1):
        for name, (child, key) in routes.items():
            traffic = Traffic(QUERY + key, relayed=True)
            slices_by_name[name].append(
                setting.load.paced(child, traffic, rate=RATE, seconds=setting.plan.latency)
            )
    # The first round only warms the servers up.
    return [
        row(name, slices[1:], slices_by_name["direct"][1:])
        for name, slices in slices_by_name.items()
    ]


def row(name: str, slices: list[Slice], direct: list[Slice]) -> Row:
    """Return the figures of one route; the gateway's added latency has targets."""
    p50 = _middle([measured.p50 - base.p50 for measured, base in zip(slices, direct, strict=True)])
    p99 = _middle([measured.p99 - base.p99 for measured, base in zip(slices, direct, strict=True)])
    targets = (
        at_most(2, "ms", p50, "adds p50"),
        at_most(8, "ms", p99, "p99"),
    )
    notes: tuple[str, ...] = ()
    if name != "direct":
        notes = (f"adds {p50:.2f} ms at the median, {p99:.2f} ms at the 99th percentile",)
    return summarise(
        f"(h) getVars at {RATE:.0f}/s, {name}",
        slices,
        targets=targets if name == "gateway" else (),
        notes=notes,
    )


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _simulator(stage: Stage) -> Child:
    port = free_port()
    argv = [sys.executable, "-m", "app", "simulate", "--port", str(port), "--app-id", "app_bench"]
    argv += ["--production-key", "prod_bench"]
    return stage.fleet.start(
        "simulator",
        argv,
        port=port,
        ready="/_simulator/stats",
        env=clean_environment(),
        core=stage.load_core,
    )


CONFIG = """daemon off; pid {scratch}/nginx.pid; worker_processes 1;
error_log {scratch}/nginx-errors.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {scratch}/nginx-body; proxy_temp_path {scratch}/nginx-proxy;
    fastcgi_temp_path {scratch}/nginx-f; uwsgi_temp_path {scratch}/nginx-u;
    scgi_temp_path {scratch}/nginx-s;
    upstream leanplum {{ server 127.0.0.1:{upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://leanplum; proxy_http_version 1.1; proxy_set_header Connection "";
        }}
    }}
}}
"""


def _nginx(stage: Stage, upstream: Child) -> Child:
    port, config = free_port(), stage.scratch / "nginx.conf"
    config.write_text(CONFIG.format(scratch=stage.scratch, upstream=upstream.port, port=port))
    return stage.fleet.start(
        "nginx",
        [str(shutil.which("nginx")), "-c", str(config), "-p", str(stage.scratch)],
        port=port,
        ready="/_simulator/stats",
        env=clean_environment(),
        core=stage.server_core,
    )
