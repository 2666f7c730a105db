"""Finding receipts, and the history of one item."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

import orjson
from fastapi import Depends, Query, Request, Response

from app import ids
from app.audit.service import AuditService, RecordQuestion
from app.console.access import Visitor
from app.console.fields import Problems, time_of
from app.console.routes import ConsoleDependency, console_router
from app.errors import NotFound
from app.ingest.validate import subject_of
from app.leanplum.actions import ACTIONS
from app.model import DEAD, Receipt, Scope, Status
from app.outbox.dead_letter_groups import UNREADABLE
from app.outbox.item_filter import ItemFilter
from app.outbox.receipts import Origin
from app.receipts import ReceiptService, WaitExplanation

FIND, RECEIPT = "/console/find", "/console/find/receipt"
PAGE = 50
MAX_TEXT = 500
CALLS = 20  # calls to Leanplum that the history of an item shows, the latest
MOST_PAGES = 10  # searches of the audit log for them, of at most 50,000 records each
AFTER_MS = 1  # the record of a call has the time of the item's outcome, or an earlier one
LEANPLUM_CALL = "leanplum multi"
STATUSES = tuple(status.value for status in Status)
Text = Annotated[str, Query(max_length=MAX_TEXT)]
WAITS = {
    "app-held": "Leanplum refuses the app or its key. Items are held until the configuration is "
    "corrected; nothing is lost.",
    "earlier-item": "An earlier item of the same user comes first.",
    "circuit-open": "Calls to Leanplum have failed repeatedly; the gateway probes with single "
    "calls until one succeeds.",
    "rate": "The rate of calls that Leanplum takes is used up; the item's turn comes.",
    "retry": "The last attempt failed; it is sent again later.",
}
SHORT_WAITS = {
    "app-held": "the app is held",
    "earlier-item": "an earlier item comes first",
    "circuit-open": "calls to Leanplum fail",
    "rate": "the rate of calls is used up",
    "retry": "the next try is later",
}
router = console_router()


@dataclass(frozen=True, slots=True)
class ReceiptQuestion:
    """The fields of the search; "" takes all. `before` is where the page begins."""

    app: Text = ""
    user: Text = ""
    device: Text = ""
    id: Text = ""
    request: Text = ""
    event: Text = ""
    action: Text = ""
    status: Annotated[str, Query(pattern=f"^({'|'.join(STATUSES)})?$")] = ""
    since: Text = ""
    until: Text = ""
    before: Annotated[str, Query(pattern=r"^\d{0,18}$")] = ""

    @property
    def is_empty(self) -> bool:
        """True if nothing is searched for, not even everything of an app."""
        return not any(asdict(self).values())

    @property
    def subject(self) -> str | None:
        """The user or device that is searched for, as items have it."""
        if self.user:
            return subject_of({"userId": ids.plain(self.user)})
        return subject_of({"deviceId": ids.plain(self.device)}) if self.device else None

    def item_filter(self) -> ItemFilter:
        """Return the filter of the items. Raises Invalid."""
        problems = Problems()
        since = time_of(self.since, "since", problems)
        until = time_of(self.until, "until", problems)
        if self.user and self.device:
            problems.add("device", "name a user or a device, not both")
        problems.check()
        return ItemFilter(
            subject=self.subject,
            action=self.action or None,
            event=self.event or None,
            statuses=frozenset({Status(self.status)}) if self.status else None,
            request_id=self.request or None,
            since=since,
            until=until,
        )

    def link(self, before: int) -> str:
        """Return the query of the page before an item."""
        fields = {name: value for name, value in asdict(self).items() if value}
        return urlencode(fields | {"before": before})


class FoundItem(NamedTuple):
    """A receipt in the list, with its app, Leanplum's words about it, and why it waits."""

    app: str
    receipt: Receipt
    words: str
    waits_for: str

    @property
    def link(self) -> str:
        """The query of the page with its history."""
        return urlencode({"app": self.app, "id": self.receipt.id})


class LeanplumCall(NamedTuple):
    """A call to Leanplum about an item's user, as the audit has it."""

    record: int
    time: int | None
    status: str
    outcome: str


