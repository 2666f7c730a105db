"""The time that searches of receipts take: `python -m bench.search DATABASE_URL [--rows N]`.

The database must be empty, or have been filled by an earlier run. Rows are written beside the
gateway, in its own schema; the search index is written by the gateway's own steps.
"""

import argparse
import random
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Engine

from app import ids
from app.clock import now_ms
from app.database.engine import connect, reading, transaction
from app.database.writer import insert_rows
from app.encryption import NO_ENCRYPTION
from app.model import Status
from app.outbox import search_index
from app.outbox.item_filter import ItemFilter
from app.outbox.search import ReceiptSearch, search
from app.outbox.search_index import IndexBlock

DAY_MS = 86_400_000
CALL = 10  # items of one call
USERS, EVENTS = 1_000_000, 50
WAITING = 20_000  # of the newest items
STEP = 20_000  # rows of one transaction
ROUNDS = 15
APP, KEY_ID, BODY = "default", "key_bench", '{"event":"Purchase","userId":"user-1","value":9.99}'
OUTCOMES = ((0.002, Status.REJECTED), (0.004, Status.SKIPPED))
INSERT_ITEMS = """
INSERT INTO items (
    seq, acceptance, subject, action, body, status, attempts, settled_at, lane, event
)
"""
INSERT_ACCEPTANCES = """
INSERT INTO acceptances (first_seq, prefix, app, key_id, request_id, accepted_at, request)
"""


def fill(engine: Engine, count: int) -> None:
    """Write the receipts of a day."""
    begun, chance = now_ms() - DAY_MS, random.Random(1)
    app_crc = zlib.crc32(APP.encode())
    for start in range(1, count, STEP):
        calls, items = [], []
        for seq in range(start, start + STEP):
            first = seq - (seq - 1) % CALL
            accepted_at = begun + DAY_MS * seq // count
            if seq == first:
                request_id = f"request-{first}"
                checksum = ids.request_checksum(request_id)
                prefix = ids.new_prefix(accepted_at)
                calls.append((first, prefix, APP, KEY_ID, request_id, accepted_at, checksum))
            items.append(_item(chance, app_crc, seq, first, accepted_at, seq > count - WAITING))
        with transaction(engine) as cursor:
            insert_rows(cursor, INSERT_ACCEPTANCES, calls)
            insert_rows(cursor, INSERT_ITEMS, items)
            cursor.execute("UPDATE sequence SET last = ?", (start + STEP - 1,))


def _item(
    chance: random.Random, app_crc: int, seq: int, first: int, accepted_at: int, waits: bool
) -> tuple[Any, ...]:
    """Return the row of one item."""
    subject = f"uuser-{chance.randrange(USERS)}"
    lane = zlib.crc32(subject.encode(), app_crc)
    event = f"Event {chance.randrange(EVENTS)}"
    if waits:
        return seq, first, subject, "track", BODY, Status.ACCEPTED, 0, None, lane, event
    draw = chance.random()
    status = next((status for share, status in OUTCOMES if draw < share), Status.DELIVERED)
    body = BODY if status is Status.REJECTED else None
    return seq, first, subject, "track", body, status, 1, accepted_at + 100, lane, event


def index(engine: Engine) -> list[float]:
    """Write the blocks of the search index; return the seconds that each took."""
    seconds = list[float]()
    while True:
        with reading(engine) as connection:
            progress = search_index.progress(connection)
        if not progress.is_complete:
            return seconds
        began = time.perf_counter()
        with transaction(engine) as cursor:
            IndexBlock.run_all(cursor, [IndexBlock(progress.block)])
        seconds.append(time.perf_counter() - began)


def searches(count: int) -> Iterator[tuple[str, Callable[[], ItemFilter]]]:
    """Yield what is searched, with a function that makes another such search."""
    day = now_ms() - DAY_MS

    def user() -> str:
        return f"uuser-{random.randrange(USERS)}"

    yield "a user, over the day", lambda: ItemFilter(subject=user(), since=day)
    yield "a user, one event", lambda: ItemFilter(subject=user(), event="Event 7")
    yield "a user, an hour of the day", lambda: _hour(user())
    yield (
        "a request",
        lambda: ItemFilter(request_id=f"request-{1 + CALL * random.randrange(count // CALL)}"),
    )
    for status in (Status.REJECTED, Status.SKIPPED, Status.ACCEPTED, Status.EXPIRED):
        yield f"status {status.value}", partial(_with_status, status)
    yield "an event that occurs", lambda: ItemFilter(event=f"Event {random.randrange(EVENTS)}")
    yield "an event that does not occur", lambda: ItemFilter(event="None")
    yield "everything", ItemFilter


def _hour(subject: str) -> ItemFilter:
    since = now_ms() - DAY_MS + random.randrange(DAY_MS - 3_600_000)
    return ItemFilter(subject=subject, since=since, until=since + 3_600_000)


def _with_status(status: Status) -> ItemFilter:
    return ItemFilter(statuses=frozenset({status}))


def measure(engine: Engine, which: Callable[[], ItemFilter], rounds: int) -> Sequence[float]:
    """Return the milliseconds of the first page of several searches."""
    times = []
    for _ in range(rounds):
        wanted = ReceiptSearch(APP, which())
        began = time.perf_counter()
        with reading(engine) as connection:
            search(connection, wanted, NO_ENCRYPTION)
        times.append(1000 * (time.perf_counter() - began))
    return times


def main() -> None:
    """Fill the database if it is empty, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", help="the URL of a database of its own")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    engine = connect(options.database)
    with reading(engine) as connection:
        last = connection.exec_driver_sql("SELECT last FROM sequence").scalar_one()
    if not last:
        fill(engine, options.rows)
        seconds = index(engine)
        worst = max(seconds, default=0.0)
        print(
            f"{len(seconds)} blocks, {statistics.median(seconds):.3f} s each, at most {worst:.3f} s"
        )
    for name, which in searches(last or options.rows):
        times = measure(engine, which, options.rounds)
        print(f"{name:32} median {statistics.median(times):8.1f} ms, worst {max(times):8.1f} ms")
    engine.dispose()


if __name__ == "__main__":
    main()
