"""Rows (h): how much longer a relayed call takes through the gateway than to the simulator itself,
at 200 calls a second; and through nginx as a plain proxy, where it is installed.
"""

import shutil
import sys

from bench.bodies import Traffic
from bench.children import Child, free_port
from bench.figures import Slice
from bench.report import Row, Target, summarise
from bench.scenarios.setting import Setting
from bench.stage import Stage, clean_environment

RATE = 200.0
QUERY = "/api?appId=app_bench&action=multi&time=1700000000&clientKey="


def measure(setting: Setting) -> list[Row]:
    """Take turns: direct, gateway, nginx; differences are taken within a round."""
    stage = setting.stage
    simulator = _simulator(stage)
    gateway = stage.gateway(simulator, delivery=True)
    ways = {"direct": (simulator, "prod_bench"), "gateway": (gateway, stage.key)}
    if shutil.which("nginx"):
        ways["nginx"] = (_nginx(stage, simulator), "prod_bench")
    found: dict[str, list[Slice]] = {name: [] for name in ways}
    for _ in range(setting.plan.rounds + 1):
        for name, (child, key) in ways.items():
            traffic = Traffic(QUERY + key, relayed=True)
            found[name].append(
                setting.load.paced(child, traffic, rate=RATE, seconds=setting.plan.latency)
            )
    # The first round warms up
    return [row(name, slices[1:], found["direct"][1:]) for name, slices in found.items()]


def row(name: str, slices: list[Slice], direct: list[Slice]) -> Row:
    """The figures of one way; the gateway's additions are held against what was asked for."""
    p50 = _middle([one.p50 - base.p50 for one, base in zip(slices, direct, strict=True)])
    p99 = _middle([one.p99 - base.p99 for one, base in zip(slices, direct, strict=True)])
    targets = (
        Target("p50 <= +3 ms", p50, 3, at_least=False),
        Target("p99 <= +10 ms", p99, 10, at_least=False),
    )
    added = (
        ()
        if name == "direct"
        else (f"adds {p50:.2f} ms at the median, {p99:.2f} ms at the 99th percentile",)
    )
    return summarise(
        f"(h) getVars at {RATE:.0f}/s, {name}",
        slices,
        targets=targets if name == "gateway" else (),
        notes=added,
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


CONFIG = """daemon off; pid {scratch}/nginx.pid; error_log {scratch}/nginx-errors.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {scratch}/nginx-body; proxy_temp_path {scratch}/nginx-proxy;
    fastcgi_temp_path {scratch}/nginx-f; uwsgi_temp_path {scratch}/nginx-u; scgi_temp_path {scratch}/nginx-s;
    upstream leanplum {{ server 127.0.0.1:{upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://leanplum; proxy_http_version 1.1; proxy_set_header Connection ""; }}
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
