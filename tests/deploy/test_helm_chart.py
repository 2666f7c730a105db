"""The Helm chart: rendered by Helm's own library, and valid for Kubernetes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.callers import key_format
from app.simulator.server import BackgroundServer
from tests.support.processes import APP_ID, PRODUCTION_KEY, command, environment, spawn
from tests.support.wait import free_port, until

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "leanplum-gateway"
HELM = Path(sys.prefix) / "clients" / "helm"
ALL_ON = {
    "appsConfigMap": "apps",
    "ingress": {"enabled": True, "tlsSecretName": "tls", "className": "nginx"},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "podAnnotations": {"team": "mobile"},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "serviceAccount": {"annotations": {"role": "gateway"}},
}
Manifests = dict[str, dict[str, Any]]

pytestmark = pytest.mark.skipif(
    not HELM.is_dir() and "GATEWAY_TESTS_NEED_SDKS" not in os.environ,
    reason="Helm's library is not installed; `make test` does it",
)


def rendered(values: dict[str, Any]) -> dict[str, Any]:
    """Return what render_chart.py prints."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "render_chart.py"), str(CHART)],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(HELM)},
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def manifests(values: dict[str, Any]) -> Manifests:
    """Return the manifests by kind."""
    return {manifest["kind"]: manifest for manifest in rendered(values)["manifests"]}


@pytest.fixture(scope="module")
def by_default() -> Manifests:
    return manifests({"settings": {"LEANPLUM_APP_ID": APP_ID}})


def container(found: Manifests) -> dict[str, Any]:
    (only,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(only)


@pytest.mark.parametrize("values", [{}, ALL_ON], ids=["default", "everything on"])
def test_helm_finds_no_fault_and_kubernetes_knows_every_field(values: dict[str, Any]) -> None:
    found = rendered(values)
    assert found["lint"]["errors"] == []
    assert [one for one in found["lint"]["messages"] if one["severity"] > 1] == []
    assert found["invalid"] == []


def test_everything_that_can_be_on_has_a_manifest() -> None:
    assert set(manifests(ALL_ON)) == {
        "Deployment",
        "HorizontalPodAutoscaler",
        "Ingress",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    }


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicaz": 3}, "replicaz"),
        ({"workers": 0}, "workers"),
        ({"settings": {"LEANPLUM_PRODUCTION_KEY": "secret"}}, "LEANPLUM_PRODUCTION_KEY"),
        ({"settings": {"GATEWAY_DATABASE_URL": "postgresql://u:p@db/g"}}, "GATEWAY_DATABASE_URL"),
        ({"settings": {"OTEL_EXPORTER_OTLP_HEADERS": "key=secret"}}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"settings": {"GATEWAY_RATE_BURST": 10000000}}, "GATEWAY_RATE_BURST"),
        ({"settings": {"gateway_port": "1"}}, "gateway_port"),
    ],
)
def test_a_wrong_value_is_refused_and_named(values: dict[str, Any], named: str) -> None:
    assert named in rendered(values)["refused"]


def test_the_pod_has_more_time_to_stop_than_the_gateway_takes() -> None:
    found = manifests({"drainSeconds": 30, "shutdownSeconds": 45})
    pod = found["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 30 + 45


def test_the_container_may_write_nowhere_but_to_tmp(by_default: Manifests) -> None:
    security = container(by_default)["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    writable = [one for one in container(by_default)["volumeMounts"] if not one.get("readOnly")]
    assert [one["mountPath"] for one in writable] == ["/tmp"]


def test_no_secret_is_in_the_environment(by_default: Manifests) -> None:
    names = {one["name"] for one in container(by_default)["env"]}
    assert not {name for name in names if name.endswith("_KEY") or name.endswith("_URL")}


def test_the_autoscaler_looks_at_the_age_of_the_oldest_item() -> None:
    (metric,) = manifests(ALL_ON)["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["external"]["metric"]["name"]
    assert name == "leanplum_gateway_queue_oldest_item_age_seconds"
    assert "replicas" not in manifests(ALL_ON)["Deployment"]["spec"]


def test_the_alert_rules_are_those_of_prometheus() -> None:
    assert (CHART / "alerts.yaml").read_text() == (
        ROOT / "deploy" / "prometheus" / "alerts.yaml"
    ).read_text()


def test_a_gateway_starts_with_the_environment_and_the_files_of_the_pod(
    tmp_path: Path, by_default: Manifests, mounted: Callable[[Path, dict[str, str]], None]
) -> None:
    secrets, port = tmp_path / "secrets", free_port()
    with BackgroundServer() as leanplum:
        mounted(
            secrets,
            {
                "LEANPLUM_PRODUCTION_KEY": PRODUCTION_KEY,
                "LEANPLUM_API_URL": f"{leanplum.url}/api",
                "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/g.db",
                "GATEWAY_BOOTSTRAP_KEY": key_format.make(),
            },
        )
        settings = {one["name"]: one["value"] for one in container(by_default)["env"]} | {
            "GATEWAY_SECRETS_DIR": str(secrets),
            "GATEWAY_PORT": str(port),
            "GATEWAY_DRAIN_SECONDS": "0",
        }
        output = tmp_path / "output"
        process = spawn(command("serve"), tmp_path, environment(tmp_path, **settings), output)
        try:
            until(lambda: _is_ready(port), 60)
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0, output.read_text()


@pytest.fixture
def mounted() -> Callable[[Path, dict[str, str]], None]:
    """Return a function that writes a Secret as Kubernetes mounts it: links through `..data`."""

    def mount(folder: Path, values: dict[str, str]) -> None:
        version = folder / "..2026_01_31"
        version.mkdir(parents=True)
        (folder / "..data").symlink_to(version.name)
        for name, value in values.items():
            (version / name).write_text(value)
            (folder / name).symlink_to(f"..data/{name}")

    return mount


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
