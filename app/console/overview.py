"""The overview: the state of each app, and what needs a person's attention."""

from typing import Annotated, NamedTuple

from fastapi import Depends, Request, Response

from app.console.routes import ConsoleDependency, console_router
from app.outbox.outbox import Outbox
from app.telemetry import Metrics

OVERVIEW = "/console"
router = console_router()


class AppState(NamedTuple):
    """The state of one app, as it is shown."""

    name: str
    state: str


class OverviewReader:
    """The reader of what the overview shows."""

    def __init__(self, outbox: Outbox, metrics: Metrics) -> None:
        self._outbox, self._metrics = outbox, metrics

    def queued(self) -> int:
        """Return how many items wait, of all apps."""
        return self._outbox.queued

    def state_of(self, app: str) -> AppState:
        """Return the state of an app."""
        return AppState(app, self._metrics.states.get(app, "closed"))


async def _reader(request: Request) -> OverviewReader:
    reader: OverviewReader = request.state.overview
    return reader


Reader = Annotated[OverviewReader, Depends(_reader)]


@router.get(OVERVIEW)
async def overview(request: Request, console: ConsoleDependency, reader: Reader) -> Response:
    """Return the page."""
    visitor = await console.access.enter(request, f"GET {OVERVIEW}")
    apps = [reader.state_of(app) for app in visitor.apps]
    return console.pages.render("overview.html", visitor, apps=apps, queued=reader.queued())
