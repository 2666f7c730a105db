"""Rendering of the console's pages: templates, and the headers that every page has."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app.clock import instant
from app.console.access import ROOT, TOKEN_FIELD, Visitor
from app.console.navigation import PAGES
from app.http import VARY_BY_PREFIX
from app.pages import environment

# Scripts and styles come only from files of this gateway. `same-origin` instead of `no-referrer`,
# with which browsers would send `Origin: null` with forms.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    **VARY_BY_PREFIX,
}


class Pages:
    """The renderer of pages. What is inserted into a template is escaped."""

    def __init__(self) -> None:
        self._environment = environment(["app.console"])
        self._environment.filters |= FILTERS
        self._environment.globals |= {"TOKEN_FIELD": TOKEN_FIELD}

    def render(
        self, template: str, visitor: Visitor, *, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page for somebody who is signed in.

        Templates have `visitor`, `root` (the path of the console, for links), `prefix` and `links`
        (the pages of the navigation, and whether each is the current one) besides `values`.
        """
        path = visitor.context.path.removeprefix(ROOT)
        links = [(page, page.contains(path)) for page in PAGES if visitor.may(page.scope)]
        return self.render_public(
            template, visitor.context.prefix, status=status, visitor=visitor, links=links, **values
        )

    def render_public(
        self, template: str, prefix: str, *, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page for anybody."""
        text = self.fragment(template, prefix, **values)
        return HTMLResponse(text, status, dict(HEADERS))

    def fragment(self, template: str, prefix: str, **values: Any) -> str:
        """Return the text of a template."""
        shared = {"prefix": prefix, "root": f"{prefix}{ROOT}", "visitor": None, "links": ()}
        return self._environment.get_template(template).render(shared | values)


def redirect(prefix: str, path: str) -> Response:
    """Return a redirect to a page of the console, after an operation (RFC 9110 §15.4.4)."""
    return RedirectResponse(f"{prefix}{ROOT}{path}", 303, dict(HEADERS))


def _time(milliseconds: int | None) -> str:
    """Return a time (epoch milliseconds) as it is shown: in UTC, to the second."""
    if milliseconds is None:
        return "–"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _clock(milliseconds: int) -> str:
    """Return the time of day of a time (epoch milliseconds), in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%H:%M:%S")


def _subject(subject: str) -> str:
    """Return a user or device of an item as it is shown; what was erased has no name."""
    kind = {"u": "", "d": "device "}.get(subject[:1])
    return "erased" if kind is None else f"{kind}{subject[1:]}"


def _number(value: int | None) -> str:
    """Return a number with its thousands apart."""
    return "–" if value is None else f"{value:,}"


def _duration(milliseconds: float | None) -> str:
    """Return a duration in its two largest units."""
    if milliseconds is None:
        return "–"
    seconds = int(milliseconds / 1000)
    for size, unit, part, part_unit in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {part_unit}"
    return f"{seconds} s"


FILTERS = {
    "clock": _clock,
    "duration": _duration,
    "instant": instant,
    "number": _number,
    "subject": _subject,
    "time": _time,
}