class FindPages:
    """The services behind the pages about receipts."""

    def __init__(self, receipts: ReceiptService, audit: AuditService) -> None:
        self._receipts, self._audit = receipts, audit

    async def search(
        self, visitor: Visitor, question: ReceiptQuestion
    ) -> tuple[list[FoundItem], int | None]:
        """Return items, newest first, and before which number the search goes on, if it does."""
        which = question.item_filter()
        apps = [question.app] if question.app else visitor.apps
        if question.id:
            return await self._explained(await self._by_id(apps, question.id)), None
        before = int(question.before) if question.before else None
        page = await self._receipts.search_apps(apps, which, before, PAGE)
        return await self._explained(page.receipts), page.before

    async def _by_id(self, apps: Sequence[str], item_id: str) -> list[tuple[str, Receipt]]:
        found = [(app, await self._receipts.find(app, item_id)) for app in apps]
        return [(app, receipt) for app, receipt in found if receipt is not None]

    async def _explained(self, found: Sequence[tuple[str, Receipt]]) -> list[FoundItem]:
        explained = dict[int, WaitExplanation]()
        for app in {app for app, _ in found}:
            of_app = [receipt for name, receipt in found if name == app]
            explained |= await self._receipts.explain(app, *of_app)
        reasons = {seq: SHORT_WAITS[each.reason] for seq, each in explained.items()}
        return [
            FoundItem(app, receipt, words_of(receipt), reasons.get(receipt.seq, ""))
            for app, receipt in found
        ]

    async def receipt(
        self, app: str, item_id: str
    ) -> tuple[Receipt, Origin | None, WaitExplanation | None]:
        """Return a receipt, where its item came from, and why it waits. Raises NotFound."""
        receipt = await self._receipts.find(app, item_id)
        if receipt is None:
            raise NotFound("No item of this app has this id, or its receipt was removed.")
        explained = await self._receipts.explain(app, receipt)
        return receipt, await self._receipts.origin(receipt), explained.get(receipt.seq)

    async def calls(self, visitor: Visitor, app: str, receipt: Receipt) -> list[LeanplumCall]:
        """Return the latest calls about the item's user until its outcome, oldest first.

        Only for keys that may read the audit; erased users have no calls.
        """
        if not visitor.may(Scope.AUDIT_READ) or receipt.subject[:1] not in {"u", "d"}:
            return []
        question = RecordQuestion(
            app=app,
            action=LEANPLUM_CALL,
            since=receipt.accepted_at,
            until=None if receipt.settled_at is None else receipt.settled_at + AFTER_MS,
            user_id=receipt.subject[1:] if receipt.subject[0] == "u" else None,
            device_id=receipt.subject[1:] if receipt.subject[0] == "d" else None,
        )
        found, after = list[tuple[int, str]](), None
        for _ in range(MOST_PAGES):
            page = await self._audit.search(
                visitor.caller, question, after=after, limit=CALLS - len(found)
            )
            found += page.records
            after = page.next_after
            if after is None or len(found) == CALLS:
                break
        return [_call(number, orjson.loads(text)) for number, text in reversed(found)]


async def _find_pages(request: Request) -> FindPages:
    pages: FindPages = request.state.find_pages
    return pages


FindDependency = Annotated[FindPages, Depends(_find_pages)]


@router.get(FIND)
async def find_receipts(
    request: Request,
    console: ConsoleDependency,
    find: FindDependency,
    question: Annotated[ReceiptQuestion, Depends()],
) -> Response:
    """Return the search, and what it finds."""
    visitor = await console.access.enter(request, f"GET {FIND}", Scope.RECEIPTS_READ)
    if question.app:
        console.access.use_app(visitor, question.app)
    if question.subject is not None:
        visitor.context.subjects = (question.subject,)
    found: list[FoundItem] = []
    before = None
    if not question.is_empty:
        found, before = await find.search(visitor, question)
    return console.pages.render(
        "find.html",
        visitor,
        question=question,
        found=found,
        following=None if before is None else question.link(before),
        statuses=STATUSES,
        actions=sorted(name for name, action in ACTIONS.items() if action.later),
    )


@router.get(RECEIPT)
async def show_receipt(
    request: Request,
    console: ConsoleDependency,
    find: FindDependency,
    app: Text = "",
    id: Text = "",
) -> Response:
    """Return the history of one item."""
    visitor = await console.access.enter(request, f"GET {RECEIPT}", Scope.RECEIPTS_READ)
    console.access.use_app(visitor, app)
    receipt, origin, explanation = await find.receipt(app, id)
    visitor.context.subjects = (receipt.subject,)
    return console.pages.render(
        "receipt.html",
        visitor,
        app=app,
        receipt=receipt,
        origin=origin,
        explanation=explanation,
        waits=WAITS,
        words=words_of(receipt),
        earlier=earlier_words(origin),
        calls=await find.calls(visitor, app, receipt),
        is_dead=receipt.status in DEAD and origin is not None and origin.keeps_content,
    )


def words_of(receipt: Receipt) -> str:
    """Return Leanplum's words about an item; "" if it said nothing."""
    return UNREADABLE if receipt.leanplum_unreadable else _words(receipt.leanplum or {})


def earlier_words(origin: Origin | None) -> list[tuple[int, str]]:
    """Return the times of attempts after which the item was sent again, and Leanplum's words."""
    earlier = () if origin is None else origin.earlier
    return [
        (each.at, UNREADABLE if each.answer is None else _words(each.answer)) for each in earlier
    ]


def _words(answer: Mapping[str, Any]) -> str:
    return str(answer.get("error") or answer.get("warning") or "")


def _call(number: int, record: dict[str, Any]) -> LeanplumCall:
    counts = record.get("unmapped", {}).get("items", {})
    outcome = ", ".join(f"{count} {status}" for status, count in counts.items())
    return LeanplumCall(number, record.get("time"), str(record.get("status_code", "–")), outcome)
