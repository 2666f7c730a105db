"""The report of a run: rows with targets, the table, the JSON document, the exit status."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from bench.figures import Slice

HEADINGS = (
    "scenario",
    "rate",
    "to (a)",
    "to (b)",
    "p50 ms",
    "p99 ms",
    "PSS MB",
    "failed",
    "wanted",
    "met",
)


@dataclass(frozen=True)
class Target:
    """A figure and its bound; a ratio names in `base` what it is a ratio to."""

    text: str
    got: float
    bound: float
    at_least: bool = True
    base: str = ""

    @property
    def met(self) -> bool:
        """True if the figure is within the bound."""
        return self.got >= self.bound if self.at_least else self.got <= self.bound


@dataclass(frozen=True)
class Row:
    """A line of the table; a figure that the scenario does not measure is None."""

    name: str
    rate: float | None = None
    to_a: float | None = None
    to_b: float | None = None
    p50: float | None = None
    p99: float | None = None
    pss: float | None = None
    failed: int = 0
    lost: int = 0
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()
    slices: tuple[Slice, ...] = field(default=(), repr=False)


def at_least(bound: float, base: str, got: float) -> Target:
    """Return a target for a ratio to `base`: a yardstick, or another row."""
    return Target(f">= {bound:g} {base}", got, bound, base=base)


def at_most(bound: float, unit: str, got: float, what: str = "") -> Target:
    """Return a target for a figure in a unit."""
    return Target(f"{what} <= {bound:g} {unit}".strip(), got, bound, at_least=False)


def none_lost(lost: int) -> Target:
    """Return the target that every acknowledged item arrives."""
    return Target("0 lost", lost, 0, at_least=False)


def summarise(
    name: str,
    slices: Sequence[Slice],
    *,
    to_a: float | None = None,
    to_b: float | None = None,
    targets: tuple[Target, ...] = (),
    notes: tuple[str, ...] = (),
) -> Row:
    """Make one row of all rounds: median rate and latency, greatest memory, sum of failures."""
    return Row(
        name=name,
        rate=median(s.rate for s in slices),
        to_a=to_a,
        to_b=to_b,
        p50=median(s.p50 for s in slices),
        p99=median(s.p99 for s in slices),
        pss=max(s.pss for s in slices),
        failed=sum(s.failed for s in slices),
        targets=targets,
        notes=notes,
        slices=tuple(slices),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _failures(row: Row) -> str:
    return f"{row.failed} + {row.lost} LOST" if row.lost else str(row.failed)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        _number(row.rate, 0),
        _number(row.to_a, 2),
        _number(row.to_b, 1),
        _number(row.p50, 2),
        _number(row.p99, 2),
        _number(row.pss, 0),
        _failures(row),
        ", ".join(target.text for target in row.targets) or "-",
        ", ".join("yes" if target.met else "NO" for target in row.targets) or "-",
    )


def table(rows: Sequence[Row]) -> str:
    """Return the table as text, with the notes below."""
    lines = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    drawn = [_draw(line, widths) for line in lines]
    notes = [f"{row.name.split()[0]} {note}" for row in rows for note in row.notes]
    return "\n".join([drawn[0], "-" * len(drawn[0]), *drawn[1:], *([""] if notes else []), *notes])


def _draw(line: Sequence[str], widths: Sequence[int]) -> str:
    left = {0, len(HEADINGS) - 2, len(HEADINGS) - 1}
    cells = (
        text.ljust(width) if column in left else text.rjust(width)
        for column, (text, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def document(rows: Sequence[Row], facts: dict[str, object]) -> dict[str, object]:
    """Return the document of `--json`: machine and plan, all rows with slices and targets."""
    return {**facts, "rows": [_record(row) for row in rows], "exit_status": exit_status(rows)}


def _record(row: Row) -> dict[str, object]:
    targets = [asdict(target) | {"met": target.met} for target in row.targets]
    return asdict(row) | {"targets": targets}


def exit_status(rows: Sequence[Row]) -> int:
    """Return 1 if a request failed or an acknowledged item was lost; missed targets are allowed."""
    return 1 if any(row.failed or row.lost for row in rows) else 0
