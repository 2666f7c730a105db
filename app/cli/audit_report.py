"""The report of `audit verify`, as JSON and as text."""

from collections.abc import Iterator
from typing import Any

from app.audit.findings import Finding, Report

NOTHING_RECORDED = "Nothing is recorded yet, and nothing is sealed."
NOTHING_SEALED = (
    "Nothing is sealed yet: each record has a valid MAC, but no signature shows whether some are "
    "missing. The gateway seals records every second while it runs."
)


def report_document(report: Report) -> dict[str, Any]:
    """Return a report as JSON."""
    return {
        "findings": [finding._asdict() for finding in report.findings],
        **report.counts,
        "acknowledged": [finding._asdict() for finding in report.acknowledged],
        "unchecked": report.unchecked,
        "part": report.part,
        "marksLookedAt": report.macs_checked,
    }


def report_lines(report: Report) -> Iterator[str]:
    """Yield a report for people: each finding, and what was verified."""
    if report.nothing_recorded:
        yield NOTHING_RECORDED
        return
    for finding in report.findings:
        yield f"{finding.kind}: {_finding_text(finding)}"
    for finding in report.acknowledged:
        yield f"acknowledged: {_finding_text(finding)}"
    for size in report.unchecked:
        yield (
            f"not verifiable: the kept checkpoint of {size} records: "
            "retention has removed the records that it covers"
        )
    if report.nothing_sealed:
        yield NOTHING_SEALED
    yield _summary(report)
    if any(finding.kind == "row" for finding in report.findings):
        yield "Caller keys and erasures are NOT as the gateway left them."
    if report.part != (None, None):
        yield f"This is a part, {_part_text(report)}: check that it is the one you asked for."
    if report.unsealed:
        yield f"{report.unsealed} records are newer than the newest checkpoint: not signed yet."
    if not report.macs_checked:
        yield "MACs were not checked, which takes the database and its key."


def _summary(report: Report) -> str:
    counts = "{records} records, {sealed} sealed, {removed} removed by retention".format(
        **report.counts
    )
    if any(finding.kind != "row" for finding in report.findings):
        return f"{counts}; NOT as they were recorded."
    if report.acknowledged:
        return f"{counts}; all as they were recorded, except those acknowledged."
    return f"{counts}; all as they were recorded."


def _finding_text(finding: Finding) -> str:
    if finding.kind == "row":
        return finding.detail
    numbers = str(finding.first)
    if finding.first != finding.last:
        numbers = f"{finding.first} to {finding.last}"
    subject = "of" if finding.kind == "checkpoint" else "record"
    return f"{subject} {numbers}: {finding.detail}"


def _part_text(report: Report) -> str:
    first, last = report.part
    begin = first or report.removed + 1
    if last is not None and last < begin:
        return "without a record"
    return f"from record {begin} on" if last is None else f"from record {begin} to {last}"
