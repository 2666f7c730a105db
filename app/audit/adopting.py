"""Taking over what a gateway from before there were marks left unsealed: whoever runs this vouches
for it.

What shows that such a gateway can't have left it is refused, since the marks that are made here
would speak for it.
"""

from collections.abc import Callable

from app.audit import proofs, row_adopting
from app.audit.marking import Marking
from app.audit.records import administrative_act, insert, told_of
from app.audit.signing_keys import Keys, to_write
from app.audit.tree import Fetch, fetcher, raw_of, read, written_of
from app.clock import instant, now_ms
from app.database.engine import connect_existing, snapshot, transaction
from app.errors import AuditBroken, NotFound, StartRefused
from app.settings import Settings

UNMARKED = "SELECT seq, time, record FROM audit_records WHERE mark IS NULL AND seq > ? ORDER BY seq"
MARKED = """
SELECT seq, record, mark FROM audit_records WHERE mark IS NOT NULL AND seq > ? AND seq < ? ORDER BY seq LIMIT ?
"""
PAGE = 2_000
SEE = "nothing is adopted; docs/audit.md tells what then"
NOT_SIGNED = (
    "the audit has no checkpoint of this key that is about its tree, and each gateway that ran for a second has left "
    f"one: somebody took it away, or the records are from before the audit was sealed at all; {SEE}"
)
BEYOND = (
    "record {seq} has no mark, and only {written} records were written: somebody put it there; "
    + SEE
)
MARKED_BEFORE = (
    "record {seq} has no mark, and record {marked} before it has one: it was put there or changed; "
    + SEE
)
ANOTHER = (
    "record {seq} has no mark, and its text isn't that of a record of this number and time; " + SEE
)


def adopt(settings: Settings, tell: Callable[[str], None]) -> int:
    """Mark the records that are not sealed yet and have no mark; how many there were. Which ones is
    told before it is done, and recorded. Raises StartRefused, with none marked, where a gateway
    can't have left them so.
    """
    engine = connect_existing(settings.gateway_database_url)
    try:
        keys = to_write(engine, settings.audit_seed)
        with snapshot(engine) as connection:
            found = _adoptable(fetcher(connection), keys)
        if found:
            (first, begin, _), (last, end, _) = found[0], found[-1]
            which = f"records {first} to {last}"
            tell(
                f"{len(found)} without a mark: {which}, from {instant(begin)} to {instant(end)}. You vouch for them."
            )
            now = now_ms()
            with transaction(engine) as cursor:
                Marking([(seq, mark) for seq, _, mark in found]).run(cursor)
                insert(
                    cursor,
                    keys.marks,
                    [(now, administrative_act(time=now, act="audit.adopt", subject=which))],
                )
        return len(found)
    finally:
        engine.dispose()


def adopt_rows(settings: Settings, tell: Callable[[str], None]) -> int:
    """Take caller keys and erasures as they are now, where `audit verify` finds something wrong
    with them; how many findings there were.
    """
    engine = connect_existing(settings.gateway_database_url)
    try:
        return row_adopting.vouch(engine, to_write(engine, settings.audit_seed).marks, tell)
    finally:
        engine.dispose()


def _adoptable(fetch: Fetch, keys: Keys) -> list[tuple[int, int, bytes]]:
    """Number, time, and the mark to be, of each record that has none and isn't sealed. Raises
    StartRefused.
    """
    rows = fetch(UNMARKED, (read(fetch).size,))
    if not rows:
        return []
    try:
        proofs.newest(fetch, keys.signer.public)
    except (NotFound, AuditBroken):
        raise StartRefused(NOT_SIGNED) from None
    last = rows[-1][0]
    if last > (written := written_of(fetch)):
        raise StartRefused(BEYOND.format(seq=last, written=written))
    if marked := _marked_before(fetch, keys, last):
        raise StartRefused(MARKED_BEFORE.format(seq=last, marked=marked))
    found = []
    for seq, time, text in rows:
        raw = raw_of(text)
        told = told_of(raw)
        whole = type(time) is int and 0 <= time < proofs.END_OF_TIME
        if not whole or (told.seq, told.time) != (seq, time):
            raise StartRefused(ANOTHER.format(seq=seq))
        found.append((seq, time, keys.marks.of(seq, raw)))
    return found


def _marked_before(fetch: Fetch, keys: Keys, seq: int) -> int | None:
    """The first record before number `seq` whose mark is right: from there on each has one."""
    after = 0
    while rows := fetch(MARKED, (after, seq, PAGE)):
        for number, text, mark in rows:
            if isinstance(mark, bytes) and keys.marks.fits(number, raw_of(text), mark):
                return int(number)
        after = rows[-1][0]
    return None
