"""Lints, renders and validates a Helm chart: `python render_chart.py CHART`, with values on stdin.

It runs with Helm's library and the schemas of Kubernetes, which have a folder of their own, and
prints one JSON document.
"""

import json
import sys

import helm_python
import kubernetes_validate
import yaml

KUBERNETES = "1.31"
OWN_KINDS = {"ServiceMonitor", "PrometheusRule"}  # of the Prometheus operator: it has the schemas


def main() -> None:
    chart_path, values = sys.argv[1], json.load(sys.stdin)
    with helm_python.Chart.load(chart_path) as chart:
        try:
            chart.validate_schema(values)
            files = chart.render(values, name="demo", namespace="prod")
        except helm_python.HelmError as error:
            json.dump({"refused": str(error)}, sys.stdout)
            return
    manifests = [
        manifest
        for name, text in sorted(files.items())
        if name.endswith(".yaml")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]
    invalid = [found for found in map(problem, manifests) if found]
    lint = helm_python.lint(chart_path)
    json.dump({"lint": lint, "manifests": manifests, "invalid": invalid}, sys.stdout)


def problem(manifest: dict[str, object]) -> str:
    if manifest["kind"] in OWN_KINDS:
        return ""
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{manifest['kind']}: {error.message}"
    return ""


main()
