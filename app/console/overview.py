"""The overview: what needs a person's attention, and the state of each app."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Request, Response
from fastapi.sse import format_sse_event

from app.console.access import Visitor
from app.console.attention import (
    Attention,
    ProcessState,
    at_least,
    attention_of_app,
    attention_of_gateway,
    attention_of_names,
)
from app.console.gateway_state import EXAMINED, SECONDS, GatewayState, StateReader
from app.console.navigation import PAGES
from app.console.pages import Pages
from app.console.poller import Poller
from app.console.routes import ConsoleDependency, console_router
from app.console.streams import Streams
from app.model import Status
from app.telemetry.minute_counts import ACCEPTED, CALLS, FAILED_CALLS

OVERVIEW, STREAM = "/console", "/console/stream"
DELIVERED = (Status.DELIVERED.value, Status.SKIPPED.value)
DEAD = (Status.REJECTED.value, Status.EXPIRED.value, Status.UNKNOWN.value)
STATES = {
    "held": ("bad", "held"),
    "open": ("bad", "circuit open"),
    "closed": ("good", "delivering"),
    "waiting": ("bad", "not delivered"),
    "idle": ("", "idle"),
}
router = console_router()


class Chart(NamedTuple):
    """A chart of the last hour by minute."""

    title: str
    values: Sequence[int]
    tone: str


class AppView(NamedTuple):
    """An app, as the overview shows it. Counts are of the last hour."""

    name: str
    badge: tuple[str, str]
    accepted: int
    delivered: int
    errors: int
    calls: int
    failed_calls: int
    waiting: str
    waits_ms: int | None
    calls_per_second: float
    rate: float
    dead: str | int
    charts: Sequence[Chart]


class OverviewReader:
    """The reader of what the overview shows, and of its stream.

    `process` returns what this process knows of itself.
    """

    def __init__(
        self,
        state: StateReader,
        process: Callable[[], ProcessState],
        pages: Pages,
        streams: Streams,
    ) -> None:
        self._state, self._process = state, process
        self._pages, self._streams = pages, streams
        self._poller = Poller(state, SECONDS)

    async def page(self, visitor: Visitor) -> Response:
        """Return the page."""
        state = await self._state.fresh()
        return self._pages.render("overview.html", visitor, **self._values(visitor, state))

    def stream(self, visitor: Visitor) -> Response:
        """Return the stream of the page's changing part."""
        sent = ""

        def events() -> Iterable[bytes]:
            nonlocal sent
            values = self._values(visitor, self._state.state)
            prefix = visitor.context.prefix
            text = self._pages.fragment("overview_state.html", prefix, **values)
            if text != sent:
                sent = text
                yield format_sse_event(event="overview", data_str=" ".join(text.split()))

        return self._streams.response(visitor, (), self._poller, events)

    def _values(self, visitor: Visitor, state: GatewayState) -> dict[str, Any]:
        process = self._process()
        shown = {name for name in state.apps if visitor.caller.may_use(name)}
        names = sorted(shown.union(visitor.apps))
        attention = [*attention_of_gateway(state, process)]
        for name in names:
            attention += attention_of_app(name, state, configured=name in visitor.apps)
        attention += attention_of_names(process, names)
        readable = {page.path for page in PAGES if visitor.may(page.scope)}
        return {
            "state": state,
            "attention": [_linked(found, readable) for found in attention],
            "apps": [app_view(name, state) for name in names],
            "examined": EXAMINED,
            "from_second": state.first_minute // 1000,
        }


def _linked(attention: Attention, readable: set[str]) -> Attention:
    """Return it without the link if the page does not exist for the visitor."""
    path = attention.page.partition("?")[0]
    return attention if path in readable else attention._replace(page="")


def app_view(name: str, state: GatewayState) -> AppView:
    """Return an app as the overview shows it."""
    queue, first = state.queue_of(name), state.first_minute
    calls = state.series(name, (CALLS,), first)
    return AppView(
        name=name,
        badge=STATES[_state_of(name, state)],
        accepted=state.total(name, (ACCEPTED,)),
        delivered=state.total(name, DELIVERED),
        errors=state.total(name, DEAD),
        calls=sum(calls),
        failed_calls=state.total(name, (FAILED_CALLS,)),
        waiting=at_least(queue.waiting, more=state.queue.more_waiting),
        waits_ms=None if queue.oldest is None else max(0, state.read_at - queue.oldest),
        calls_per_second=calls[-2] / 60,
        rate=state.delivery_of(name).rate,
        dead=queue.dead_letters and at_least(queue.dead_letters, more=state.queue.more_dead),
        charts=[
            Chart("Accepted", state.series(name, (ACCEPTED,), first), "accent"),
            Chart("Delivered", state.series(name, DELIVERED, first), "good"),
            Chart("Errors", state.series(name, (*DEAD, FAILED_CALLS), first), "bad"),
        ],
    )


def _state_of(name: str, state: GatewayState) -> str:
    """Return the state of an app, a key of `STATES`."""
    queue, delivery = state.queue_of(name), state.delivery_of(name)
    if queue.held or delivery.state == "held":
        return "held"
    if delivery.state == "open" or state.is_failing(name):
        return "open"
    if queue.waiting and not state.queue.deliverers:
        return "waiting"
    return "closed" if queue.waiting or state.total(name, (CALLS,)) else "idle"


async def _reader(request: Request) -> OverviewReader:
    reader: OverviewReader = request.state.overview
    return reader


Reader = Annotated[OverviewReader, Depends(_reader)]


@router.get(OVERVIEW)
async def overview(request: Request, console: ConsoleDependency, reader: Reader) -> Response:
    """Return the page."""
    return await reader.page(await console.access.enter(request, f"GET {OVERVIEW}"))


@router.get(STREAM)
async def overview_stream(request: Request, console: ConsoleDependency, reader: Reader) -> Response:
    """Stream the changing part of the page."""
    return reader.stream(await console.access.enter(request, f"GET {STREAM}"))
