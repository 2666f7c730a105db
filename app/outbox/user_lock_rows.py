"""User locks: the users of a call whose caller waits, visible to every process.

Leanplum refuses a user's second call while the first is running, and a call that overtakes another
changes the outcome. So a call that a caller waits for locks the lanes of its users here. The
delivery begins nothing for a locked lane (`settle.Begin`), and a lock is granted only while no
attempt is open for its lanes. Each decides in its own transaction, and the write lock orders these.

Calls that find a lane locked wait in line, and so does the delivery: tickets give the order, so
neither can block the other for good. A call may outlive the process that made it. Its lanes then
stay locked for a while, without a holder.
"""

from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from enum import Enum

import orjson

from app import ids
from app.audit import records
from app.database.driver import Cursor
from app.outbox import logins
from app.outbox.erasure import SELECT_VERSION, ActiveErasures
from app.outbox.liveness_lock import KnownProcess

# Leanplum doesn't say for how long a call may go on whose connection is gone, so this is a choice.
OUTLIVES_MS = 5_000
NOBODY = ""
DELIVERY = "delivery "  # what begins the ids of the delivery's places in line, one for each lane
# How long the delivery's place in line is kept. While there are items to send, it is renewed much
# more often.
IN_LINE_MS = 2_000

# Values: the time, and the identity of the liveness lock of who asks (None: it has none).
IN_FORCE = "(expires_at > ? OR coalesce(lock = ?, false))"
LOCKS = f"SELECT id, ticket, lanes, holder, lock, granted FROM user_locks WHERE {IN_FORCE}"
LOGINS = "logins"  # the id of the row that says that any login waits
LOCKS_AND_LOGINS = f"{LOCKS} UNION ALL SELECT '{LOGINS}', 0, '[]', '', NULL, 0 WHERE {logins.ANY}"
ATTEMPTS = """
SELECT a.lanes, a.started_at, a.owner, d.expires_at, d.lock
FROM attempts a LEFT JOIN deliverers d ON d.id = a.owner
"""
OPEN = "SELECT lanes FROM attempts"
WAITS = "SELECT 1 FROM items WHERE settled_at IS NULL AND seq > ? AND lane IN {lanes} LIMIT 1"
PUT = """
INSERT INTO user_locks (id, ticket, lanes, holder, lock, granted, lease_ms, expires_at)
SELECT ?, coalesce(max(ticket), 0) + 1, ?, ?, ?, ?, ?, ? FROM user_locks WHERE true
ON CONFLICT (id) DO UPDATE
SET granted = excluded.granted, expires_at = excluded.expires_at, lock = excluded.lock
"""
REMOVE = "DELETE FROM user_locks WHERE id IN {ids}"
GIVEN_UP = "DELETE FROM user_locks WHERE granted = 0 AND {column} IN {ids}"
OUTLIVED = """
UPDATE user_locks SET holder = '', lock = NULL, lease_ms = ?, expires_at = ?
WHERE granted = 1 AND {column} IN {ids}
"""
EXPIRED = f"DELETE FROM user_locks WHERE NOT {IN_FORCE}"
STEPPED = "UPDATE user_locks SET expires_at = ? + lease_ms WHERE expires_at > ? + lease_ms"


class LockResult(Enum):
    """The result of a request for a lock that nothing blocks."""

    GRANTED = "granted"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Denied:
    """The result of a request that is blocked.

    `holders`: the blocking processes; empty if only waiting items block.
    """

    holders: Set[KnownProcess] = frozenset()


