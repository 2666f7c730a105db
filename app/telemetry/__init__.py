"""Logs, metrics and traces of the gateway. None contains a secret or a user's attribute value."""

from app.telemetry.logs import configure_logging, describe, explain
from app.telemetry.metrics import Metrics

__all__ = ["Metrics", "configure_logging", "describe", "explain"]
