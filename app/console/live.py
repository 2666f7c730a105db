"""The live page: items as they are accepted and as they settle, without their content."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from fastapi.sse import format_sse_event

from app.console.access import Visitor
from app.console.pages import Pages
from app.console.poller import Poller
from app.console.routes import ConsoleDependency, console_router
from app.console.streams import Streams
from app.console.tail import SECONDS, Tail, TailEntry
from app.leanplum.actions import ACTIONS
from app.model import Scope, Status
from app.outbox.feed import Feed, FeedEntry
from app.outbox.item_filter import ItemFilter
from app.outbox.outbox import Outbox

LIVE, STREAM = "/console/live", "/console/live/stream"
HISTORY = 50  # entries of each kind that the page shows at first
MAX_TEXT = 500
FINAL = (Status.DELIVERED, Status.SKIPPED, Status.REJECTED, Status.EXPIRED, Status.UNKNOWN)
KINDS = ("accepted", *(status.value for status in FINAL))
# Below the rows of a second in which there were more
LEFT_OUT = '<tr class="left-out"><td colspan="7">Others were left out here.</td></tr>'
router = console_router()


@dataclass(frozen=True, slots=True)
class LiveQuery:
    """The filters of the page; "" takes all. `kind` is `accepted` or a final status."""

    app: Annotated[str, Query(max_length=MAX_TEXT)] = ""
    action: Annotated[str, Query(max_length=MAX_TEXT)] = ""
    event: Annotated[str, Query(max_length=MAX_TEXT)] = ""
    user: Annotated[str, Query(max_length=MAX_TEXT)] = ""
    kind: Annotated[str, Query(max_length=MAX_TEXT)] = ""

    def takes(self, entry: FeedEntry) -> bool:
        """Return whether an entry is one of those to be shown."""
        return (
            self.app in {"", entry.app}
            and self.action in {"", entry.action}
            and self.event in {"", entry.event}
            and self.user in {"", entry.subject[1:]}
            and self.kind in {"", kind_of(entry)}
        )


def kind_of(entry: FeedEntry) -> str:
    """Return what an entry reports: `accepted`, or the status with which the item settled."""
    return entry.status.value if entry.settled else "accepted"


class LiveReader:
    """The reader of what the page shows, and of its stream."""

    def __init__(self, outbox: Outbox, pages: Pages, streams: Streams) -> None:
        self._outbox, self._pages, self._streams = outbox, pages, streams
        self._tail = Tail(outbox)
        self._poller = Poller(self._tail, SECONDS)
        self._row = lru_cache(maxsize=1_000)(self._render_row)

    @property
    def follows(self) -> bool:
        """Return whether new items are read, since somebody looks."""
        return self._poller.runs

    async def recent(self, visitor: Visitor, query: LiveQuery) -> list[FeedEntry]:
        """Return the entries that the page shows at first, newest first."""
        which = ItemFilter(
            apps=frozenset({query.app} if query.app else visitor.apps) & set(visitor.apps),
            action=query.action or None,
            event=query.event or None,
        )
        step = await self._outbox.read_feed(Feed(which), HISTORY)
        return [entry for entry in reversed(step.entries) if query.takes(entry)]

    def stream(self, visitor: Visitor, query: LiveQuery) -> Response:
        """Return the stream of what is new."""
        seen = self._tail.last

        def events() -> Iterable[bytes]:
            nonlocal seen
            came = list(self._tail.after(seen))
            new = [entry for entry in came if self._shown(entry, visitor, query)]
            seen = self._tail.last
            # What a reading left out may be what the filters choose
            left_out = LEFT_OUT if any(entry.more for entry in came) else ""
            if new or left_out:
                rows = "".join(self._row(entry, visitor.context.prefix) for entry in new)
                yield format_sse_event(event="entries", data_str=rows + left_out)

        scopes = (Scope.RECEIPTS_READ,)
        return self._streams.response(visitor, scopes, self._poller, events)

    def _shown(self, tail_entry: TailEntry, visitor: Visitor, query: LiveQuery) -> bool:
        entry = tail_entry.entry
        return visitor.caller.may_use(entry.app) and query.takes(entry)

    def _render_row(self, tail_entry: TailEntry, prefix: str) -> str:
        row = self._pages.fragment("live_row.html", prefix, entry=tail_entry.entry, kind=kind_of)
        return " ".join(row.split())


async def _reader(request: Request) -> LiveReader:
    reader: LiveReader = request.state.live
    return reader


Reader = Annotated[LiveReader, Depends(_reader)]
Filters = Annotated[LiveQuery, Depends()]


@router.get(LIVE)
async def live(
    request: Request, console: ConsoleDependency, reader: Reader, query: Filters
) -> Response:
    """Return the page, with the last entries."""
    visitor = await console.access.enter(request, f"GET {LIVE}", Scope.RECEIPTS_READ)
    entries = await reader.recent(visitor, query)
    return console.pages.render(
        "live.html",
        visitor,
        entries=entries,
        query=query,
        kind=kind_of,
        statuses=KINDS,
        actions=[name for name, action in ACTIONS.items() if action.later],
        stream=f"{STREAM}?{request.url.query}",
    )


@router.get(STREAM)
async def live_stream(
    request: Request, console: ConsoleDependency, reader: Reader, query: Filters
) -> Response:
    """Stream the rows of new entries."""
    visitor = await console.access.enter(request, f"GET {STREAM}", Scope.RECEIPTS_READ)
    return reader.stream(visitor, query)
