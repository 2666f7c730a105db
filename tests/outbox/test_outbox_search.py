"""The search of receipts, with and without the blocks of its index."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from app import ids
from app.model import NewItem, Receipt, Status
from app.outbox import search as search_module
from app.outbox import search_index
from app.outbox.dead_letters import EVERY
from app.outbox.item_filter import ItemFilter
from app.outbox.retention import RetentionLimits
from app.outbox.search import ReceiptSearch
from tests.outbox.harness import Opened, gone, settle, with_outbox

SPAN = 1_000  # milliseconds between two calls


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few items fill many blocks and spans."""
    monkeypatch.setattr(search_index, "BLOCK", 8)
    monkeypatch.setattr(search_module, "WALK", 5)
    monkeypatch.setattr(search_module, "LISTED", 3)
    monkeypatch.setattr(search_module, "SEEKS", 2)


def item(user: str, event: str | None = "Open", item_id: str | None = None) -> NewItem:
    action = "track" if event else "setUserAttributes"
    return NewItem(f"u{user}", action, f'{{"userId":"{user}"}}', item_id, event=event)


async def fill(at: Opened, indexed: str) -> None:
    """Accept 40 items in 20 calls of two apps, and settle most of them."""
    for number in range(20):
        user = "ann" if number % 3 == 0 else f"user{number}"
        items = [item(user, "Buy" if number % 5 == 0 else "Open"), item(f"other{number}", None)]
        call = at.call(*items, app="other" if number == 6 else "default")
        await at.outbox.accept(call._replace(request_id=f"req_{number // 2}"))
        at.now += SPAN
        if indexed == "half" and number == 10:
            await index(at)
    waiting = [found for found in await at.waiting() if found.app == "default"]
    await settle(at, waiting[:20])
    await settle(at, waiting[20:23], Status.REJECTED)
    await settle(at, waiting[23:26], Status.SKIPPED)
    if indexed == "all":
        await index(at)
    assert at.one("SELECT count(*) FROM search_blocks") == {"none": 0, "half": 2, "all": 5}[indexed]


async def index(at: Opened) -> None:
    while await at.outbox.index_block():
        pass


async def find(at: Opened, limit: int = 4, **fields: Any) -> list[Receipt]:
    """Return all that is found, page by page."""
    wanted = ReceiptSearch("default", ItemFilter(**fields), limit=limit)
    return [receipt async for page in pages(at, wanted) for receipt in page]


async def pages(at: Opened, wanted: ReceiptSearch) -> AsyncIterator[Sequence[Receipt]]:
    while True:
        receipts, before = await at.outbox.search_receipts(wanted)
        assert len(receipts) <= wanted.limit
        yield receipts
        if before is None:
            return
        assert wanted.before is None or before < wanted.before, "a search goes on"
        wanted = replace(wanted, before=before)


def matching(receipts: Sequence[Receipt], which: ItemFilter) -> Iterator[Receipt]:
    """Choose in Python what the filter describes."""
    for each in receipts:
        wanted = [
            which.subject in {None, each.subject},
            which.action in {None, each.action},
            which.event in {None, each.event},
            which.statuses is None or each.status in which.statuses,
            which.since is None or each.accepted_at >= which.since,
            which.until is None or each.accepted_at < which.until,
        ]
        if all(wanted):
            yield each


FILTERS: list[dict[str, Any]] = [
    {},
    {"subject": "uann"},
    {"subject": "unobody"},
    {"subject": "uann", "event": "Buy"},
    {"subject": "uann", "statuses": frozenset({Status.ACCEPTED})},
    {"event": "Buy"},
    {"action": "setUserAttributes"},
    *({"statuses": frozenset({status})} for status in Status),
    {"statuses": frozenset({Status.REJECTED, Status.SKIPPED})},
    {"statuses": frozenset({Status.REJECTED, Status.ACCEPTED})},
    {"statuses": frozenset({Status.ACCEPTED, Status.RETRYING, Status.HELD})},
]
TIMES = [(None, None), (3, 12), (12, None), (None, 3), (19, None), (50, 60)]


INDEXED = pytest.mark.parametrize("indexed", ["none", "half", "all"])