@dataclass(frozen=True, slots=True)
class LockRequest:
    """A request of process `holder` to lock the users of a call for `lease_ms`.

    `unless_erased`: the call isn't made if one of them was erased. `record`: its audit record,
    written when the lock is granted.
    """

    id: str
    app: str
    subjects: Sequence[str]
    holder: str
    lease_ms: int
    unless_erased: bool = True
    record: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Lock:
    """The write that decides on a request.

    `clear_upto`: nothing is locked if items of the users wait after this number, and a denied
    request leaves nothing behind. None: waiting items don't matter, and a denied request stays in
    line. `liveness`: the identity of the holder's liveness lock. `dead`: processes that have ended.
    """

    request: LockRequest
    now: int
    liveness: str | None
    clear_upto: int | None
    dead: Sequence[KnownProcess]
    erasures: ActiveErasures
    macs: records.AuditMacs
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Lock"]) -> Sequence[LockResult | Denied]:
        """Decide on one request after the other."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> LockResult | Denied:
        now = cursor.dialect.now(cursor, self.now)
        outlive(cursor, now, self.dead)
        if self._is_erased(cursor):
            return LockResult.ERASED
        if holders := self._against(cursor, now):
            if self.clear_upto is None:
                self._put(cursor, now, granted=False)
            return Denied(holders)
        if self.clear_upto is not None and self._waits(cursor, self.clear_upto):
            return Denied()
        self._put(cursor, now, granted=True)
        if self.request.record is not None:
            records.insert(cursor, self.macs, [self.request.record])
        return LockResult.GRANTED

    def _is_erased(self, cursor: Cursor) -> bool:
        if not self.request.unless_erased:
            return False
        cursor.execute(SELECT_VERSION)
        version = cursor.fetchone()[0]
        check = self.erasures.check(cursor, version, self.request.app, self.now)
        return check is not None and any(check.has(subject) for subject in self.request.subjects)

    def _against(self, cursor: Cursor, now: int) -> set[KnownProcess]:
        """Return the processes whose locks or attempts block this request."""
        ours = self._lanes
        cursor.execute(LOCKS, (now, self.liveness))
        locks = cursor.fetchall()
        mine = next((ticket for id_, ticket, *_ in locks if id_ == self.request.id), None)
        holders = {
            KnownProcess(holder, liveness)
            for id_, ticket, lanes, holder, liveness, granted in locks
            if id_ != self.request.id
            and (granted or mine is None or ticket < mine)
            and _overlap(ours, lanes)
        }
        cursor.execute(ATTEMPTS)
        for lanes, started_at, owner, expires_at, liveness in cursor.fetchall():
            if _overlap(ours, lanes) and self._is_open(
                now, started_at, expires_at, owner, liveness
            ):
                holders.add(KnownProcess(owner, liveness))
        return holders

    def _is_open(
        self, now: int, started_at: int, expires_at: int | None, owner: str, liveness: str | None
    ) -> bool:
        """Return whether an attempt's deliverer may be alive, or its call still be running.

        The attempts of a dead one are recovered by others, who keep the users locked for a while.
        """
        if 0 < started_at + OUTLIVES_MS - now <= OUTLIVES_MS:
            return True
        if expires_at is None:
            return False
        lives = liveness is not None and liveness == self.liveness
        return expires_at > now or (lives and (owner, liveness) not in self.dead)

    @property
    def _lanes(self) -> set[int]:
        return {ids.lane(self.request.app, subject) for subject in self.request.subjects}

    def _waits(self, cursor: Cursor, after: int) -> bool:
        statement = WAITS.format(lanes=cursor.dialect.values("bigint"))
        cursor.execute(statement, (after, _text(self._lanes)))
        return cursor.fetchone() is not None or logins.waits(cursor, self._lanes, after)

    def _put(self, cursor: Cursor, now: int, *, granted: bool) -> None:
        asked = self.request
        _put(
            cursor,
            now,
            asked.id,
            self._lanes,
            asked.holder,
            self.liveness,
            asked.lease_ms,
            granted=granted,
        )


@dataclass(frozen=True, slots=True)
class Unlock:
    """The end of a lock, granted or not.

    `outlived`: its call was given up, and may still be running for a while.
    """

    id: str
    now: int
    outlived: bool = False
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Unlock"]) -> Sequence[None]:
        """Free the lanes, at once or, for calls that were given up, once those must be over."""
        ids = cursor.dialect.values("text")
        if outlived := [one.id for one in writes if one.outlived]:
            over = cursor.dialect.now(cursor, writes[0].now) + OUTLIVES_MS
            cursor.execute(GIVEN_UP.format(column="id", ids=ids), (_text(outlived),))
            cursor.execute(
                OUTLIVED.format(column="id", ids=ids), (OUTLIVES_MS, over, _text(outlived))
            )
        cursor.execute(
            REMOVE.format(ids=ids), (_text([one.id for one in writes if not one.outlived]),)
        )
        return [None] * len(writes)


def locked(
    cursor: Cursor, now: int, liveness: str | None, lanes: Collection[int], deliverer: str
) -> tuple[set[int], bool]:
    """Return which of the lanes are locked for the delivery, which now waits in line for them.

    Also return whether there are rows of logins at all, without a statement of its own. `liveness`:
    the identity of the deliverer's liveness lock; locks of others on that file don't end by time.
    """
    cursor.execute(LOCKS_AND_LOGINS, (now, liveness))
    rows = cursor.fetchall()
    if not rows:
        return set(), False
    locks = [row for row in rows if row[0] != LOGINS]
    places = {
        int(id_.removeprefix(DELIVERY)): ticket
        for id_, ticket, *_ in locks
        if id_.startswith(DELIVERY)
    }
    found = set[int]()
    for id_, ticket, text, _, _, granted in locks:
        if not id_.startswith(DELIVERY):
            before = [
                lane
                for lane in orjson.loads(text)
                if granted or ticket < places.get(lane, ticket + 1)
            ]
            found.update(before)
    found.intersection_update(lanes)
    for lane in found:
        _put(cursor, now, f"{DELIVERY}{lane}", [lane], deliverer, None, IN_LINE_MS, granted=False)
    if passed := places.keys() & set(lanes) - found:
        cursor.execute(
            REMOVE.format(ids=cursor.dialect.values("text")),
            (_text(f"{DELIVERY}{one}" for one in passed),),
        )
    return found, len(locks) < len(rows)


def busy(
    cursor: Cursor, now: int, liveness: str | None, lanes: Collection[int], deliverer: str
) -> set[int]:
    """Return for which of the lanes a call is in flight, or may be."""
    found, _ = locked(cursor, now, liveness, lanes, deliverer)
    cursor.execute(OPEN)
    for (text,) in cursor.fetchall():
        found.update(orjson.loads(text))
    return found.intersection(lanes)


def outlive(cursor: Cursor, now: int, dead: Sequence[KnownProcess]) -> None:
    """Release the locks of dead processes once their calls must be over.

    A lock that names another liveness lock, or none, ends by time: its process may be alive, and
    have lost only the liveness lock that was looked at.
    """
    if not dead:
        return
    ids, ended, column = cursor.dialect.values("text"), as_values(dead), "holder || ' ' || lock"
    cursor.execute(GIVEN_UP.format(column=column, ids=ids), (ended,))
    cursor.execute(OUTLIVED.format(column=column, ids=ids), (OUTLIVES_MS, now + OUTLIVES_MS, ended))


def as_values(processes: Iterable[KnownProcess]) -> str:
    """Return the JSON array that a statement compares with `id || ' ' || lock` of its rows."""
    return _text(f"{process.id} {process.lock or ''}" for process in processes)


def expire(cursor: Cursor, now: int, liveness: str | None) -> None:
    """Remove expired locks, and shorten those from before the clock was set back."""
    cursor.execute(EXPIRED, (now, liveness))
    cursor.execute(STEPPED, (now, now))


def keep_locked(cursor: Cursor, attempt: str, lanes: Collection[int], until: int) -> None:
    """Lock the lanes of an attempt whose deliverer is gone, since its call may still be running."""
    _put(cursor, until - OUTLIVES_MS, attempt, lanes, NOBODY, None, OUTLIVES_MS, granted=True)


def _put(
    cursor: Cursor,
    now: int,
    id: str,
    lanes: Collection[int],
    holder: str,
    liveness: str | None,
    lease_ms: int,
    *,
    granted: bool,
) -> None:
    cursor.execute(
        PUT, (id, _text(lanes), holder, liveness, int(granted), lease_ms, now + lease_ms)
    )


def _overlap(ours: set[int], lanes: str) -> bool:
    return not ours.isdisjoint(orjson.loads(lanes))


def _text(values: Iterable[object]) -> str:
    return orjson.dumps(list(values)).decode()
