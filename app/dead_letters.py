"""Dead letters by command: `python -m app dead-letters …` works on the database itself, beside running gateways."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Literal, TypeVar

from app.api.receipts import receipt_document
from app.audit import keys
from app.audit.records import administrative_act
from app.clock import now_ms
from app.database.engine import connect
from app.database.writer import Writer
from app.errors import StartRefused
from app.leanplum.values import query_time
from app.model import Receipt, Status
from app.outbox.dead_letters import DEAD, Filter
from app.outbox.outbox import Outbox
from app.settings import Settings
from app.vault import Vault

T = TypeVar("T")


def chosen(
    item_ids: list[str] | None,
    action: str | None,
    status: str | None,
    since: str | None,
    until: str | None,
    *,
    every: bool = True,
) -> Filter:
    """What the words of a command choose. Raises StartRefused for words that choose nothing sensible."""
    if status is not None and status not in DEAD:
        raise StartRefused(f"--status: takes {', '.join(sorted(DEAD))}")
    if not item_ids and not every:
        raise StartRefused("give the ids of dead letters, or --all for every one that the options choose")
    of_status = Status(status) if status else None
    return Filter(
        action, of_status, _ms("--since", since), _ms("--until", until), tuple(item_ids) if item_ids else None
    )


def _ms(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else int(query_time(text) * 1000)
    except ValueError as error:
        raise StartRefused(f"{option}: {error}") from None


def listed(settings: Settings, app: str | None, which: Filter) -> Iterator[dict[str, Any]]:
    """Their receipts with the app that each is of, oldest first; of one app, or of each in turn."""
    for name in _with(settings, partial(_apps, app=app)):
        after = 0
        while found := _with(settings, partial(_page, app=name, which=which, after=after)):
            yield from ({"app": name} | receipt_document(one) for one in found)
            after = found[-1].seq


async def _apps(outbox: Outbox, app: str | None) -> list[str]:
    return await outbox.dead_apps() if app is None else [app]


async def _page(outbox: Outbox, app: str, which: Filter, after: int) -> list[Receipt]:
    return await outbox.dead_letters(app, which, after, 1_000)


def act(settings: Settings, act: Literal["replay", "discard"], app: str | None, which: Filter, *, dry_run: bool) -> int:
    """Do it, for one app or for all, with an audit record for each step; how many there were."""

    def record(app: str, count: int) -> tuple[int, str]:
        now = now_ms()
        return now, administrative_act(time=now, act=f"dead-letter.{act}", subject=f"{count} items", app=app)

    async def each(outbox: Outbox) -> int:
        done = [
            await getattr(outbox, act)(name, which, partial(record, name), dry_run=dry_run)
            for name in await _apps(outbox, app)
        ]
        return sum(one[0 if dry_run else 1] for one in done)

    return _with(settings, each)


def _with(settings: Settings, use: Callable[[Outbox], Awaitable[T]]) -> T:
    async def run() -> T:
        engine = connect(settings.gateway_database_url)
        writer = Writer(engine)
        writer.start()
        try:
            # Not `opened`, which refuses to start without a key: it is needed to show what Leanplum said, no more.
            vault = Vault(settings.data_keys, None)
            marks = keys.to_write(engine, settings.audit_seed).marks
            return await use(Outbox(engine, writer, dedup_ms=0, max_queued=0, marks=marks, vault=vault))
        finally:
            await writer.stop()
            engine.dispose()

    return asyncio.run(run())
