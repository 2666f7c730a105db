"""Caller keys: list, create, rotate and revoke them, and see their limits."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Query, Request, Response

from app.callers.key_service import KeyService
from app.callers.store import ChangeRecord, StoredKey
from app.clock import now_ms
from app.console.access import Visitor
from app.console.fields import Problems, choices_of, line_of, number_of, time_of
from app.console.forms import Form
from app.console.pages import redirect
from app.console.routes import Console, ConsoleDependency, console_router
from app.errors import Invalid
from app.http import LimitUsage, RateLimiter, transaction_record
from app.model import Scope

KEYS, KEY = "/console/keys", "/console/keys/{key_id}"
NEW_KEY, CREATE = f"{KEYS}/new", f"{KEYS}/create"
ROTATE, REVOKE = f"{KEY}/rotate", f"{KEY}/revoke"
PAGE = 100
POSITION = r"^(\d{1,18}-key_[0-9a-f]{16})?$"
MOST_RATE = 10**9
HOUR_SECONDS = 3_600
OVERLAPS = (0, 1, 24, 7 * 24, 30 * 24)  # hours that an old key goes on working
DEFAULT_OVERLAP = 24
EVERY_APP = "*"  # no app has this name
router = console_router()


class ListedKey(NamedTuple):
    """A key as it is shown, with the state of its limit; `state` is a word for people."""

    stored: StoredKey
    state: str
    usage: LimitUsage | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """The fields of a key to be created; `apps` is None for every app."""

    name: str
    scopes: frozenset[Scope]
    apps: frozenset[str] | None
    expires_at: int | None
    rate_per_second: int | None
    rate_burst: int | None


class KeyPages:
    """The services behind the pages about keys."""

    def __init__(self, service: KeyService, limiter: RateLimiter) -> None:
        self.service, self._limiter = service, limiter

    async def listed(self, stored: StoredKey) -> ListedKey:
        """Return a key with its state, and the state of its limit while it may be used."""
        now = now_ms()
        if not stored.usable(now):
            state = "revoked" if stored.revoked_at is not None else "expired"
            return ListedKey(stored, state, None)
        state = "rotating" if len(stored.secrets) > 1 else "active"
        return ListedKey(stored, state, await self._limiter.usage(stored.caller))

    @property
    def covers(self) -> str:
        """Return which processes the shown limits cover, in words."""
        if self._limiter.state() is None:
            return "this process only: limits are not shared"
        return "all replicas that share limits"


async def _key_pages(request: Request) -> KeyPages:
    pages: KeyPages = request.state.key_pages
    return pages


KeyDependency = Annotated[KeyPages, Depends(_key_pages)]


@router.get(KEYS)
async def list_keys(
    request: Request,
    console: ConsoleDependency,
    keys: KeyDependency,
    after: Annotated[str, Query(pattern=POSITION)] = "",
) -> Response:
    """Return the list of keys, oldest first."""
    visitor = await console.access.enter(request, f"GET {KEYS}", Scope.KEYS_MANAGE)
    created_at, _, key_id = after.partition("-")
    position = (int(created_at), key_id) if after else None
    page = await keys.service.page(visitor.caller, position, PAGE)
    following = None if page.next_after is None else "{}-{}".format(*page.next_after)
    listed = [await keys.listed(stored) for stored in page.keys]
    return console.pages.render(
        "keys.html",
        visitor,
        keys=listed,
        covers=keys.covers,
        following=following,
        after=after,
        scope_count=len(Scope),
    )


@router.get(NEW_KEY)
async def new_key(request: Request, console: ConsoleDependency) -> Response:
    """Return the form for a new key."""
    visitor = await console.access.enter(request, f"GET {NEW_KEY}", Scope.KEYS_MANAGE)
    return _new_key_page(console, visitor)


@router.post(CREATE)
async def create_key(request: Request, console: ConsoleDependency, keys: KeyDependency) -> Response:
    """Create a key, and show it: this response is the only one that has it."""
    visitor, form = await console.access.operate(request, f"POST {CREATE}", Scope.KEYS_MANAGE)
    try:
        new = _new_key_of(form, visitor)
    except Invalid as error:
        return _new_key_page(console, visitor, form, error)
    with _change_record(visitor) as record:
        key, stored = await keys.service.create(
            visitor.caller,
            name=new.name,
            scopes=new.scopes,
            apps=new.apps,
            expires_at=new.expires_at,
            rate_per_second=new.rate_per_second,
            rate_burst=new.rate_burst,
            record=record,
        )
    return console.pages.render("key_made.html", visitor, key=key, stored=stored, overlap=None)


@router.get(KEY)
async def show_key(
    request: Request, console: ConsoleDependency, keys: KeyDependency, key_id: str
) -> Response:
    """Return the page of one key."""
    visitor = await console.access.enter(request, f"GET {KEY}", Scope.KEYS_MANAGE)
    visitor.context.resource = key_id if len(key_id) <= len("key_") + 16 else None
    stored = await keys.service.get(visitor.caller, key_id)
    return console.pages.render(
        "key.html",
        visitor,
        listed=await keys.listed(stored),
        covers=keys.covers,
        overlaps=OVERLAPS,
        default_overlap=DEFAULT_OVERLAP,
        once=secrets.token_hex(16),
        own=stored.caller.key_id == visitor.caller.key_id,
    )


@router.post(ROTATE)
async def rotate_key(
    request: Request, console: ConsoleDependency, keys: KeyDependency, key_id: str
) -> Response:
    """Replace a key, and show the new one. A form that is sent again does not rotate again."""
    visitor, form = await console.access.operate(request, f"POST {ROTATE}", Scope.KEYS_MANAGE)
    problems = Problems()
    hours = number_of(form, "hours", 0, max(OVERLAPS), problems)
    problems.check()
    overlap = (DEFAULT_OVERLAP if hours is None else hours) * HOUR_SECONDS
    with _change_record(visitor) as record:
        key, stored = await keys.service.rotate(
            visitor.caller, key_id, overlap, once=form.text("once") or None, record=record
        )
    return console.pages.render("key_made.html", visitor, key=key, stored=stored, overlap=overlap)


@router.post(REVOKE)
async def revoke_key(
    request: Request, console: ConsoleDependency, keys: KeyDependency, key_id: str
) -> Response:
    """Revoke a key, and return to its page."""
    visitor, _ = await console.access.operate(request, f"POST {REVOKE}", Scope.KEYS_MANAGE)
    with _change_record(visitor, status=303) as record:
        await keys.service.revoke(visitor.caller, key_id, record=record)
    return redirect(visitor.context.prefix, f"/keys/{key_id}")


@contextmanager
def _change_record(visitor: Visitor, status: int = 200) -> Iterator[ChangeRecord]:
    """Provide the function that makes the audit record of a change."""
    with transaction_record(visitor.context) as record:

        def text_of_record(key_id: str, now: int, details: Mapping[str, Any]) -> str:
            return record.make(details, status=status, resource=key_id, now=now)[1]

        yield text_of_record


def _new_key_page(
    console: Console, visitor: Visitor, form: Form | None = None, error: Invalid | None = None
) -> Response:
    """Return the form for a key: an empty one, or as it was sent with what is wrong with it."""
    status = 200 if error is None else 422
    faults = {} if error is None else {fault.pointer: fault.detail for fault in error.faults}
    return console.pages.render(
        "key_new.html",
        visitor,
        status=status,
        form=form or Form({"apps": ["" if visitor.caller.apps else EVERY_APP]}),
        faults=faults,
        scopes=list(Scope),
        every_app=EVERY_APP if visitor.caller.apps is None else None,
    )


def _new_key_of(form: Form, visitor: Visitor) -> NewKey:
    """Return the key that a form describes. Raises Invalid with everything that is wrong."""
    problems = Problems()
    name = line_of(form, "name", problems)
    scopes = choices_of(form, "scopes", [scope.value for scope in Scope], problems)
    apps = _apps_of(form, visitor, problems)
    expires_at = time_of(form.text("expires"), "expires", problems)
    if expires_at is not None and expires_at <= now_ms():
        problems.add("expires", "must be in the future")
    rate = number_of(form, "rate", 1, MOST_RATE, problems)
    burst = number_of(form, "burst", 1, MOST_RATE, problems)
    problems.check()
    return NewKey(name, frozenset(map(Scope, scopes)), apps, expires_at, rate, burst)


def _apps_of(form: Form, visitor: Visitor, problems: Problems) -> frozenset[str] | None:
    """Return the apps that a form names; None for every app."""
    offered: Sequence[str] = visitor.apps
    if visitor.caller.apps is None:
        offered = (EVERY_APP, *visitor.apps)
    chosen = choices_of(form, "apps", offered, problems)
    return None if EVERY_APP in chosen and visitor.caller.apps is None else frozenset(chosen)
