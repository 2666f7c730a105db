"""The preview page: paste items, and see what Leanplum would receive.

The page shows what was pasted, values included, to the person who pasted it. Nothing is stored.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import Depends, Request, Response

from app.apps import AppRegistry
from app.clock import now_ms
from app.console.access import ConsoleAccess, Visitor
from app.console.forms import Form
from app.console.routes import Console, ConsoleDependency, console_router
from app.errors import Forbidden, GatewayError, Invalid, Malformed, TooLarge
from app.http import (
    MEMBERS_PER_ITEM,
    MOST_PREVIEWED,
    RateLimiter,
    RefusedItem,
    items_to_preview,
    leanplum_entry,
    parse_json,
    permitted,
    problems,
    refuse_crowded,
    validated_items,
)
from app.ingest.service import Ingest
from app.model import App, Caller, NewItem

PREVIEW = "/console/preview"
MOST_BYTES = 512 * 1024  # of the form; URL-encoding may triple what was pasted
EXAMPLE = """{
  "action": "track",
  "userId": "user-1",
  "event": "Purchase",
  "value": 9.99,
  "currencyCode": "EUR",
  "params": {"sku": "A-1"}
}"""
router = console_router()


class PreviewedItem(NamedTuple):
    """The preview of an item: the text of its entry, or a problem; and remarks on it."""

    entry: str | None
    problem: dict[str, Any] | None
    notes: dict[str, Any]


class Previewer:
    """The preview of pasted items."""

    def __init__(self, limiter: RateLimiter, ingest: Ingest, apps: AppRegistry) -> None:
        self._limiter, self._ingest, self._apps = limiter, ingest, apps

    async def preview(self, visitor: Visitor, form: Form) -> list[PreviewedItem]:
        """Return what becomes of each item in a form.

        Each counts against the rate limits as if it were accepted. Raises Malformed, Invalid,
        TooLarge, Forbidden, RateLimited.
        """
        app = self._app(visitor, form.text("app"))
        body = form.raw("items").encode()
        refuse_crowded(body, MOST_PREVIEWED * MEMBERS_PER_ITEM)
        raw_items, base = items_to_preview(parse_json(body))
        visitor.context.app = app
        await self._limiter.take(visitor.context, visitor.caller, len(raw_items))
        return self._previewed(app, visitor, raw_items, base)

    def _previewed(
        self, app: App, visitor: Visitor, raw_items: Sequence[Any], base: str
    ) -> list[PreviewedItem]:
        caller: Caller = visitor.caller
        # The context does not get these steps: findings in previews are not counted.
        item_steps = self._ingest.item_steps(app, caller, now_ms(), visitor.context.origin.named)
        validated = validated_items(raw_items, base, item_steps)
        items = [item for item in validated if isinstance(item, NewItem)]
        visitor.context.subjects = {item.subject for item in items}
        return [_shown(app, item) for item in permitted(app, caller, validated)]

    def _app(self, visitor: Visitor, name: str) -> App:
        app = self._apps.get(name)
        if app is None or not visitor.caller.may_use(name):
            raise Forbidden("This key is not valid for this app.")
        return app


def _shown(app: App, item: NewItem | RefusedItem) -> PreviewedItem:
    if not isinstance(item, NewItem):
        return PreviewedItem(None, problems.of_error(item, ""), {})
    entry = orjson.dumps(leanplum_entry(app, item, now_ms()), option=orjson.OPT_INDENT_2)
    notes = orjson.loads(item.notes) if item.notes is not None else {}
    return PreviewedItem(entry.decode(), None, notes)


async def _previewer(request: Request) -> Previewer:
    previewer: Previewer = request.state.previewer
    return previewer


PreviewerDependency = Annotated[Previewer, Depends(_previewer)]


@router.get(PREVIEW)
async def preview_page(request: Request, console: ConsoleDependency) -> Response:
    """Return the page with an example."""
    visitor = await console.access.enter(request, f"GET {PREVIEW}")
    return _page(console, visitor, EXAMPLE, "")


@router.post(PREVIEW)
async def preview(
    request: Request, console: ConsoleDependency, previewer: PreviewerDependency
) -> Response:
    """Return the page with what Leanplum would receive."""
    access: ConsoleAccess = console.access
    visitor, form = await access.operate(request, f"POST {PREVIEW}", most_bytes=MOST_BYTES)
    try:
        results = await previewer.preview(visitor, form)
    except (Malformed, Invalid, TooLarge) as error:
        return _page(console, visitor, form.raw("items"), form.text("app"), error=error)
    return _page(console, visitor, form.raw("items"), form.text("app"), results=results)


def _page(
    console: Console,
    visitor: Visitor,
    pasted: str,
    app: str,
    *,
    results: Sequence[PreviewedItem] = (),
    error: GatewayError | None = None,
) -> Response:
    """Return the page; with an error that concerns all that was pasted, with its status."""
    problem = None if error is None else problems.of_error(error, "")
    status = 200 if problem is None else problem["status"]
    return console.pages.render(
        "preview.html",
        visitor,
        status=status,
        pasted=pasted,
        app=app,
        results=results,
        problem=problem,
        most=MOST_PREVIEWED,
    )
