"""The reports behind `/metrics` and `/readyz`: of this process, or of all workers together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from prometheus_client import generate_latest

from app.server.bootstrap import Services
from app.server.worker_links import METRICS, WorkerLink
from app.telemetry import merged_metrics

STATE = "state"  # a question that workers ask each other, beside METRICS


class DeliveryReport(NamedTuple):
    """The state of delivery and of the audit log, as one process knows it.

    `states` and `redirects` are by app (`Metrics`). `audit_tampered` and `audit_waiting` are those
    of its sealer.
    """

    states: dict[str, str]
    redirects: dict[str, str]
    audit_tampered: bool
    audit_waiting: bool


class ProcessReports:
    """The reports of this process, and of the others if it is a worker."""

    def __init__(self, services: Services, link: WorkerLink | None = None) -> None:
        """Answer the questions of the other workers from now on."""
        self._metrics, self._sealer = services.metrics, services.sealer
        self._link = link
        if link is not None:
            link.answerers[METRICS] = self._render
            link.answerers[STATE] = self._report_parts

    async def metrics(self) -> bytes:
        """Return the metrics of all processes in Prometheus' text format."""
        if self._link is None:
            return generate_latest(self._metrics.registry)
        answers = await self._link.ask(METRICS)
        return merged_metrics.merge(answers.values())

    async def delivery(self) -> DeliveryReport:
        """Return the state of delivery and of the audit log in all processes."""
        if self._link is None:
            return self._report()
        answers = await self._link.ask(STATE)
        return _combined([DeliveryReport(*answer) for answer in answers.values()])

    async def _render(self) -> merged_metrics.Rendered:
        return merged_metrics.render(self._metrics.registry)

    async def _report_parts(self) -> list[Any]:
        return list(self._report())

    def _report(self) -> DeliveryReport:
        metrics, sealer = self._metrics, self._sealer
        return DeliveryReport(
            dict(metrics.states), dict(metrics.redirects), bool(sealer.tampered), sealer.waiting
        )


def _combined(reports: Sequence[DeliveryReport]) -> DeliveryReport:
    states, redirects = dict[str, str](), dict[str, str]()
    for report in reports:
        states |= report.states
        redirects |= report.redirects
    return DeliveryReport(
        states,
        redirects,
        any(report.audit_tampered for report in reports),
        any(report.audit_waiting for report in reports),
    )
