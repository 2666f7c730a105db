"""What a deliverer knows of the queue: the next items of each subject, and which subjects are being sent or wait.

Pure but for being told what happens. It is bounded: the rest of the queue stays on disk and is read as room comes.
Each subject's items are held in the order of acceptance, and a subject that is in flight or parked gives none out, so
its order and its one call at a time hold whatever happens to others.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from app.model import Item

MAX_USERS = 50  # of one multi (fact sheet, Limits)
MAX_ACTIONS = 500
MAX_BYTES = 1_000_000  # no limit is published; clients in the field stop here
RESTART_MS = 1_000  # under a backlog the end may never come, and who is due must not wait for it
Subject = tuple[str, str]  # app, user or device


class Window:
    """The part of the queue that is in memory."""

    def __init__(self, capacity: int = 20_000, per_subject: int = MAX_ACTIONS, max_bytes: int = 32_000_000) -> None:
        self._capacity, self._per_subject, self._max_bytes = capacity, per_subject, max_bytes
        self._waiting: dict[Subject, deque[Item]] = {}
        self._ready: dict[Subject, None] = {}  # those of the waiting that may be sent, the longest ready first
        self._flying: dict[Subject, int] = {}  # the last sequence number that is in flight
        self._parked: dict[Subject, int] = {}  # until when (ms)
        self._behind: set[Subject] = set()  # has items that were passed over: later ones must not overtake them
        self._landed: dict[Subject, int] = {}  # since the read began: the last sequence number settled
        self._cursor = 0
        self._at_end = False
        self._rescan = False
        self._now = 0
        self._restarted = 0  # when the queue was last read from its start
        self.count = 0
        self.bytes = 0

    @property
    def room(self) -> int:
        """How many more items may be taken in."""
        return 0 if self.bytes >= self._max_bytes else max(0, self._capacity - self.count)

    @property
    def may_find_more(self) -> bool:
        """Whether another page may have something, without anything new having been accepted."""
        return self._rescan or not self._at_end

    def start_read(self) -> int:
        """A page is about to be read from the database; returns after which sequence number it should start."""
        if self._rescan and (self._at_end or self._now >= self._restarted + RESTART_MS):
            self._cursor, self._rescan, self._restarted = 0, False, self._now
            self._behind.clear()
        self._landed.clear()
        return self._cursor

    def take_in(self, page: Sequence[Item], now: int, *, whole: bool) -> None:
        """Add a page that was read since `start_read`; `whole` if nothing came after it. What can't be taken now is
        passed over, and found again when the queue is read from its start the next time."""
        self._at_end = whole
        for item in page:
            self._cursor = item.seq
            subject = (item.app, item.subject)
            if item.seq > self._last_known(subject):
                self._add(subject, item, now)

    def _last_known(self, subject: Subject) -> int:
        if queue := self._waiting.get(subject):
            return queue[-1].seq
        return max(self._flying.get(subject, 0), self._landed.get(subject, 0))

    def _add(self, subject: Subject, item: Item, now: int) -> None:
        queue = self._waiting.get(subject)
        if item.next_attempt_at > now and queue is None and subject not in self._parked:
            self._parked[subject] = item.next_attempt_at
        if subject in self._parked:
            self._behind.add(subject)
            return
        if subject in self._behind or (queue is not None and len(queue) >= self._per_subject):
            self._behind.add(subject)  # read again once what is in memory of it has been sent
            return
        if queue is None:
            queue = self._waiting[subject] = deque()
            if subject not in self._flying:
                self._ready[subject] = None
        queue.append(item)
        self.count += 1
        self.bytes += len(item.body)

    @property
    def sendable(self) -> int:
        """How many subjects have something that may be sent now."""
        return len(self._ready)

    def next_batch(self, users: int = MAX_USERS) -> list[Item]:
        """The items of the next call: at most `users` subjects of one app, 500 items, 1 MB. Their subjects are in
        flight from now on. Empty where nothing may be sent."""
        batch: list[Item] = []
        taken: list[Subject] = []
        size = 0
        for subject in self._ready:
            if taken and subject[0] != taken[0][0]:
                continue
            before = size
            size = self._fill(batch, size, self._waiting[subject])
            if size == before:
                break
            taken.append(subject)
            if len(taken) == users:
                break
        for subject in taken:
            del self._ready[subject]
            if not self._waiting[subject]:
                del self._waiting[subject]
        return batch

    def _fill(self, batch: list[Item], size: int, queue: deque[Item]) -> int:
        """Move what fits of a subject's queue into the batch, whose bodies have `size` bytes; their size afterwards."""
        while queue and len(batch) < MAX_ACTIONS and (not batch or size + len(queue[0].body) <= MAX_BYTES):
            item = queue.popleft()
            batch.append(item)
            size += len(item.body)
            self._flying[item.app, item.subject] = item.seq
            self.count -= 1
            self.bytes -= len(item.body)
        return size

    def landed(self, batch: Iterable[Item], postponed: dict[Subject, int]) -> None:
        """A call's verdicts are on disk. `postponed` subjects wait until the time given: what of theirs is in memory is
        let go of, and read again then, since the head of their order has gone back to the queue."""
        for subject in {(item.app, item.subject) for item in batch}:
            self._landed[subject] = self._flying.pop(subject)
            if subject in postponed:
                self._park(subject, postponed[subject])
            elif subject in self._waiting:
                self._ready[subject] = None
            elif subject in self._behind:
                self._rescan = True

    def _park(self, subject: Subject, until: int) -> None:
        self._parked[subject] = until
        for item in self._waiting.pop(subject, ()):
            self.count -= 1
            self.bytes -= len(item.body)

    def unpark(self, now: int) -> None:
        """Let the subjects go on whose time has come."""
        self._now = now
        due = [subject for subject, until in self._parked.items() if until <= now]
        for subject in due:
            del self._parked[subject]
            self._behind.add(subject)  # its head is behind the cursor, until the queue is read from its start again
        self._rescan = self._rescan or bool(due)
