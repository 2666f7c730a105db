"""Progress of long operations, on standard error, if that is a terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
Advance = Callable[[int], None]
SHOWN_AFTER_SECONDS = 2.0
STEP = 500  # things counted together: a bar's own count costs more than most of what is counted


@contextmanager
def progress(operation: str, total: int | None = None) -> Iterator[Advance]:
    """Show how far an operation is, once it has taken two seconds.

    Yield the function that says how many more things are done. Without a `total` it shows only how
    many are done, if any, and the time.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    bar = _bar(total)
    task = bar.add_task(operation, total=total)
    timer = Timer(SHOWN_AFTER_SECONDS, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda count: bar.advance(task, count)
    finally:
        timer.cancel()
        timer.join()  # it may just be starting the bar
        bar.stop()


def _bar(total: int | None) -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    time_column = TimeElapsedColumn() if total is None else TimeRemainingColumn()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        time_column,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # results go there, whether it is a terminal or not
    )


def counted(things: Iterable[T], advance: Advance) -> Iterator[T]:
    """Yield things, and advance a progress bar as they are used."""
    count = 0
    for count, thing in enumerate(things, 1):
        yield thing
        if count % STEP == 0:
            advance(STEP)
    advance(count % STEP)