@INDEXED
def test_a_search_finds_what_its_filter_describes_newest_first(database: str, indexed: str) -> None:
    async def body(at: Opened) -> None:
        begun = at.now
        await fill(at, indexed)
        everything = await find(at, limit=1_000)
        assert [each.seq for each in everything] == [
            seq for seq in range(40, 0, -1) if seq not in {13, 14}
        ]
        for fields in FILTERS:
            for since, until in TIMES:
                bounds: dict[str, Any] = {
                    "since": None if since is None else begun + since * SPAN,
                    "until": None if until is None else begun + until * SPAN,
                }
                which = ItemFilter(**fields, **bounds)
                found = await find(at, **fields, **bounds)
                assert found == list(matching(everything, which)), which

    with_outbox(database, body)


@INDEXED
def test_items_are_found_by_the_request_that_brought_them(database: str, indexed: str) -> None:
    async def body(at: Opened) -> None:
        await fill(at, indexed)
        found = await find(at, request_id="req_4")
        assert [each.seq for each in found] == [20, 19, 18, 17]
        assert [each.seq for each in await find(at, limit=1, request_id="req_4")] == [
            20,
            19,
            18,
            17,
        ]
        assert [each.seq for each in await find(at, request_id="req_4", subject="uann")] == [19]
        of_app = await find(at, request_id="req_3")
        assert [each.seq for each in of_app] == [16, 15], "not of another app"
        assert await find(at, request_id="req") == []

    with_outbox(database, body)


@INDEXED
def test_items_of_an_sdk_are_found_by_their_ids(database: str, indexed: str) -> None:
    async def body(at: Opened) -> None:
        own = [ids.sdk_item_id("track", "r1", f"u{number}") for number in range(5)]
        await at.accept(*(item("ann", item_id=item_id) for item_id in own))
        await at.accept(item("ann", item_id=ids.sdk_item_id("track", "r2", "u")))
        await fill_up(at)
        if indexed != "none":
            await index(at)
        bounds = ids.sdk_item_id_bounds("r1", None)
        wanted = ReceiptSearch("default", own_ids=bounds, limit=2)
        found = [each.id async for page in pages(at, wanted) for each in page]
        assert found == own[::-1]

    with_outbox(database, body)


async def fill_up(at: Opened) -> None:
    """Accept items of other users until some blocks are complete."""
    await at.accept(*(item(f"filler{number}") for number in range(20)))


def test_a_search_is_bounded_and_says_where_it_goes_on(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "EXAMINED", 10)

    async def body(at: Opened) -> None:
        await fill(at, "all")
        wanted = ReceiptSearch("default", ItemFilter(event="Buy"))
        found = [[each.seq for each in page] async for page in pages(at, wanted)]
        assert [seq for page in found for seq in page] == [31, 21, 11, 1]
        assert len(found) > 3
        assert [] in found, "a page may be empty"

    with_outbox(database, body)


@INDEXED
@pytest.mark.parametrize(
    "fields", [{"request_id": "same", "event": "None"}, {"request_id": "of the same checksum"}]
)
def test_a_search_for_a_request_id_that_many_calls_have_is_bounded(
    database: str, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], indexed: str
) -> None:
    monkeypatch.setattr(search_module, "EXAMINED", 10)
    monkeypatch.setattr(ids, "request_checksum", lambda request_id: 7)
    read, reads = search_module._read, list[search_module.Span]()

    def counted(connection: Any, which: Any, span: search_module.Span, limit: int) -> Any:
        reads.append(span)
        return read(connection, which, span, limit)

    monkeypatch.setattr(search_module, "_read", counted)

    async def body(at: Opened) -> None:
        for number in range(40):
            call = at.call(item(f"user{number}"))
            await at.outbox.accept(call._replace(request_id="same"))
            if indexed == "all" or (indexed == "half" and number == 20):
                await index(at)
        async for page in pages(at, ReceiptSearch("default", ItemFilter(**fields))):
            assert page == []
            assert len(reads) <= 6, "items of several calls are read together"
            reads.clear()
        found = await find(at, request_id="same")
        assert [each.seq for each in found] == list(range(40, 0, -1))

    with_outbox(database, body)


