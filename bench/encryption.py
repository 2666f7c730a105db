"""The cost of encrypting bodies and refusing erased users: `python -m bench.encryption`.

Figures are ratios of processor time to the variant without. Each round measures every variant once,
so that other load on the machine affects all of them.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Engine

from app import ids
from app.audit.records import AuditMacs
from app.database.engine import connect, reading, transaction
from app.encryption import NO_ENCRYPTION, BodyCipher
from app.model import Acceptance, NewItem, ReadRequest
from app.outbox import waiting_items
from app.outbox.accept import Accept
from app.outbox.erasure import ActiveErasures
from app.outbox.settle import Begin

ITEMS, ROUNDS, PAGE = 100, 120, 5_000
BODY = (
    '{{"event":"Purchase","userId":"user-{user}","value":9.99,"currencyCode":"EUR",'
    '"params":{{"sku":"A-1"}}}}'
)
ENCRYPTED = BodyCipher({"a": os.urandom(32)}, "a", os.urandom(32))
MACS = AuditMacs(bytes(32))


def acceptance(first: int) -> Acceptance:
    """Return a batch of events, one for each user from `first` on."""
    users = range(first, first + ITEMS)
    items = [NewItem(f"uuser-{user}", "track", BODY.format(user=user), None) for user in users]
    now = time.time_ns() // 1_000_000
    return Acceptance(
        "default",
        "key_1",
        "r",
        "POST /v1/batch",
        "127.0.0.1",
        now,
        ids.new_prefix(now),
        items,
        0,
        True,
    )


class AcceptVariant:
    """A variant of accepting, on its own database."""

    def __init__(self, engine: Engine, cipher: BodyCipher, erased: int = 0) -> None:
        self._engine, self._cipher, self._count = engine, cipher, 0
        with transaction(engine) as cursor:
            for number in range(erased):
                row = cipher.alias("default", f"ugone-{number}"), "default", 0, 2**60
                cursor.execute(
                    "INSERT INTO erasures (alias, app, erased_at, until) VALUES (?, ?, ?, ?)", row
                )
            cursor.execute("UPDATE sequence SET erasures = 1")
        self._erased = ActiveErasures(cipher)

    def __call__(self) -> float:
        """Return the processor seconds of one batch, without its commit."""
        self._count += 1
        write = Accept(acceptance(self._count * ITEMS), 0, self._cipher, self._erased, MACS)
        with transaction(self._engine) as cursor:
            began = time.thread_time()
            Accept.run_all(cursor, [write])
            return time.thread_time() - began


class ReadVariant:
    """A variant of reading a page of the queue, and of recording an attempt for 500 items."""

    def __init__(self, engine: Engine, cipher: BodyCipher) -> None:
        self._engine, self._cipher = engine, cipher
        with transaction(engine) as cursor:
            for number in range(PAGE // ITEMS):
                Accept.run_all(
                    cursor,
                    [Accept(acceptance(number * ITEMS), 0, cipher, ActiveErasures(cipher), MACS)],
                )
            cursor.execute("UPDATE leases SET owner = 'one'")
            cursor.execute("INSERT INTO deliverers (id, expires_at) VALUES ('one', ?)", (2**60,))
        self._count = 0

    def __call__(self) -> float:
        """Return the processor seconds of reading one page."""
        with reading(self._engine) as connection:
            began = time.thread_time()
            result = waiting_items.read_waiting_items(
                connection, ReadRequest(tail=0, limit=PAGE), self._cipher
            )
            taken = time.thread_time() - began
        assert result.tail is not None
        assert len(result.tail.items) == PAGE
        return taken

    def begin(self) -> float:
        """Return the processor seconds of recording the start of a call with 500 items."""
        self._count += 1
        write = Begin(f"attempt-{self._count}", "one", [(seq, 0) for seq in range(1, 501)], 0, 0)
        with transaction(self._engine) as cursor:
            began = time.thread_time()
            assert Begin.run_all(cursor, [write]) == [{}]
            taken = time.thread_time() - began
            cursor.execute("DELETE FROM attempts")
        return taken


@contextmanager
def engine() -> Iterator[Engine]:
    """Open a new SQLite file."""
    with tempfile.TemporaryDirectory() as folder:
        opened = connect(f"sqlite:///{Path(folder) / 'g.db'}")
        try:
            yield opened
        finally:
            opened.dispose()


def measure(variants: dict[str, Callable[[], float]], rounds: int) -> None:
    """Print each variant's median, and its ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            times[name].append(run())
    first = statistics.median(next(iter(times.values())))
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:<42} {median * 1e6:>9.0f} µs   {median / first:.2f}")


def main() -> None:
    """Measure all variants, and print the figures."""
    with ExitStack() as stack:
        opened = [stack.enter_context(engine()) for _ in range(5)]
        print(f"accept {ITEMS} items")
        accepting = {
            "in clear": AcceptVariant(opened[0], NO_ENCRYPTION),
            "encrypted": AcceptVariant(opened[1], ENCRYPTED),
            "in clear, 1,000 users erased": AcceptVariant(opened[2], NO_ENCRYPTION, 1_000),
        }
        measure(dict(accepting), ROUNDS)
        print(f"read a page of {PAGE} items")
        clear, encrypted = ReadVariant(opened[3], NO_ENCRYPTION), ReadVariant(opened[4], ENCRYPTED)
        measure({"in clear": clear, "encrypted": encrypted}, ROUNDS // 6)
        print("begin a call with 500 items")
        measure({"in clear": clear.begin}, ROUNDS)


if __name__ == "__main__":
    main()
