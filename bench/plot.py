"""The table of a run as an image: how each figure compares with its target.

A bar is as long as the figure is good: 1 is the target, 2 is twice as good. For figures that should
be small, such as latencies, that is the target divided by the figure.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import drawsvg

from bench.report import Row, Target

TITLE = "Figures and their targets: 1 is the target, longer is better, bars end at 3"
LONGEST = 3.0  # longer bars are cut here; their text has the figure
WIDTH, TOP, BOTTOM, LINE_HEIGHT = 960, 46, 34, 28
BARS_FROM, UNIT, GAP = 340, 115, 8
BAR_HEIGHT, TEXT_RISE = 20, 5
FONT_SIZE, TITLE_SIZE = 13, 15
# The image follows the reader's colours: text that is legible on white is not on black.
CSS = """
text { font-family: system-ui, sans-serif; fill: #1f2328 }
.met { fill: #2f81c7 }
.missed { fill: #d1711f }
.axis { stroke: #8c959f; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


class Bar(NamedTuple):
    """A figure that has a target, and how many times better than its target it is."""

    name: str
    text: str
    share: float
    met: bool


def bars(rows: Sequence[Row]) -> Iterator[Bar]:
    """Yield a bar for each target of the rows, except for targets of nothing at all."""
    for row in rows:
        for target in row.targets:
            if target.bound:
                yield Bar(row.name, _text(target), _share(target), target.met)


def _text(target: Target) -> str:
    wanted = target.text.replace(">=", "≥").replace("<=", "≤")
    return f"{target.got:.3g} (wanted {wanted})"


def _share(target: Target) -> float:
    if target.at_least:
        return target.got / target.bound
    return target.bound / max(target.got, target.bound / 1_000)


def svg(rows: Sequence[Row], machine: str) -> str:
    """Draw the bars of the rows."""
    drawn = list(bars(rows))
    bottom = TOP + LINE_HEIGHT * len(drawn)
    drawing = drawsvg.Drawing(WIDTH, bottom + BOTTOM)
    drawing.append_css(CSS)
    title = drawsvg.Text(
        f"{TITLE} ({machine})", TITLE_SIZE, WIDTH / 2, TOP / 2, text_anchor="middle"
    )
    drawing.append(title)
    for value in (0, 1):
        x = BARS_FROM + UNIT * value
        drawing.append(drawsvg.Line(x, TOP - GAP, x, bottom, class_="axis"))
        label = drawsvg.Text(str(value), FONT_SIZE, x, bottom + 2 * GAP, text_anchor="middle")
        drawing.append(label)
    for number, bar in enumerate(drawn):
        drawing.extend(_elements(bar, TOP + LINE_HEIGHT * number))
    return str(drawing.as_svg()) + "\n"


def _elements(bar: Bar, top: float) -> list[drawsvg.DrawingElement]:
    """Return the name, the bar and the figure of one line."""
    length = UNIT * min(bar.share, LONGEST)
    baseline = top + BAR_HEIGHT / 2 + TEXT_RISE
    return [
        drawsvg.Text(bar.name, FONT_SIZE, BARS_FROM - GAP, baseline, text_anchor="end"),
        drawsvg.Rectangle(
            BARS_FROM, top, round(length, 1), BAR_HEIGHT, class_="met" if bar.met else "missed"
        ),
        drawsvg.Text(bar.text, FONT_SIZE, round(BARS_FROM + length + GAP, 1), baseline),
    ]
