"""Looking records up page by page, on each database."""

from app.audit.record_search import LATE_MS, RecordFilter, find_page
from app.database.engine import snapshot

from .logs import Log, opened


def numbers(
    log: Log,
    which: RecordFilter,
    limit: int,
    *,
    oldest_first: bool = True,
    after: int | None = None,
) -> list[int]:
    """Of all the pages, one after the other."""
    seen: list[int] = []
    while True:
        with snapshot(log.engine) as connection:
            found, after = find_page(connection, which, after, limit, oldest_first=oldest_first)
        seen += [seq for seq, _ in found]
        if after is None:
            return seen


def test_a_record_that_was_committed_late_is_missed_by_nobody_who_goes_on(database: str) -> None:
    with opened(database) as log:
        log.write(4)
        with snapshot(log.engine) as connection:
            first = find_page(connection, RecordFilter(), None, 3, oldest_first=True)
        assert first.next_after == 3
        log.now -= 500
        log.write(1)
        assert numbers(log, RecordFilter(), 3, after=first.next_after) == [4, 5]
        assert numbers(log, RecordFilter(), 2, oldest_first=False) == [5, 4, 3, 2, 1]


def test_a_time_is_looked_for_among_records_whose_order_is_another(database: str) -> None:
    with opened(database) as log:
        for now in (10_000, 20_000, 15_000, 30_000, 5 * LATE_MS, 5 * LATE_MS - 9_000, 9 * LATE_MS):
            log.now = now - 1
            log.write(1)
        for oldest_first in (True, False):
            found = numbers(
                log, RecordFilter(since=12_000, until=25_000), 1, oldest_first=oldest_first
            )
            assert sorted(found) == [2, 3]
            assert sorted(
                numbers(log, RecordFilter(since=4 * LATE_MS), 2, oldest_first=oldest_first)
            ) == [5, 6, 7]
            assert sorted(
                numbers(log, RecordFilter(until=5 * LATE_MS), 2, oldest_first=oldest_first)
            ) == [1, 2, 3, 4, 6]
            assert (
                numbers(log, RecordFilter(since=20 * LATE_MS), 2, oldest_first=oldest_first) == []
            )
            assert numbers(log, RecordFilter(until=9_000), 2, oldest_first=oldest_first) == []
