"""Dead letters by command: `python -m app dead-letters …` works on the database itself, beside
running gateways.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from sqlalchemy import Connection

from app.api.receipts import receipt_document
from app.audit import signing_keys
from app.audit.records import administrative_act
from app.clock import now_ms
from app.database.engine import connect_existing, connect_to_read, reading
from app.database.writer import Writer
from app.encryption import BodyCipher
from app.errors import StartRefused
from app.leanplum.values import query_time
from app.model import Status
from app.outbox import dead_letters
from app.outbox.dead_letters import DEAD, DeadLetterFilter
from app.outbox.outbox import Outbox
from app.settings import Settings

PAGE = 1_000


def chosen(
    item_ids: list[str] | None,
    action: str | None,
    status: str | None,
    since: str | None,
    until: str | None,
    *,
    every: bool = True,
) -> DeadLetterFilter:
    """What the words of a command choose. Raises StartRefused for words that choose nothing
    sensible.
    """
    if status is not None and status not in DEAD:
        raise StartRefused(f"--status: takes {', '.join(sorted(DEAD))}")
    if not item_ids and not every:
        raise StartRefused(
            "give the ids of dead letters, or --all for every one that the options choose"
        )
    of_status = Status(status) if status else None
    return DeadLetterFilter(
        action,
        of_status,
        _ms("--since", since),
        _ms("--until", until),
        tuple(item_ids) if item_ids else None,
    )


def _ms(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else int(query_time(text) * 1000)
    except ValueError as error:
        raise StartRefused(f"{option}: {error}") from None


def listed(
    settings: Settings, app: str | None, which: DeadLetterFilter
) -> Iterator[dict[str, Any]]:
    """Their receipts with the app that each is of, oldest first; of one app, or of each in turn."""
    # A missing key hides Leanplum's answer and nothing else
    cipher = BodyCipher(settings.data_keys, None)
    with _to_read(settings) as connection:
        for name in _apps(connection, app):
            after = 0
            while found := dead_letters.find(connection, name, which, after, PAGE, cipher):
                yield from (
                    {"app": name} | receipt_document(one, prefix=settings.gateway_root_path)
                    for one in found
                )
                after = found[-1].seq


def counted(settings: Settings, app: str | None, which: DeadLetterFilter) -> int:
    """How many there are."""
    with _to_read(settings) as connection:
        return sum(_count(connection, name, which) for name in _apps(connection, app))


def act(
    settings: Settings, act: Literal["replay", "discard"], app: str | None, which: DeadLetterFilter
) -> int:
    """Do it, for one app or for all, with an audit record for each step; return how many it was
    done to.
    """

    def record(app: str, count: int) -> tuple[int, str]:
        now = now_ms()
        return now, administrative_act(
            time=now, act=f"dead-letter.{act}", subject=f"{count} items", app=app
        )

    async def run() -> int:
        engine = connect_existing(settings.gateway_database_url)
        writer = Writer(engine)
        writer.start()
        try:
            marks = signing_keys.to_write(engine, settings.audit_seed).marks
            cipher = BodyCipher(settings.data_keys, None)
            outbox = Outbox(engine, writer, dedup_ms=0, max_queued=0, marks=marks, cipher=cipher)
            names = await outbox.dead_apps() if app is None else [app]
            done = [
                await getattr(outbox, act)(name, which, partial(record, name)) for name in names
            ]
            return sum(count for _, count in done)
        finally:
            await writer.stop()
            engine.dispose()

    return asyncio.run(run())


@contextmanager
def _to_read(settings: Settings) -> Iterator[Connection]:
    engine = connect_to_read(settings.gateway_database_url)
    try:
        with reading(engine) as connection:
            yield connection
    finally:
        engine.dispose()


def _apps(connection: Connection, app: str | None) -> list[str]:
    return dead_letters.apps(connection) if app is None else [app]


def _count(connection: Connection, app: str, which: DeadLetterFilter) -> int:
    count = after = 0
    while seqs := dead_letters.numbers(connection, app, which, after, PAGE):
        count, after = count + len(seqs), seqs[-1]
    return count
