"""Tracking as the running gateway has it: the plans, the names of each app, and the violations."""

from collections.abc import Sequence

from app.clock import now_ms
from app.ingest.validate import ItemSteps
from app.telemetry import Metrics
from app.tracking.checker import PlanChecker
from app.tracking.name_store import NameStore
from app.tracking.names import Name
from app.tracking.plan_files import LoadedPlans
from app.tracking.violations import ViolationCounts


class CallChecker(PlanChecker):
    """The checker of one call, which records what it found; implements `ingest.CallSteps`."""

    __slots__ = ("_app_name", "_tracking")

    def __init__(self, tracking: "Tracking", app_name: str, enricher: ItemSteps) -> None:
        names = tracking.names
        super().__init__(
            enricher,
            tracking.plans.current.of(app_name),
            names.by_app[app_name],
            names.limits,
            names.policy,
        )
        self._tracking, self._app_name = tracking, app_name

    async def learn(self, kept: Sequence[Name], claimed: Sequence[Name]) -> None:
        """Write down which of the claimed names were accepted; give up the others."""
        await self._tracking.names.learn(self._app_name, kept, claimed)

    def count_findings(self, key_id: str) -> None:
        """Count what broke the plan, once the call is answered."""
        if self.violations or self.dropped_kinds:
            self._tracking.count(self._app_name, key_id, self)


class Tracking:
    """Make the checker of each call."""

    def __init__(
        self,
        plans: LoadedPlans,
        names: NameStore,
        violations: ViolationCounts,
        metrics: Metrics,
    ) -> None:
        self.plans, self.names = plans, names
        self.violations, self._metrics = violations, metrics

    def add_checks(self, app_name: str, enricher: ItemSteps) -> CallChecker:
        """Return the steps of one call: those of `enricher`, then the checks of the app."""
        return CallChecker(self, app_name, enricher)

    def count(self, app_name: str, key_id: str, checker: PlanChecker) -> None:
        """Count the violations and the names beyond the limits that a checker found."""
        self.violations.add(app_name, key_id, checker.violations, now_ms())
        self._metrics.count_beyond_limit(app_name, checker.dropped_kinds)