def test_items_accepted_while_the_clock_was_behind_are_found_by_their_time(database: str) -> None:
    async def body(at: Opened) -> None:
        begun = at.now
        await fill(at, "half")
        at.now = begun + SPAN // 2
        await at.accept(item("late"))
        await fill_up(at)
        at.now = begun + 100 * SPAN
        await fill_up(at)
        for _ in range(2):
            found = await find(at, subject="ulate", since=begun, until=begun + SPAN)
            assert len(found) == 1
            await index(at)

    with_outbox(database, body)


def keys_of(at: Opened, user: str) -> object:
    lane = ids.lane("default", f"u{user}")
    return at.one(f"SELECT count(*) FROM search_keys WHERE key = {lane}")


def test_no_key_of_an_erased_user_stays_not_even_of_items_that_went_before(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.accept(item("ann"), item("bob"))
        await settle(at, (await at.waiting())[:1])
        await fill_up(at)
        await index(at)
        at.now += 100_000
        await at.outbox.sweep(RetentionLimits(receipts=50_000, dead_letters=50_000))
        assert at.one("SELECT count(*) FROM items WHERE subject = 'uann'") == 0
        assert keys_of(at, "ann") == 1, "its block has other items"
        await at.outbox.erase(at.call(gone("ann")))
        assert keys_of(at, "ann") == 0
        await fill_up(at)
        await index(at)
        assert [each.action for each in await find(at, subject="uann")] == ["deleteUser"]
        assert keys_of(at, "ann") == 1
        await settle(at, [each for each in await at.waiting() if each.action == "deleteUser"])
        assert keys_of(at, "ann") == 0
        assert keys_of(at, "bob") == 1

    with_outbox(database, body)


def test_a_block_goes_once_its_items_are_gone_and_the_next_one_follows_the_last(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        limits = RetentionLimits(receipts=50_000, dead_letters=1_000_000)
        await at.accept(item("kept"))
        await settle(at, await at.waiting(), Status.REJECTED)
        await fill_up(at)
        await settle(at, await at.waiting())
        await index(at)
        at.now += 100_000
        while await at.outbox.sweep(limits):
            pass
        await index(at)
        assert at.one("SELECT count(*) FROM search_keys WHERE block > 0") == 0
        assert at.one("SELECT count(*) FROM search_blocks") == 2, "the first and the last"
        await fill_up(at)
        await index(at)
        assert at.one("SELECT max(block) FROM search_blocks") == 4
        assert len(await find(at, subject="ukept")) == 1
        assert len(await find(at, subject="ufiller3")) == 1

    with_outbox(database, body)


def test_two_processes_write_a_block_once(database: str) -> None:
    async def body(at: Opened) -> None:
        await fill(at, "half")
        keys = at.one("SELECT count(*) FROM search_keys")
        await at.writer.write(search_index.IndexBlock(0))
        await at.writer.write(search_index.IndexBlock(1))
        assert at.one("SELECT count(*) FROM search_keys") == keys

    with_outbox(database, body)


def test_a_discarded_dead_letter_is_found_by_its_status(database: str) -> None:
    async def body(at: Opened) -> None:
        await fill(at, "none")
        await at.outbox.dead_letters.discard("default", EVERY, lambda count: (at.now, "{}"))
        assert len(await find(at, statuses=frozenset({Status.REJECTED}))) == 3

    with_outbox(database, body)


def test_blocks_wait_while_many_items_are_accepted_but_not_for_ever() -> None:
    now = [0.0]
    pace = search_index.IndexPace(lambda: now[0])
    complete = search_index.Progress(block=0, last=search_index.BLOCK)
    assert pace.permits(complete), "nothing is known of the rate"
    assert not pace.permits(complete._replace(last=search_index.BLOCK - 2)), "it is not complete"
    now[0] += 10
    last = complete.last + 11 * search_index.QUIET_RATE
    assert not pace.permits(complete._replace(last=last)), "many were accepted"
    assert pace.permits(complete._replace(last=search_index.MOST_BEHIND)), "a search would be slow"
    now[0] += 10
    assert pace.permits(complete._replace(last=last + 10 * search_index.QUIET_RATE))
