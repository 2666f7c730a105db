"""The table of the attacks, as Markdown."""

from collections.abc import Iterable, Mapping

from tests.attacks.measuring import Row, Span

HEAD = (
    "Attack", "Requests", "Answers", "p99 before", "p50", "p99", "longest", "the caller's answers",
    "processor", "waited", "memory",
)  # fmt: skip


def markdown(rows: Iterable[Row]) -> str:
    """Times are milliseconds of the well-behaved caller's events; memory is the most that was
    resident.
    """
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)])


def _cells(row: Row) -> tuple[str, ...]:
    during: Span = row.during
    return (
        f"`{row.name}`: {row.what}", str(row.requests), _counts(row.answers), f"{row.before.p99:.0f}",
        f"{during.p50:.0f}", f"{during.p99:.0f}", f"{during.longest:.0f}", _counts(row.outcomes),
        f"{100 * row.processor_seconds / row.seconds:.0f} %", f"{100 * row.waited_seconds / row.seconds:.0f} %",
        f"{row.memory_mb} MB",
    )  # fmt: skip


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ×{count}" for name, count in sorted(counts.items()))
